"""Any generator of `reasoning-gym` (Stojanovski et al. 2025): a million problems of each, made
offline and checked by the generator's own verifier."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from unmask.errors import UnmaskError, short_error
from unmask.extras import require_package
from unmask.tasks.answers import tagged
from unmask.tasks.base import Task
from unmask.tasks.examples import Example
from unmask.tasks.sources import GeneratedSource

# A million problems, in parts: some generators take no larger data sets.
SIZE, PARTS = 20_000, 50
# Generators that prepare every problem of a data set when it is made: theirs are made in parts of
# this size.
PREPARED = {"acre": 20}
# Answers that are right in no problem, except where the generator's own answer is the same.
NONSENSE = ("nan", "inf", "0", "987654321987", "x", "?", "None", "I do not know")
TRIED = 2  # problems
TEMPLATE = "reasoning-gym@1"
SYSTEM = (
    "Reason step by step if you need to, then give the final answer between <answer> and "
    "</answer>, and nothing else there."
)


def task(name: str) -> Task:
    """The task `reasoning_gym:NAME`.

    Raises:
        UnmaskError: if there is no generator of this name, its verifier does not take the
            answers of its own first problems, or takes nonsense.
    """
    gym = require_package("reasoning_gym", f"task reasoning_gym:{name}")
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS or name == "composite":  # that one mixes others; our mixtures do
        raise UnmaskError(
            f"reasoning-gym has no generator {name!r}; it has "
            f"{', '.join(sorted(set(DATASETS) - {'composite'}))}"
        )

    size = PREPARED.get(name, SIZE)
    problems = read_parts(gym, name, size)

    def draw(rng: random.Random) -> Example:
        number = rng.randrange(PARTS) * SIZE + rng.randrange(SIZE)
        return make_example(problems(number // size)[number % size])

    def score(completion: str, example: Example) -> float:
        """The verifier's credit in full, or none: some verifiers give a little for any answer, or a
        part for one that holds the right one."""
        return float(takes_answer(problems(0), find_answer(completion), example.data))

    check_generator(name, problems(0))
    return Task(
        name=f"reasoning_gym:{name}",
        source=GeneratedSource(draw),
        score=score,
        template=TEMPLATE,
        find_answer=find_answer,
        has_answers=problems(0)[0]["answer"] is not None,
    )


def read_parts(gym: Any, name: str, size: int) -> Callable[[int], Any]:
    """The function that gives a part of a generator's problems by its number.

    Problem i of a data set is made from seed + i. Some generators read large files when a data set
    is made. Where that does not depend on the seed, all parts share what was read.
    """

    def make_part(part: int) -> Any:
        return gym.create_dataset(name, size=size, seed=part * size)

    if name in PREPARED:
        return lru_cache(maxsize=4)(make_part)
    first, second = make_part(0), make_part(1)
    if not same_contents(first, second):
        return cache(make_part)

    def share_part(part: int) -> Any:
        twin = copy(first)
        twin.seed = part * size
        twin.config = replace(first.config, seed=part * size)
        return twin

    return cache(share_part)


def same_contents(one: Any, other: Any) -> bool:
    """Whether two data sets hold the same, but for their seeds."""
    left, right = vars(one), vars(other)
    try:
        keys = (left.keys() | right.keys()) - {"seed", "config"}
        return all(bool(left[key] == right[key]) for key in keys)
    except Exception:  # a key that only one has, or things that cannot be compared
        return False


def make_example(entry: dict[str, Any]) -> Example:
    answer = str(entry["answer"] or "")
    return Example(entry["question"].strip(), answer, system=SYSTEM, data=entry)


def check_generator(name: str, problems: Any) -> None:
    """Tries the verifier on the generator's own answers and on nonsense. A changed library would
    give an accuracy of 0 in silence, and a careless verifier a reward for anything. A few
    generators give no answers of their own; for those nonsense alone is tried.

    Raises:
        UnmaskError: if an own answer is not right, or nonsense is.
    """
    for place in range(TRIED):
        try:
            entry = problems[place]
            own = entry["answer"]
            credit = 1.0 if own is None else problems.score_answer(find_answer(str(own)), entry)
            reason = f"it gives {credit} instead of 1"
        except Exception as error:  # generators and verifiers raise anything
            entry, own, credit, reason = {}, None, 0.0, short_error(error)
        if not credit >= 1:
            raise UnmaskError(
                f"the verifier of reasoning_gym:{name} does not take the generator's own answer "
                f"({reason}); use another generator or another version of reasoning-gym"
            )
        for nonsense in NONSENSE:
            if not same_answer(nonsense, own) and takes_answer(problems, nonsense, entry):
                raise UnmaskError(
                    f"the verifier of reasoning_gym:{name} takes {nonsense!r} for a right answer "
                    f"where it is {str(own)[:40]!r}; a policy would be rewarded for nonsense, so "
                    "use another generator"
                )


def takes_answer(problems: Any, answer: str, entry: dict[str, Any]) -> bool:
    """Whether a verifier gives full credit."""
    try:
        return bool(problems.score_answer(answer, entry) >= 1)
    except Exception:  # some verifiers parse without care
        return False


def same_answer(one: str, other: Any) -> bool:
    """Whether two answers are alike, as text or as numbers."""
    if one.casefold() == str(other).strip().casefold():
        return True
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return False


def find_answer(completion: str, example: Example | None = None) -> str:
    """The contents of the last answer tag, or all of a completion without one."""
    inside = tagged(completion)
    return completion.strip() if inside is None else inside
