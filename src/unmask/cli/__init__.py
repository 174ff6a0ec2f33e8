"""The `unmask` command: one file per subcommand, each with a `Config` dataclass and
`run(config)`."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from unmask.errors import UnmaskError

COMMANDS = {
    "demo": "train policies on an embedded model and compare them with the heuristics (the main job)",
    "generate": "answer prompts, if you like while you watch the canvas fill",
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
    lines = [f"  {name:<14}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: unmask COMMAND [options]; `unmask COMMAND --help` explains each.", "", *lines]
    )


def read_config(config_class: type, path: str) -> object:
    """An instance of `config_class` from a YAML file that names any of its fields.

    Raises:
        UnmaskError: if the file cannot be read, names an unknown field, or a value has the wrong
            type.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnmaskError(
            f"config file {path} cannot be read as YAML ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(values, dict):
        raise UnmaskError(
            f"config file {path} holds no `option: value` lines; see `--help` for the options"
        )
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    known = set(config_class.__dataclass_fields__)
    if unknown := sorted(set(values) - known):
        raise UnmaskError(
            f"config file {path} sets unknown options ({', '.join(unknown)}); known are "
            f"{', '.join(sorted(known))}"
        )
    try:
        return TypeAdapter(config_class).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UnmaskError(
            f"config file {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def sentence(box: str) -> str:
    """The complaint inside tyro's box as one line."""
    lines = [line.strip("│╭╮╰╯─- \t") for line in box.splitlines()]
    text = [line for line in lines if line]
    end = next(
        (
            i
            for i, line in enumerate(text)
            if line.startswith(("For full helptext", "Argument helptext", "Perhaps you meant"))
        ),
        len(text),
    )
    return " ".join(text[1:end]).rstrip(".") or "the options cannot be read"


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code (2 for bad input, after one sentence on standard
    error)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise UnmaskError(f"command {name!r} is not known; use one of {', '.join(COMMANDS)}")
        module = importlib.import_module(f"unmask.cli.{name.replace('-', '_')}")
        default = None
        rest = [
            part
            for word in rest
            for part in (word.split("=", 1) if word.startswith("--config=") else [word])
        ]
        if "--config" in rest:
            at = rest.index("--config")
            if at + 1 == len(rest):
                raise UnmaskError("--config was given without a file; give a YAML file")
            default = read_config(module.Config, rest[at + 1])
            del rest[at : at + 2]
        epilogue = "--config FILE.yaml sets any of these options; the command line wins."
        description = f"{module.Config.__doc__}\n\n{epilogue}"
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                config = tyro.cli(
                    module.Config,
                    args=rest,
                    default=default,
                    prog=f"unmask {name}",
                    description=description,
                )
        except SystemExit as stop:
            if not stop.code:
                raise  # --help
            raise UnmaskError(
                sentence(complaint.getvalue()) + f"; see `unmask {name} --help`"
            ) from None
        module.run(config)
    except UnmaskError as error:
        print(f"unmask {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"unmask {name}: interrupted", file=sys.stderr)
        return 130
    return 0
