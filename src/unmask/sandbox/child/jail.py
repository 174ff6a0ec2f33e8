"""The rules that are laid on a process before it runs any text of a model or of a test.

Everything here is inherited by threads, and the process on which it was laid cannot take it back.
docs/security.md lists the rules and what they stop.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)

# prctl(2), capabilities and Landlock
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION = 0x20080522
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture

# System calls that fail with EPERM: their numbers on x86-64 and on AArch64, 0 where there is none.
REFUSED = {
    # new processes and programs
    "fork": (57, 0), "vfork": (58, 0), "execve": (59, 221), "execveat": (322, 281),
    # the network
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    # signals to other processes
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    # looks into other processes
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    # limits and priorities
    "prlimit64": (302, 261), "setrlimit": (160, 164), "sched_setaffinity": (203, 122),
    "setpriority": (141, 140), "sched_setscheduler": (144, 119),
    # modes, owners, attributes and times of files, and what Landlock did not always rule
    "chmod": (90, 0), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, 0), "fchown": (93, 55), "lchown": (94, 0), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, 0), "utimes": (235, 0),
    "futimesat": (261, 0), "utimensat": (280, 88), "truncate": (76, 45), "mknod": (133, 0),
    "mknodat": (259, 33),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442),
    # kernel interfaces that go around these rules
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
    # the machine: modules, clock, names, swap, logs
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "reboot": (169, 142), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "swapon": (167, 224),
    "swapoff": (168, 225), "quotactl": (179, 60), "acct": (163, 89), "syslog": (103, 116),
    "personality": (135, 92),
    # shared memory and queues
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "memfd_create": (319, 279),
    # users and capabilities
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "capset": (126, 91),
}  # fmt: skip
CLONE, CLONE3, TGKILL = (56, 220), (435, 435), (234, 131)
CLONE_THREAD = 0x10000
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Instructions and verdicts of a seccomp filter (linux/filter.h, linux/seccomp.h). Offsets are those
# of struct seccomp_data: the call's number, the architecture, the first argument.
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, GIVE = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38
X32 = 0x40000000  # the bit of the x32 numbers of the same calls

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class FilterProgram(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def must_succeed(result: int, what: str) -> None:
    """Stops where a C call failed: the jail is whole, or nothing runs.

    Raises:
        OSError: if the result is negative.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def filter_instructions() -> list[Instruction]:
    """The seccomp filter: the calls of `REFUSED` fail with EPERM, and so does `clone` unless it
    makes a thread; calls of another architecture end the process.

    Raises:
        OSError: for a machine whose numbers of system calls are not listed.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise OSError(f"no list of system calls for {machine}")
    which, architecture = MACHINES[machine]
    lines: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (GIVE, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    if machine == "x86_64":
        lines += [(JUMP_AT_LEAST, 0, 1, X32), (GIVE, 0, 0, KILL)]
    for numbers in REFUSED.values():
        if numbers[which]:
            lines += [(JUMP_EQUAL, 0, 1, numbers[which]), (GIVE, 0, 0, EPERM)]
    # The flags of clone3 lie in memory, where a filter cannot look. With ENOSYS libc uses clone.
    lines += [(JUMP_EQUAL, 0, 1, CLONE3[which]), (GIVE, 0, 0, ENOSYS)]
    lines += [
        (JUMP_EQUAL, 0, 4, CLONE[which]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_ANY_BIT, 1, 0, CLONE_THREAD),
        (GIVE, 0, 0, EPERM),
        (GIVE, 0, 0, ALLOW),
    ]
    lines += [
        (JUMP_EQUAL, 0, 4, TGKILL[which]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_EQUAL, 1, 0, os.getpid()),
        (GIVE, 0, 0, EPERM),
        (GIVE, 0, 0, ALLOW),
    ]
    return [*lines, (GIVE, 0, 0, ALLOW)]


def confine_calls() -> None:
    """Lays the filter of system calls. It must come last: it refuses what the other rules need."""
    lines = filter_instructions()
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    laid = FilterProgram(len(lines), ctypes.addressof(code))
    result = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(laid), 0, 0)
    must_succeed(result, "seccomp")


def confine_files(readable: list[str], writable: str) -> None:
    """Lays Landlock rules: files below `readable` may be read, those below `writable` also written;
    every other file is out of reach. No TCP where the kernel rules it."""
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    must_succeed(version, "Landlock")
    # Each version of Landlock knows more rights; a right it does not know is an error.
    every = (1 << {1: 13, 2: 14}.get(version, 15 if version < 5 else 16)) - 1
    read = 0b1101  # execute, read a file, read a directory
    tcp = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", every, tcp, scopes)[:size]
    rules = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    must_succeed(rules, "Landlock")
    device = 0b110 | (every & 1 << 14)  # read, write, and truncate where there is such a right
    allowed = [(path, read) for path in readable] + [
        (writable, every),
        ("/dev/null", device),
        ("/dev/zero", 0b100),
        ("/dev/urandom", 0b100),
    ]
    for path, rights in allowed:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):
            rights &= 0b111 | 1 << 14
        rule = struct.pack("=Qi", rights & every, descriptor)
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
    for name, value in (
        ("CPU", limits["cpu"]),
        ("AS", limits["memory"]),
        ("FSIZE", limits["file"]),
        ("NOFILE", 64),
        ("CORE", 0),
        ("NPROC", limits["tasks"]),
    ):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def drop_privileges() -> None:
    """No capabilities, now or after any system call, and no look into this process by others of
    the same user."""
    for capability in range(64):
        # Fails for a user who has none to drop, and for numbers that the kernel does not know.
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    must_succeed(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    must_succeed(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    header, none = struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24)
    must_succeed(libc.capset(header, none), "capset")


def confine_process(limits: dict[str, int]) -> None:
    """Lays everything on this process: limits, no privileges, files, system calls.

    Args:
        limits: `cpu` in seconds, `memory` and `file` in bytes, `tasks` as a number.

    Raises:
        OSError: if the machine has not one of these rules.
    """
    lower_limits(limits)
    drop_privileges()
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    system = {"/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"}
    confine_files(sorted(own | system), os.getcwd())
    confine_calls()
