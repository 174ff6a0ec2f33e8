"""Runs the tables of attacks and of programs, as this user or as an ordinary one.

`python -m tests.sandbox.runs` prints the table of docs/security.md: every attack as root and as an
ordinary user. Run it as root; as an ordinary user it leaves root's column empty. With
`namespaces=0` or `landlock=5` as arguments the checks do without what older kernels, or
containers, do not have.
"""

from __future__ import annotations

import compileall
import ctypes
import importlib
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import unmask.sandbox
from tests.sandbox.attacks import ENDLESS, NAMES, list_attacks, list_lies
from tests.sandbox.programs import list_cases
from unmask.sandbox import Limits, Outcome, Stop, check_all

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0)
NOBODY = 65534
PROGRAMS = 3  # in the short form every third one is run
VARIABLE = "UNMASK_TEST_SECRET"
PACKAGES = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "numpy")
CHILD = Path(unmask.sandbox.__file__).parent / "child"


sandbox = importlib.import_module("unmask.sandbox.check")


class NoOrdinaryUser(Exception):
    """This machine cannot run the tables as an ordinary user."""


def run_attacks(whole: bool = True) -> dict[str, Outcome]:
    """Every attack, with the things they are after put in place, all at once.

    Args:
        whole: whether those are among them that no user and no kernel makes different.

    Raises:
        AssertionError: if one of them changed something outside, or a directory was left behind.
    """
    with tempfile.TemporaryDirectory(prefix="unmask-attacks-") as made, list_places(made) as places:
        scratch = Path(made) / "scratch"
        scratch.mkdir()
        jobs = list_attacks(places) | list_lies()
        if not whole:
            left_out = {*list_lies(), *ENDLESS}
            jobs = {name: job for name, job in jobs.items() if name not in left_out}
        usual = tempfile.tempdir
        tempfile.tempdir = str(scratch)  # where the checks have their directories
        try:
            outcomes = check_all(list(jobs.values()), LIMITS)
        finally:
            tempfile.tempdir = usual
        assert sorted(scratch.iterdir()) == []
    return dict(zip(jobs, outcomes, strict=True))


@contextmanager
def list_places(directory: str) -> Iterator[dict[str, object]]:
    """What the attacks are after, by the names that their texts have for it. At the end it must all
    be as it was.

    Raises:
        AssertionError: if it is not.
    """
    outside = Path(directory) / "outside"
    outside.mkdir()
    secret = outside / "secret"
    secret.write_text("secret", encoding="utf-8")
    with suppress(OSError):  # not every file system has attributes
        os.setxattr(secret, "user.kept", b"1")
    seen = [read_state(path) for path in (secret, outside, Path("/usr"))]
    os.environ[VARIABLE] = "1"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) as victim,
        own_memory() as memory,
    ):
        name = f"unmask-{victim.pid}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        places = memory | {
            "outside": outside,
            "secret": secret,
            "port": listener.getsockname()[1],
            "socket": name,
            "parent": os.getpid(),
            "victim": victim.pid,
            "variable": VARIABLE,
            "child": sandbox.CHILD,
        }
        try:
            yield places
            lives = victim.poll() is None
            group = os.getpgid(victim.pid) if lives else None
        finally:
            victim.kill()
    assert lives and group == victim.pid
    assert sorted(outside.iterdir()) == [secret]
    assert secret.read_text(encoding="utf-8") == "secret"
    assert [read_state(path) for path in (secret, outside, Path("/usr"))] == seen


def read_state(path: Path) -> tuple:
    """What an attack could change of a file beside what is in it."""
    status = path.stat()
    names = tuple(name for name in os.listxattr(path) if name.startswith("user."))
    return status.st_mode, status.st_uid, status.st_mtime_ns, status.st_nlink, names


@contextmanager
def own_memory() -> Iterator[dict[str, object]]:
    """A queue, a semaphore and shared memory of System V, and a POSIX queue, of this user.

    Raises:
        AssertionError: if one is gone at the end, or the queue or the semaphore is not as it was.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    message = ctypes.create_string_buffer(struct.pack("l", 1) + b"kept", 64)
    queue = libc.msgget(0, 0o1600)
    semaphore = libc.semget(0, 1, 0o1600)
    memory = libc.shmget(0, 4096, 0o1600)
    assert min(queue, semaphore, memory, libc.msgsnd(queue, message, 4, 0)) >= 0
    assert libc.semctl(semaphore, 0, 16, 3) == 0
    name = f"/unmask-{os.getpid()}"
    try:
        posix = libc.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    except AttributeError:  # it lies in another library before glibc 2.34
        posix = -1
    places = {"queue": queue, "semaphore": semaphore, "memory": memory, "queue_name": name[1:]}
    try:
        yield places
        got = libc.msgrcv(queue, message, 8, 0, 0o4000)
        assert got == 4 and libc.msgrcv(queue, message, 8, 0, 0o4000) == -1
        assert libc.semctl(semaphore, 0, 12, 0) == 3
        assert libc.shmctl(memory, 0, 0) == 0  # removes it: it was there
        assert posix < 0 or libc.mq_unlink(name.encode()) == 0
    finally:
        libc.msgctl(queue, 0, None)
        libc.semctl(semaphore, 0, 0, 0)


def run_programs(every: int = 1) -> list[Outcome]:
    """Every program of `tests.sandbox.programs`, or every third and so on."""
    return check_all([job for job, _ in list_cases()[::every]], Limits(cpu_seconds=2))


def run_beside_threads(whole: bool, count: int = 100) -> tuple[dict[str, Outcome], list[Outcome]]:
    """Both tables, in a process that has many threads of its own, as a trainer has; `whole` as for
    `run_as_ordinary_user`."""
    end = threading.Event()
    for _ in range(count):
        threading.Thread(target=end.wait, daemon=True).start()
    try:
        return run_attacks(whole), run_programs(1 if whole else PROGRAMS)
    finally:
        end.set()


def run_as_ordinary_user(
    kernel: dict[str, int] | None = None, whole: bool = True
) -> tuple[dict[str, Outcome], list[Outcome]]:
    """`run_beside_threads` in a process of the user nobody, or of this user if it is not root: the
    outcomes of the attacks and those of the programs.

    Args:
        kernel: what the checks may use of the kernel (`unmask.sandbox.check.Kernel`).
        whole: whether all of both tables are run; else the attacks that a user or a kernel may make
            different, and every third program.

    Raises:
        NoOrdinaryUser: if nobody cannot run Python here.
    """
    options = ["--outcomes", *(f"{name}={value}" for name, value in (kernel or {}).items())]
    options += [] if whole else ["--short"]
    with ordinary_directory() as directory:
        python = find_python(directory) if os.getuid() == 0 else sys.executable
        done = run_as_nobody([python, "-m", "tests.sandbox.runs", *options], directory)
        if done.returncode != 0:
            raise NoOrdinaryUser(f"the tables ended with an error: {done.stderr[-2000:]}")
    attacks, programs = json.loads(done.stdout)
    return {n: read_outcome(values) for n, values in attacks.items()}, list(
        map(read_outcome, programs)
    )


def read_outcome(values: list) -> Outcome:
    passed, reason, stop = values
    return Outcome(passed, reason, None if stop is None else Stop(stop))


def run_as_nobody(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command as the user nobody, or as this user if it is not root, with this package's
    code to import."""
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    environment = {"PYTHONPATH": str(directory / "code"), "PATH": "/usr/bin:/bin", "HOME": "/tmp"}
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        **other,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def ordinary_directory() -> Iterator[Path]:
    """A directory that every user can read, with the code of the sandbox and of these tables, and
    nothing else of the package, which would need torch."""
    with tempfile.TemporaryDirectory(prefix="unmask-ordinary-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        package = directory / "code" / "unmask"
        tests = directory / "code" / "tests"
        package.mkdir(parents=True)
        copy_compiled(CHILD.parent, package / "sandbox")
        shutil.copy(CHILD.parents[1] / "errors.py", package)
        shutil.copytree(Path(__file__).parent, tests / "sandbox")
        (package / "__init__.py").touch()
        (tests / "__init__.py").touch()
        yield directory


def copy_compiled(source: Path, target: Path) -> None:
    """Copies a directory of Python's files, with what it is compiled to."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(target, quiet=2)


def find_python(directory: Path) -> str:
    """A Python with pytest and numpy that the user nobody can run: this one, or a copy of what is
    needed of it in `directory`.

    Raises:
        NoOrdinaryUser: if neither runs.
    """
    if can_run(sys.executable, directory):
        return sys.executable
    copied = copy_python(directory)
    if not can_run(copied, directory):
        raise NoOrdinaryUser("the user nobody can run neither this Python nor a copy of it")
    return copied


def can_run(python: str, directory: Path) -> bool:
    try:
        command = [python, "-c", "import pytest, numpy, unmask.sandbox"]
        return run_as_nobody(command, directory).returncode == 0
    except OSError:
        return False


def copy_python(directory: Path) -> str:
    """Copies this interpreter, its standard library and a few packages, by hard links where it can:
    they may lie in a home directory that no other user can enter."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base, root = Path(sys.base_prefix), directory / "python"
    library, packages = root / "lib" / version, root / "lib" / version / "site-packages"
    skipped = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "config-*")
    copy_tree(base / "lib" / version, library, skipped)
    for file in (base / "lib").glob("libpython3*"):
        link_or_copy(file, root / "lib" / file.name)
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin)
        if spec.submodule_search_locations:
            copy_tree(origin.parent, packages / name)
            if (origin.parents[1] / f"{name}.libs").is_dir():
                copy_tree(origin.parents[1] / f"{name}.libs", packages / f"{name}.libs")
        else:
            link_or_copy(origin, packages / origin.name)
    (root / "bin").mkdir()
    python = root / "bin" / version
    # Where it looks for its own library is written in it, padded here to the same length.
    old, new = str(base / "lib").encode(), b"$ORIGIN/../lib"
    code = Path(sys.executable).resolve().read_bytes()
    python.write_bytes(code.replace(old + b"\0", new.ljust(len(old) + 1, b"\0")))
    python.chmod(0o755)
    return str(python)


def copy_tree(source: Path, target: Path, ignore=None) -> None:
    shutil.copytree(source, target, ignore=ignore, copy_function=link_or_copy)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def format_table(root: dict[str, Outcome] | None, user: dict[str, Outcome]) -> str:
    """The table of docs/security.md, and where it was made."""
    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
    lines = [
        f"{date.today()}, Linux {platform.release().split('-')[0]}, Landlock ABI {version}, "
        f"{platform.machine()}, Python {platform.python_version()}, `{sandbox.KERNEL}`",
        "",
        "| attack | as root | as an ordinary user | what the check says |",
        "|---|---|---|---|",
    ]
    for name in NAMES:
        both = [found[name] for found in (root, user) if found]
        first = "" if root is None else "**passed**" if root[name].passed else "no pass"
        second = "**passed**" if user[name].passed else "no pass"
        reasons = dict.fromkeys(map(short_reason, both))
        lines.append(f"| {name} | {first} | {second} | {'; '.join(reasons)} |")
    counts = [sum(not o.passed for o in found.values()) for found in (root, user) if found]
    lines.append(f"\n{len(NAMES)} attacks; without a pass: {' and '.join(map(str, counts))}.")
    return "\n".join(lines)


def short_reason(outcome: Outcome) -> str:
    """What a check says, without the paths and addresses of this machine."""
    reason = " ".join(outcome.reason.split()).replace("|", " ")
    reason = re.sub(r"0x[0-9a-f]+", "0x…", re.sub(r"\S*/(\w+\.py)", r"\1", reason))
    if reason == "AssertionError:":
        return "its tests failed"
    return reason if len(reason) < 90 else "…" + reason[-80:]


def read_kernel(given: dict[str, int]) -> Any:
    """What checks may use of the kernel, from numbers by the names of its attributes."""
    usual = sandbox.Kernel()
    return sandbox.Kernel(
        namespaces=bool(given.get("namespaces", usual.namespaces)),
        landlock=given.get("landlock", usual.landlock),
    )


def use_kernel(words: list[str]) -> dict[str, int]:
    """Lets the checks of this process use less of the kernel; `words` as `landlock=5`."""
    pairs = [word.split("=") for word in words if "=" in word]
    given = {name: int(value) for name, value in pairs}
    vars(sandbox)["KERNEL"] = read_kernel(given)
    return given


def main() -> None:
    words = sys.argv[1:]
    given = use_kernel(words)
    if "--outcomes" in words:
        attacks, programs = run_beside_threads("--short" not in words)
        plain = [(o.passed, o.reason, o.stop) for o in programs]
        print(json.dumps([{n: (o.passed, o.reason, o.stop) for n, o in attacks.items()}, plain]))
        return
    root = run_attacks() if os.getuid() == 0 else None
    print(format_table(root, run_as_ordinary_user(given)[0]))


if __name__ == "__main__":
    main()
