"""Rows as examples: each is checked, and one that cannot be used is counted, named and left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from unmask.errors import UnmaskError, short_text
from unmask.tasks.examples import Example


class UnusableRow(ValueError):
    """A row of which no example can be made. The message says why."""


def check_text(value: Any) -> Any:
    """A string that is more than white space, of whole characters.

    Raises:
        ValueError: for any other.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty")
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("it holds half a character (a lone surrogate)")
    return value


# Text that must not be empty.
Text = Annotated[str, BeforeValidator(check_text)]


class Row(BaseModel):
    """A row of a data set; columns that are not named are dropped."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


AnyRow = TypeVar("AnyRow", bound=Row)


def make_examples(
    task: str,
    split: str,
    rows: Sequence[Any],
    schema: type[AnyRow],
    make: Callable[[AnyRow], Example],
) -> list[Example]:
    """An example for each row that can be used. The others are counted in one warning that names
    the first of them: with them in, an accuracy of 1 would be out of reach in silence.

    Args:
        task: its name.
        split: the official split that the rows are of.
        rows: as they were read.
        schema: what a row must hold.
        make: makes the example, or raises UnusableRow.

    Raises:
        UnmaskError: if no row can be used.
    """
    examples: list[Example] = []
    lost: list[tuple[int, Any, str]] = []
    for place, row in enumerate(rows, 1):
        try:
            examples.append(make(schema.model_validate(row)))
        except ValidationError as error:
            lost.append((place, row, describe_error(error)))
        except UnusableRow as error:
            lost.append((place, row, str(error)))
    if lost:
        place, row, reason = lost[0]
        message = (
            f"task {task}: {len(lost)} of {len(rows)} examples cannot be used (split {split}); "
            f"the first is number {place}, {describe_row(row)}: {reason}"
        )
        if not examples:
            raise UnmaskError(f"{message}; check the file")
        warnings.warn(f"{message}; they are left out", stacklevel=2)
    return examples


def describe_error(error: ValidationError) -> str:
    """What is wrong with a row, in a few words."""
    first = error.errors()[0]
    column = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"it has no column {column}"
    if first["type"] in ("model_type", "model_attributes_type"):
        return "it is no object with columns"
    return f"column {column}: {reason[:1].lower()}{reason[1:]}"


def describe_row(row: Any) -> str:
    """A row in a few words, by the first of its texts."""
    if isinstance(row, dict):
        texts = [value for value in row.values() if isinstance(value, str) and value.strip()]
        row = texts[0] if texts else row
    return short_text(ascii(row) if not is_clean(row) else repr(row), 80)


def is_clean(row: Any) -> bool:
    """Whether a row can be printed as it is."""
    return not any("\ud800" <= char <= "\udfff" for char in repr(row))
