"""Tasks by their names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.tasks import chain, sudoku
from unmask.tasks.base import Task
from unmask.tasks.data import DataAccess, is_file
from unmask.tasks.mixture import mixture
from unmask.tasks.options import SETTINGS, TaskOptions, split_options

EMBEDDED = {task.name: task for task in (chain.TASK, sudoku.TASK)}
# Each module is loaded when its task is asked for: they need optional packages.
DATA_SETS = {"gsm8k": "gsm8k.task", "math": "maths.task", "math500": "maths.task500"} | {
    name: f"code.{name}" for name in ("humaneval", "mbpp", "kodcode")
}
NAMED = {
    "reasoning_gym": "reasoning_gym.task",
    "jsonl": "jsonl.task",
    "word-problems": "word_problems.task",
}
KNOWN = (
    *EMBEDDED,
    "word-problems",
    *DATA_SETS,
    "reasoning_gym:NAME",
    "jsonl:FILE",
    "mixtures like gsm8k:2+math:1",
)


def load_task(
    name: str, *, data_dir: str | Path | None = None, allow_code_execution: bool = False
) -> Task:
    """The task called `name`, or a mixture: names joined by `+`, each perhaps with `:weight` behind
    it.

    Args:
        name: an embedded task (chain, sudoku), word-problems (or word-problems:templates, with
            tests of other templates, or word-problems:unseen, with training problems that the
            embedded model has not met), a benchmark (gsm8k, math, math500, humaneval, mbpp,
            kodcode), `reasoning_gym:NAME`, `jsonl:FILE`. Behind a benchmark or file may stand
            `@` and settings with commas between them: `template=FILE` (a text file with the prompt,
            the columns of a row in braces), `chat=no` (no chat template); for files also
            `verifier=text|number|math` and `split=test` (all lines are tests).
        data_dir: a directory with the benchmarks' files (`DIR/gsm8k/train.jsonl`, …); None loads
            them from the Hugging Face Hub.
        allow_code_execution: whether model-written programs may run, in the sandbox
            (docs/security.md); humaneval, mbpp and kodcode need it.

    Raises:
        UnmaskError: if there is no such task, a package that it needs is missing, or it needs code
            execution and that was not allowed.

    Examples:
        >>> task = unmask.load_task("chain")
        >>> example = task.examples("test", 1)[0]
        >>> task.score(f"# {example.answer.split()[-1]}", example)
        1.0
    """
    access = DataAccess(None if data_dir is None else Path(data_dir), allow_code_execution)
    if access.data_dir is not None and not access.data_dir.is_dir():
        raise UnmaskError(
            f"data directory {access.data_dir} does not exist; give a directory with one directory "
            "for each task"
        )
    parts = [split_weight(part) for part in split_mixture(name)]
    if len(parts) == 1 and parts[0][1] is None:
        return load_single_task(name, access)
    names = [part for part, _ in parts]
    if len(set(names)) < len(names):
        raise UnmaskError(f"mixture {name!r} names a task twice; name each once, with a weight")
    return mixture(
        name,
        [load_single_task(part, access) for part in names],
        [1.0 if weight is None else weight for _, weight in parts],
    )


def split_mixture(name: str) -> list[str]:
    """The parts of a mixture's name. A plus in the name of a JSONL file parts nothing, where there
    is such a file."""
    pieces, parts = name.split("+"), []
    while pieces:
        length = 1
        if pieces[0].startswith("jsonl:"):
            lengths = range(1, len(pieces) + 1)
            length = next((n for n in lengths if names_file("+".join(pieces[:n]))), 1)
        parts.append("+".join(pieces[:length]))
        del pieces[:length]
    return parts


def names_file(part: str) -> bool:
    """Whether a part of a mixture is `jsonl:` and a file, perhaps with settings and a weight."""
    names = {part, part.rpartition(":")[0]}
    names |= {match.group(1) for name in names if (match := SETTINGS.fullmatch(name))}
    return any(is_file(name.removeprefix("jsonl:")) for name in names)


def split_weight(part: str) -> tuple[str, float | None]:
    """`gsm8k:2` → gsm8k, 2; `reasoning_gym:chain_sum:0.5` → reasoning_gym:chain_sum, 0.5."""
    head, _, tail = part.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        return part, None
    if not head or (part.startswith("jsonl:") and is_file(part.removeprefix("jsonl:"))):
        return part, None
    if not 0 < weight < math.inf:
        raise UnmaskError(f"the weight in {part!r} is {tail}; give a number above 0")
    return head, weight


def load_single_task(name: str, access: DataAccess) -> Task:
    """A task that is not a mixture."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    file = name.removeprefix("jsonl:")
    exact = file != name and is_file(file)  # perhaps with an @ in its name
    base, options = (name, TaskOptions()) if exact else split_options(name)
    kind, _, rest = base.partition(":")
    access = replace(access, options=options)
    if kind == "jsonl" and rest:
        return replace(import_task_factory(NAMED[kind])(rest, access), name=name)
    if base in DATA_SETS:
        if options.verifier or options.split:
            raise UnmaskError(
                f"task {base} has its own verifier and splits; the settings verifier and split are "
                "for jsonl:FILE"
            )
        return replace(import_task_factory(DATA_SETS[base])(access), name=name)
    if base != name:
        raise UnmaskError(
            f"task {base} takes no settings; they are for benchmarks and for jsonl:FILE"
        )
    if name == "word-problems":  # a generated task that needs an optional package
        return import_task_factory(NAMED[name])()
    if kind in NAMED and rest:
        return import_task_factory(NAMED[kind])(rest)
    raise UnmaskError(f"task {name!r} is not known; use one of {', '.join(KNOWN)}")


def import_task_factory(path: str) -> Callable[..., Task]:
    """The function of a module of this package, as `module.function`."""
    module, name = path.split(".")
    return getattr(import_module(f"unmask.tasks.{module}"), name)
