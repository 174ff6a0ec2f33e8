"""What the sandbox must let pass, what ends a check, and what it needs of a machine."""

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.programs import list_cases
from tests.sandbox.runs import run_programs
from unmask.errors import UnmaskError
from unmask.sandbox import (
    Job,
    Limits,
    Stop,
    check,
    defined_classes,
    require_sandbox,
    worker_count,
)

sandbox = importlib.import_module("unmask.sandbox.check")


def list_misjudged(outcomes, every=1):
    """The jobs whose outcome is not what the tables say, with the reason; `every` as for
    `run_programs`."""
    return [
        (job, outcome.reason)
        for (job, holds), outcome in zip(list_cases()[::every], outcomes, strict=True)
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


MISSING = [
    ("jail.py", "CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444,", "= 4444,"),  # no Landlock
    ("calls.py", "PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22,", "= 2222,"),  # no seccomp
    ("calls.py", 'MACHINES = {"x86_64": (0,', '= {"other": (0,'),  # another machine
    ("jail.py", "PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38", "= 1, 4, 24, 3838"),
]


@pytest.mark.parametrize(("file", "rule", "broken"), MISSING)
def test_nothing_runs_unconfined(monkeypatch, tmp_path, file, rule, broken):
    """Where a rule cannot be laid, no program starts."""
    child = tmp_path / "child"
    shutil.copytree(sandbox.CHILD, child, ignore=shutil.ignore_patterns("__pycache__"))
    text = (child / file).read_text(encoding="utf-8")
    assert rule in text
    text = text.replace(rule, rule.partition("=")[0] + broken)
    (child / file).write_text(text.replace('"aarch64": (1,', '"another": (1,'), "utf-8")
    monkeypatch.setattr(sandbox, "CHILD", child)
    require_sandbox.cache_clear()
    try:
        with pytest.raises(UnmaskError, match="cannot be confined on this machine"):
            require_sandbox()
    finally:
        require_sandbox.cache_clear()
    marker = f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(x): return 1"
    assert not check(Job(marker, "assert f(1) == 1", names=("f",))).passed
    assert not (tmp_path / "ran").exists()


def test_without_namespaces_and_questions_nothing_runs(monkeypatch, tmp_path):
    """The disk is held by the kernel in one of two ways, or no program starts."""
    child = tmp_path / "child"
    shutil.copytree(sandbox.CHILD, child, ignore=shutil.ignore_patterns("__pycache__"))
    text = (child / "calls.py").read_text(encoding="utf-8")
    assert "SET_MODE_FILTER, NEW_LISTENER = " in text
    (child / "calls.py").write_text(text.replace("1, 8\n", "1, 0x8000\n"), "utf-8")
    monkeypatch.setattr(sandbox, "CHILD", child)
    assert check(IDENTITY).passed
    monkeypatch.setattr(sandbox, "KERNEL", sandbox.Kernel(namespaces=False))
    assert not check(IDENTITY).passed


KERNELS = [sandbox.Kernel(), sandbox.Kernel(namespaces=False), sandbox.Kernel(landlock=1)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_disk_is_held_by_the_kernel(monkeypatch, tmp_path, kernel):
    """So many files and bytes and no more, also where files have no name; and nothing is left."""
    monkeypatch.setattr(sandbox, "KERNEL", kernel)
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    program = """import os
def files(n):
    made = 0
    for i in range(n):
        try: open(str(i), 'w').close()
        except OSError: break
        made += 1
    for i in range(made): os.remove(str(i))
    return made
kept = []
def write(n):
    size = 0
    for i in range(n):
        try:
            kept.append(open('f', 'wb', 0))
            os.remove('f')
            while True: size += kept[-1].write(bytes(2**14))
        except OSError: pass
    return size
"""
    limits = Limits(files=20, disk=2**20)
    # Two checks: where files are counted, those that were removed count too.
    for test in ("files(15) == 15 and files(100) <= 20", "2**16 < write(50) <= 2**20"):
        outcome = check(Job(program, f"assert {test}", names=("files", "write")), limits)
        assert outcome.passed, outcome.reason
    assert list(tmp_path.iterdir()) == []


def test_a_check_ends_with_the_process_that_waits(tmp_path):
    """A killed trainer leaves no program behind that sleeps for ever."""
    code = "from unmask.sandbox import Job, check\n"
    code += "check(Job('import time\\ntime.sleep(60)', 'assert 1', names=('f',)))"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as p:
        while len(found := list_children(p.pid)) < 2:
            time.sleep(0.02)
        time.sleep(1)
        p.kill()
    end = time.monotonic() + 5
    while any(map(is_running, found)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(is_running, found))


def list_children(pid):
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += path.read_text(encoding="utf-8").split()
    return found


def is_running(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_an_endless_answer_counts_as_used_up_time(monkeypatch):
    """Two processes that take turns use up no limit of one process, and the wall clock ends them;
    that was not the load."""
    tries = count_tries(monkeypatch)
    job = Job("import itertools\ndef f(x): return itertools.count()", "sum(f(1))", names=("f",))
    outcome = check(job, Limits(cpu_seconds=1, wall_seconds=5.0))
    assert (outcome.passed, outcome.stop, len(tries)) == (False, Stop.CPU, 1)


def test_very_many_errors_are_one_short_reason():
    """Else the message with the verdict was cut, here inside an escape."""
    tests = "import pytest\nfrom solution import f\n@pytest.mark.parametrize('x', range(99))\n"
    tests += "def test_f(x): f(x)\n"
    program = "def f(x): raise ValueError('\\ud800\\\\\"' * 9999)"
    outcome = check(Job(program, tests, kind="pytest", names=("f",)))
    assert not outcome.passed and outcome.stop is None
    assert "test_f[0]" in outcome.reason and len(outcome.reason) < 1000
    outcome.reason.encode()


def test_classes_are_those_of_a_right_solution():
    text = "class A: pass\nP = namedtuple('P', 'x')\nE = enum.Enum('E', 'a')\na = A()\n"
    assert defined_classes(text + "def f(): pass\ng = f()\nn = 3\n") == ("A", "P", "E", "a")
    job = Job("", "assert A(1).n == f(B)", names=("A", "C", "f"))
    assert sandbox.find_classes(job) == ("A",)


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
    ("variables", "quota", "share"),
    [
        ({}, None, 8),
        ({"WORLD_SIZE": "4"}, None, 2),
        ({"WORLD_SIZE": "16"}, None, 1),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "2"}, None, 4),
        # Of a container: what it may use in a period, and how long that is.
        ({}, "max 100000", 8),
        ({}, "450000 100000", 4),
        ({}, "50000 100000", 1),
        ({}, "3200000 100000", 8),
        ({"LOCAL_WORLD_SIZE": "2"}, "400000 100000", 2),
    ],
)
def test_processes_of_a_run_share_the_cpus(monkeypatch, tmp_path, variables, quota, share):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sandbox.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(sandbox, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n", encoding="utf-8")
    assert worker_count() == share
