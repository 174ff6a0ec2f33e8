"""What counts as a hang: too long at work in one case, or too long without any work."""

import io
import json
import sys
from collections import Counter

import pytest

from tests.fuzz.__main__ import watch

WORK = "import time\nwhile time.process_time() < {}: pass\n"
CASE = 'print(\'{"begin": "a"}\', flush=True)\n'
END = 'print(\'{"end": "refused"}\', flush=True)\n'
PROGRAMS = {
    # Imports that take longer than the patience, as they do on a machine that has other work.
    "slow imports": (WORK.format(1.5) + CASE + END, {"refused": 1}, None),
    "slow end": (CASE + END + WORK.format(1.5), {"refused": 1}, None),
    "works in a case": (CASE + WORK.format(60), {"hangs": 1}, "a"),
    "waits in a case": (CASE + "import time; time.sleep(60)", {"hangs": 1}, "a"),
    "waits before a case": ("import time; time.sleep(60)", {"hangs": 1}, None),
    "works before a case": (WORK.format(60), {"hangs": 1}, None),
    "ends in a case": (CASE, {"tracebacks": 1}, "a"),
    "ends before a case": ("raise SystemExit(1)", {"tracebacks": 1}, None),
    "is killed": (CASE + "import os; os.kill(os.getpid(), 9)", {"signals": 1}, "a"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_slow_machine_is_no_hang(name):
    program, expected, case = PROGRAMS[name]
    counts, log = Counter(), io.StringIO()
    watch([sys.executable, "-c", program], "kind", counts, log, limits=(0.5, 2.5, 1.0))
    assert counts == expected
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [entry["case"] for entry in entries] == ([] if "refused" in expected else [case])
