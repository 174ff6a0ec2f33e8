"""No attack may pass, as root or as an ordinary user, on new kernels and on older ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox import runs
from tests.sandbox.attacks import ATTACKS, NAMES, TEST, list_attacks, list_lies, tries
from tests.sandbox.runs import LIMITS, NoOrdinaryUser, list_places, run_as_ordinary_user
from tests.sandbox.test_check import list_misjudged
from unmask.sandbox import Job, check, check_all

# What a container or an older kernel does not have: namespaces, and the newer rules of Landlock.
OLD_KERNEL = {"namespaces": 0, "landlock": 1}
# Those that a kernel makes different: who can be reached, and how the disk is held.
KERNELS_MATTER = ("kill", "file", "disk", "director", "link", "sock", "emptying", "mode 3", "names")


def list_passed(outcomes):
    return [name for name, outcome in outcomes.items() if outcome.passed]


@pytest.mark.skipif(os.getuid() != 0, reason="this process is not root")
def test_no_attack_passes_as_root():
    outcomes = runs.run_attacks()
    assert list_passed(outcomes) == []
    assert all(outcome.reason for outcome in outcomes.values())


def test_an_ordinary_user_with_many_threads_is_as_safe_and_right_programs_pass():
    """The user has 100 threads: a limit on all of a user's threads would fail right programs. Here
    the kernel is an older one: no namespaces, the first version of Landlock. What no user makes
    different is left to the tests as root; `python -m tests.sandbox.runs` runs all of it."""
    whole = os.getuid() != 0  # then nothing else runs the rest
    try:
        attacks, programs = run_as_ordinary_user(OLD_KERNEL, whole)
    except NoOrdinaryUser as error:
        pytest.skip(str(error))
    assert list_passed(attacks) == []
    assert all(outcome.reason for outcome in attacks.values())
    assert len(attacks) > 200
    assert list_misjudged(programs, 1 if whole else runs.PROGRAMS) == []


@pytest.mark.parametrize("kernel", [OLD_KERNEL, {"landlock": 5}])
def test_older_kernels_hold_reach_and_disk_too(monkeypatch, tmp_path, kernel):
    monkeypatch.setattr(runs.sandbox, "KERNEL", runs.read_kernel(kernel))
    with list_places(str(tmp_path)) as places:
        jobs = {
            name: job
            for name, job in list_attacks(places).items()
            if any(word in name for word in KERNELS_MATTER)
        }
        outcomes = check_all(list(jobs.values()), LIMITS)
    assert len(jobs) > 40
    assert list_passed(dict(zip(jobs, outcomes, strict=True))) == []


def test_attacks_would_pass_if_they_worked():
    """The programs that try something do pass where what they try is allowed: the table can
    fail."""
    assert check(Job(tries("import os\nopen('own', 'w').write('x')"), TEST, names=("f",))).passed
    assert not check(Job(tries("import os\n1 / 0"), TEST, names=("f",))).passed
    working = [
        program
        for name, program, test in ATTACKS
        if test is TEST and "done = False" in program and "fork" not in name and "kill" not in name
    ]
    assert len(working) > 100


UNCONFINED = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
for name, program, test in json.load(sys.stdin):
    space = {"__name__": "solution"}
    try:
        exec(program, space)
        exec(test, space)
    except BaseException as error:
        print(name, type(error).__name__)
"""
# In one process these fail too: they try what only the two processes of a check could get wrong.
ONLY_BETWEEN_PROCESSES = {
    "own object: isinstance of what can be iterated",
    "own object: isinstance of what has a length",
    "own object: callable without a call",
    "own object: an error that says it is another",
    "own object: an error with a metaclass",
    "own object: changing while it is looked for",
}


def test_the_lies_hold_where_program_and_tests_are_one_process():
    """Each false pass of the table is one where nothing separates the program from its tests."""
    jobs = [(n, job.program, job.test) for n, job in list_lies().items() if job.kind == "asserts"]
    done = subprocess.run(
        [sys.executable, "-c", UNCONFINED],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
    )
    failed = {line.rpartition(" ")[0] for line in done.stdout.splitlines()}
    assert len(jobs) > 90
    assert failed - ONLY_BETWEEN_PROCESSES == set()


def test_attacks_are_in_the_documents():
    text = (Path(__file__).parents[2] / "docs/security.md").read_text(encoding="utf-8")
    assert len(NAMES) == len(set(NAMES)) > 300
    assert [name for name in NAMES if f"| {name} | no pass | no pass |" not in text] == []
