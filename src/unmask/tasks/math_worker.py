"""Run by `mathematics.py` as a process of its own: reads an answer and the truth from each line,
says whether they are equal."""

import json
import logging
import resource
import sys
from typing import Any

from math_verify import parse, verify

logging.disable()
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

# The process that waits has the limits on time. sympy raises anything on strange input.
NO_LIMIT: Any = None
ANYTHING = (Exception, RecursionError, MemoryError)


def compare(truth: str, answer: str, found: bool) -> str:
    """ "yes" or "no"; "unreadable" where the truth itself cannot be read. An answer that cannot be
    read is not right.

    Args:
        truth: LaTeX or plain text.
        answer: the same, or a whole completion to find the answer in.
        found: whether `answer` is the answer itself.
    """
    try:
        gold = parse(f"\\boxed{{{truth}}}", parsing_timeout=NO_LIMIT)
    except ANYTHING:
        gold = []
    if not gold:
        return "unreadable"
    try:
        ours = parse(f"\\boxed{{{answer}}}" if found else answer, parsing_timeout=NO_LIMIT)
        return "yes" if ours and verify(gold, ours, timeout_seconds=NO_LIMIT) else "no"
    except ANYTHING:
        return "no"


print("ready", flush=True)
for line in sys.stdin:
    print(compare(**json.loads(line)), flush=True)
