"""Command lines and programs in forks of this process: to be killed, as groups of two, or alone.

A fork has loaded already what a new process loads for four to ten seconds, and what is tested of a
kill is what it leaves on the disk.
"""

import contextlib
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch

from tests.typechecks import check_types
from unmask.cli import main


def start_fork(log: Path, *words: object, variables: Mapping[str, str] | None = None) -> int:
    """Starts a command in a fork; what it prints goes to a file. Returns the process's number.

    Args:
        log: the file.
        words: of the command.
        variables: of its environment, beside those of this process.
    """

    def act() -> int:
        sys.argv = ["unmask", *map(str, words)]
        return main(sys.argv[1:])

    with log.open("w", encoding="utf-8") as file:
        return begin_fork(act, file, file, variables)


def begin_fork(
    act: Callable[[], int],
    out: IO[str],
    error: IO[str],
    variables: Mapping[str, str] | None = None,
) -> int:
    """Starts a function in a fork that ends with the exit code that it returns. As in a new
    process, types are not checked, and warnings are printed. Returns the process's number.

    Args:
        act: the function.
        out: an open file for its standard output.
        error: for its standard error.
        variables: of its environment, beside those of this process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(error.fileno(), 2)
        # Pytest has put others there. Whole lines, also of one to be killed.
        sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, "utf-8", closefd=False) for n in (1, 2))
        importlib.reload(warnings)  # pytest keeps those of a test for itself
        gc.freeze()  # a collection looks at new objects only, and copies no memory of the others
        settle_threads()
        check_types(False)
        os.environ.update(variables or {})
        code = act()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_function(
    act: Callable[[], int], variables: Mapping[str, str] | None = None, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs a function in a fork as `begin_fork` does; how it ended and what it printed, as
    `subprocess.run` gives it. An exception that it does not catch is printed. One that takes more
    than so many seconds is killed."""

    def act_or_print() -> int:
        try:
            return act()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1

    with temporary_text() as out, temporary_text() as error:
        (code,) = wait_for([begin_fork(act_or_print, out, error, variables)], seconds)
        for file in (out, error):
            file.seek(0)
        return subprocess.CompletedProcess((), code, out.read(), error.read())


def temporary_text() -> IO[str]:
    """An open file for text, which is gone when it is closed."""
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def run_code(
    code: str, *words: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program's text in a fork, as `python -c` runs it in a new process; `words` are its
    arguments."""

    def act() -> int:
        sys.argv = ["-c", *words]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        return 0

    return run_function(act, variables)


def run_module(name: str, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a module in a fork, as `python -m` runs it in a new process; `words` are its arguments.
    After so many seconds it is killed."""

    def act() -> int:
        sys.argv = [name, *words]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return 0

    return run_function(act, seconds=seconds)


def settle_threads() -> None:
    """Makes PyTorch's pool of threads anew, in a process that has just been forked. Otherwise the
    first threads that need it do so side by side, as those that load a model, and one finds none:
    "Invalid thread pool!"."""
    torch.set_num_threads(1)


def kill_fork(child: int) -> int:
    """Kills a fork; how it ended: −9, or its exit code if it had ended by itself."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def has_ended(child: int) -> bool:
    """Whether a fork has ended by itself; it can still be killed."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_for(children: list[int], seconds: float = 120) -> list[int]:
    """How forks ended that should end within so many seconds: their exit codes, −9 for one that
    hangs."""
    end = time.monotonic() + seconds
    while not all(map(has_ended, children)) and time.monotonic() < end:
        time.sleep(0.02)
    return [kill_fork(child) for child in children]


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def run_two(log: Path, *words: object) -> str:
    """Runs a command as a group of two processes, as torchrun starts them; what both print.

    Args:
        log: a file that does not exist yet; what each prints goes there, with its rank behind.
        words: of the command.
    """
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    logs = [log.with_name(f"{log.name}-{rank}") for rank in (0, 1)]
    children = [
        start_fork(file, *words, variables=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, file in enumerate(logs)
    ]
    ended = wait_for(children)
    said = [file.read_text(encoding="utf-8") for file in logs]
    assert ended == [0, 0], said
    return "".join(said)
