"""What passes between the two processes: lines of JSON.

A value is null, a Boolean, a number, a string, or a list whose first entry says what the rest is.
Only plain data crosses; of every other object a number is sent, and what that means is decided at
each end (`program.Program`, `checker.Checker`).
"""

import importlib
import io
import json
import math
import os
import re
import sys
import types
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

MESSAGE_LIMIT = 16 * 2**20  # bytes of one message
PRINTED_LIMIT = 64 * 2**10  # characters that one call may print

# Classes that may be sent by their name.
PLAIN_CLASSES = {
    "int", "float", "str", "bool", "list", "tuple", "dict", "set", "frozenset", "bytes",
    "bytearray", "complex", "range",
}  # fmt: skip
ARITHMETIC = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor",
    "lshift", "rshift",
)  # fmt: skip
# Special methods that an object may have or not, and that the tests use where it has them.
NUMBER_METHODS = ("abs", "round", "neg", "pos", "invert", "trunc", "floor", "ceil")
CONVERSIONS = ("int", "float", "complex", "index")
SPECIAL_METHODS = (
    "call", "iter", "next", "reversed", "len", "contains", "getitem", "setitem", "delitem", "enter",
    "exit", *NUMBER_METHODS, *CONVERSIONS,
)  # fmt: skip
NUMPY_KINDS = re.compile("[<>|]?(b1|[iu][1248]|f[248]|c8|c16|U[0-9]{1,6})")

# A class, what is sent of an instance, and how one is made of what was sent.
Codec = tuple[type, Callable[[Any], list[Any]], Callable[..., Any]]


class Broken(BaseException):
    """The other process does not keep to the protocol, or is gone.

    The check ends without a pass, even where the tests catch this: the first one is remembered. It
    derives from BaseException so that `except Exception` in a test does not catch it.
    """

    first = ""
    gone = False

    def __init__(self, what: str = "the program tried to end", gone: bool = False) -> None:
        super().__init__(what)
        Broken.first = Broken.first or what
        Broken.gone |= gone


class Printed(io.StringIO):
    """What a call printed, up to a limit; the rest is dropped."""

    def write(self, text: str, /) -> int:
        if self.tell() < PRINTED_LIMIT:
            super().write(text[:PRINTED_LIMIT])
        return len(text)


class Wire:
    """One end of the two pipes. `pack_object` and `unpack_object` say what becomes of what is no
    plain data.

    Args:
        read: descriptor of the pipe from the other process.
        write: descriptor of the pipe to it.
    """

    sent_by_name: tuple[type, ...] = (types.BuiltinFunctionType, type)

    def __init__(self, read: int, write: int) -> None:
        self.reader, self.writer = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self.codecs = self.make_codecs()
        self.tag_of = {kind: tag for tag, (kind, _, _) in self.codecs.items()}

    def make_codecs(self) -> dict[str, Codec]:
        """How each class of plain data is sent, by its tag."""

        def pack_each(values: Any) -> list[Any]:
            return [self.pack(value) for value in values]

        def unpack_each(values: Any) -> list[Any]:
            return [self.unpack(value) for value in values]

        return {
            "list": (list, pack_each, lambda *v: unpack_each(v)),
            "tuple": (tuple, pack_each, lambda *v: tuple(unpack_each(v))),
            "set": (set, pack_each, lambda *v: set(unpack_each(v))),
            "frozenset": (frozenset, pack_each, lambda *v: frozenset(unpack_each(v))),
            "deque": (deque, pack_each, lambda *v: deque(unpack_each(v))),
            "dict": (
                dict,
                lambda x: [pack_each(pair) for pair in x.items()],
                lambda *v: dict(unpack_each(pair) for pair in v),
            ),
            # The views of a dict, of which only dicts can be made.
            "keys": (
                type({}.keys()),
                pack_each,
                lambda *v: dict.fromkeys(unpack_each(v)).keys(),
            ),
            "values": (
                type({}.values()),
                pack_each,
                lambda *v: dict(enumerate(unpack_each(v))).values(),
            ),
            "items": (type({}.items()), pack_each, lambda *v: dict(unpack_each(v)).items()),
            "bytes": (bytes, lambda x: [x.hex()], bytes.fromhex),
            "bytearray": (bytearray, lambda x: [x.hex()], bytearray.fromhex),
            "complex": (complex, lambda x: [x.real, x.imag], complex),
            "slice": (
                slice,
                lambda x: pack_each((x.start, x.stop, x.step)),
                lambda *v: slice(*unpack_each(v)),
            ),
            "range": (range, lambda x: [x.start, x.stop, x.step], range),
            "Decimal": (Decimal, lambda x: [str(x)], Decimal),
            "Fraction": (Fraction, lambda x: [x.numerator, x.denominator], Fraction),
            "datetime": (
                datetime,
                lambda x: [x.isoformat(), x.fold],
                lambda text, fold: datetime.fromisoformat(text).replace(fold=fold),
            ),
            "date": (date, lambda x: [x.isoformat()], date.fromisoformat),
            "time": (
                time,
                lambda x: [x.isoformat(), x.fold],
                lambda text, fold: time.fromisoformat(text).replace(fold=fold),
            ),
            "timedelta": (
                timedelta,
                lambda x: [x.days, x.seconds, x.microseconds],
                lambda *v: timedelta(*v),
            ),
        }

    def send(self, *message: Any) -> None:
        try:
            self.writer.write(json.dumps(message).encode() + b"\n")
            self.writer.flush()
        except OSError as error:
            raise Broken(f"the other process is gone ({error.strerror})", gone=True) from None

    def receive(self) -> list[Any]:
        line = self.reader.readline(MESSAGE_LIMIT)
        if not line.endswith(b"\n"):
            if len(line) < MESSAGE_LIMIT:
                raise Broken("the other process is gone", gone=True)
            raise Broken("a value is too large")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, list) or not message:
            raise Broken("not a message")
        return message

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        tag = self.tag_of.get(kind)
        if tag is not None:
            return [tag, *self.codecs[tag][1](value)]
        if kind.__module__ == "numpy" and (parts := split_numpy(value)):
            return ["numpy", *parts[:-1], [self.pack(item) for item in parts[-1]]]
        modules = ("builtins", "math", "operator")
        if kind in self.sent_by_name and getattr(value, "__module__", "") in modules:
            module = value.__module__
            if getattr(importlib.import_module(module), value.__name__, None) is value:
                return ["named", module, value.__name__]
        return self.pack_object(value)

    def unpack(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        tag, *rest = value
        if tag in self.codecs:
            return self.codecs[tag][2](*rest)
        if tag == "numpy":
            shape, items = rest[1:]
            return join_numpy(rest[0], shape, [self.unpack(item) for item in items])
        return self.unpack_object(tag, *rest)

    def pack_object(self, value: Any) -> Any:
        raise NotImplementedError

    def unpack_object(self, tag: str, *rest: Any) -> Any:
        raise NotImplementedError


def split_numpy(value: Any) -> tuple[str, list[int] | None, list[Any]] | None:
    """The type, the shape and the plain values of an array of numpy; no shape for one of its
    numbers. None for arrays of anything but numbers and text."""
    numpy = sys.modules["numpy"]
    if not isinstance(value, (numpy.ndarray, numpy.generic)):
        return None
    kind = value.dtype.str
    if not NUMPY_KINDS.fullmatch(kind):
        return None
    shape = list(value.shape) if isinstance(value, numpy.ndarray) else None
    return kind, shape, numpy.asarray(value).ravel().tolist()


def join_numpy(kind: str, shape: list[int] | None, items: list[Any]) -> Any:
    """The array or number that was split.

    Raises:
        ValueError: if the parts are not of one.
    """
    if not NUMPY_KINDS.fullmatch(kind) or math.prod(shape or [1]) != len(items):
        raise ValueError("no array of numpy")
    array = importlib.import_module("numpy").array(items, kind)
    return array[0] if shape is None else array.reshape(shape)
