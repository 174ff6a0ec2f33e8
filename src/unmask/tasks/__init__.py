"""Tasks: prompts with verifiable answers."""

from unmask.errors import UnmaskError
from unmask.tasks import chain, sudoku
from unmask.tasks.base import Example, Split, Task

TASKS = {task.name: task for task in (chain.TASK, sudoku.TASK)}


def load_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        UnmaskError: if there is none.
    """
    if name not in TASKS:
        raise UnmaskError(f"task {name!r} is not known; use one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "Example", "Split", "Task", "load_task"]
