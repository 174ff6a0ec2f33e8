"""The `unmask` command: one file per subcommand, each with a `Config` dataclass and `run(config)`.

The module of a subcommand imports what its options need and nothing heavy, so that `--help` and a
usage error answer at once; `run` imports the rest. A subcommand that must know which options were
given, rather than left at their defaults, has `run(config, given)`.

This module itself imports next to nothing: an interrupt (Ctrl-C) gets its one line only once `main`
runs.
"""

from __future__ import annotations

import sys

from unmask.errors import UnmaskError

COMMANDS = {
    "demo": "train policies on an embedded model, compare them with heuristics (the main job)",
    "generate": "answer prompts; with --show, watch the canvas fill",
    "train": "train an unmasking policy with GRPO",
    "evaluate": "measure accuracy and NFE of one or many samplers on held-out prompts",
    "compare": "test whether two samplers differ on the same prompts (paired bootstrap)",
    "lm-eval": "run tasks of lm-evaluation-harness, with NFE beside its metrics",
    "serve": "serve models with OpenAI's API, and the playground page",
    "playground": "watch two samplers write side by side, in the browser",
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


def run_command(name: str, arguments: list[str]) -> None:
    """Runs one subcommand.

    Raises:
        UnmaskError: for bad input.
        SystemExit: with the code 0 after `--help`.
    """
    if name not in COMMANDS:
        raise UnmaskError(f"command {name!r} is not known; use one of {', '.join(COMMANDS)}")

    import importlib
    import inspect

    from unmask.cli.arguments import parse
    from unmask.files import running_command

    module = importlib.import_module(f"unmask.cli.{name.replace('-', '_')}")
    aliases = getattr(module, "ALIASES", {})  # other names of flags
    config, given = parse(module.Config, name, arguments, aliases)
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
