"""Tasks: prompts with verifiable answers."""

from typing import TYPE_CHECKING

from unmask.lazy import lazy_names

__getattr__, __dir__, _ = lazy_names(
    __name__,
    {
        "EMBEDDED": "load",
        "Example": "examples",
        "SPLITS": "examples",
        "Split": "examples",
        "Task": "base",
        "TimedScore": "base",
        "Verdict": "base",
        "answer_length": "prompts",
        "load_task": "load",
        "prompt_tokens": "prompts",
    },
)

# The same names once more, for type checkers and editors.
if TYPE_CHECKING:
    from unmask.tasks.base import Task, TimedScore, Verdict
    from unmask.tasks.examples import SPLITS, Example, Split
    from unmask.tasks.load import EMBEDDED, load_task
    from unmask.tasks.prompts import answer_length, prompt_tokens

__all__ = [
    "EMBEDDED",
    "SPLITS",
    "Example",
    "Split",
    "Task",
    "TimedScore",
    "Verdict",
    "answer_length",
    "load_task",
    "prompt_tokens",
]
