"""Checks programs that a model wrote, each in two confined processes (`confined.py`).
docs/security.md says what this stops and what it does not."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from unmask.errors import UnmaskError

CONFINED = Path(__file__).with_name("confined.py")
VERDICT_LIMIT = 64 * 2**10


@dataclass(frozen=True)
class Limits:
    """What one check may use; each of its two processes alone, but for the seconds on the wall.

    Attributes:
        cpu_seconds: CPU time, whole seconds.
        wall_seconds: time from start to verdict.
        memory: bytes of address space.
        file: bytes of one file.
        files: how many files and directories may lie in its directory.
        disk: bytes of all files in its directory.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 15.0
    memory: int = 2**30
    file: int = 2**20
    files: int = 200
    disk: int = 2**24


@dataclass(frozen=True)
class Job:
    """A program and its tests.

    Attributes:
        program: the model's text, run as the module `solution`.
        test: the tests' text.
        kind: "asserts" is run as it is; "humaneval" defines `check(candidate)`; "pytest" is a test
            file that imports `solution`.
        names: the names of the program that the tests may see, best those that a right solution
            defines; HumanEval's first is the candidate.
        setup: run before the tests (not for pytest).
    """

    program: str
    test: str
    kind: Literal["asserts", "humaneval", "pytest"] = "asserts"
    names: tuple[str, ...] = ()
    setup: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        passed: whether all tests ran and held.
        reason: why not, in words; "" if passed.
    """

    passed: bool
    reason: str = ""


@cache
def require_sandbox() -> None:
    """Sees once that this machine confines a program.

    Raises:
        UnmaskError: if it does not; nothing runs unconfined.
    """
    outcome = check(Job("def f(x): return x + 1", "assert f(1) == 2", names=("f",)))
    if not outcome.passed:
        raise UnmaskError(
            f"programs cannot be confined on this machine ({outcome.reason}); the sandbox needs "
            "Linux 5.13 or later with Landlock and "
            "seccomp, on x86-64 or AArch64"
        )


def check_all(
    jobs: Sequence[Job], limits: Limits = Limits(), workers: int | None = None
) -> list[Outcome]:
    """`check` for many jobs, `workers` at a time (None: as many as there are CPUs), in the order of
    the jobs."""
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda job: check(job, limits), jobs))


def check(job: Job, limits: Limits = Limits()) -> Outcome:
    """Runs a program's tests, the program and the tests in confined processes of their own.

    Only the process with the tests can say that they hold, through a pipe that the model's code
    never sees.

    Raises:
        UnmaskError: on a platform other than Linux.
    """
    if sys.platform != "linux":
        raise UnmaskError(
            f"programs can be confined on Linux only, and this is {sys.platform}; run the code "
            "tasks in a Linux container or a "
            "virtual machine"
        )
    with Check(limits) as running:
        return running.outcome(job)


@dataclass
class Check:
    """The processes, pipes and directories of one check, all gone at its end."""

    limits: Limits
    directory: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="unmask-sandbox-"))
    )
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def __enter__(self) -> Check:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        for descriptor in self.descriptors:
            os.close(descriptor)
        shutil.rmtree(self.directory, ignore_errors=True)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self.descriptors += ends
        return ends

    def close(self, *ends: int) -> None:
        for end in ends:
            self.descriptors.remove(end)
            os.close(end)

    def start(self, role: str, job: dict[str, object], *ends: int) -> None:
        """Starts a process with only these ends of pipes and a directory of its own; its job comes
        from a file that is gone by then."""
        home = self.directory / role
        home.mkdir()
        environment = {
            "HOME": str(home),
            "TMPDIR": str(home),
            "PATH": "/usr/bin",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command = [sys.executable, "-I", "-B", str(CONFINED), role, *map(str, ends)]
        limits = {
            "cpu": self.limits.cpu_seconds,
            "memory": self.limits.memory,
            "file": self.limits.file,
        }
        with tempfile.TemporaryFile() as text:
            text.write(json.dumps(job | {"limits": limits}).encode())
            text.seek(0)
            null = subprocess.DEVNULL
            process = subprocess.Popen(
                command,
                cwd=home,
                env=environment,
                stdin=text,
                stdout=null,
                stderr=null,
                pass_fds=ends,
                start_new_session=True,
                umask=0o077,
            )
        self.processes.append(process)

    def outcome(self, job: Job) -> Outcome:
        """Starts both processes and waits for the verdict, the end of either, or the end of the
        time."""
        questions, answers, verdict = self.pipe(), self.pipe(), self.pipe()
        deadline = time.monotonic() + self.limits.wall_seconds
        self.start(
            "program", {"program": job.program, "names": job.names}, questions[0], answers[1]
        )
        self.start(
            "checker",
            {"test": job.test, "kind": job.kind, "names": job.names, "setup": job.setup},
            answers[0],
            questions[1],
            verdict[1],
        )
        self.close(*questions, *answers, verdict[1])
        said = b""
        while len(said) < VERDICT_LIMIT:
            left = deadline - time.monotonic()
            if left <= 0:
                return Outcome(False, f"no verdict in {self.limits.wall_seconds:g} s")
            if select.select([verdict[0]], [], [], min(left, 0.05))[0]:
                piece = os.read(verdict[0], VERDICT_LIMIT)
                if not piece:
                    break
                said += piece
            elif self.overfull():
                return Outcome(False, "too much in its directory")
        if not said:
            return Outcome(
                False,
                f"the process with the tests ended without a verdict ({self.processes[1].wait()})",
            )
        failure = json.loads(said)["failure"]
        return Outcome(not failure, failure)

    def overfull(self) -> bool:
        """Whether the program's directory holds more than it may."""
        count = size = 0
        todo = [self.directory]
        while todo:
            try:
                with os.scandir(todo.pop()) as entries:
                    for entry in entries:
                        count, size = (
                            count + 1,
                            size + entry.stat(follow_symlinks=False).st_blocks * 512,
                        )
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(Path(entry.path))
                        if count > self.limits.files or size > self.limits.disk:
                            return True
            except OSError:
                continue
        return False
