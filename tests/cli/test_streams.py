"""What a process is started with: standard streams that are closed, or write few characters; and
the signals that end it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forks import has_ended, run_code, start_fork, wait_for

SHELL = f"exec {sys.executable} -m unmask.cli"


def run_shell(words, **variables):
    return subprocess.run(
        f"{SHELL} {words}", shell=True, capture_output=True, text=True, env=os.environ | variables
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(closed):
    done = run_shell(f"--help {closed}")
    assert done.returncode == 0 and done.stderr == ""
    assert ("usage" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    done = run_shell(f"nothing {closed}")
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr


def test_a_closed_standard_input_holds_nothing():
    done = run_shell("generate --prompts - <&-")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no prompts" in done.stderr


def test_a_file_does_not_become_a_closed_stream():
    """What a library prints to its number would be written into the file."""
    code = (
        "import sys; from unmask.cli import main; main(['nothing']); "
        "sys.exit(open('/dev/null').fileno() <= 2)"
    )
    done = subprocess.run(f'exec {sys.executable} -c "{code}" <&- >&- 2>&-', shell=True)
    assert done.returncode == 0


def test_a_process_that_a_command_starts_has_the_streams_too():
    ask = "import os; [os.fstat(n) for n in (0, 1, 2)]"
    code = (
        "import subprocess, sys; from unmask.cli import main; main(['nothing']); "
        f"sys.exit(subprocess.call([sys.executable, '-c', '{ask}']))"
    )
    done = subprocess.run(f'exec {sys.executable} -c "{code}" <&- >&- 2>&-', shell=True)
    assert done.returncode == 0


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the latter where LC_ALL is C
def test_what_an_encoding_lacks_is_written_as_an_escape(errors):
    done = run_shell("train --help", PYTHONIOENCODING=f"ascii:{errors}")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.isascii() and "\\u03c4" in done.stdout


def children_of(process):
    """The processes that a process has started, as far as they have not ended."""
    lines = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for path in lines for child in path.read_text().split()]


@pytest.fixture
def hangups_end():
    """SIGHUP is not ignored, which `nohup` does for all that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for children")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_a_command_has_started(tmp_path, number, hangups_end):
    """The trainings of a demo would go on for minutes."""
    words = ("demo", "--rounds", "1000", "--out", tmp_path / "demo")
    process = start_fork(tmp_path / "log", *words)
    end = time.monotonic() + 120
    while len(found := children_of(process)) < 2 and time.monotonic() < end:
        assert not has_ended(process), (tmp_path / "log").read_text()
        time.sleep(0.05)
    time.sleep(1)  # until the demo itself knows of the second one
    os.kill(process, number)
    time.sleep(0.05)
    os.kill(process, number)  # as `timeout` does
    assert wait_for([process]) == [128 + number]
    assert len(found) == 2 and not any(Path(f"/proc/{child}").exists() for child in found)
    said = (tmp_path / "log").read_text().splitlines()[-1]
    assert said == f"unmask demo: ended by {number.name}"


SWALLOWS = """
import signal, time
import unmask.cli
unmask.cli.TWICE = 0.5
raised = []
with unmask.cli.signals_interrupt():
    for pause in (0, 0.6, 0):
        time.sleep(pause)
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raised.append(error)
print([repr(error) for error in raised])
"""


def test_a_signal_that_was_swallowed_can_be_given_again():
    """A verifier may have a bare `except:`. The third one follows the second at once."""
    done = run_code(SWALLOWS)
    assert (done.returncode, done.stdout) == (0, f"{['KeyboardInterrupt(15)'] * 2}\n"), done.stderr


WORKER = """
import os, signal
from unmask.cli import signals_interrupt
with signals_interrupt():
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_worker_of_a_pool_ends_by_a_signal_without_a_word():
    """The harness has such pools, and ends them so."""
    done = run_code(WORKER)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{-signal.SIGTERM}\n", "")
