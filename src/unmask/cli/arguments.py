"""From the words of a command line to the `Config` of a subcommand."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import tyro

from unmask.cli import given_options
from unmask.errors import UnmaskError, short_error, short_text

C = TypeVar("C")
NO_ALIASES: Mapping[str, str] = MappingProxyType({})


def take_config_file(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without `--config FILE` or `--config=FILE`, and FILE, the last one if several
    are given.

    Raises:
        UnmaskError: if no file follows `--config`.
    """
    rest: list[str] = []
    path = None
    words = iter(arguments)
    for word in words:
        if word == "--config":
            path = next(words, "")
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
        else:
            rest.append(word)
    if path == "":
        raise UnmaskError("--config was given without a file; give a YAML file")
    return rest, path


def replace_aliases(arguments: list[str], aliases: Mapping[str, str]) -> list[str]:
    """The arguments with other names of options replaced by their own (`--gen-length=8` too)."""
    replaced = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        replaced.append(aliases.get(flag, flag) + equals + value)
    return replaced


def parse(
    config_class: type[C], name: str, arguments: list[str], aliases: Mapping[str, str] = NO_ALIASES
) -> tuple[C, frozenset[str]]:
    """The configuration of a subcommand, and the names of the options that were given.

    Args:
        config_class: the subcommand's `Config`.
        name: of the subcommand.
        arguments: the words behind it.
        aliases: other names of flags, and the flags that they stand for.

    Raises:
        UnmaskError: if they cannot be understood, or a value cannot be used.
        SystemExit: with the code 0 after `--help`.
    """
    rest, path = take_config_file(arguments)
    rest = replace_aliases(rest, aliases)
    default: Any = None
    in_file: frozenset[str] = frozenset()
    if path is not None:
        from unmask.cli.config_file import read_config

        default, in_file = read_config(config_class, path, given_options(rest))
    purpose = " ".join((config_class.__doc__ or "").split())
    epilogue = "--config FILE.yaml sets any of these options; the command line wins."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                config_class,
                args=rest,
                default=default,
                prog=f"unmask {name}",
                description=f"{purpose}\n\n{epilogue}",
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        text = complaint_sentence(complaint.getvalue())
        raise UnmaskError(f"{text}; see `unmask {name} --help`") from None
    except (ValueError, OverflowError, RecursionError) as error:  # a number of thousands of digits
        raise UnmaskError(
            f"the options cannot be read ({short_error(error)}); see `unmask {name} --help`"
        ) from None
    return config, given_options(rest) | in_file


def complaint_sentence(box: str) -> str:
    """The complaint inside tyro's box as one line."""
    lines = [line.strip("│|╭╮╰╯─ \t") for line in box.splitlines()]
    text = [line for line in lines if line.strip("-")]  # rules are hyphens where no box can be
    behind = ("Got errors:", "For full helptext", "Argument helptext", "Perhaps you meant")
    end = next((i for i, line in enumerate(text) if line.startswith(behind)), len(text))
    words = " ".join(text[1:end]).rstrip(".")
    return short_text(words, 600) or "the options cannot be read"
