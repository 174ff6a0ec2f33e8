"""Any generator of `reasoning-gym` (Stojanovski et al. 2025): a million problems of each, made
offline and checked by the generator's own verifier."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from unmask.errors import UnmaskError
from unmask.tasks.answers import tagged
from unmask.tasks.base import Drawn, Example, Task
from unmask.tasks.data import needed

SIZE, PARTS = (
    20_000,
    50,
    # a million problems; some generators prepare each one of a data set when it is made, so they are
    # made in parts
)
TEMPLATE = "reasoning-gym@1"
SYSTEM = "Reason step by step if you need to, then give the final answer between <answer> and </answer>, and nothing else there."


def task(name: str) -> Task:
    """The task `reasoning_gym:NAME`.

    Raises:
        UnmaskError: if there is no generator of this name.
    """
    gym = needed("reasoning_gym", f"task reasoning_gym:{name}")
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS or name == "composite":  # that one mixes others; our mixtures do
        raise UnmaskError(
            f"reasoning-gym has no generator {name!r}; it has "
            f"{', '.join(sorted(set(DATASETS) - {'composite'}))}"
        )

    @cache
    def problems(part: int) -> Any:
        return gym.create_dataset(
            name, size=SIZE, seed=part * SIZE
        )  # problem i of a data set is made from seed + i

    def draw(rng: random.Random) -> Example:
        entry = problems(rng.randrange(PARTS))[rng.randrange(SIZE)]
        return Example(
            entry["question"].strip(), str(entry["answer"] or ""), system=SYSTEM, data=entry
        )

    def score(completion: str, example: Example) -> float:
        """The verifier's credit in full, or none: some verifiers give a little for any answer, or a
        part for one that holds the right one."""
        try:
            return float(problems(0).score_answer(final(completion), example.data) >= 1)
        except Exception:  # some verifiers parse without care
            return 0.0

    return Task(
        name=f"reasoning_gym:{name}",
        source=Drawn(draw),
        score=score,
        template=TEMPLATE,
        answer=final,
    )


def final(completion: str) -> str:
    """The contents of the last answer tag, or all of a completion without one."""
    inside = tagged(completion)
    return completion.strip() if inside is None else inside
