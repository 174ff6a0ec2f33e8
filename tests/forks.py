"""Command lines in forks of this process: to be killed, or as groups of two.

A fork has loaded already what a new process loads for four to ten seconds, and what is tested of a
kill is what it leaves on the disk.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

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
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        file = log.open("w", encoding="utf-8", buffering=1)  # whole lines, also of one to be killed
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file  # pytest has put others there
        settle_threads()
        check_types(False)
        os.environ.update(variables or {})
        sys.argv = ["unmask", *map(str, words)]
        code = main(sys.argv[1:])
    finally:
        sys.stdout.flush()
        os._exit(code)


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


def wait_for(children: list[int]) -> list[int]:
    """How forks ended that should end soon: their exit codes, −9 for one that hangs."""
    end = time.monotonic() + 120
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
