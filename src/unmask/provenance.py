"""Where a result came from: the command, the commit, the versions, the machine."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.extras import installed_version

# `provenance` imports torch, and what imports it, itself: every command imports this module, and
# `--help` must not wait for torch.
if TYPE_CHECKING:
    import torch


# The words of the `unmask` command that runs now; None where unmask is used as a library.
RUNNING_COMMAND: ContextVar[tuple[str, ...] | None] = ContextVar("RUNNING_COMMAND", default=None)


@functools.cache
def commit() -> str | None:
    """The git commit of this package's checkout, with `+` if files differ from it.

    None if this file is not tracked by git: a package that is installed inside somebody's project
    must not report that project's commit. The answer is kept, so that a process asks git once.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=here.parent,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # names of files that changed
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def running_command(words: Sequence[str]) -> Iterator[None]:
    """While the body runs, `provenance` names this `unmask` command as what made a result."""
    token = RUNNING_COMMAND.set(tuple(words))
    try:
        yield
    finally:
        RUNNING_COMMAND.reset(token)


def provenance(
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """What made a result: command, commit, versions, processes, machine, and the device and dtype
    of the frozen model, or of a model's own training.

    `command` is the `unmask` command that runs. Where a program uses unmask as a library, `command`
    is None and `argv` holds that program's own command line.

    Raises:
        UnmaskError: if the number of processes is not a launcher's.
    """
    import torch

    from unmask.processes import count_processes

    words = RUNNING_COMMAND.get()
    origin: dict[str, Any] = {"command": None if words is None else shlex.join(words)}
    if words is None:
        origin["argv"] = shlex.join(sys.orig_argv)
    machine = f"{platform.system()} {platform.machine()}"
    return {
        **origin,
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {p: installed_version(p) for p in ("unmask", "torch", "transformers")},
        "processes": count_processes(),
        "machine": f"{machine}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch.") if dtype else None,
    }
