"""A few of the places where `python -m tests.kills` kills commands; all are tried by hand."""

from tests.forks import run_module


def test_commands_that_are_killed_are_gone_on_with():
    done = run_module("tests.kills", "--short", seconds=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(", 0 unequal") == 7
    lines = [line for line in done.stdout.splitlines() if " kills: " in line]
    kills = [int(line.split(", ")[1].split()[0]) for line in lines]
    assert min(kills[:6]) >= 1 and kills[6] == 0  # push writes nothing
