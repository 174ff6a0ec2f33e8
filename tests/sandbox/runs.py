"""Runs the tables of attacks and of programs, as this user or as an ordinary one.

`python -m tests.sandbox.runs` prints the table of docs/security.md: every attack as root and as an
ordinary user. Run it as root; as an ordinary user it leaves root's column empty.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import unmask.sandbox
from tests.sandbox.attacks import NAMES, list_attacks
from tests.sandbox.programs import list_cases
from unmask.sandbox import Limits, Outcome, Stop, check_all

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0)
NOBODY = 65534
VARIABLE = "UNMASK_TEST_SECRET"
PACKAGES = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "numpy")
CHILD = Path(unmask.sandbox.__file__).parent / "child"


class NoOrdinaryUser(Exception):
    """This machine cannot run the tables as an ordinary user."""


def run_attacks() -> list[Outcome]:
    """Every attack, with the things they are after put in place, all at once.

    Raises:
        AssertionError: if one of them changed something outside, or a directory was left behind.
    """
    with (
        tempfile.TemporaryDirectory(prefix="unmask-attacks-") as made,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        outside, scratch = Path(made) / "outside", Path(made) / "scratch"
        outside.mkdir()
        scratch.mkdir()
        secret = outside / "secret"
        secret.write_text("secret", encoding="utf-8")
        before = (secret.stat().st_mode, secret.stat().st_mtime_ns)
        os.environ[VARIABLE] = "1"
        places = {
            "outside": outside,
            "secret": secret,
            "port": listener.getsockname()[1],
            "parent": os.getpid(),
            "variable": VARIABLE,
            "child": CHILD,
        }
        usual = tempfile.tempdir
        tempfile.tempdir = str(scratch)  # where the checks have their directories
        try:
            outcomes = check_all(list_attacks(places), LIMITS)
        finally:
            tempfile.tempdir = usual
        assert sorted(outside.iterdir()) == [secret]
        assert secret.read_text(encoding="utf-8") == "secret"
        assert (secret.stat().st_mode, secret.stat().st_mtime_ns) == before
        assert sorted(scratch.iterdir()) == []
    return outcomes


def run_programs() -> list[Outcome]:
    """Every program of `tests.sandbox.programs`."""
    return check_all([job for job, _ in list_cases()], Limits(cpu_seconds=2))


def run_beside_threads(count: int = 100) -> dict[str, list[Outcome]]:
    """Both tables, in a process that has many threads of its own, as a trainer has."""
    end = threading.Event()
    for _ in range(count):
        threading.Thread(target=end.wait, daemon=True).start()
    try:
        return {"attacks": run_attacks(), "programs": run_programs()}
    finally:
        end.set()


def run_as_ordinary_user() -> dict[str, list[Outcome]]:
    """`run_beside_threads` in a process of the user nobody, or of this user if it is not root.

    Raises:
        NoOrdinaryUser: if nobody cannot run Python here.
    """
    if os.getuid() != 0:
        return run_beside_threads()
    with ordinary_directory() as directory:
        python = find_python(directory)
        command = [python, "-m", "tests.sandbox.runs", "--outcomes"]
        done = run_as_nobody(command, directory)
        if done.returncode != 0:
            raise NoOrdinaryUser(f"the tables ended with an error: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    return {name: [read_outcome(values) for values in found[name]] for name in found}


def read_outcome(values: list) -> Outcome:
    passed, reason, stop = values
    return Outcome(passed, reason, None if stop is None else Stop(stop))


def run_as_nobody(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command as the user nobody, with this package's code to import."""
    environment = {"PYTHONPATH": str(directory / "code"), "PATH": "/usr/bin:/bin", "HOME": "/tmp"}
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
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
        shutil.copytree(CHILD.parent, package / "sandbox")
        shutil.copy(CHILD.parents[1] / "errors.py", package)
        shutil.copytree(Path(__file__).parent, tests / "sandbox")
        (package / "__init__.py").touch()
        (tests / "__init__.py").touch()
        yield directory


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


def format_table(root: list[Outcome] | None, user: list[Outcome]) -> str:
    """The table of docs/security.md."""
    lines = [
        "| attack | as root | as an ordinary user | what the check says |",
        "|---|---|---|---|",
    ]
    for i, name in enumerate(NAMES):
        first = "" if root is None else "**passed**" if root[i].passed else "no pass"
        second = "**passed**" if user[i].passed else "no pass"
        reasons = dict.fromkeys(short_reason(found[i]) for found in (root, user) if found)
        lines.append(f"| {name} | {first} | {second} | {'; '.join(reasons)} |")
    counts = [sum(not o.passed for o in found) for found in (root, user) if found]
    lines.append(f"\n{len(NAMES)} attacks; without a pass: {' and '.join(map(str, counts))}.")
    return "\n".join(lines)


def short_reason(outcome: Outcome) -> str:
    """What a check says, without the paths and addresses of this machine."""
    reason = " ".join(outcome.reason.split()).replace("|", " ")
    reason = re.sub(r"0x[0-9a-f]+", "0x…", re.sub(r"\S*/(\w+\.py)", r"\1", reason))
    if reason == "AssertionError:":
        return "its tests failed"
    return reason if len(reason) < 90 else "…" + reason[-80:]


def main() -> None:
    if "--outcomes" in sys.argv:
        found = run_beside_threads()
        plain = {name: [(o.passed, o.reason, o.stop) for o in found[name]] for name in found}
        print(json.dumps(plain))
        return
    root = run_attacks() if os.getuid() == 0 else None
    print(format_table(root, run_as_ordinary_user()["attacks"]))


if __name__ == "__main__":
    main()
