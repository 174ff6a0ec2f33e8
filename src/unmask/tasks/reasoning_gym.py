"""Any generator of `reasoning-gym` (Stojanovski et al. 2025): a million problems of each, made
offline and checked by the generator's own verifier."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from unmask.errors import UnmaskError
from unmask.tasks.answers import tagged
from unmask.tasks.base import Task
from unmask.tasks.data import require_package
from unmask.tasks.examples import Example
from unmask.tasks.sources import GeneratedSource

# A million problems. Some generators prepare every problem of a data set when it is made, so they
# are made in parts.
SIZE, PARTS = 20_000, 50
TEMPLATE = "reasoning-gym@1"
SYSTEM = (
    "Reason step by step if you need to, then give the final answer between <answer> and "
    "</answer>, and nothing else there."
)


def task(name: str) -> Task:
    """The task `reasoning_gym:NAME`.

    Raises:
        UnmaskError: if there is no generator of this name, or its verifier does not take the
            answer of its own first problem.
    """
    gym = require_package("reasoning_gym", f"task reasoning_gym:{name}")
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS or name == "composite":  # that one mixes others; our mixtures do
        raise UnmaskError(
            f"reasoning-gym has no generator {name!r}; it has "
            f"{', '.join(sorted(set(DATASETS) - {'composite'}))}"
        )

    @cache
    def problems(part: int) -> Any:
        # Problem i of a data set is made from seed + i.
        return gym.create_dataset(name, size=SIZE, seed=part * SIZE)

    def draw(rng: random.Random) -> Example:
        return make_example(problems(rng.randrange(PARTS))[rng.randrange(SIZE)])

    def score(completion: str, example: Example) -> float:
        """The verifier's credit in full, or none: some verifiers give a little for any answer, or a
        part for one that holds the right one."""
        try:
            return float(problems(0).score_answer(find_answer(completion), example.data) >= 1)
        except Exception:  # some verifiers parse without care
            return 0.0

    check_generator(name, problems(0))
    return Task(
        name=f"reasoning_gym:{name}",
        source=GeneratedSource(draw),
        score=score,
        template=TEMPLATE,
        find_answer=find_answer,
    )


def make_example(entry: dict[str, Any]) -> Example:
    answer = str(entry["answer"] or "")
    return Example(entry["question"].strip(), answer, system=SYSTEM, data=entry)


def check_generator(name: str, problems: Any) -> None:
    """Tries the verifier on the answer of the generator's first problem: an error of the verifier
    counts as a wrong answer later, and a changed library would give an accuracy of 0 in silence. A
    few generators give no answers of their own; those are not tried.

    Raises:
        UnmaskError: if the answer is not right.
    """
    try:
        entry = problems[0]
        if entry["answer"] is None:
            return
        credit = problems.score_answer(find_answer(str(entry["answer"] or "")), entry)
        reason = f"it gives {credit} instead of 1"
    except Exception as error:  # generators and verifiers raise anything
        credit, reason = 0.0, f"{type(error).__name__}: {error}"[:200]
    if not credit >= 1:
        raise UnmaskError(
            f"the verifier of reasoning_gym:{name} does not take the generator's own answer "
            f"({reason}); use another generator or another version of reasoning-gym"
        )


def find_answer(completion: str, example: Example | None = None) -> str:
    """The contents of the last answer tag, or all of a completion without one."""
    inside = tagged(completion)
    return completion.strip() if inside is None else inside
