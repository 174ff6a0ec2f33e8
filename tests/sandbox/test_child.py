"""The rule of the sandbox's inside: the standard library, and its own files."""

import ast
import importlib
import os
import re
import sys
from pathlib import Path

import pytest

from tests.sandbox.runs import CHILD

FILES = {
    "__main__.py", "jail.py", "calls.py", "disk.py", "kernel.py", "wire.py", "program.py",
    "checker.py", "remote.py",
}  # fmt: skip
# Tests of kind "pytest" need pytest: one import, in one function of the process with the tests,
# that no other kind of check runs.
EXCEPTIONS = {("checker.py", "import_pytest", "pytest")}


def list_imports(tree):
    """Every import of a file: the function it stands in ("" at the top) and the module."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.function = node.name if isinstance(node, ast.FunctionDef) else node.function
        if isinstance(node, ast.Import):
            yield from ((node.function, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.function, "." * node.level + (node.module or "")


def test_the_inside_imports_the_standard_library_and_itself_only():
    assert {path.name for path in CHILD.iterdir() if path.suffix == ".py"} == FILES
    allowed = sys.stdlib_module_names | {name.removesuffix(".py") for name in FILES}
    others = set()
    for name in FILES:
        tree = ast.parse((CHILD / name).read_text(encoding="utf-8"))
        tree.function = ""
        others |= {
            (name, function, module)
            for function, module in list_imports(tree)
            if module.split(".")[0] not in allowed
        }
    assert others == EXCEPTIONS


def test_the_outside_needs_no_other_part_of_the_package():
    """Above all not the tasks, whose answers it checks."""
    for path in CHILD.parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tree.function = ""
        for _, module in list_imports(tree):
            own = module.startswith(("unmask.sandbox", "unmask.errors"))
            assert own or module.split(".")[0] in sys.stdlib_module_names, (path.name, module)


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def load_calls(monkeypatch):
    monkeypatch.syspath_prepend(str(CHILD))
    return importlib.import_module("calls")


def list_numbers(calls, column):
    """The numbers of all calls that are allowed, some of them by their arguments, by name."""
    by_argument = {
        "clone": calls.CLONE, "tgkill": calls.TGKILL, "open": calls.OPEN, "openat": calls.OPENAT,
        "fcntl": calls.FCNTL, "ioctl": calls.IOCTL, "prctl": calls.PRCTL,
        "prlimit64": calls.PRLIMIT, "seccomp": calls.SECCOMP,
    }  # fmt: skip
    return {name: numbers[column] for name, numbers in (calls.ALLOWED | by_argument).items()}


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_numbers_of_system_calls_are_the_kernels(monkeypatch, machine, column):
    if not HEADERS[machine].is_file():
        pytest.skip("the kernel's headers are not here")
    text = HEADERS[machine].read_text(encoding="utf-8")
    # The generic list gives some calls two names: __NR3264_fcntl and, from that, __NR_fcntl.
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
    for name, other in re.findall(r"#define __NR_(\w+) __NR3264_(\w+)", text):
        found.setdefault(name, found.get(other))
    ours = list_numbers(load_calls(monkeypatch), column)
    assert {n: v for n, v in ours.items() if v >= 0} == {
        n: int(found[n]) for n, v in ours.items() if v >= 0
    }


def run_filter(lines, number, args=(), architecture=0xC000003E):
    """What a seccomp filter says of a call: the few instructions that ours has, interpreted."""
    words = {0: number, 4: architecture}
    for i, value in enumerate(args):
        words[16 + 8 * i], words[20 + 8 * i] = value & 0xFFFFFFFF, value >> 32
    at, loaded = 0, 0
    while True:
        code, yes, no, operand = lines[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            loaded = words.get(operand, 0)
        elif code == 0x54:
            loaded &= operand
        else:
            holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: loaded & operand}
            at += yes if holds[code] else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_calls_are_allowed_by_list(monkeypatch, machine):
    """What is not listed is refused, also what no kernel has yet; on both architectures."""
    calls = load_calls(monkeypatch)
    monkeypatch.setattr(calls.platform, "machine", lambda: machine)
    lines = calls.list_instructions()
    column, architecture = calls.MACHINES[machine]

    def ask(number, *args):
        return run_filter(lines, number, args, architecture)

    always = {n[column] for n in calls.ALLOWED.values() if n[column] >= 0}
    assert {n for n in range(1000) if ask(n) == calls.ALLOW} - always <= {
        calls.OPEN[column], calls.OPENAT[column], calls.FCNTL[column], calls.PRLIMIT[column],
    }  # fmt: skip
    assert all(ask(number) == calls.ALLOW for number in always)
    assert ask(999) == calls.ENOSYS and ask(calls.SECCOMP[column]) == calls.ENOSYS
    assert run_filter(lines, 0, architecture=0x40000003) == calls.KILL  # i386
    clone, tgkill, fcntl = calls.CLONE[column], calls.TGKILL[column], calls.FCNTL[column]
    assert ask(clone, calls.THREAD_FLAGS) == calls.ALLOW
    for flags in (17, 0x50F00, calls.THREAD_FLAGS & ~0x400, calls.THREAD_FLAGS | 0x10000000):
        assert ask(clone, flags) == calls.EPERM
    assert ask(tgkill, os.getpid()) == calls.ALLOW and ask(tgkill, 1) == calls.EPERM
    assert [n for n in range(1100) if ask(fcntl, 3, n, 0o4000) == calls.ALLOW] == [
        0,
        1,
        2,
        3,
        4,
        1030,
    ]
    for flag in (0o20000, 0o1000000):  # O_ASYNC, O_NOATIME
        assert ask(fcntl, 3, 4, flag) == calls.EPERM
    for flags, says in ((0, 1), (1, 1), (2, 1), (3, 0), (0o1000, 0), (0o1001, 1), (0o1102, 1)):
        assert ask(calls.OPENAT[column], 3, 9, flags) == (calls.ALLOW if says else calls.EPERM)
    prlimit = calls.PRLIMIT[column]
    assert ask(prlimit, 0, 9, 0) == calls.ALLOW
    assert {ask(prlimit, 1, 9, 0), ask(prlimit, 0, 9, 5), ask(prlimit, 0, 9, 5 << 32)} == {
        calls.EPERM
    }
    assert ask(calls.IOCTL[column], 3, 0x5401) == calls.ALLOW
    assert ask(calls.IOCTL[column], 3, 0x5452) == calls.ENOTTY
