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


def same(truth: str, answer: str, found: bool) -> bool:
    no_limit: Any = None  # the process that waits has one
    try:
        gold = parse(f"\\boxed{{{truth}}}", parsing_timeout=no_limit)
        ours = parse(f"\\boxed{{{answer}}}" if found else answer, parsing_timeout=no_limit)
        return bool(gold and ours) and verify(gold, ours, timeout_seconds=None)
    except (
        Exception,
        RecursionError,
        MemoryError,
    ):  # sympy raises anything on strange input; what cannot be read is not right
        return False


print("ready", flush=True)
for line in sys.stdin:
    print("yes" if same(**json.loads(line)) else "no", flush=True)
