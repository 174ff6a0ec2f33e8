"""What the sandbox must let pass, what ends a check, and what it needs of a machine."""

import importlib
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.programs import list_cases
from tests.sandbox.runs import run_programs
from unmask.errors import UnmaskError
from unmask.sandbox import Job, Limits, Stop, check, require_sandbox, worker_count

sandbox = importlib.import_module("unmask.sandbox.check")


def list_misjudged(outcomes):
    """The jobs whose outcome is not what the tables say, with the reason."""
    return [
        (job, outcome.reason)
        for (job, holds), outcome in zip(list_cases(), outcomes, strict=True)
        if outcome.passed != holds
    ]


def test_programs_are_judged_as_the_tables_say():
    assert list_misjudged(run_programs()) == []


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
scalars |= (
    st.decimals(allow_nan=False) | st.fractions() | st.dates() | st.datetimes() | st.timedeltas()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.frozensets(scalars)
        | st.dictionaries(scalars, inner)
        | st.sets(scalars)
    ),
    max_leaves=8,
)
CONTENTS = """from datetime import date, datetime, timedelta
import datetime
from decimal import Decimal
from fractions import Fraction
inf = float('inf')
infj = nanj = 0j
"""


@settings(max_examples=15, deadline=None)
@given(st.lists(values, min_size=5, max_size=30))
def test_values_come_back_as_they_went(many: list):
    """Plain data passes to the program and back with its value and its class."""
    many = [value for value in many if "infj" not in repr(value) and "nanj" not in repr(value)]
    test = CONTENTS + f"for v in {many!r}:\n    assert f(v) == v and type(f(v)) is type(v)"
    outcome = check(Job("def f(x): return x", test, names=("f",)))
    assert outcome.passed, outcome.reason


def test_nothing_runs_unconfined(monkeypatch, tmp_path):
    """Where a rule cannot be laid, no program starts."""
    child = tmp_path / "child"
    shutil.copytree(sandbox.CHILD, child)
    rule = "CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446"
    text = (child / "jail.py").read_text(encoding="utf-8")
    assert rule in text
    (child / "jail.py").write_text(text.replace(rule, rule.replace("444", "4444")), "utf-8")
    monkeypatch.setattr(sandbox, "CHILD", child)
    require_sandbox.cache_clear()
    try:
        with pytest.raises(UnmaskError, match="cannot be confined on this machine"):
            require_sandbox()
    finally:
        require_sandbox.cache_clear()
    marker = "open('ran', 'w')\ndef f(x): return 1"
    assert not check(Job(marker, "assert f(1) == 1", names=("f",))).passed


def test_other_platforms_are_refused(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(UnmaskError, match="Linux only"):
        check(Job("", ""))


def count_tries(monkeypatch):
    """A list that gets the outcome of every try of a check."""
    tries = []
    once = sandbox.check_once

    def counted(job, limits):
        tries.append(once(job, limits))
        return tries[-1]

    monkeypatch.setattr(sandbox, "check_once", counted)
    return tries


SLOW_START = "import time\ntime.sleep(30)\ndef f(x): return x"
IDENTITY = Job("def f(x): return x", "assert f(1) == 1", names=("f",))


def test_no_verdict_in_time_is_said_and_tried_once_more(monkeypatch):
    tries = count_tries(monkeypatch)
    outcome = check(Job(SLOW_START, "assert f(1) == 1", names=("f",)), Limits(wall_seconds=1.0))
    assert (outcome.passed, outcome.stop, outcome.timed_out) == (False, Stop.WALL, True)
    assert len(tries) == 2


def test_a_check_that_only_the_load_delayed_passes_at_its_second_try(monkeypatch):
    first = [True]
    start = sandbox.RunningCheck.start

    def start_late(self, *args):
        if first.pop() if first else False:
            time.sleep(self.limits.wall_seconds)
        start(self, *args)

    monkeypatch.setattr(sandbox.RunningCheck, "start", start_late)
    tries = count_tries(monkeypatch)
    assert check(IDENTITY, Limits(wall_seconds=8.0)).passed
    assert [outcome.stop for outcome in tries] == [Stop.WALL, None]


def test_used_up_cpu_time_is_said_and_not_tried_again(monkeypatch):
    tries = count_tries(monkeypatch)
    job = Job("def f(x):\n    while True: pass", "assert f(1) == 1", names=("f",))
    outcome = check(job, Limits(cpu_seconds=1, wall_seconds=30.0))
    assert (outcome.passed, outcome.stop, outcome.timed_out) == (False, Stop.CPU, True)
    assert len(tries) == 1


def test_a_process_that_the_system_killed_is_tried_once_more(monkeypatch):
    """A SIGKILL from outside, as the system sends when memory is short."""
    first = [True]
    start = sandbox.RunningCheck.start

    def start_and_kill(self, role, *rest):
        start(self, role, *rest)
        if role == "checker" and (first.pop() if first else False):
            self.children[0].process.kill()

    monkeypatch.setattr(sandbox.RunningCheck, "start", start_and_kill)
    tries = count_tries(monkeypatch)
    assert check(IDENTITY).passed
    assert [outcome.stop for outcome in tries] == [Stop.KILLED, None]


@pytest.mark.parametrize("job", [IDENTITY, Job("def f(x): return 2", "assert f(1) == 1")])
def test_other_outcomes_are_decided_by_no_limit(monkeypatch, job):
    tries = count_tries(monkeypatch)
    assert not check(job).timed_out and len(tries) == 1


def test_more_threads_than_allowed_end_a_check():
    """Also as root, whom the kernel's own limit does not bind."""
    threads = "import threading, time\nthreading.stack_size(2**16)\n"
    threads += "for _ in range({}): threading.Thread(target=time.sleep, args=(1,)).start()\n"
    program = threads + "time.sleep(0.5)\ndef f(x): return x"
    few, many = Job(program.format(20), "assert f(1) == 1", names=("f",)), program.format(80)
    assert check(few).passed
    outcome = check(Job(many, "assert f(1) == 1", names=("f",)))
    assert (outcome.passed, outcome.reason) == (False, "too many threads")


def test_hashes_are_the_same_in_every_check():
    """Else the order of a set decided rewards, and a resumed run had others."""
    command = [sys.executable, "-c", "print(hash('unmask'))"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    value = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    expected = int(value.stdout)
    test = f"assert f('unmask') == {expected}\nassert hash('unmask') == {expected}"
    assert check(Job("def f(x): return hash(x)", test, names=("f",))).passed


@pytest.mark.parametrize(
    ("variables", "share"),
    [
        ({}, 8),
        ({"WORLD_SIZE": "4"}, 2),
        ({"WORLD_SIZE": "16"}, 1),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "2"}, 4),
    ],
)
def test_processes_of_a_run_share_the_cpus(monkeypatch, variables, share):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sandbox.os, "sched_getaffinity", lambda _: set(range(8)))
    assert worker_count() == share
