"""The `unmask` command: one file per subcommand, each with a `Config` dataclass and `run(config)`.

The module of a subcommand imports what its options need and nothing heavy, so that `--help` and a
usage error answer at once; `run` imports the rest. A subcommand that must know which options were
given, rather than left at their defaults, has `run(config, given)`.

This module itself imports next to nothing: an interrupt (Ctrl-C) gets its one line only once `main`
runs.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unmask.errors import UnmaskError
from unmask.extras import require_extras

COMMANDS = {
    "demo": "train policies on an embedded model, compare them with heuristics (the main job)",
    "generate": "answer prompts; with --show, watch the canvas fill",
    "score": "measure how likely a model finds continuations of prompts (log-likelihoods)",
    "train": "train an unmasking policy, with GRPO or from stored traces",
    "record": "store every step of decodes of training problems, to train policies from",
    "evaluate": "measure accuracy and NFE of one or many samplers on held-out prompts",
    "compare": "test whether two samplers differ on the same prompts (paired bootstrap)",
    "compare-fronts": "test whether one front is above another, over which range of passes",
    "lm-eval": "run tasks of lm-evaluation-harness, with NFE beside its metrics",
    "serve": "serve models with OpenAI's API, and the playground page",
    "playground": "watch two samplers write side by side, in the browser",
    "plot": "draw the Pareto figure from evaluation files",
    "analyze": "measure and draw in which order samplers reveal, from evaluations with --traces",
    "pretrain": "pre-train a small masked diffusion language model",
    "push": "upload a policy directory to the Hugging Face Hub",
    "export-sglang": "write the file with which SGLang decodes with a policy",
    "import-policy": "convert a policy of the paper's released code",
    "doctor": "say what works on this machine: versions, devices, sandbox, caches, models",
}

GPU_FULL = (
    "the GPU has not enough free memory for this; give a smaller --batch-size, or shorter or fewer "
    "answers (docs/gpu.md says what takes how much)"
)

TWICE = 5.0  # seconds: signals that come closer than this are one wish to end

# Extras that a command needs beside `cli`; they are checked before anything is loaded or written.
COMMAND_EXTRAS = {
    "demo": ("train", "plot"),
    "train": ("train",),
    "lm-eval": ("lm-eval",),
    "serve": ("serve",),
    "playground": ("serve",),
    "plot": ("plot",),
    "analyze": ("plot",),
}


def usage() -> str:
    """What `unmask --help` prints."""
    lines = [f"  {name:<16}{text}" for name, text in COMMANDS.items()]
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


def run_command(name: str, arguments: list[str]) -> int:
    """Runs one subcommand; returns the exit code, 0 unless the subcommand returns another one.

    Raises:
        UnmaskError: for bad input.
        SystemExit: with the code 0 after `--help`.
    """
    if name not in COMMANDS:
        raise UnmaskError(
            f"command {shorten_word(name)!r} is not known; use one of {', '.join(COMMANDS)}"
        )

    import importlib
    import inspect

    extras = ("cli", *COMMAND_EXTRAS.get(name, ()))
    require_extras(f"unmask {name}", extras[:1])
    from unmask.cli.arguments import parse
    from unmask.provenance import running_command

    module = importlib.import_module(f"unmask.cli.{name.replace('-', '_')}")
    aliases = getattr(module, "ALIASES", {})  # other names of flags
    config, given = parse(module.Config, name, arguments, aliases)
    require_extras(f"unmask {name}", extras)
    with running_command(["unmask", name, *arguments]):
        if len(inspect.signature(module.run).parameters) == 2:
            code = module.run(config, given)
        else:
            code = module.run(config)
    return code or 0


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code (2 for bad input, after one sentence on standard
    error)."""
    settle_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = shorten_word(arguments[0]) if arguments else ""
    try:
        with signals_interrupt(), short_warnings():
            code = print_usage(arguments) if name in ("", "-h", "--help") else run_words(arguments)
        sys.stdout.flush()  # not at the exit of Python, which would complain of a closed pipe
        return code
    except UnmaskError as error:
        print(f"unmask {name}: {shorten_words(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever reads the output has enough of it; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    # The system's own words: a disk that is full, a name that is too long, no permission.
    except (OSError, MemoryError) as error:
        print(f"unmask {name}: {shorten_words(system_sentence(error))}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which is not imported for help
            raise
        print(f"unmask {name}: {GPU_FULL}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        number = signal.Signals(error.args[0] if error.args else signal.SIGINT)
        reason = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        print(f"unmask {name}: {reason}", file=sys.stderr)
        return 128 + number


def settle_streams() -> None:
    """Gives this process standard streams where it was started without (`>&-`), and lets them write
    what their encoding lacks as `\\u2192`."""
    # A file that is opened later must not get the number of a standard stream, here or in a process
    # that is started.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Where LC_ALL is C, Python itself chooses surrogateescape, which stops at them too.
        stops = ("strict", "surrogateescape")
        if isinstance(stream, io.TextIOWrapper) and stream.errors in stops:
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """While the body runs, an interrupt (Ctrl-C) and the signals that ask a process to end are a
    KeyboardInterrupt with their number, whatever error that turns into: so the processes and
    temporary files of a command end with it.

    Packages that import their parts at first use may take an interrupt for a missing module.
    """
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    # A process of a group may wait for another one in a library that lets Python see no signal: a
    # launcher could not end it.
    if os.environ.get("WORLD_SIZE", "1") == "1":
        usual |= {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    noticed: list[int] = []
    process, quiet_until = os.getpid(), 0.0

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal quiet_until
        if os.getpid() != process:  # a fork, as a pool of workers has, ends as it would without us
            signal.signal(number, usual[number])
            signal.raise_signal(number)
            return
        noticed.append(number)
        # `timeout` and a terminal that closes may signal twice: that must not break off the end. A
        # signal that comes later is meant: a bare `except:` may have swallowed the first.
        if (now := time.monotonic()) >= quiet_until or number == signal.SIGINT:
            quiet_until = now + TWICE
            raise KeyboardInterrupt(number)

    # Whoever set another handler than the usual one deals with the signal; only the main thread may
    # set one.
    main_thread = threading.current_thread() is threading.main_thread()
    taken = [n for n, handler in usual.items() if main_thread and signal.getsignal(n) == handler]
    try:
        for number in taken:
            signal.signal(number, notice)
        yield
    except Exception as error:
        if noticed:
            raise KeyboardInterrupt(noticed[0]) from error
        raise
    finally:
        for number in taken:
            if signal.getsignal(number) is notice:
                signal.signal(number, usual[number])


@contextmanager
def short_warnings() -> Iterator[None]:
    """While the body runs, a warning for the user is one line, without a place in the code, and is
    printed once. Python's own memory of what was printed does not do: any library that changes the
    filters for a moment empties it."""
    whole, printed = warnings.formatwarning, set[str]()

    def shorten(message: Warning | str, category: type[Warning], *where: Any) -> str:
        if category is not UserWarning:
            return whole(message, category, *where)
        line = f"warning: {message}\n"
        if line in printed:
            return ""
        printed.add(line)
        return line

    warnings.formatwarning = shorten  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = whole


def print_usage(arguments: list[str]) -> int:
    """Prints the list of commands; returns the exit code."""
    print(usage())
    return 0 if arguments else 2


def run_words(arguments: list[str]) -> int:
    """Runs the command of a command line; returns its exit code.

    Raises:
        UnmaskError: for bad input, among it words that are no text.
    """
    for word in arguments:
        if not is_text(word):
            raise UnmaskError(
                f"the word '{shorten_word(word)}' of the command line is no UTF-8 text; correct it"
            )
    try:
        return run_command(arguments[0], arguments[1:])
    except SystemExit as stop:  # --help
        sys.stdout.flush()
        if stop.code:
            raise
        return 0


def shorten_words(text: str) -> str:
    """A sentence whose words of more than 300 characters, which a user gave, are cut."""
    return re.sub(r"\S{300,}", lambda match: f"{match.group()[:100]}…", text)


def is_text(word: str) -> bool:
    """Whether a word can be written as UTF-8, and holds no zero byte, which no name can."""
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in word


def shorten_word(word: str) -> str:
    """A word of the command line for use in a sentence."""
    return word if len(word) <= 80 and is_text(word) else ascii(word[:80])[1:-1] + "…"


def system_sentence(error: OSError | MemoryError) -> str:
    """An error of the operating system as one sentence."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; give smaller values"
    reason = error.strerror or str(error) or type(error).__name__
    name = str(error.filename)
    if len(name) > 80:  # its end says which file it is
        name = f"…{name[-79:]}"
    place = "" if error.filename is None else f"{shorten_word(name)}: "
    return f"{place}{reason}; check names, permissions and free space"
