"""Settings in groups whose options are named flat: on the command line, in files and in calls.

A configuration is a frozen dataclass whose fields are options or groups; a group is a frozen
dataclass again. No two options of a configuration have the same name, so the name alone says which
group an option belongs to. This module imports no torch: commands read it for `--help`.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import Field, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unmask.errors import UnmaskError, short_text

T = TypeVar("T")
# Numbers beyond this have no use in any setting, and some would overflow where they are used.
LARGEST = 10**15
WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}


def at_least(low: float | int, default: Any, most: float | int = LARGEST) -> Any:
    """A field for numbers from `low` to `most`."""
    return field(default=default, metadata={"low": low, "most": most})


def above(low: float | int, default: Any, most: float | int = LARGEST) -> Any:
    """A field for numbers above `low`, at most `most`."""
    return field(default=default, metadata={"above": low, "most": most})


@cache
def field_types(config_class: type) -> dict[str, Any]:
    """The types of a configuration's own fields, without `Annotated`."""
    hints = get_type_hints(config_class)
    return {f.name: hints[f.name] for f in fields(config_class)}


def walk_options(config_class: type) -> Iterator[tuple[str, Any, type]]:
    """Name, type and group of every option, groups opened."""
    for name, kind in field_types(config_class).items():
        if isinstance(kind, type) and is_dataclass(kind):
            yield from walk_options(kind)
        else:
            yield name, kind, config_class


def option_types(config_class: type) -> dict[str, Any]:
    """The type of every option by its flat name."""
    return {name: kind for name, kind, _ in walk_options(config_class)}


def flat_settings(config: Any) -> dict[str, Any]:
    """Every option of a configuration by its flat name."""
    found: dict[str, Any] = {}
    for name in field_types(type(config)):
        value = getattr(config, name)
        found |= flat_settings(value) if is_dataclass(value) else {name: value}
    return found


def change_settings(config: T, values: Mapping[str, Any]) -> T:
    """The configuration with some options, by their flat names, changed; each group checks itself.

    Raises:
        UnmaskError: for a name that no option has, or a value that cannot be used.
    """
    check_names(values, option_types(type(config)))
    changes: dict[str, Any] = {}
    for name in field_types(type(config)):
        value = getattr(config, name)
        if is_dataclass(value):
            inside = {key: values[key] for key in option_types(type(value)) if key in values}
            if inside:
                changes[name] = change_settings(value, inside)
        elif name in values:
            changes[name] = values[name]
    return replace(config, **changes) if changes else config  # type: ignore[type-var]


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Refuses names that are not known.

    Raises:
        UnmaskError: naming the first of them, and a known name that looks like it.
    """
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"perhaps {close[0]} is meant" if close else f"known are {', '.join(known)}"
            raise UnmaskError(f"option {short_text(ascii(name), 80)} is not known; {hint}")


def check_settings(config: Any) -> None:
    """Checks the type and the bounds of every field of a group; for its `__post_init__`.

    A list becomes a tuple; a string becomes a path, and a path a string, where the field is one.

    Raises:
        UnmaskError: naming the field, what was given and what is accepted.
    """
    for f in fields(config):
        kind, value = field_types(type(config))[f.name], getattr(config, f.name)
        if isinstance(value, list):
            value = tuple(value)
        kinds = (kind, *get_args(kind))
        if isinstance(value, str) and Path in kinds:
            value = Path(value)
        if isinstance(value, Path) and str in kinds:
            value = str(value)
        if not matches_type(value, kind) or not within_bounds(value, f):
            given = (
                f"{value:g}" if isinstance(value, float) else short_text(describe_value(value), 60)
            )
            raise UnmaskError(f"{f.name} is {given}; give {describe_field(kind, f)}")
        object.__setattr__(config, f.name, value)


def describe_value(value: Any) -> str:
    """A value that cannot be used, for an error message. Python writes no number of thousands of
    digits."""
    huge = isinstance(value, int) and value.bit_length() > 200
    return "a huge number" if huge else ascii(value)


def matches_type(value: Any, kind: Any) -> bool:
    """Whether a value is of an option's type: a whole number is a number, but no bool is one."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(matches_type(value, part) for part in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        parts = inside[:1] * len(value) if inside[-1] is ... else inside
        return len(parts) == len(value) and all(map(matches_type, value, parts))
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def within_bounds(value: Any, f: Field[Any]) -> bool:
    """Whether a value of the right type is within the bounds of its field."""
    low, beyond = f.metadata.get("low", -math.inf), f.metadata.get("above", -math.inf)
    if value is None or isinstance(value, str | tuple | Path):
        return True
    return low <= value <= f.metadata.get("most", math.inf) and value > beyond


def describe_field(kind: Any, f: Field[Any]) -> str:
    """What a field accepts, in words."""
    text = describe_type(kind)
    if "low" in f.metadata:
        text = f"{text}, {f.metadata['low']:g} or more"
    if "above" in f.metadata:
        text = f"{text} above {f.metadata['above']:g}"
    if f.metadata.get("most", LARGEST) != LARGEST:
        text = f"{text}, at most {f.metadata['most']}"
    return text


def describe_type(kind: Any) -> str:
    """What a type accepts, in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        some = [part for part in inside if part is not types.NoneType]
        return " or ".join(map(describe_type, some)) + (", or None" * (len(some) < len(inside)))
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is tuple:
        several = inside[-1] is ...
        return "a tuple of " + (
            describe_type(inside[0]).removeprefix("a ") + "s"
            if several
            else " and ".join(map(describe_type, inside))
        )
    return WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}".lower())
