"""The `unmask` command: one file per subcommand, each with a `Config` dataclass and `run(config)`.

The module of a subcommand imports what its options need and nothing heavy, so that `--help` and a
usage error answer at once; `run` imports the rest. A subcommand that must know which options were
given, rather than left at their defaults, has `run(config, given)`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
from types import ModuleType
from typing import Any

from unmask.errors import UnmaskError
from unmask.files import running_command

COMMANDS = {
    "demo": "train policies on an embedded model, compare them with heuristics (the main job)",
    "generate": "answer prompts; with --show, watch the canvas fill",
    "train": "train an unmasking policy with GRPO",
    "evaluate": "measure accuracy and NFE of one or many samplers on held-out prompts",
    "compare": "test whether two samplers differ on the same prompts (paired bootstrap)",
    "lm-eval": "run tasks of lm-evaluation-harness, with NFE beside its metrics",
    "plot": "draw the Pareto figure from evaluation files",
    "analyze": "measure and draw in which order samplers reveal, from evaluations with --traces",
    "pretrain": "pre-train a small masked diffusion language model",
    "push": "upload a policy directory to the Hugging Face Hub",
    "import-policy": "convert a policy of the paper's released code",
}


def usage() -> str:
    """What `unmask --help` prints."""
    lines = [f"  {name:<14}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: unmask COMMAND [options]; `unmask COMMAND --help` explains each.", "", *lines]
    )


def given_options(arguments: list[str]) -> frozenset[str]:
    """The names of the options on a command line, as the fields of a `Config` are called.

    `--block-length 4` and `--block-length=4` give block_length, `--no-traces` gives traces. What
    follows a bare `--` is no option.

    Args:
        arguments: the words behind the subcommand.
    """
    if "--" in arguments:
        arguments = arguments[: arguments.index("--")]
    flags = [word[2:].partition("=")[0] for word in arguments if word.startswith("--")]
    return frozenset(flag.removeprefix("no-").replace("-", "_") for flag in flags)


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


def replace_aliases(arguments: list[str], aliases: dict[str, str]) -> list[str]:
    """The arguments with other names of options replaced by their own (`--gen-length=8` too)."""
    replaced = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        replaced.append(aliases.get(flag, flag) + equals + value)
    return replaced


def parse(module: ModuleType, name: str, arguments: list[str]) -> tuple[Any, frozenset[str]]:
    """The configuration of a subcommand, and the names of the options that were given.

    Args:
        module: of the subcommand; it may have ALIASES, a mapping of flags to flags.
        name: of the subcommand.
        arguments: the words behind it.

    Raises:
        UnmaskError: if they cannot be understood, or a value cannot be used.
        SystemExit: with the code 0 after `--help`.
    """
    import tyro

    rest, path = take_config_file(arguments)
    rest = replace_aliases(rest, getattr(module, "ALIASES", {}))
    default, in_file = None, frozenset()
    if path is not None:
        from unmask.cli.config_file import read_config

        default, in_file = read_config(module.Config, path)
    epilogue = "--config FILE.yaml sets any of these options; the command line wins."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = tyro.cli(
                module.Config,
                args=rest,
                default=default,
                prog=f"unmask {name}",
                description=f"{module.Config.__doc__}\n\n{epilogue}",
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        text = complaint_sentence(complaint.getvalue())
        raise UnmaskError(f"{text}; see `unmask {name} --help`") from None
    return config, given_options(rest) | in_file


def complaint_sentence(box: str) -> str:
    """The complaint inside tyro's box as one line."""
    lines = [line.strip("│╭╮╰╯─- \t") for line in box.splitlines()]
    text = [line for line in lines if line]
    behind = ("For full helptext", "Argument helptext", "Perhaps you meant")
    end = next((i for i, line in enumerate(text) if line.startswith(behind)), len(text))
    return " ".join(text[1:end]).rstrip(".") or "the options cannot be read"


def run_command(name: str, arguments: list[str]) -> None:
    """Runs one subcommand.

    Raises:
        UnmaskError: for bad input.
        SystemExit: with the code 0 after `--help`.
    """
    if name not in COMMANDS:
        raise UnmaskError(f"command {name!r} is not known; use one of {', '.join(COMMANDS)}")
    module = importlib.import_module(f"unmask.cli.{name.replace('-', '_')}")
    config, given = parse(module, name, arguments)
    with running_command(["unmask", name, *arguments]):
        if len(inspect.signature(module.run).parameters) == 2:
            module.run(config, given)
        else:
            module.run(config)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code (2 for bad input, after one sentence on standard
    error)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        run_command(name, rest)
    except UnmaskError as error:
        print(f"unmask {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"unmask {name}: interrupted", file=sys.stderr)
        return 130
    return 0
