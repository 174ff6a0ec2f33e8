"""Examples for the playground, and whether an answer is right, where the model's task is known."""

from __future__ import annotations

import re
from functools import cache

from unmask.errors import UnmaskError
from unmask.files import read_json
from unmask.models.base import Model
from unmask.models.load import embedded_models, find_model
from unmask.tasks.base import Task
from unmask.tasks.examples import Example
from unmask.tasks.load import load_task

COUNT = 24
# Prompts of these tasks say all that their verifier needs, so that typed ones can be judged too.
FORMS = {"chain": r"\d( [a-f] [-+*]\d){1,6} =", "sudoku": r"([1-6_] ){36}="}


@cache
def find_task(name: str) -> Task | None:
    """The task that an embedded model was trained for; None for other models, or where a package
    that the task needs is not installed."""
    if name not in embedded_models():
        return None
    try:
        return load_task(read_json(find_model(name) / "recipe.json")["recipe"]["task"])
    except UnmaskError:
        return None


@cache
def list_examples(name: str) -> tuple[Example, ...]:
    """Test examples of an embedded model's task."""
    task = find_task(name)
    return () if task is None else tuple(task.examples("test", COUNT))


def judge_answer(model: Model, prompt: str, text: str) -> bool | None:
    """Whether an answer is right; None where nobody knows.

    Args:
        model: which model answered; its name says which task it is.
        prompt: one of `list_examples`, or a problem of the same form.
        text: the answer.
    """
    name = str(model.name)
    task = find_task(name)
    if task is None:
        return None
    known = {example.prompt: example for example in list_examples(name)}
    example = known.get(prompt)
    if example is None and task.name in FORMS:
        ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        written = model.tokenizer.decode(ids)
        if re.fullmatch(FORMS[task.name], written):
            example = Example(written, "")
    return None if example is None else task.verdict(text, example).correct >= 1
