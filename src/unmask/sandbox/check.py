"""Checks programs that a model wrote, each in two confined processes (`child/`).

docs/security.md says what this stops and what it does not.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import py_compile
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

from unmask.errors import UnmaskError

CHILD = Path(__file__).with_name("child")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
VERDICT_LIMIT = 64 * 2**10  # bytes
LOOK_SECONDS = 0.05  # between two looks at a program's threads
# With these flags and the environment of `RunningCheck.start` nothing of the caller's Python is
# inherited. It is not -I, which ignores PYTHONHASHSEED: the order of a set, and so a verdict, must
# be the same in every run.
PYTHON_FLAGS = ("-P", "-s", "-B")
# How many tasks the machine may gain over those it has before a check of an ordinary user is
# refused a new thread; see `RunningCheck.start`.
SPARE_TASKS = 4096
# The kernel's questions about a call that waits (seccomp_unotify(2)): two commands of ioctl, and
# the flag of an answer that lets the call go on.
RECEIVE_QUESTION, SEND_ANSWER, GO_ON = 0xC0502100, 0xC0182101, 1
QUESTION_BYTES = 80


@dataclass(frozen=True)
class Kernel:
    """What a check may use of the kernel where it is there.

    Attributes:
        namespaces: a user and a mount namespace, for a disk of its own.
        landlock: the newest version of Landlock.
    """

    namespaces: bool = True
    landlock: int = 2**31 - 1


KERNEL = Kernel()  # tests put another here, to try what older kernels would do


@dataclass(frozen=True)
class Limits:
    """Limits per process, except `wall_seconds`, which bounds the whole check.

    Attributes:
        cpu_seconds: CPU time, whole seconds; a process that ignores the signal has one more.
        wall_seconds: time from start to verdict.
        memory: bytes of address space.
        file: bytes of one file.
        threads: how many threads may run, looked at every 50 ms.
        files: how many files, directories and links there may be at one time; where the machine
            allows no file system for the check, how many files may be made at all.
        disk: bytes of all files together.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 15.0
    memory: int = 2**30
    file: int = 2**20
    threads: int = 64
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
        classes: which of `names` are classes, best those that are classes in a right solution. What
            the program's objects may decide of a test depends on it (docs/security.md). None: the
            names in CapWords that the tests' text mentions.
    """

    program: str
    test: str
    kind: Literal["asserts", "humaneval", "pytest"] = "asserts"
    names: tuple[str, ...] = ()
    setup: str = ""
    classes: tuple[str, ...] | None = None


class Stop(StrEnum):
    """What ended a check before its tests did."""

    WALL = "wall"  # no verdict within `Limits.wall_seconds`
    CPU = "cpu"  # a process, or both together until the end of the time, used up `cpu_seconds`
    KILLED = "killed"  # the system killed a process, for example for lack of memory


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        passed: whether all tests ran and held.
        reason: why not, in words; "" if passed.
        stop: what ended the check before its tests did; None if nothing.
    """

    passed: bool
    reason: str = ""
    stop: Stop | None = None

    @property
    def timed_out(self) -> bool:
        """Whether a limit on time decided the outcome."""
        return self.stop in (Stop.WALL, Stop.CPU)


@cache
def require_sandbox() -> None:
    """Tries once whether this machine confines a program.

    Raises:
        UnmaskError: if it does not; nothing runs unconfined.
    """
    outcome = check(Job("def f(x): return x + 1", "assert f(1) == 2", names=("f",)))
    if not outcome.passed:
        raise UnmaskError(
            f"programs cannot be confined on this machine ({outcome.reason}); the sandbox needs "
            "Linux 5.13 or later with Landlock and seccomp, on x86-64 or AArch64"
        )


@cache
def require_pytest() -> None:
    """Tries once whether tests that are written for pytest run in the sandbox.

    Raises:
        UnmaskError: if they do not, as where pytest is found by way of `PYTHONPATH` only, which the
            processes of a check do not inherit.
    """
    test = "from solution import f\ndef test_f(): assert f(1) == 2"
    outcome = check(Job("def f(x): return x + 1", test, kind="pytest", names=("f",)))
    if not outcome.passed:
        raise UnmaskError(
            f"tests for pytest do not run in the sandbox ({outcome.reason}); install pytest into "
            f"the environment of {sys.executable}, not by PYTHONPATH or pip install --user"
        )


def count_cpus() -> int:
    """How many CPUs this process may use: those it may run on, within the quota of a container."""
    known = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    try:  # microseconds of CPU time in a period, and the microseconds of a period
        quota, period = map(int, CPU_QUOTA.read_text(encoding="utf-8").split())
    except (OSError, ValueError):  # there is no quota: "max"
        return cpus
    return min(cpus, max(1, quota // period))


def worker_count() -> int:
    """How many checks this process should run side by side: its share of the machine's CPUs.

    The processes of a run on one machine (`LOCAL_WORLD_SIZE`, else `WORLD_SIZE`, as `torchrun` and
    `accelerate launch` set them) share the CPUs evenly; each has at least one.
    """
    processes = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or "1"
    return max(1, count_cpus() // max(1, int(processes)))


def check_all(
    jobs: Sequence[Job], limits: Limits = Limits(), workers: int | None = None
) -> list[Outcome]:
    """`check` for many jobs, `workers` at a time (None: `worker_count()`), in the order of the
    jobs."""
    with ThreadPoolExecutor(workers or worker_count()) as pool:
        return list(pool.map(lambda job: check(job, limits), jobs))


def check(job: Job, limits: Limits = Limits()) -> Outcome:
    """Runs a program's tests, the program and the tests in confined processes of their own.

    Only the process with the tests can say that they hold, through a pipe that the model's code
    never sees. A check that had no verdict in time, or one of whose processes the system killed, is
    tried once more, since the load of the machine may have decided it.

    Raises:
        UnmaskError: on a platform other than Linux.
    """
    if sys.platform != "linux":
        raise UnmaskError(
            f"programs can be confined on Linux only, and this is {sys.platform}; run the code "
            "tasks in a Linux container or a virtual machine"
        )
    outcome = check_once(job, limits)
    if outcome.stop in (Stop.WALL, Stop.KILLED):
        outcome = check_once(job, limits)
    return outcome


@cache
def compile_child(child: Path) -> None:
    """Compiles the files of the two processes once, which takes a quarter of the time of a check;
    the processes themselves write no such files. Where the directory cannot be written, each
    process compiles for itself."""
    for file in () if sys.dont_write_bytecode else child.glob("*.py"):
        with suppress(OSError):
            py_compile.compile(str(file), quiet=2)


def check_once(job: Job, limits: Limits) -> Outcome:
    """One try of `check`."""
    compile_child(CHILD)
    with RunningCheck(limits) as running:
        return running.outcome(job)


@dataclass(frozen=True)
class Child:
    """One of the two processes.

    Attributes:
        process: the process.
        stat: a descriptor of its `/proc/PID/stat`, opened before it made itself unreadable for
            others of the same user.
    """

    process: subprocess.Popen[bytes]
    stat: int

    def read_use(self) -> tuple[int, float]:
        """How many threads it has and the CPU seconds it has used, also after its end."""
        # The fields behind the name, which is in brackets: proc(5) counts from 3 there.
        fields = os.pread(self.stat, 4096, 0).rpartition(b")")[2].split()
        ticks = int(fields[14 - 3]) + int(fields[15 - 3])
        return int(fields[20 - 3]), ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class RunningCheck:
    """The processes, pipes and directories of one check, all gone at its end.

    Attributes:
        limits: the limits.
        directory: holds one directory for each process. Where the machine allows it, each has a
            file system of its own over that, and here they stay empty.
        children: the two processes.
        descriptors: what is open.
        controls: sockets to the processes that have not yet said how their disk is held.
        may_create: how many files a process may still make, by the descriptor of its questions.
    """

    limits: Limits
    directory: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="unmask-sandbox-"))
    )
    children: list[Child] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    controls: dict[int, socket.socket] = field(default_factory=dict)
    may_create: dict[int, int] = field(default_factory=dict)

    def __enter__(self) -> RunningCheck:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.process.kill()
        for child in self.children:
            child.process.wait()
        for descriptor in (*self.descriptors, *self.may_create):
            os.close(descriptor)
        for control in self.controls.values():
            control.close()
        remove_directory(self.directory)

    def open_pipe(self) -> tuple[int, int]:
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
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONHASHSEED": "0",
        }
        limits = {
            "cpu": self.limits.cpu_seconds,
            "memory": self.limits.memory,
            "file": self.limits.file,
            "files": self.limits.files,
            "disk": self.limits.disk,
            # The kernel counts all tasks of the user, not those of this process, so a fixed number
            # would fail right programs beside a trainer. This one only bounds what can be added
            # between two looks at the threads.
            "tasks": count_tasks() + SPARE_TASKS,
        }
        here, there = socket.socketpair()
        self.controls[here.fileno()] = here
        rules = {"limits": limits, "control": there.fileno(), "parent": os.getpid()}
        with there, tempfile.TemporaryFile() as text:
            text.write(json.dumps(job | rules | asdict(KERNEL)).encode())
            text.seek(0)
            process = subprocess.Popen(
                [sys.executable, *PYTHON_FLAGS, str(CHILD), role, *map(str, ends)],
                cwd=home,
                env=environment,
                stdin=text,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(*ends, there.fileno()),
                start_new_session=True,
                umask=0o077,
            )
        stat = os.open(f"/proc/{process.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        self.descriptors.append(stat)
        self.children.append(Child(process, stat))

    def outcome(self, job: Job) -> Outcome:
        """Starts both processes and waits for the verdict, the end of either, or the end of the
        time."""
        questions, answers, verdict = self.open_pipe(), self.open_pipe(), self.open_pipe()
        deadline = time.monotonic() + self.limits.wall_seconds
        shown: dict[str, object] = {"names": job.names, "classes": find_classes(job)}
        program = shown | {"program": job.program}
        tests = shown | {"test": job.test, "kind": job.kind, "setup": job.setup}
        self.start("program", program, questions[0], answers[1])
        self.start("checker", tests, answers[0], questions[1], verdict[1])
        self.close(*questions, *answers, verdict[1])
        said = b""
        while len(said) < VERDICT_LIMIT:
            left = deadline - time.monotonic()
            if left <= 0:
                return self.end_of_time()
            if self.wait(verdict[0], min(left, LOOK_SECONDS)):
                piece = os.read(verdict[0], VERDICT_LIMIT)
                if not piece:
                    break
                said += piece
            elif any(child.read_use()[0] > self.limits.threads for child in self.children):
                return Outcome(False, "too many threads")
        return self.judge(said)

    def wait(self, verdict: int, seconds: float) -> bool:
        """Waits until something can be read of the verdict (then True), or answers what else is
        asked for by then."""
        poll = select.poll()
        for descriptor in (verdict, *self.controls, *self.may_create):
            poll.register(descriptor, select.POLLIN)
        events = dict(poll.poll(1000 * seconds))
        ready = set(events)
        for descriptor in ready & set(self.controls):
            with self.controls.pop(descriptor) as control:
                # A process that has a file system of its own closes its end and sends nothing.
                _, sent, _, _ = socket.recv_fds(control, 1, 1)
            self.may_create |= dict.fromkeys(sent, self.limits.files)
        for descriptor in ready & set(self.may_create):
            if events[descriptor] & select.POLLIN:
                answer_creation(descriptor, self.may_create[descriptor] > 0)
                self.may_create[descriptor] -= 1
            else:  # nobody is left who could ask
                del self.may_create[descriptor]
                os.close(descriptor)
        return verdict in ready

    def end_of_time(self) -> Outcome:
        """The outcome where no verdict came. Two processes that took turns until then have used up
        their CPU time as one would have: the machine's load did not decide that."""
        limit = self.limits.cpu_seconds
        if sum(child.read_use()[1] for child in self.children) >= limit:
            return Outcome(False, f"{limit} s of CPU time used up together", Stop.CPU)
        return Outcome(False, f"no verdict in {self.limits.wall_seconds:g} s", Stop.WALL)

    def judge(self, said: bytes) -> Outcome:
        """The outcome that follows from what the process with the tests said at its end."""
        program, checker = self.children
        try:
            verdict = json.loads(said)
            # Text of the program's may hold halves of characters, which no file takes.
            failure = str(verdict["failure"]).encode("utf-8", "replace").decode()
            gone = bool(verdict["gone"])
        except (ValueError, KeyError, TypeError):
            failure, gone = "the process with the tests ended without a verdict", True
        if not failure:
            return Outcome(True)
        if not gone:
            return Outcome(False, failure)
        # A process that ignores the signal for its CPU time has used more when it is killed. What
        # was used must be read first: whoever waits for the end of a process lets it go.
        limit = self.limits.cpu_seconds
        used = max(child.read_use()[1] for child in self.children)
        ends = [find_signal(program)] + ([] if said else [find_signal(checker)])
        if signal.SIGXCPU in ends or used >= limit:
            return Outcome(False, f"{limit} s of CPU time used up", Stop.CPU)
        return Outcome(False, failure, Stop.KILLED if signal.SIGKILL in ends else None)


def answer_creation(descriptor: int, allowed: bool) -> None:
    """Answers one question of the kernel whether a file may be made: yes, or that the quota is
    used up."""
    question = bytearray(QUESTION_BYTES)
    with suppress(FileNotFoundError):  # a signal broke the call off before it was answered
        fcntl.ioctl(descriptor, RECEIVE_QUESTION, question)
        number = struct.unpack_from("=Q", question)[0]
        error, flags = (0, GO_ON) if allowed else (-errno.EDQUOT, 0)
        fcntl.ioctl(descriptor, SEND_ANSWER, struct.pack("=QqiI", number, 0, error, flags))


def remove_directory(directory: Path) -> None:
    """Removes the directory of a check. The rules of the processes allow nothing but files two
    levels below it, so this needs no walk."""
    for home in directory.iterdir():
        for file in home.iterdir():
            file.unlink()
        home.rmdir()
    directory.rmdir()


def find_classes(job: Job) -> tuple[str, ...]:
    """Which names of a program are classes, for the tests."""
    if job.classes is not None:
        return job.classes
    words = set(re.findall(r"\w+", job.test + job.setup))
    return tuple(n for n in job.names if re.match("_*[A-Z]", n) and n in words)


def find_signal(child: Child) -> int:
    """The signal that ended a process, 0 if none, for one whose pipes are closed: that happens a
    moment before its end can be seen."""
    try:
        return max(0, -child.process.wait(timeout=1))
    except subprocess.TimeoutExpired:
        return 0


def count_tasks() -> int:
    """How many processes and threads the machine has at this moment."""
    # Four numbers of load and tasks: "0.20 0.18 0.12 1/80 11206".
    return int(Path("/proc/loadavg").read_text(encoding="utf-8").split()[3].partition("/")[2])
