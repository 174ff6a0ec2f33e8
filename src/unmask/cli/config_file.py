"""Reads the YAML file of `--config`: any options of a command, under their flat names."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from unmask.errors import UnmaskError, short_error, short_text
from unmask.files import check_file

C = TypeVar("C")
LARGEST = 2**20  # bytes


def read_config(
    config_class: type[C], path: str, given: Set[str] = frozenset()
) -> tuple[C, frozenset[str]]:
    """The defaults for a command line from a YAML file, and the names that the file sets.

    Options of nested dataclasses are named flat, as on the command line: `block_length: 6`. The
    values have the right types, but they are not checked further: the instance is made without its
    `__init__`, because what is wrong in the file alone may be right with the command line, and the
    other way round. Whoever parses the command line builds the instance that checks itself.

    Args:
        config_class: a dataclass, perhaps with fields that are dataclasses.
        path: the file.
        given: names that the command line sets; the file's values of these do not count. (Options
            that may be given again would be added to them.)

    Raises:
        UnmaskError: if the file cannot be read, names an unknown option, or a value has the wrong
            type.
    """
    values = read_mapping(path)
    kinds = option_types(config_class)
    if unknown := sorted(set(values) - set(kinds)):
        names = short_text(", ".join(unknown))
        raise UnmaskError(
            f"config file {path} sets unknown options ({names}); known are "
            f"{', '.join(sorted(kinds))}"
        )
    check_flat(values, path)
    typed = {name: to_type(kinds[name], value, name, path) for name, value in values.items()}
    counting = {name: value for name, value in typed.items() if name not in given}
    return unchecked_instance(config_class, counting), frozenset(values)


def read_mapping(path: str) -> dict[str, Any]:
    """The file's `option: value` lines; a dash in a name counts as an underscore."""
    check_file(Path(path), "give a YAML file")
    try:
        values = yaml.safe_load(Path(path).read_bytes()[: LARGEST + 1].decode("utf-8-sig"))
    # RecursionError: brackets nested thousands deep; ValueError: bytes that are not UTF-8, or a
    # date that does not exist.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UnmaskError(
            f"config file {path} cannot be read as YAML ({short_error(error)}); correct it"
        ) from None
    if not isinstance(values, dict):
        raise UnmaskError(
            f"config file {path} holds no `option: value` lines; see `--help` for the options"
        )
    for key in values:
        if isinstance(key, tuple | frozenset):
            raise UnmaskError(f"config file {path}: an option's name is a list; give a word")
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def check_flat(values: Mapping[str, Any], path: str) -> None:
    """Refuses values that are nested. This is also a guard against aliases, with which a few lines
    of YAML can stand for lists of billions of values.

    Raises:
        UnmaskError: naming the option.
    """
    for name, value in values.items():
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, dict | list | set | tuple) for part in parts):
            raise UnmaskError(
                f"config file {path}: {short_text(name, 80)} is nested; give each option a value "
                "or a list of values"
            )


def option_types(config_class: type) -> dict[str, Any]:
    """The flat names of a dataclass' options with their types, nested dataclasses included."""
    found: dict[str, Any] = {}
    for field, kind in typed_fields(config_class):
        nested = nested_class(kind)
        found |= {field.name: kind} if nested is None else option_types(nested)
    return found


def typed_fields(config_class: type) -> list[tuple[Field[Any], Any]]:
    """The fields that `__init__` takes, each with its type, annotations of tyro included."""
    hints = get_type_hints(config_class, include_extras=True)
    return [(field, hints[field.name]) for field in fields(config_class) if field.init]


def nested_class(kind: Any) -> type | None:
    """The dataclass that a field's type is, perhaps inside `Annotated`; else None."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def to_type(kind: Any, value: Any, name: str, path: str) -> Any:
    """The value as an instance of the option's type.

    Raises:
        UnmaskError: if it is of another type.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (name, *first["loc"])))
        raise UnmaskError(f"config file {path}: {place}: {first['msg']}") from None


def unchecked_instance(config_class: type[C], values: Mapping[str, Any]) -> C:
    """An instance with these values and defaults elsewhere, made without `__init__`."""
    instance = object.__new__(config_class)
    for field, kind in typed_fields(config_class):
        nested = nested_class(kind)
        if nested is not None:
            default = unchecked_instance(nested, nested_defaults(field, nested) | dict(values))
        elif field.name in values:
            default = values[field.name]
        else:
            default = default_value(field)
        object.__setattr__(instance, field.name, default)
    return instance


def nested_defaults(field: Field[Any], nested: type) -> dict[str, Any]:
    """What the default of a nested field says of its options, by their flat names."""
    default = default_value(field)
    if not isinstance(default, nested):
        return {}
    return flat_values(default)


def flat_values(config: Any) -> dict[str, Any]:
    """The options of an instance by their flat names."""
    found: dict[str, Any] = {}
    for field, kind in typed_fields(type(config)):
        value = getattr(config, field.name)
        found |= flat_values(value) if nested_class(kind) else {field.name: value}
    return found


def default_value(field: Field[Any]) -> Any:
    """A field's default; tyro's mark of a missing one if the command line must give it."""
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    import tyro

    return tyro.MISSING
