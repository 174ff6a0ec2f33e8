"""The system calls that are allowed, as a seccomp filter.

What is not listed here does not exist for the process (ENOSYS), so a call that a later kernel adds
is refused before anyone has thought of it. The list is what CPython, its standard library, numpy
and pytest need for programs that compute, use threads, and write files of their own.
"""

import ctypes
import os
import platform
import struct

from kernel import libc, must_succeed

# System calls that are always allowed: their numbers on x86-64 and on AArch64, -1 where there is
# none. None of them reaches another process, and what they do with files is ruled by Landlock.
ALLOWED = {
    # open files
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "pread64": (17, 67), "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70),
    "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62), "dup": (32, 23),
    "dup2": (33, -1), "dup3": (292, 24), "pipe": (22, -1), "pipe2": (293, 59),
    "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72),
    "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83), "sendfile": (40, 71),
    # names of files
    "stat": (4, -1), "lstat": (6, -1), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, -1), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "mkdir": (83, -1), "mkdirat": (258, 34),
    "rmdir": (84, -1), "unlink": (87, -1), "unlinkat": (263, 35), "rename": (82, -1),
    "renameat": (264, 38), "renameat2": (316, 276), "link": (86, -1), "linkat": (265, 37),
    "symlink": (88, -1), "symlinkat": (266, 36), "statfs": (137, 43), "fstatfs": (138, 44),
    "umask": (95, 166),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233), "msync": (26, 227), "brk": (12, 214),
    # threads and the end of the process
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96),
    "rseq": (334, 293), "gettid": (186, 178), "getpid": (39, 172), "getppid": (110, 173),
    "getpgid": (121, 155), "getpgrp": (111, -1), "getsid": (124, 156), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "exit": (60, 93), "exit_group": (231, 94),
    # signals to itself
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "pause": (34, -1),
    "alarm": (37, -1), "setitimer": (38, 103), "getitimer": (36, 102),
    # time
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, -1), "times": (100, 153),
    # who and where it is
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "uname": (63, 160), "sysinfo": (99, 179), "getcpu": (309, 168), "getrandom": (318, 278),
    "getrusage": (98, 165), "getrlimit": (97, 163),
}  # fmt: skip
# System calls that are allowed with some arguments only; see `list_conditions`.
CLONE, TGKILL, OPEN, OPENAT = (56, 220), (234, 131), (2, -1), (257, 56)
FCNTL, IOCTL, PRCTL, PRLIMIT = (72, 25), (16, 29), (157, 167), (302, 261)

# What a new thread of a C library shares with its process: everything. Other flags would make a
# process, a namespace, or a thread with descriptors of its own beside the limit.
THREAD_FLAGS = 0x3D0F00
THREAD_FLAGS_MUSL = THREAD_FLAGS | 0x400000  # CLONE_DETACHED, which the kernel ignores
# duplicate, read and set the flag for exec, read the status: F_DUPFD, F_GETFD, F_SETFD, F_GETFL,
# F_DUPFD_CLOEXEC. Not locks, leases, owners of signals, notices, seals and sizes of pipes.
FCNTL_COMMANDS, F_SETFL = (0, 1, 2, 3, 1030), 4
# Is it a terminal (TCGETS, TCGETS2), its size (TIOCGWINSZ), bytes that wait (FIONREAD), blocking
# (FIONBIO), the flag for exec (FIONCLEX, FIOCLEX). Not flags of files, terminals or devices.
IOCTL_COMMANDS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
PRCTL_OPTIONS = (15, 16)  # set and get the name of a thread
O_ACCMODE, O_CREAT, O_TRUNC, O_TMPFILE = 3, 0o100, 0o1000, 0o20000000
O_APPEND, O_NONBLOCK = 0o2000, 0o4000

# Instructions and verdicts of a seccomp filter (linux/filter.h, linux/seccomp.h).
LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, GIVE = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
ALLOW, ASK, KILL, ERROR = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000
EPERM, ENOTTY, ENOSYS = ERROR | 1, ERROR | 25, ERROR | 38
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SECCOMP, SET_MODE_FILTER, NEW_LISTENER = (317, 277), 1, 8
X32 = 0x40000000  # the bit of the x32 numbers of the same calls
O_LARGEFILE = (0o100000, 0o400000)  # set by the C library, on x86-64 and on AArch64
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class FilterProgram(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def find_machine() -> tuple[int, int]:
    """The column of this machine in the lists of numbers, and its name in the kernel.

    Raises:
        OSError: for a machine whose numbers of system calls are not listed.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"no list of system calls for {machine}")
    return MACHINES[machine]


def load_argument(index: int, high: bool = False) -> Instruction:
    """Loads one half of an argument. The high one matters for pointers only: the kernel reads
    numbers of processes, commands and flags as 32 bits."""
    return (LOAD, 0, 0, ARGUMENTS + 8 * index + 4 * high)


def allow_values(values: tuple[int, ...]) -> list[Instruction]:
    """Allows the call if what was loaded is one of these values."""
    return [line for v in values for line in ((JUMP_EQUAL, 0, 1, v), (GIVE, 0, 0, ALLOW))]


def judge_opening(flags: int) -> list[Instruction]:
    """For a call whose argument `flags` says how a file is opened: no emptying of files without
    the right to write. Landlock before version 3 does not rule that, and not mode 3 in any."""
    return [
        load_argument(flags),
        (AND, 0, 0, O_ACCMODE),
        (JUMP_EQUAL, 4, 0, 3),
        (JUMP_EQUAL, 0, 2, os.O_RDONLY),
        load_argument(flags),
        (JUMP_ANY_BIT, 1, 0, O_TRUNC),
        (GIVE, 0, 0, ALLOW),
        (GIVE, 0, 0, EPERM),
    ]


def list_conditions(column: int) -> dict[int, list[Instruction]]:
    """What decides about each call that is allowed with some arguments only, by its number. Every
    list ends with a verdict."""
    kept = O_ACCMODE | O_APPEND | O_NONBLOCK | O_LARGEFILE[column]
    rules: dict[tuple[int, int], list[Instruction]] = {
        CLONE: [
            load_argument(0),
            *allow_values((THREAD_FLAGS, THREAD_FLAGS_MUSL)),
            (GIVE, 0, 0, EPERM),
        ],
        TGKILL: [load_argument(0), *allow_values((os.getpid(),)), (GIVE, 0, 0, EPERM)],
        OPEN: judge_opening(1),
        OPENAT: judge_opening(2),
        FCNTL: [
            load_argument(1),
            *allow_values(FCNTL_COMMANDS),
            (JUMP_EQUAL, 0, 3, F_SETFL),
            load_argument(2),
            (JUMP_ANY_BIT, 1, 0, 0xFFFFFFFF & ~kept),
            (GIVE, 0, 0, ALLOW),
            (GIVE, 0, 0, EPERM),
        ],
        # ENOTTY is what the kernel says of a command that a file does not know.
        IOCTL: [load_argument(1), *allow_values(IOCTL_COMMANDS), (GIVE, 0, 0, ENOTTY)],
        PRCTL: [load_argument(0), *allow_values(PRCTL_OPTIONS), (GIVE, 0, 0, EPERM)],
        # Its own limits may be read: process 0 and no new limit.
        PRLIMIT: [
            load_argument(0),
            (JUMP_EQUAL, 0, 5, 0),
            load_argument(2),
            (JUMP_EQUAL, 0, 3, 0),
            load_argument(2, high=True),
            (JUMP_EQUAL, 0, 1, 0),
            (GIVE, 0, 0, ALLOW),
            (GIVE, 0, 0, EPERM),
        ],
    }
    return {numbers[column]: lines for numbers, lines in rules.items() if numbers[column] >= 0}


def list_instructions() -> list[Instruction]:
    """The filter: what is listed is allowed, the rest is ENOSYS, and calls of another architecture
    end the process.

    Raises:
        OSError: for a machine whose numbers of system calls are not listed.
    """
    column, architecture = find_machine()
    lines: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (GIVE, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    if column == 0:
        lines += [(JUMP_AT_LEAST, 0, 1, X32), (GIVE, 0, 0, KILL)]
    lines += allow_values(tuple(n[column] for n in ALLOWED.values() if n[column] >= 0))
    for number, verdict in list_conditions(column).items():
        lines += [(JUMP_EQUAL, 0, len(verdict), number), *verdict]
    return [*lines, (GIVE, 0, 0, ENOSYS)]


def make_program(lines: list[Instruction]) -> tuple[FilterProgram, object]:
    """The filter as the kernel takes it, and the memory that it points to."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    return FilterProgram(len(lines), ctypes.addressof(code)), code


def confine_calls() -> None:
    """Lays the filter of system calls. It must come last: it refuses what the other rules need."""
    program, _memory = make_program(list_instructions())
    result = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    must_succeed(result, "seccomp")


def ask_before_creating() -> int:
    """Lays a filter that asks the process that waits before a file may be created; the other
    filter, laid later, rules everything else.

    Returns:
        The descriptor on which the questions are read and answered.

    Raises:
        OSError: if the kernel cannot ask.
    """
    column, _ = find_machine()
    lines: list[Instruction] = [(LOAD, 0, 0, NUMBER)]
    for numbers, flags in ((OPEN, 1), (OPENAT, 2)):
        if numbers[column] >= 0:
            lines += [
                (JUMP_EQUAL, 0, 4, numbers[column]),
                load_argument(flags),
                (JUMP_ANY_BIT, 0, 1, O_CREAT | O_TMPFILE),
                (GIVE, 0, 0, ASK),
                (GIVE, 0, 0, ALLOW),
            ]
    program, _memory = make_program([*lines, (GIVE, 0, 0, ALLOW)])
    asked = libc.syscall(SECCOMP[column], SET_MODE_FILTER, NEW_LISTENER, ctypes.byref(program))
    return must_succeed(asked, "seccomp's questions")
