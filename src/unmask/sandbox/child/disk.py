"""Where a process may write: a file system of its own whose size the kernel holds, or else files
that are counted before they are made."""

import os
import struct
from contextlib import suppress

from calls import ask_before_creating
from kernel import libc, must_succeed

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
NO_SET_ID, NO_DEVICES, RECURSIVE, PRIVATE = 2, 4, 0x4000, 0x40000


def mount_own_disk(size: int, files: int) -> bool:
    """Puts a file system in memory over the current directory. No other process sees it, and it
    ends with this one.

    Args:
        size: bytes of all files together, also of those that have no name any more.
        files: how many files, directories and links it holds.

    Returns:
        Whether the machine allows that: to root, or to the users of a namespace of their own.
    """
    home = os.getcwd()
    try:
        if libc.unshare(NEW_MOUNTS) < 0:
            user, group = os.getuid(), os.getgid()
            must_succeed(libc.unshare(NEW_USER | NEW_MOUNTS), "namespaces")
            write_line("/proc/self/setgroups", "deny")
            write_line("/proc/self/uid_map", f"{user} {user} 1")
            write_line("/proc/self/gid_map", f"{group} {group} 1")
        must_succeed(libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None), "private mounts")
        options = f"size={size},nr_inodes={files + 1},mode=700".encode()
        place, flags = os.fsencode(home), NO_SET_ID | NO_DEVICES
        must_succeed(libc.mount(b"none", place, b"tmpfs", flags, options), "tmpfs")
    except OSError:
        return False
    os.chdir(home)
    return True


def write_line(path: str, text: str) -> None:
    """Writes one line to a file of the kernel, in one piece."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def count_new_files(control: int) -> None:
    """Has the process that waits count the files that this one makes; what is made must be a file
    in the current directory, so no other rule may allow directories and links.

    Args:
        control: descriptor of a socket, on which that process gets the kernel's questions.

    Raises:
        OSError: if the kernel cannot ask.
    """
    import socket  # only where the kernel allows no file system: it takes some milliseconds

    asked = ask_before_creating()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", asked))]
    with suppress(BrokenPipeError), socket.socket(fileno=os.dup(control)) as there:
        there.sendmsg([b"?"], rights)
    os.close(asked)
