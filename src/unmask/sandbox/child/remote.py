"""The objects of the program as the tests see them, and what these may decide.

A test compares what the program answers with plain data. If an object of the program's own making
took part in that, its methods could say whatever the test wants to hear: `abs(f(x) - 3) < 0.1`
holds for a class whose subtraction gives 0. So what an object may do depends on its standing:

* KNOWN: made by the tests through a class that they know, as `Stack()` or `Stack().copy()`;
* CLAIMED: the program says that its class is one that the tests know, as `make_stack()`;
* UNKNOWN: anything else, as functions, generators, and classes of the program's own;
* PART: an attribute of an unknown object, above all a method.

docs/security.md has the table.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from wire import ARITHMETIC, CONVERSIONS, NUMBER_METHODS, Broken

if TYPE_CHECKING:
    from checker import Checker


class Standing(IntEnum):
    """Where an object of the program comes from; see above."""

    PART = 0
    UNKNOWN = 1
    CLAIMED = 2
    KNOWN = 3


PLAIN = (str, bytes, bytearray, bool, int, float, complex, list, tuple, dict, set, frozenset, range)
# Attributes that tests ask for where they expect plain data.
PLAIN_NAMES = {name for kind in PLAIN for name in dir(kind)}
CONTAINER_NAMES = {name for kind in (list, dict, set) for name in dir(kind) if name[0] != "_"}
# What says something of a function or a class, and of no plain value.
TITLES = {
    "__name__", "__qualname__", "__module__", "__doc__", "__wrapped__", "__dict__",
    "__annotations__",
}  # fmt: skip
GENERATOR_NAMES = {"send", "throw", "close"}


def refuse(what: str) -> Any:
    """Ends the check without a pass: an object of the program would have decided a test.

    Raises:
        Broken: always. A test that expects an error must not take this for it.
    """
    raise Broken(f"an object of the program's own has no say in {what}")


class Sealed:
    """What an object of the program computes with plain data, where nothing may hang on it. The
    program is not even asked."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> bool:
        return refuse("==")

    def __ne__(self, other: object) -> bool:
        return refuse("!=")

    def __bool__(self) -> bool:
        return refuse("what is true")

    def __call__(self, /, *_: object, **__: object) -> Sealed:
        return self


class Remote:
    """An object of the program. Which special methods it has, beside those here, follows from those
    that it has in the program (`remote_class`)."""

    __slots__ = ("_base", "_checker", "_number", "_standing")

    def __init__(self, checker: Checker, number: int, standing: Standing) -> None:
        object.__setattr__(self, "_checker", checker)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_standing", standing)
        object.__setattr__(self, "_base", (-1, None))

    def _ask(self, what: str, /, *args: Any, **named: Any) -> Any:
        return self._checker.ask(what, (self, *args), named)

    def _may_decide(self, what: str) -> None:
        if self._standing < Standing.CLAIMED:
            refuse(what)

    def _plain_base(self) -> Any:
        """The plain value of an object whose class derives from a plain one; None if it does not.
        It is asked for once between two other questions, so that it cannot change while a test
        looks for it in a list."""
        asked, value = self._base
        if asked != self._checker.asked:
            value = self._ask("base")
            value = None if isinstance(value, Remote) else value
            object.__setattr__(self, "_base", (self._checker.asked, value))
        return value

    def __getattr__(self, name: str) -> Any:
        if self._standing < Standing.KNOWN and name not in TITLES:
            allowed = CONTAINER_NAMES if self._standing == Standing.CLAIMED else set()
            if name in PLAIN_NAMES - allowed or name.startswith("__"):
                raise AttributeError(f"an object of the program's own has no {name!r} here")
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Remote):
            return self is other or self._ask("eq", other) is True
        if other is None:
            return False
        self._may_decide("==")
        mine = self._plain_base()
        return mine is not None and bool(mine == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        own = self._ask("hash") if self._standing == Standing.KNOWN else None
        return self._number if own is None else own

    def __copy__(self) -> Any:
        return self._ask_copy("copy")

    def __deepcopy__(self, _: object) -> Any:
        return self._ask_copy("deepcopy")

    def _ask_copy(self, what: str) -> Any:
        # A copy of a part would be an object that may be called with arguments.
        return Sealed() if self._standing == Standing.PART else self._ask(what)

    def __bool__(self) -> bool:
        self._may_decide("what is true")
        return self._ask("truth") is True

    def __instancecheck__(self, value: Any) -> bool:
        return self._decides_class_of(value) and self._ask("instancecheck", value) is True

    def __subclasscheck__(self, value: Any) -> bool:
        return self._decides_class_of(value) and self._ask("subclasscheck", value) is True

    def _decides_class_of(self, value: Any) -> bool:
        return self._standing == Standing.KNOWN and isinstance(value, (Remote, *DERIVED))

    def __repr__(self) -> str:
        return self._show("repr")

    def __str__(self) -> str:
        return self._show("str")

    def __format__(self, how: str) -> str:
        return self._show("format", how)

    def _show(self, what: str, *how: str) -> str:
        if self._standing < Standing.CLAIMED:
            return "<an object of the program>"
        return str(self._ask(what, *how))


def ask_program(what: str) -> Callable[..., Any]:
    """A method that asks the program to do `what`."""
    return lambda self, *args: self._ask(what, *args)


def call_remote(self: Remote, /, *args: Any, **named: Any) -> Any:
    if self._standing == Standing.PART and (args or named):
        return Sealed()
    return self._ask("call", *args, **named)


def iterate_remote(self: Remote) -> Any:
    items = self._ask("iter")
    return items if isinstance(items, Remote) else iter(items)


def get_item(self: Remote, key: Any) -> Any:
    self._may_decide("what it holds")
    return self._ask("getitem", key)


def count_items(self: Remote) -> int:
    if self._standing < Standing.CLAIMED:
        # Not `refuse`: `list` asks first how long something is, and goes on after a TypeError.
        raise TypeError("an object of the program's own has no len() here")
    return operator.index(self._ask("len"))


def contains_item(self: Remote, value: Any) -> bool:
    """Only a known object says itself what it contains; with others the tests look for it."""
    if self._standing == Standing.KNOWN:
        return self._ask("contains", value) is True
    if not hasattr(type(self), "__iter__"):
        refuse("what it contains")
    return any(item is value or item == value for item in self)  # pyright: ignore[reportGeneralTypeIssues]


def leave_block(self: Remote, *_: object) -> None:
    self._ask("exit")


def make_number_method(what: str) -> Callable[..., Any]:
    """A method that computes something of the object alone, as `abs` does."""

    def compute(self: Remote, *args: Any) -> Any:
        if self._standing < Standing.CLAIMED:
            return Sealed()
        value = self._ask(what, *args)
        if self._standing == Standing.KNOWN or isinstance(value, Remote):
            return value
        return Sealed()

    return compute


def make_arithmetic(what: str, reflected: bool) -> Callable[..., Any]:
    """A method for an operator. The answer is plain data only where both sides are known."""

    def compute(self: Remote, other: Any) -> Any:
        standings = [each._standing for each in (self, other) if isinstance(each, Remote)]
        if min(standings) < Standing.CLAIMED:
            return Sealed()
        sides = (other, self) if reflected else (self, other)
        value = self._checker.ask(what, sides, {})
        if len(standings) == 2 and min(standings) == Standing.KNOWN:
            return value
        if not isinstance(value, Remote):
            return value if value is None else Sealed()
        # Made with plain data, it is no number any more, also where the program gives back an
        # object that was one before.
        return type(value)(self._checker, value._number, Standing.CLAIMED)

    return compute


def make_comparison(what: str) -> Callable[..., Any]:
    """A method for an order, which there is only between two objects of the program."""

    def compare(self: Remote, other: Any) -> Any:
        self._may_decide("an order")
        if not isinstance(other, Remote):
            return NotImplemented
        other._may_decide("an order")
        return self._ask(what, other) is True

    return compare


def make_conversion(what: str) -> Callable[..., Any]:
    """A method by which Python makes a number of an object: of a known one only."""

    def convert(self: Remote) -> Any:
        return self._ask(what) if self._standing == Standing.KNOWN else refuse("a number")

    return convert


for each in ARITHMETIC:
    setattr(Remote, f"__{each}__", make_arithmetic(each, False))
    setattr(Remote, f"__r{each}__", make_arithmetic(each, True))
    setattr(Sealed, f"__{each}__", lambda self, _: self)
    setattr(Sealed, f"__r{each}__", lambda self, _: self)
for each in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{each}__", make_comparison(each))
    setattr(Sealed, f"__{each}__", lambda self, _: refuse("an order"))
for each in NUMBER_METHODS:
    setattr(Sealed, f"__{each}__", lambda self, *_: self)
for each in (*CONVERSIONS, "len", "iter", "contains", "getitem", "format"):
    setattr(Sealed, f"__{each}__", lambda self, *_: refuse("a value"))

METHODS = {
    "call": call_remote,
    "iter": iterate_remote,
    "getitem": get_item,
    "len": count_items,
    "contains": contains_item,
    "exit": leave_block,
    **{each: ask_program(each) for each in ("next", "reversed", "setitem", "delitem", "enter")},
    **{each: make_number_method(each) for each in NUMBER_METHODS},
    **{each: make_conversion(each) for each in CONVERSIONS},
}


@cache
def remote_class(names: tuple[str, ...]) -> type[Remote]:
    """The class of objects that have these special methods in the program, so that `callable` and
    `isinstance(x, Iterable)` say what they say there."""
    methods = {f"__{name}__": METHODS[name] for name in names if name in METHODS}
    # Else Python would find those of this class before it asks for the object's own.
    titles = {name: show_title(name) for name in ("__doc__", "__module__")}
    return type("Remote", (Remote,), {"__slots__": (), **titles, **methods})


def show_title(name: str) -> property:
    """An attribute that every class has, asked of the program's object."""
    return property(lambda self: self.__getattr__(name))


def make_derived(kind: type) -> type:
    """A class for values whose class in the program derives from a plain one and is not known to
    the tests: here they are that plain value. Only for attributes that plain values do not have is
    the program asked."""

    def __getattr__(self: Any, name: str) -> Any:
        if name.startswith("__") or "_remote" not in vars(self):
            raise AttributeError(name)
        return getattr(self._remote, name)

    return type("Derived", (kind,), {"__getattr__": __getattr__})


DERIVED = tuple(make_derived(kind) for kind in (int, float, str, tuple, frozenset))
