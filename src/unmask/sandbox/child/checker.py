"""The process with the tests: it asks the program's process to call its functions, compares the
answers itself, and alone can say that the tests hold."""

from __future__ import annotations

import builtins
import importlib
import json
import operator
import os
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from jail import confine_process
from remote import DERIVED, GENERATOR_NAMES, Remote, Standing, remote_class
from wire import PLAIN_CLASSES, PRINTED_LIMIT, Broken, Printed, Wire

# Modules whose exception classes are the same in the tests as in the program.
STANDARD = {
    "binascii", "copy", "csv", "dataclasses", "decimal", "enum", "fractions", "json.decoder",
    "queue", "re", "statistics", "struct", "zlib",
}  # fmt: skip

METHODS = (types.MethodType, types.BuiltinMethodType)
# Flags of a function's code and kinds of parameters, as in `inspect`.
HAS_ARGS, HAS_NAMED = 4, 8
POSITIONAL_ONLY, POSITIONAL, ARGS, KEYWORD_ONLY, NAMED = range(5)


class Checker(Wire):
    """Runs the tests; the program's functions are `Remote`.

    Args:
        read: descriptor of the program's answers.
        write: descriptor for the questions.
        classes: the names of the program that are classes, as the tests know them.
    """

    def __init__(self, read: int, write: int, classes: list[str]) -> None:
        super().__init__(read, write)
        self.classes = classes
        self.asked = 0  # how many questions, those for a plain value aside
        self.standing = Standing.UNKNOWN  # of the objects that are being unpacked
        self.derived: dict[int, Any] = {}
        self.functions: list[Callable[..., Any]] = []
        self.numbers: dict[Any, int] = {}  # of the functions
        self.remotes: dict[int, Remote] = {}
        self.exceptions: dict[int, type[BaseException]] = {}

    def pack_object(self, value: Any) -> Any:
        if isinstance(value, DERIVED):
            value = value._remote
        if isinstance(value, Remote):
            return ["object", value._number]
        for number, kind in self.exceptions.items():
            if kind is value:
                return ["object", number]
        if callable(value):
            return ["function", self.number_of(value), *describe_function(value)]
        raise TypeError(f"the tests cannot pass a {type(value).__name__} to the program")

    def number_of(self, function: Callable[..., Any]) -> int:
        """The number by which the program's process knows a function of the tests."""
        # A method is made anew each time that it is asked for, and equal to the one before.
        key = function if isinstance(function, METHODS) else id(function)
        if key not in self.numbers:
            self.numbers[key] = len(self.functions)
            self.functions.append(function)
        return self.numbers[key]

    def unpack_object(self, tag: str, *rest: Any) -> Any:
        number = operator.index(rest[0]) if tag != "named" else 0
        if tag == "object":
            return self.remote_of(number, *map(str, rest[1:]))
        if tag == "derived":
            return self.derive(number, self.unpack(rest[1]))
        if tag == "exception":
            if number not in self.exceptions:
                self.exceptions[number] = self.exception_class(rest[1:])
            return self.exceptions[number]
        if tag == "named" and rest[0] == "builtins" and rest[1] in PLAIN_CLASSES:
            return getattr(builtins, rest[1])
        raise Broken(f"no value is called {tag!r}")

    def remote_of(self, number: int, owner: str, *methods: str) -> Remote:
        """What the tests have for an object of the program: always the same for one object, with
        the best standing that it had."""
        standing = max(self.standing, Standing.CLAIMED if owner in self.classes else Standing.PART)
        known = self.remotes.get(number)
        if known is None:
            known = remote_class(methods)(self, number, standing)
            self.remotes[number] = known
        elif standing > known._standing:
            object.__setattr__(known, "_standing", standing)
        return known

    def derive(self, number: int, plain: Any) -> Any:
        """A plain value with the attributes that it has as an object of the program."""
        if number not in self.derived:
            kind = DERIVED[[each.__base__ for each in DERIVED].index(type(plain))]
            value = kind(plain)
            value._remote = Remote(self, number, Standing.UNKNOWN)
            self.derived[number] = value
        return self.derived[number]

    def standing_after(self, what: str, args: tuple[Any, ...]) -> Standing:
        """The standing of an object that the program gives as an answer."""
        mine = min(each._standing for each in args if isinstance(each, Remote))
        first = args[0] if isinstance(args[0], Remote) else args[-1]
        if first._standing == Standing.KNOWN:
            return Standing.KNOWN if mine == Standing.KNOWN or what == "call" else mine
        if what == "get" and mine < Standing.CLAIMED and args[1] not in GENERATOR_NAMES:
            return Standing.PART
        return Standing.UNKNOWN

    def exception_class(self, lineage: tuple[str, ...]) -> type[BaseException]:
        """The tests' own class for an exception class of the program: the same where Python has it,
        else a new one with the same ancestors."""
        if len(lineage) > 50:
            raise Broken("too many ancestors")
        own: list[str] = []
        for name in lineage:
            module, _, last = name.rpartition(".")
            found = None
            if module in {"", *STANDARD}:
                found = getattr(importlib.import_module(module or "builtins"), last, None)
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
        self.asked += what != "base"
        # A question may come while an answer is unpacked: a set asks its items for their hashes.
        outer, self.standing = self.standing, Standing.UNKNOWN
        given = (*args, *named.values())
        before = [self.pack(value) for value in given]
        packed_named = ["dict", *zip(named, before[len(args) :], strict=True)]
        self.send(what, ["tuple", *before[: len(args)]], packed_named)
        while True:
            kind, *rest = self.receive()
            if kind != "call":
                break
            self.call_back(*rest)
        try:
            printed, changed, *rest = rest
            sys.stdout.write(str(printed)[:PRINTED_LIMIT])
            for value, old, new in zip(given, before, changed, strict=True):
                if new is not None and new != old:
                    replace_contents(value, self.unpack(new))
            if kind == "return":
                self.standing = self.standing_after(what, args)
                return self.unpack(rest[0])
            raised, thing, text, *values = rest
            error_args = [self.unpack(v) for v in values]
            self.standing = Standing.KNOWN  # tests know the attributes of the errors they expect
            error = self.make_error(self.unpack(raised), self.unpack(thing), str(text), error_args)
        except Exception as error:
            raise Broken(f"nonsense from the program ({type(error).__name__}: {error})") from None
        finally:
            self.standing = outer
        if isinstance(error, StopIteration) and what == "call" and not is_known(args[0]):
            # In a loop over calls it would end the loop, and with it the tests that follow.
            raise RuntimeError("a function raised StopIteration")
        raise error

    def make_error(self, kind: Any, thing: Any, text: str, args: list[Any]) -> BaseException:
        """The exception that the tests see for one of the program's: its class here, the program's
        object for its attributes, the program's text."""
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return Broken()
        try:
            error = kind(*args)
        except Exception:
            error = Exception.__new__(kind, *args)
        with suppress(AttributeError):
            error._text, error._object = text, thing  # pyright: ignore[reportAttributeAccessIssue]
        return error

    def call_back(self, number: Any, args: Any, named: Any) -> None:
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

    def receive_names(self, wanted: list[str]) -> dict[str, Any]:
        """What the program has under the names that the tests may see.

        Raises:
            Broken: with the program's error, if it did not run.
        """
        kind, *rest = self.receive()
        if kind == "failed":
            raise Broken(f"{rest[0]}: {rest[1]}")
        found = {}
        for name in (name for name in wanted if name in rest[0]):
            self.standing = Standing.KNOWN if name in self.classes else Standing.UNKNOWN
            found[name] = self.unpack(rest[0][name])
        self.standing = Standing.UNKNOWN
        return found


def describe_function(function: Callable[..., Any]) -> list[Any]:
    """What the program may read off a function of the tests, as its decorators do: the name, the
    docstring, and the name, the kind and the presence of a default of each parameter. A default
    itself stays here, since it may be what a test expects. None for what is not there.

    Nothing here asks for `__wrapped__` or `__signature__`, which may come from the program.
    """
    titles = (getattr(function, title, None) for title in ("__name__", "__doc__"))
    shown: list[Any] = [title if isinstance(title, str) else None for title in titles]
    plain = function.__func__ if isinstance(function, types.MethodType) else function
    if not isinstance(plain, types.FunctionType):
        return [*shown, None]
    code, count = plain.__code__, plain.__code__.co_argcount
    kinds = [POSITIONAL_ONLY] * code.co_posonlyargcount
    kinds += [POSITIONAL] * (count - code.co_posonlyargcount)
    kinds += [KEYWORD_ONLY] * code.co_kwonlyargcount
    kinds += [ARGS] * bool(code.co_flags & HAS_ARGS) + [NAMED] * bool(code.co_flags & HAS_NAMED)
    optional = {*code.co_varnames[count - len(plain.__defaults__ or ()) : count]}
    optional |= {*(plain.__kwdefaults__ or ())}
    names = code.co_varnames[: len(kinds)]
    parameters = [[name, k, name in optional] for name, k in zip(names, kinds, strict=True)]
    bound = plain is not function and count > 0
    return [*shown, sorted(parameters[bound:], key=operator.itemgetter(1))]


def is_known(value: Any) -> bool:
    return isinstance(value, Remote) and value._standing == Standing.KNOWN


def replace_contents(value: Any, new: Any) -> None:
    """Makes a list, dict, set, deque or bytearray equal to another.

    Raises:
        Broken: if they are not of one class.
    """
    if type(value) is not type(new):
        raise Broken("an argument changed its class")
    value.clear()
    getattr(value, "update" if isinstance(value, (dict, set)) else "extend")(new)


def run_tests(checker: Checker, job: dict[str, Any]) -> str:
    """Runs a job's tests; "" if all hold, else what does not.

    Raises:
        Broken: if the program did not run or stopped answering.
    """
    names = checker.receive_names(job["names"])
    if job["kind"] == "pytest":
        return run_pytest(names, job["test"])
    space: dict[str, Any] = {"__name__": "tests"}
    if job["kind"] == "asserts":
        space |= names
    elif job["names"][0] not in names:
        return f"the program does not define {job['names'][0]}"
    run_text(job["setup"], "setup.py", space)
    if job["kind"] == "humaneval":
        # Tests may call it by its name, which the setup gave to what the prompt shows of it.
        space[job["names"][0]] = names[job["names"][0]]
    run_text(job["test"], "tests.py", space)
    if job["kind"] == "humaneval":
        space["check"](names[job["names"][0]])
    return ""


def run_text(text: str, file: str, space: dict[str, Any]) -> None:
    """Runs a text of the tests, without the imports from the future of this file."""
    exec(compile(text, file, "exec", dont_inherit=True), space)


def import_pytest() -> Any:
    """The one module that is not of the standard library; only a check of kind "pytest" loads it,
    and before the limits on files, since its parts lie wherever it was installed."""
    import pytest

    return pytest


class Counts:
    """A plug-in that notes which tests passed and which failed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid}: {report.longreprtext[-200:]}")
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)


def run_pytest(names: dict[str, Any], text: str) -> str:
    """Runs a pytest file that imports the program as `solution`; "" if at least one test ran and
    all passed, else what failed."""
    module = types.ModuleType("solution")
    vars(module).update(names)
    sys.modules["solution"] = module
    with open("test_solution.py", "w", encoding="utf-8") as file:
        file.write(text)
    counts = Counts()
    options = ["-q", "--assert=plain", "--capture=sys"]
    options += ["-p", "no:cacheprovider", "-p", "no:faulthandler"]
    options += [f"--rootdir={os.getcwd()}", f"--confcutdir={os.getcwd()}"]
    code = int(import_pytest().main([*options, "test_solution.py"], plugins=[counts]))
    if code == 0 and counts.passed and not counts.failed:
        return ""
    printed = cast(Printed, sys.stdout).getvalue()
    return f"failed: {', '.join(counts.failed) or printed[-300:]}"


def run_checker(job: dict[str, Any], read: int, write: int, verdict: int) -> None:
    """The whole life of this process after its job is read: jail, tests, verdict.

    Args:
        job: the rules (`confine_process`), the text of the `test`, its `kind`, the `names` that it
            may see, those that are `classes`, and its `setup`.
        read: descriptor of the program's answers.
        write: descriptor for the questions.
        verdict: descriptor for what became of the check, as JSON: `failure` ("" if all tests hold)
            and `gone`, whether the program's process ended before.
    """
    sys.stdout = sys.stderr = Printed()
    try:
        if job["kind"] == "pytest":
            import_pytest()
        checker = Checker(read, write, job["classes"])
        confine_process(job)
        started = checker.receive() == ["confined"]
        failure = run_tests(checker, job) if started else "the program's process did not start"
        failure = failure or Broken.first  # the tests may have caught it
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
    with os.fdopen(verdict, "wb") as file:
        # Short enough for the one who reads it to get it whole.
        file.write(json.dumps({"failure": failure[:500], "gone": Broken.gone}).encode())
