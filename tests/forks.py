"""Command lines in forks of this process, to be killed.

A fork has loaded already what a new process loads for four seconds, and what is tested of a kill is
what it leaves on the disk.
"""

import os
import signal
import sys
from pathlib import Path

from tests.typechecks import check_types
from unmask.cli import main


def start_fork(log: Path, *words: object) -> int:
    """Starts a command in a fork; what it prints goes to a file. Returns the process's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        check_types(False)
        sys.argv = ["unmask", *map(str, words)]
        code = main(sys.argv[1:])
    finally:
        os._exit(code)


def kill_fork(child: int) -> int:
    """Kills a fork; how it ended: −9, or its exit code if it had ended by itself."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def has_ended(child: int) -> bool:
    """Whether a fork has ended by itself; it can still be killed."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
