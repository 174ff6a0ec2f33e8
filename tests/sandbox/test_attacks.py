"""No attack may pass, as root or as an ordinary user."""

import os
from pathlib import Path

import pytest

from tests.sandbox.attacks import ATTACKS, NAMES, TEST, tries
from tests.sandbox.runs import NoOrdinaryUser, run_as_ordinary_user, run_attacks
from tests.sandbox.test_check import list_misjudged
from unmask.sandbox import Job, check


def list_passed(outcomes):
    return [name for name, outcome in zip(NAMES, outcomes, strict=True) if outcome.passed]


@pytest.mark.skipif(os.getuid() != 0, reason="this process is not root")
def test_no_attack_passes_as_root():
    outcomes = run_attacks()
    assert list_passed(outcomes) == []
    assert all(outcome.reason for outcome in outcomes)


def test_an_ordinary_user_with_many_threads_is_as_safe_and_right_programs_pass():
    """The user has 100 threads: a limit on all of a user's threads would fail right programs."""
    try:
        outcomes = run_as_ordinary_user()
    except NoOrdinaryUser as error:
        pytest.skip(str(error))
    assert list_passed(outcomes["attacks"]) == []
    assert all(outcome.reason for outcome in outcomes["attacks"])
    assert list_misjudged(outcomes["programs"]) == []


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
    assert len(working) > 30


def test_attacks_are_in_the_documents():
    text = (Path(__file__).parents[2] / "docs/security.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"| {name} | no pass | no pass |" not in text] == []
