"""What may be said of a task behind its name: `jsonl:FILE@verifier=number,split=test`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from unmask.errors import UnmaskError, short_error

SETTINGS = re.compile(r"(.+)@((?:verifier|split|template|chat)=[^@]*)", re.DOTALL)


class Verifier(StrEnum):
    """How the answers of your own problems are checked."""

    TEXT = "text"
    NUMBER = "number"
    MATH = "math"


@dataclass(frozen=True)
class TaskOptions:
    """What is said of a task behind its name.

    Attributes:
        verifier: of all lines of a file; None leaves it to its column `verifier`.
        split: `test` makes all lines of a file test problems; None splits them.
        template: the prompt, with the columns of a row as `{question}`; None is the task's own.
        chat: whether prompts go through the model's chat template.
    """

    verifier: Verifier | None = None
    split: Literal["test"] | None = None
    template: str | None = None
    chat: bool = True

    def system(self) -> str | None:
        """The system message of an example: empty, or None where there is no chat."""
        return "" if self.chat else None

    def template_name(self, own: str) -> str:
        """What results call the wording, given the name of the task's own."""
        if self.template is not None:
            own = f"own@{hashlib.sha256(self.template.encode()).hexdigest()[:8]}"
        return own if self.chat else f"{own} (no chat)"


def split_options(name: str) -> tuple[str, TaskOptions]:
    """A task's name without what is said behind it, and what that is.

    Raises:
        UnmaskError: for a setting that is not known, or has another value than it may have.
    """
    match = SETTINGS.fullmatch(name)
    if match is None:
        return name, TaskOptions()
    values: dict[str, str] = {}
    for setting in match.group(2).split(","):
        key, equals, value = setting.partition("=")
        if not equals or key not in TaskOptions.__dataclass_fields__ or key in values:
            raise UnmaskError(
                f"the setting {setting!r} of task {match.group(1)} is not known or is given twice; "
                "use verifier=…, split=test, template=FILE and chat=no, with commas between them"
            )
        values[key] = value
    return match.group(1), TaskOptions(
        verifier=read_verifier(values.get("verifier")),
        split=choose(values, "split", {"test": "test"}),
        template=read_template(values.get("template")),
        chat=choose(values, "chat", {"yes": True, "no": False}, True),
    )


def choose(
    values: Mapping[str, str], key: str, allowed: Mapping[str, Any], default: Any = None
) -> Any:
    """The meaning of a setting's value.

    Raises:
        UnmaskError: if it is none of those allowed.
    """
    if key not in values:
        return default
    if values[key] not in allowed:
        raise UnmaskError(
            f"the setting {key}={values[key]} is not known; use {' or '.join(allowed)}"
        )
    return allowed[values[key]]


def read_verifier(value: str | None) -> Verifier | None:
    """A verifier by its name.

    Raises:
        UnmaskError: if there is none of this name.
    """
    if value is None:
        return None
    try:
        return Verifier(value)
    except ValueError:
        raise UnmaskError(
            f"the verifier {value!r} is not known; use one of {', '.join(Verifier)}"
        ) from None


def read_template(file: str | None) -> str | None:
    """The text of a template file.

    Raises:
        UnmaskError: if it cannot be read.
    """
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnmaskError(
            f"the template {file} cannot be read ({short_error(error)}); give a UTF-8 text file "
            "with the columns of a row in braces, for example {question}"
        ) from None


def write_prompt(options: TaskOptions, own: str, fields: Mapping[str, str]) -> str:
    """A prompt by the options' template, or the task's own. Braces around anything but a field's
    name stay as they are.

    Raises:
        UnmaskError: if the template has none of the fields.
    """
    template = own if options.template is None else options.template
    names = "|".join(map(re.escape, fields))
    prompt, found = re.subn(rf"\{{({names})\}}", lambda m: fields[m.group(1)], template)
    if not found:
        wanted = ", ".join(f"{{{name}}}" for name in fields)
        raise UnmaskError(
            f"the template {template[:60]!r} has no field of a row; write {wanted} into it"
        )
    return prompt
