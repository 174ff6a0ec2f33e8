"""Tasks by their names."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.tasks import chain, sudoku
from unmask.tasks.base import Task
from unmask.tasks.data import DataAccess
from unmask.tasks.mixture import mixture

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
            tests of other templates), a benchmark (gsm8k, math, math500, humaneval, mbpp,
            kodcode), `reasoning_gym:NAME`, `jsonl:FILE`.
        data_dir: a directory with the benchmarks' files (`DIR/gsm8k/train.jsonl`, …); None loads
            them from the Hugging Face Hub.
        allow_code_execution: whether model-written programs may run, in the sandbox
            (docs/security.md); humaneval, mbpp and kodcode need it.

    Raises:
        UnmaskError: if there is no such task, a package that it needs is missing, or it needs code
            execution and that was not allowed.

    Example:
        >>> unmask.load_task("chain").examples("test", 1)[0].prompt
        '6 a -9 b -3 =' # doctest: +SKIP
    """
    access = DataAccess(None if data_dir is None else Path(data_dir), allow_code_execution)
    if access.data_dir is not None and not access.data_dir.is_dir():
        raise UnmaskError(
            f"data directory {access.data_dir} does not exist; give a directory with one directory "
            "for each task"
        )
    parts = [split_weight(part) for part in name.split("+")]
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


def split_weight(part: str) -> tuple[str, float | None]:
    """`gsm8k:2` → gsm8k, 2; `reasoning_gym:chain_sum:0.5` → reasoning_gym:chain_sum, 0.5."""
    head, _, tail = part.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        return part, None
    if not head:
        return part, None
    if not 0 < weight < math.inf:
        raise UnmaskError(f"the weight in {part!r} is {tail}; give a number above 0")
    return head, weight


def load_single_task(name: str, access: DataAccess) -> Task:
    """A task that is not a mixture."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    if name in DATA_SETS:
        return import_task_factory(DATA_SETS[name])(access)
    kind, _, rest = name.partition(":")
    if name == "word-problems":  # a generated task that needs an optional package
        return import_task_factory(NAMED[name])()
    if kind in NAMED and rest:
        return import_task_factory(NAMED[kind])(rest)
    raise UnmaskError(f"task {name!r} is not known; use one of {', '.join(KNOWN)}")


def import_task_factory(path: str) -> Callable[..., Task]:
    """The function of a module of this package, as `module.function`."""
    module, name = path.split(".")
    return getattr(import_module(f"unmask.tasks.{module}"), name)
