"""School word problems in English with a worked solution, drawn from the templates of
reasoning-gym's `gsm_symbolic` (Stojanovski et al. 2025, after GSM-Symbolic, Mirzadeh et al. 2024).

A solution is plain text with one or two steps a line, and ends in a line `#### answer`. A problem
is kept if all numbers in it and in its solution are whole and at most `LARGEST`: no percentages,
fractions, decimals or thousands. So a model of a few million parameters can learn the arithmetic.
`TEMPLATES` says of which templates the problems are; each of them is drawn equally often.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from unmask.errors import UnmaskError
from unmask.extras import require_package
from unmask.tasks.base import Task
from unmask.tasks.examples import Example, Split
from unmask.tasks.sources import GeneratedSource

LARGEST = 100
# The templates by their number in reasoning-gym: all that it lists as right, of which at least a
# fifth of the problems are kept, and whose questions and solutions have at most 60 words each.
TEMPLATES = (4, 6, 9, 10, 16, 20, 24, 30, 31, 34, 39, 43, 48, 54, 55, 57, 72)
HELD_OUT = (10, 20, 39, 48)
NOT_WHOLE = re.compile(r"%|percent|\d[.,/]\d")
NUMBER = re.compile(r"\d+")
RESULT = re.compile(r"####\s*(\d+)\s*$")


@dataclass(frozen=True)
class ByTemplate:
    """Problems split by template and by problem: tests are of templates that training has not, and
    their problems are test problems of `word-problems` too.

    Attributes:
        kept: problems of the templates to train on.
        held_out: problems of the other templates.
    """

    kept: GeneratedSource
    held_out: GeneratedSource

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        source = self.held_out if split == "test" else self.kept
        return source.stream(name, split, seed)

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        return self.kept.batch(name, start, stop, seed, group)


def task(variant: str = "") -> Task:
    """The task `word-problems`, or `word-problems:templates`, whose tests are of other templates.

    Raises:
        UnmaskError: for another variant, or if reasoning-gym is not installed.
    """
    name = f"word-problems:{variant}" if variant else "word-problems"
    if variant not in ("", "templates"):
        raise UnmaskError(
            f"task {name!r} is not known; use word-problems, or word-problems:templates, whose "
            "tests are of templates that training does not meet"
        )
    require_package("reasoning_gym", f"task {name}")
    kept = tuple(template for template in TEMPLATES if template not in HELD_OUT)
    source = (
        ByTemplate(problems_of(kept), problems_of(HELD_OUT)) if variant else problems_of(TEMPLATES)
    )
    return Task(
        name=name,
        source=source,
        score=score,
        max_new_tokens=128,
        block_length=32,
        template="word-problems@1",
        find_answer=find_result,
    )


def problems_of(templates: tuple[int, ...]) -> GeneratedSource:
    """Problems of these templates, each template equally often."""

    def draw(rng: random.Random) -> Example:
        return draw_problem(rng, rng.choice(templates))

    return GeneratedSource(draw)


def draw_problem(rng: random.Random, template: int) -> Example:
    """A random problem of one template with small whole numbers alone."""
    write = generators()[template]
    while True:
        entry = write(rng, 1.0)
        question, solution = entry["question"].strip(), entry["metadata"]["answer_cot"].strip()
        if is_simple(question) and is_simple(solution) and RESULT.search(solution):
            return Example(question, solution, data=last_number(solution))


def is_simple(text: str) -> bool:
    """Whether all numbers of a text are whole and at most `LARGEST`."""
    return not NOT_WHOLE.search(text) and all(int(n) <= LARGEST for n in NUMBER.findall(text))


@cache
def generators() -> dict[int, Callable[[random.Random, float], dict[str, Any]]]:
    """The functions of reasoning-gym that write a problem, by template."""
    from reasoning_gym.arithmetic.gsm_symbolic import generators_00_49, generators_50_99

    modules = (generators_00_49, generators_50_99)
    return {n: getattr(modules[n // 50], f"generate_{n}") for n in TEMPLATES}


def last_number(completion: str) -> str:
    """What a completion gives as the result: the number behind `####` at its end, or nothing."""
    match = RESULT.search(completion)
    return match.group(1) if match else ""


def find_result(completion: str, example: Example | None) -> str:
    """What several samples vote on: the result."""
    return last_number(completion)


def score(completion: str, example: Example) -> float:
    """1.0 if the completion ends in `####` and the right number, else 0.0."""
    return float(last_number(completion) == example.data)
