"""The process with the model's code.

It runs that code and does what the checker asks. Nothing here is safe from that code, and nothing
that decides a test is here.
"""

import builtins
import copy
import importlib
import math
import operator
import sys
import types
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from jail import confine_process
from wire import (
    ARITHMETIC,
    PLAIN_CLASSES,
    SPECIAL_METHODS,
    Broken,
    Printed,
    Wire,
)

BASES = (bool, int, float, str, list, tuple, set, frozenset, dict, deque)
CHANGEABLE = (list, dict, set, deque, bytearray)
BUILTIN_OPERATIONS = (
    "len", "iter", "next", "repr", "str", "int", "float", "complex", "abs", "round", "format",
    "reversed",
)  # fmt: skip
OPERATORS = (
    "getitem", "setitem", "delitem", "contains", "eq", "lt", "le", "gt", "ge", "neg", "pos",
    "invert", "index",
)  # fmt: skip


def base_value(value: Any) -> Any:
    """An instance of a class that derives from a plain one, as the plain value; other objects as
    they are. What an object says of its class in `__class__` does not count."""
    for base in BASES:
        if issubclass(type(value), base):
            return base(value)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return value


def own_hash(value: Any) -> int | None:
    """The hash by a method of the value's class; None where it is the place in memory, which is
    another one in every run."""
    return None if type(value).__hash__ is object.__hash__ else hash(value)


def list_operations() -> dict[str, Callable[..., Any]]:
    """What the checker may ask to be done with an object."""
    operations: dict[str, Callable[..., Any]] = {
        "get": getattr,
        "set": setattr,
        "call": lambda f, /, *args, **named: f(*args, **named),
        "enter": lambda x: x.__enter__(),
        "exit": lambda x: x.__exit__(None, None, None),
        "base": base_value,
        "hash": own_hash,
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "truth": bool,
        "instancecheck": lambda kind, value: isinstance(value, kind),
        "subclasscheck": lambda kind, value: issubclass(value, kind),
    }
    for name in BUILTIN_OPERATIONS:
        operations[name] = getattr(builtins, name)
    for name in ("trunc", "floor", "ceil"):
        operations[name] = getattr(math, name)
    for name in (*OPERATORS, *ARITHMETIC):
        operations[name] = getattr(operator, name + "_" if name in ("and", "or") else name)
    return operations


class Program(Wire):
    """The end of the wire at which the model's objects live; the checker knows them by number."""

    # The tests get no function of Python's to call in its stead: f(x)(y) could be eval(y).
    sent_by_name = ()

    def __init__(self, read: int, write: int, classes: list[str]) -> None:
        super().__init__(read, write)
        self.classes = classes
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.functions: dict[int, Callable[..., Any]] = {}
        self.operations = list_operations()
        self.module = types.ModuleType("solution")

    def pack_object(self, value: Any) -> Any:
        if (
            isinstance(value, type)
            and value.__module__ == "builtins"
            and value.__name__ in PLAIN_CLASSES
        ):
            return ["named", "builtins", value.__name__]
        owner = self.find_owner(type(value))
        if issubclass(type(value), BASES) and not owner:
            plain = base_value(value)
            if type(value).__module__ != "solution" or type(plain) in CHANGEABLE:
                return self.pack(plain)
            return ["derived", self.number_of(value), self.pack(plain)]
        number = self.number_of(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", number, *list_ancestors(value)]
        kind: type = type(value)
        defined = {name for each in kind.__mro__ for name in vars(each)}
        methods = [name for name in SPECIAL_METHODS if f"__{name}__" in defined]
        return ["object", number, owner, *methods]

    def number_of(self, value: Any) -> int:
        """The number by which the tests' process knows an object."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return self.numbers[id(value)]

    def find_owner(self, kind: type) -> str:
        """The name under which the tests know a class or one that it derives from; "" if none."""
        found = vars(self.module)
        for each in kind.__mro__:
            for name in self.classes:
                if found.get(name) is each:
                    return name
        return ""

    def unpack_object(self, tag: str, *rest: Any) -> Any:
        if tag == "object":
            return self.objects[rest[0]]
        if tag == "named":
            return getattr(importlib.import_module(rest[0]), rest[1])
        if tag == "function":
            if rest[0] not in self.functions:
                self.functions[rest[0]] = self.make_function(*rest)
            return self.functions[rest[0]]
        raise Broken(f"no value is called {tag!r}")

    def make_function(
        self, number: int, name: str | None, text: str | None, parameters: list[Any] | None
    ) -> Callable[..., Any]:
        """What stands here for a function of the tests (`checker.describe_function`)."""

        def function(*args: Any, **named: Any) -> Any:
            return self.call_back(number, args, named)

        function.__name__ = function.__qualname__ = name or function.__name__
        function.__doc__ = text
        if parameters is not None:
            vars(function)["__signature__"] = make_signature(parameters)
        return function

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
            self.answer(kind, *rest)

    def answer(self, kind: str, packed_args: Any, packed_named: Any) -> None:
        """Does one thing and sends what came of it, what was printed, and how it changed its
        arguments."""
        sys.stdout = printed = Printed()
        args, named = self.unpack(packed_args), self.unpack(packed_named)
        try:
            answer = ["return", self.pack(self.operations[kind](*args, **named))]
        except BaseException as error:
            values = [self.pack(value) for value in error.args]
            answer = ["raise", self.pack(type(error)), self.pack(error), str(error), *values]
        given = (*args, *named.values())
        changed = [self.pack(value) if type(value) in CHANGEABLE else None for value in given]
        self.send(*answer[:1], printed.getvalue(), changed, *answer[1:])

    def run(self, source: str, wanted: list[str]) -> None:
        """Runs the program's text as a module, shows those of its names that the tests may see, and
        serves."""
        sys.modules["solution"] = self.module
        sys.stdout = Printed()
        try:
            exec(compile(source, "solution.py", "exec"), vars(self.module))
            found = vars(self.module)
            self.send("names", {name: self.pack(found[name]) for name in wanted if name in found})
        except BaseException as error:
            self.send("failed", type(error).__name__, str(error)[:500])
            return
        self.serve()


def make_signature(parameters: list[Any]) -> Any:
    """A signature with these parameters; `...` stands for a default."""
    import inspect  # needed by few programs, and slow to load

    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, kind, default=... if optional else empty)
            for name, kind, optional in parameters
        ]
    )


def list_ancestors(kind: type) -> list[str]:
    """The names of an exception class and of what it derives from, up to the first that the checker
    has too."""
    names = []
    for each in kind.__mro__:
        if each.__module__ == "builtins":
            names.append(each.__name__)
            break
        names.append(f"{each.__module__}.{each.__name__}")
    return names


def run_program(job: dict[str, Any], read: int, write: int) -> None:
    """The whole life of this process after its job is read: jail, program, answers.

    Args:
        job: the rules (`confine_process`), the `program`'s text, the `names` that the tests may see
            and those that are `classes`.
        read: descriptor of the checker's questions.
        write: descriptor for the answers.
    """
    wire = Program(read, write, job["classes"])
    confine_process(job)
    wire.send("confined")
    with suppress(Broken):
        wire.run(job["program"], job["names"])
