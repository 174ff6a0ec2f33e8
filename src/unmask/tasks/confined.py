"""The inside of the sandbox: run by `sandbox.py` as a script of its own, with the standard library
alone. docs/security.md says what it stops.

Two processes check one program. `program` holds the model's code and nothing else; `checker` holds
the tests and asks the first one to call its functions. What passes between them is plain data, so
the model's code never sees an expected value, and no object of its making is ever compared with
one.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib
import io
import json
import operator
import os
import platform
import resource
import struct
import sys
import types
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

MESSAGE_LIMIT = 16 * 2**20
PRINTED_LIMIT = 64 * 2**10

# Confinement. Everything below is inherited by threads and cannot be taken back by the process it
# was laid on.

libc = ctypes.CDLL(None, use_errno=True)

# System calls refused with EPERM: new processes and programs, sockets, signals to and looks into
# other processes, limits, modes and owners
# of files, mounts and
# namespaces, kernel interfaces that go around these rules (io_uring), System V and POSIX queues.
# x86-64, AArch64; 0 where there is none.
REFUSED = {
    "fork": (57, 0), "vfork": (58, 0), "execve": (59, 221), "execveat": (322, 281),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "sendto": (44, 206), "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "prlimit64": (302, 261), "setrlimit": (160, 164), "sched_setaffinity": (203, 122), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "chmod": (90, 0), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, 0), "fchown": (93, 55),
    "lchown": (94, 0), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, 0), "utimes": (235, 0), "futimesat": (261, 0), "utimensat": (280, 88), "truncate": (76, 45), "mknod": (133, 0),
    "mknodat": (259, 33),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "reboot": (169, 142),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162),
    "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60), "acct": (163, 89), "syslog": (103, 116), "personality": (135, 92),
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143), "setresuid": (117, 147),
    "setresgid": (119, 149), "setgroups": (116, 159), "capset": (126, 91),
}  # fmt: skip
CLONE, CLONE3, TGKILL = (56, 220), (435, 435), (234, 131)
CLONE_THREAD = 0x10000


def must(result: int, what: str) -> int:
    """The result of a C call; an `OSError` where it failed: the sandbox is whole or does not
    start."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def filter_calls() -> None:
    """Lays the seccomp filter: the calls of `REFUSED` fail with EPERM, new processes too, threads
    may be made; calls of another architecture kill."""
    machine = platform.machine()
    which = {"x86_64": 0, "aarch64": 1}.get(machine)
    if which is None:
        raise OSError(f"no list of system calls for {machine}")
    load, jump_eq, jump_ge, jump_set, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, eperm, enosys = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 38
    arch = (0xC000003E, 0xC00000B7)[which]
    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),
        (jump_eq, 1, 0, arch),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
    ]
    if which == 0:
        program += [
            (jump_ge, 0, 1, 0x40000000),
            (give, 0, 0, kill),
        ]  # the x32 numbers of the same calls
    for numbers in REFUSED.values():
        if numbers[which]:
            program += [(jump_eq, 0, 1, numbers[which]), (give, 0, 0, eperm)]
    program += [
        (jump_eq, 0, 1, CLONE3[which]),
        (give, 0, 0, enosys),
    ]  # its flags lie in memory, out of a filter's sight; libc falls back to clone
    program += [
        (jump_eq, 0, 4, CLONE[which]),
        (load, 0, 0, 16),
        (jump_set, 1, 0, CLONE_THREAD),
        (give, 0, 0, eperm),
        (give, 0, 0, allow),
    ]
    program += [
        (jump_eq, 0, 4, TGKILL[which]),
        (load, 0, 0, 16),
        (jump_eq, 1, 0, os.getpid()),
        (give, 0, 0, eperm),
        (give, 0, 0, allow),
    ]
    program += [(give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    laid = Program(len(program), ctypes.addressof(code))
    must(libc.prctl(22, 2, ctypes.byref(laid), 0, 0), "seccomp")


def confine_files(readable: list[str], writable: str) -> None:
    """Lays Landlock rules: files below `readable` may be read, those below `writable` also written;
    every other file is out of reach. No TCP where the kernel rules it."""
    create, add, restrict = 444, 445, 446  # the same numbers on every architecture
    version = must(libc.syscall(create, None, ctypes.c_size_t(0), 1), "Landlock")
    every = (1 << {1: 13, 2: 14}.get(version, 15 if version < 5 else 16)) - 1
    read = 0b1101  # execute, read file, read directory
    attributes = struct.pack(
        "=QQQ", every, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0
    )[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = must(libc.syscall(create, attributes, ctypes.c_size_t(len(attributes)), 0), "Landlock")
    device = 0b110 | (
        every & 1 << 14
    )  # read, write, and truncate where the kernel has a right for it
    paths = [(path, read) for path in readable] + [
        (writable, every),
        ("/dev/null", device),
        ("/dev/zero", 0b100),
        ("/dev/urandom", 0b100),
    ]
    for path, rights in paths:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):
            rights &= 0b111 | 1 << 14
        must(
            libc.syscall(add, rules, 1, struct.pack("=Qi", rights & every, descriptor), 0),
            f"Landlock, {path}",
        )
        os.close(descriptor)
    must(libc.syscall(restrict, rules, 0), "Landlock")
    os.close(rules)


def confine(limits: dict[str, int]) -> None:
    """Lays everything on this process: limits, no privileges, files, system calls."""
    for name, value in (
        ("CPU", limits["cpu"]),
        ("AS", limits["memory"]),
        ("FSIZE", limits["file"]),
        ("NOFILE", 64),
        ("CORE", 0),
        ("NPROC", 64),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    for capability in range(64):
        libc.prctl(
            24, capability, 0, 0, 0
        )  # out of the bounding set; fails where there is none to drop
    must(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    must(libc.prctl(4, 0, 0, 0, 0), "dumpable")
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    must(libc.capset(header, none), "capset")
    readable = sorted(
        {
            sys.prefix,
            sys.base_prefix,
            sys.exec_prefix,
            "/usr",
            "/lib",
            "/lib64",
            "/etc/ld.so.cache",
            "/etc/localtime",
        }
    )
    confine_files(readable, os.getcwd())
    filter_calls()


# What passes between the two processes: lines of JSON. A value is null, a Boolean, a number, a
# string, or a list whose first entry says
# what the rest is.


class Broken(BaseException):
    """The other process does not keep to the protocol, or is gone: the check ends without a pass,
    even where the tests catch this."""

    first = ""

    def __init__(self, what: str = "the program tried to end") -> None:
        super().__init__(what)
        Broken.first = Broken.first or what


PLAIN_CLASSES = (
    "int",
    "float",
    "str",
    "bool",
    "list",
    "tuple",
    "dict",
    "set",
    "frozenset",
    "bytes",
    "bytearray",
    "complex",
    "range",
)
Maker = tuple[type, Callable[[Any], list[Any]], Callable[..., Any]]


class Wire:
    """One end of the two pipes. `Program` and `Checker` say what becomes of what is no plain
    data."""

    sent_by_name: tuple[type, ...] = (types.BuiltinFunctionType, type)

    def __init__(self, read: int, write: int) -> None:
        self.reader, self.writer = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        each, every = (lambda x: [self.pack(v) for v in x]), (lambda v: [self.unpack(e) for e in v])
        self.kinds: dict[str, Maker] = {
            "list": (list, each, lambda *v: every(v)),
            "tuple": (tuple, each, lambda *v: tuple(every(v))),
            "set": (set, each, lambda *v: set(every(v))),
            "frozenset": (frozenset, each, lambda *v: frozenset(every(v))),
            "deque": (deque, each, lambda *v: deque(every(v))),
            "dict": (
                dict,
                lambda x: [each(pair) for pair in x.items()],
                lambda *v: dict(every(pair) for pair in v),
            ),
            "bytes": (bytes, lambda x: [x.hex()], bytes.fromhex),
            "bytearray": (bytearray, lambda x: [x.hex()], bytearray.fromhex),
            "complex": (complex, lambda x: [x.real, x.imag], complex),
            "range": (range, lambda x: [x.start, x.stop, x.step], range),
            "Decimal": (Decimal, lambda x: [str(x)], Decimal),
            "Fraction": (Fraction, lambda x: [x.numerator, x.denominator], Fraction),
            "datetime": (
                datetime,
                lambda x: [x.isoformat(), x.fold],
                lambda text, fold: datetime.fromisoformat(text).replace(fold=fold),
            ),
            "date": (date, lambda x: [x.isoformat()], date.fromisoformat),
            "timedelta": (
                timedelta,
                lambda x: [x.days, x.seconds, x.microseconds],
                lambda *v: timedelta(*v),
            ),
        }
        self.tag_of = {kind: tag for tag, (kind, _, _) in self.kinds.items()}

    def send(self, *message: Any) -> None:
        try:
            self.writer.write(json.dumps(message).encode() + b"\n")
            self.writer.flush()
        except OSError as error:
            raise Broken(f"the other process is gone ({error.strerror})") from None

    def receive(self) -> list[Any]:
        line = self.reader.readline(MESSAGE_LIMIT)
        if not line.endswith(b"\n"):
            raise Broken(
                "the other process is gone" if len(line) < MESSAGE_LIMIT else "a value is too large"
            )
        message = json.loads(line)
        if not isinstance(message, list) or not message:
            raise Broken("not a message")
        return message

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        tag = self.tag_of.get(kind)
        if tag is not None:
            return [tag, *self.kinds[tag][1](value)]
        if kind in self.sent_by_name and getattr(value, "__module__", "") in (
            "builtins",
            "math",
            "operator",
        ):
            module = value.__module__
            if getattr(importlib.import_module(module), value.__name__, None) is value:
                return ["named", module, value.__name__]
        return self.pack_object(value)

    def unpack(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        tag, *rest = value
        if tag in self.kinds:
            return self.kinds[tag][2](*rest)
        return self.unpack_object(tag, *rest)

    def pack_object(self, value: Any) -> Any:
        raise NotImplementedError

    def unpack_object(self, tag: str, *rest: Any) -> Any:
        raise NotImplementedError


# The process with the model's code.

BASES = (bool, int, float, str, list, tuple, set, frozenset, dict, deque)


def base_value(value: Any) -> Any:
    """An instance of a class that derives from a plain one, as the plain value; other objects as
    they are."""
    for base in BASES:
        if isinstance(value, base):
            return base(value)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return value


class Program(Wire):
    """Runs the model's code and does what the checker asks. Nothing here is safe from that code,
    and nothing that decides a test is here."""

    # the tests get no function of Python's to call in its stead: f(x)(y) could be eval(y)
    sent_by_name = ()

    def __init__(self, read: int, write: int) -> None:
        super().__init__(read, write)
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.operations: dict[str, Callable[..., Any]] = {
            "get": getattr,
            "set": setattr,
            "call": lambda f, *args, **named: f(*args, **named),
            "enter": lambda x: x.__enter__(),
            "exit": lambda x: x.__exit__(None, None, None),
            "base": base_value,
            "truth": bool,
            "instancecheck": lambda kind, value: isinstance(value, kind),
            "subclasscheck": lambda kind, value: issubclass(value, kind),
        }
        for name in (
            "len",
            "iter",
            "next",
            "repr",
            "str",
            "int",
            "float",
            "abs",
            "round",
            "format",
            "reversed",
        ):
            self.operations[name] = getattr(builtins, name)
        for name in (
            "getitem",
            "setitem",
            "delitem",
            "contains",
            "eq",
            "lt",
            "le",
            "gt",
            "ge",
            "neg",
            *ARITHMETIC,
        ):
            self.operations[name] = getattr(operator, name + "_" if name in ("and", "or") else name)

    def pack_object(self, value: Any) -> Any:
        if (
            isinstance(value, type)
            and value.__module__ == "builtins"
            and value.__name__ in PLAIN_CLASSES
        ):
            return ["named", "builtins", value.__name__]
        if isinstance(value, BASES) and type(value).__module__ != "solution":
            return self.pack(base_value(value))
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        number = self.numbers[id(value)]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", number, *self.lineage(value)]
        return ["object", number]

    def lineage(self, kind: type) -> list[str]:
        """The names of an exception class and of what it derives from, up to the first that the
        checker has too."""
        names = []
        for each in kind.__mro__:
            names.append(
                each.__name__
                if each.__module__ == "builtins"
                else f"{each.__module__}.{each.__name__}"
            )
            if each.__module__ == "builtins":
                break
        return names

    def unpack_object(self, tag: str, *rest: Any) -> Any:
        if tag == "object":
            return self.objects[rest[0]]
        if tag == "named":
            return getattr(importlib.import_module(rest[0]), rest[1])
        assert tag == "function"
        return lambda *args, **named: self.call_back(rest[0], args, named)

    def call_back(self, number: int, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Calls a function of the tests, which got here as an argument."""
        self.send("call", number, self.pack(args), self.pack(named))
        verdict, value = self.serve()
        if verdict == "raise":
            raise getattr(builtins, value[0], Exception)(*value[1:])
        return self.unpack(value)

    def serve(self) -> tuple[str, Any]:
        """Does what is asked until the answer to a question of ours comes."""
        while True:
            kind, *rest = self.receive()
            if kind in ("return", "raise"):
                return kind, rest[0] if kind == "return" else rest
            sys.stdout = printed = Printed()
            args, named = self.unpack(rest[0]), self.unpack(rest[1])
            try:
                answer = ["return", self.pack(self.operations[kind](*args, **named))]
            except BaseException as error:
                answer = [
                    "raise",
                    self.pack(type(error)),
                    self.pack(error),
                    str(error),
                    *[self.pack(a) for a in error.args],
                ]
            changed = [
                self.pack(a) if type(a) in (list, dict, set, deque, bytearray) else None
                for a in args
            ]
            self.send(*answer[:1], printed.getvalue(), changed, *answer[1:])

    def run(self, source: str, wanted: list[str]) -> None:
        """Runs the program's text as a module, shows those of its names that the tests may see, and
        serves."""
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        sys.stdout = Printed()
        try:
            exec(compile(source, "solution.py", "exec"), module.__dict__)
            self.send(
                "names",
                {name: self.pack(vars(module)[name]) for name in wanted if name in vars(module)},
            )
        except BaseException as error:
            self.send("failed", type(error).__name__, str(error)[:500])
            return
        self.serve()


class Printed(io.StringIO):
    """What a call printed, up to a limit; the rest is dropped."""

    def write(self, text: str, /) -> int:
        if self.tell() < PRINTED_LIMIT:
            super().write(text[:PRINTED_LIMIT])
        return len(text)


ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
)


# The process with the tests.

STANDARD = frozenset(
    {
        "json.decoder",
        "decimal",
        "struct",
        "zlib",
        "statistics",
        "re",
        "dataclasses",
        "enum",
        "fractions",
        "queue",
        "csv",
        "binascii",
        "copy",
    }
)


class Remote:
    """An object of the program, for the tests: everything is asked of the program, but what it says
    to `==` with plain data. There the program only shows a plain value, and the comparison is made
    here."""

    __slots__ = ("_checker", "_number")

    def __init__(self, checker: Checker, number: int) -> None:
        object.__setattr__(self, "_checker", checker)
        object.__setattr__(self, "_number", number)

    def _ask(self, what: str, *args: Any, **named: Any) -> Any:
        return self._checker.ask(what, (self, *args), named)

    def __getattr__(self, name: str) -> Any:
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._ask("call", *args, **named)

    def __eq__(self, other: object) -> bool:
        if type(other) is Remote:
            return self is other or self._ask("eq", other) is True
        mine = self._ask("base")
        return type(mine) is not Remote and mine == other

    def __hash__(self) -> int:
        return self._number

    def __bool__(self) -> bool:
        return self._ask("truth") is True

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is Remote and self._ask("instancecheck", value) is True

    def __subclasscheck__(self, value: Any) -> bool:
        return type(value) is Remote and self._ask("subclasscheck", value) is True

    def __contains__(self, value: Any) -> bool:
        return self._ask("contains", value) is True

    def __len__(self) -> int:
        return operator.index(self._ask("len"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __format__(self, how: str) -> str:
        return str(self._ask("format", how))

    def __iter__(self) -> Any:
        items = self._ask("iter")
        return items if type(items) is Remote else iter(items)

    def __int__(self) -> int:
        return int(self._ask("int"))

    def __float__(self) -> float:
        return float(self._ask("float"))

    def __exit__(self, *_: object) -> None:
        self._ask("exit")


def forward(what: str) -> Callable[..., Any]:
    return lambda self, *args: self._ask(what, *args)


def compared(what: str) -> Callable[..., Any]:
    return lambda self, other: (
        self._ask(what, other) is True if type(other) is Remote else NotImplemented
    )


for each in (
    "next",
    "abs",
    "round",
    "reversed",
    "getitem",
    "setitem",
    "delitem",
    "neg",
    "enter",
    *ARITHMETIC,
):
    setattr(Remote, f"__{each}__", forward(each))
for each in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{each}__", compared(each))


class Checker(Wire):
    """Runs the tests; the program's functions are `Remote`."""

    def __init__(self, read: int, write: int) -> None:
        super().__init__(read, write)
        self.functions: list[Callable[..., Any]] = []
        self.remotes: dict[int, Remote] = {}
        self.exceptions: dict[int, type[BaseException]] = {}

    def pack_object(self, value: Any) -> Any:
        if type(value) is Remote:
            return ["object", value._number]
        for number, kind in self.exceptions.items():
            if kind is value:
                return ["object", number]
        if callable(value):
            self.functions.append(value)
            return ["function", len(self.functions) - 1]
        raise TypeError(f"the tests cannot pass a {type(value).__name__} to the program")

    def unpack_object(self, tag: str, *rest: Any) -> Any:
        number = operator.index(rest[0]) if tag != "named" else 0
        if tag == "object":
            return self.remotes.setdefault(number, Remote(self, number))
        if tag == "exception":
            if number not in self.exceptions:
                self.exceptions[number] = self.exception(rest[1:])
            return self.exceptions[number]
        if tag == "named" and rest[0] == "builtins" and rest[1] in PLAIN_CLASSES:
            return getattr(builtins, rest[1])
        raise Broken(f"no value is called {tag!r}")

    def exception(self, lineage: tuple[str, ...]) -> type[BaseException]:
        """The tests' own class for an exception class of the program: the same where Python has it,
        else a new one with the same ancestors."""
        if len(lineage) > 50:
            raise Broken("too many ancestors")
        own: list[str] = []
        for name in lineage:
            module, _, last = name.rpartition(".")
            found = (
                getattr(
                    importlib.import_module(module) if module in STANDARD else builtins, last, None
                )
                if module in {"", *STANDARD}
                else None
            )
            if isinstance(found, type) and issubclass(found, Exception):
                break
            own.append(last)
        else:
            return Broken
        kind: Any = found
        shown = {
            "__str__": lambda self: self._text,
            "__getattr__": lambda self, name: getattr(self._object, name),
        }
        for name in reversed(own):
            kind = type(name, (kind,), dict(shown))
        return kind

    def ask(self, what: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What the program answers; its exception, where it raises one. Lists and the like among
        the arguments are changed as the program changed its copies.

        Raises:
            Broken: if the program is gone or talks nonsense.
        """
        before = [self.pack(value) for value in args]
        self.send(what, ["tuple", *before], self.pack(named))
        while True:
            kind, *rest = self.receive()
            if kind != "call":
                break
            self.answer(*rest)
        try:
            printed, changed, *rest = rest
            sys.stdout.write(str(printed)[:PRINTED_LIMIT])
            for value, old, new in zip(args, before, changed, strict=True):
                if new is not None and new != old:
                    update(value, self.unpack(new))
            if kind == "return":
                return self.unpack(rest[0])
            raised, thing, text, *values = rest
            error = self.error(
                self.unpack(raised), self.unpack(thing), str(text), [self.unpack(v) for v in values]
            )
        except Exception as error:
            raise Broken(f"nonsense from the program ({type(error).__name__}: {error})") from None
        raise error

    def error(self, kind: Any, thing: Any, text: str, args: list[Any]) -> BaseException:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return Broken()
        try:
            error = kind(*args)
        except Exception:
            error = Exception.__new__(kind, *args)
        with suppress(AttributeError):
            error._text, error._object = text, thing  # pyright: ignore[reportAttributeAccessIssue]
        return error

    def answer(self, number: Any, args: Any, named: Any) -> None:
        """Calls a function of the tests for the program, which got it as an argument."""
        try:
            value = self.functions[operator.index(number)](*self.unpack(args), **self.unpack(named))
            message = ["return", self.pack(value)]
        except Exception as error:
            message = [
                "raise",
                next(k.__name__ for k in type(error).__mro__ if k.__module__ == "builtins"),
                str(error),
            ]
        self.send(*message)

    def names(self, wanted: list[str]) -> dict[str, Any]:
        """What the program has under the names that the tests may see.

        Raises:
            Broken: with the program's error, if it did not run.
        """
        kind, *rest = self.receive()
        if kind == "failed":
            raise Broken(f"{rest[0]}: {rest[1]}")
        return {name: self.unpack(value) for name, value in rest[0].items() if name in wanted}


def update(value: Any, new: Any) -> None:
    """Makes a list, dict, set, deque or bytearray equal to another."""
    if type(value) is not type(new):
        raise Broken("an argument changed its class")
    value.clear()
    getattr(value, "update" if isinstance(value, (dict, set)) else "extend")(new)


def run_tests(checker: Checker, job: dict[str, Any]) -> str:
    """Runs a job's tests; "" if all hold, else what does not.

    Raises:
        Broken: if the program did not run or stopped answering.
    """
    names = checker.names(job["names"])
    if job["kind"] == "pytest":
        return run_pytest(names, job["test"])
    space: dict[str, Any] = {"__name__": "tests"}
    if job["kind"] == "asserts":
        space |= names
    elif job["names"][0] not in names:
        return f"the program does not define {job['names'][0]}"
    exec(compile(job["setup"], "setup.py", "exec"), space)
    exec(compile(job["test"], "tests.py", "exec"), space)
    if job["kind"] == "humaneval":
        space["check"](names[job["names"][0]])
    return ""


def run_pytest(names: dict[str, Any], text: str) -> str:
    """Runs a pytest file that imports the program as `solution`."""
    import pytest

    module = types.ModuleType("solution")
    vars(module).update(names)
    sys.modules["solution"] = module
    with open("test_solution.py", "w") as file:
        file.write(text)
    passed, failed = [], []

    class Count:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                failed.append(f"{report.nodeid}: {report.longreprtext[-200:]}")
            elif report.when == "call" and report.passed:
                passed.append(report.nodeid)

    options = [
        "-q",
        "--assert=plain",
        "--capture=sys",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",
        f"--rootdir={os.getcwd()}",
        f"--confcutdir={os.getcwd()}",
    ]
    code = int(pytest.main([*options, "test_solution.py"], plugins=[Count()]))
    return (
        ""
        if code == 0 and passed and not failed
        else f"failed: {', '.join(failed) or cast(Printed, sys.stdout).getvalue()[-300:]}"
    )


def main() -> None:
    """`confined.py program|checker READ WRITE [VERDICT]`: the job comes as JSON on standard
    input."""
    role, read, write = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    job = json.loads(sys.stdin.buffer.read())
    sys.set_int_max_str_digits(0)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    if role == "program":
        wire = Program(read, write)
        confine(job["limits"])
        wire.send("confined")
        with suppress(Broken):
            wire.run(job["program"], job["names"])
        os._exit(0)
    if job["kind"] == "pytest":
        import pytest  # noqa: F401  (before the limits on files: its parts lie wherever it was installed)
    checker = Checker(read, write)
    confine(job["limits"])
    sys.stdout = sys.stderr = Printed()
    try:
        started = checker.receive() == ["confined"]
        failure = run_tests(checker, job) if started else "the program's process did not start"
        failure = failure or Broken.first  # the tests may have caught it
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"[:500] or "error"
    with os.fdopen(int(sys.argv[4]), "wb") as verdict:
        verdict.write(json.dumps({"failure": failure}).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
