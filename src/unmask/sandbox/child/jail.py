"""The rules that are laid on a process before it runs any text of a model or of a test.

Everything here is inherited by threads, and the process on which it was laid cannot take it back.
docs/security.md lists the rules and what they stop.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from typing import Any

from calls import confine_calls
from disk import count_new_files, mount_own_disk
from kernel import libc, must_succeed

# prctl(2), capabilities and Landlock
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
CAPABILITY_VERSION = 0x20080522
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
# Rights of Landlock
EXECUTE, WRITE_FILE, READ_FILE, READ_DIRECTORY, REMOVE_FILE, MAKE_FILE, TRUNCATE = (
    1 << bit for bit in (0, 1, 2, 3, 5, 8, 14)
)
READ = EXECUTE | READ_FILE | READ_DIRECTORY
# In a directory where files are counted there are files only: no directories and no links.
COUNTED = WRITE_FILE | READ_FILE | READ_DIRECTORY | REMOVE_FILE | MAKE_FILE | TRUNCATE


def confine_files(readable: list[str], writable: str, rights: int | None, newest: int) -> None:
    """Lays Landlock rules: files below `readable` may be read, those below `writable` also written;
    every other file is out of reach. No TCP, and no signals and abstract sockets to other
    processes, where the kernel rules them.

    Args:
        readable: files and directories.
        writable: a directory.
        rights: what may be done below `writable`; None: everything.
        newest: the version of Landlock up to which its rules are used.
    """
    version = must_succeed(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1), "Landlock")
    version = min(version, newest)
    # Each version of Landlock knows more rights; a right it does not know is an error.
    every = (1 << {1: 13, 2: 14}.get(version, 15 if version < 5 else 16)) - 1
    tcp = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", every, tcp, scopes)[:size]
    rules = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    must_succeed(rules, "Landlock")
    allowed = [(path, READ) for path in readable] + [
        (writable, every if rights is None else rights),
        ("/dev/null", READ_FILE | WRITE_FILE | TRUNCATE),
        ("/dev/zero", READ_FILE),
        ("/dev/urandom", READ_FILE),
    ]
    for path, right in allowed:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):
            right &= EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE
        rule = struct.pack("=Qi", right & every, descriptor)
        must_succeed(libc.syscall(ADD_RULE, rules, 1, rule, 0), f"Landlock, {path}")
        os.close(descriptor)
    must_succeed(libc.syscall(RESTRICT_SELF, rules, 0), "Landlock")
    os.close(rules)


def lower_limits(limits: dict[str, int]) -> None:
    """Sets the limits that the kernel keeps for this process, so that it cannot raise them.

    The number of tasks is a limit on all of the user's together and does not bind root, so it only
    bounds what one check can add in the moments between two looks of the process that waits; that
    one counts the threads of this process (`unmask.sandbox.check`).
    """
    # The first limit on CPU time ends a process by a signal of its own, which tells why it ended; a
    # process can ignore that, but not the second.
    for name, value, over in (
        ("CPU", limits["cpu"], 1),
        ("AS", limits["memory"], 0),
        ("FSIZE", limits["file"], 0),
        ("NOFILE", 64, 0),
        ("CORE", 0, 0),
        ("NPROC", limits["tasks"], 0),
    ):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = value + over if hard == resource.RLIM_INFINITY else min(value + over, hard)
        resource.setrlimit(kind, (min(value, most), most))


def drop_privileges(parent: int) -> None:
    """No capabilities, now or after any system call, and no look into this process by others of
    the same user. It ends when the process that waits does."""
    for capability in range(64):
        # Fails for a user who has none to drop, and for numbers that the kernel does not know.
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    must_succeed(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    header, none = struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)
    must_succeed(libc.capset(header, none), "capset")
    must_succeed(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "the parent's end")
    if os.getppid() != parent:
        raise OSError("the process that waits is gone")


def confine_process(job: dict[str, Any]) -> None:
    """Lays everything on this process: disk, limits, no privileges, files, system calls.

    Args:
        job: `limits` (`cpu` in seconds, `memory`, `file` and `disk` in bytes, `files` and `tasks`
            as numbers), `namespaces` (whether they may be used), `landlock` (the newest version
            that may be used), `parent` (the process that waits) and `control` (descriptor of a
            socket to it).

    Raises:
        OSError: if the machine has not one of these rules.
    """
    limits = dict(job["limits"])
    must_succeed(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    rights = None
    if not (job["namespaces"] and mount_own_disk(limits["disk"], limits["files"])):
        count_new_files(job["control"])
        limits["file"] = min(limits["file"], limits["disk"] // limits["files"])
        rights = COUNTED
    os.close(job["control"])
    lower_limits(limits)
    drop_privileges(job["parent"])
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    system = {"/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"}
    confine_files(sorted(own | system), os.getcwd(), rights, job["landlock"])
    confine_calls()
