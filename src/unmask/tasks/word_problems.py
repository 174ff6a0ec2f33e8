"""School word problems in English with a worked solution, drawn from the templates of
reasoning-gym's `gsm_symbolic` (Stojanovski et al. 2025, after GSM-Symbolic, Mirzadeh et al. 2024).

A solution is plain text with one or two steps a line, and ends in a line `#### answer`. A problem
is kept if all numbers in it and in its solution are whole and at most `LARGEST` (no percentages,
fractions, decimals or thousands), and if all its equations are true and have at most
`MOST_OPERATIONS` operations. So a model of a few million parameters can learn the arithmetic: sums
of four and more terms are beyond it. `TEMPLATES` says of which templates the problems are; each of
them is drawn equally often.

A template words its solution always in the same way, so that a model could write all of it at once.
People do not, and `reword_solution` does not either: steps that do not need each other come in
either order, sums and products are written from either side, and lines begin and end in several
ways. Positions then depend on each other, as they do in natural text.

A problem's split depends on its template and its numbers, so the numbers of a test problem do not
occur in training under other names.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import Any

from unmask.errors import UnmaskError
from unmask.extras import require_package
from unmask.tasks.base import Task
from unmask.tasks.examples import Example, Split
from unmask.tasks.sources import GeneratedSource, Source

LARGEST = 100
MOST_OPERATIONS = 2
# The templates by their number in reasoning-gym: all of which at least 12 in 100 problems are kept,
# and whose questions and solutions have at most 110 words and marks each.
TEMPLATES = (
    *(0, 4, 5, 6, 9, 10, 16, 20, 24, 31, 34, 39, 43, 45, 48, 54, 57, 58, 62, 72, 78, 79, 95),
)
HELD_OUT = (10, 20, 39, 48, 57, 95)
# A quotient is meant only where its result is written behind it.
NOT_WHOLE = re.compile(r"%|percent|\d[.,]\d|\d/\d+(?!\d| ?=)")
NUMBER = re.compile(r"\d+")
CURRENCY = re.compile("[€$£¥]")
RESULT = re.compile(r"####\s*(\d+)\s*$")
# An equation between numbers; words may stand behind each of them, as in `3 cups * €2 = €6`.
WORDS = r"[^\d=\n+*/()-]*"
EQUATION = re.compile(rf"((?:[€$£]?\d+{WORDS}[-+*/]\s*)+[€$£]?\d+){WORDS}=\s*[€$£]?(\d+)")
NUMBER_OR_SIGN = re.compile(r"\d+|[-+*/]")
# A sum or product of two numbers alone, right before its equals sign.
TWO_OPERANDS = re.compile(
    r"(?<![-+*/x\d$€£])(?<![-+*/x] )([€$£]?\d+)( ?[+*x] ?)([€$£]?\d+)(?= ?= ?)"
)
# Lines that begin so follow from what is before them, or say already where they stand.
CONNECTED = re.compile(
    r"(First|Then|They then|Next|So|Thus|Therefore|Since|Finally|Together|Total|In total|After|"
    r"The other|Those|Let)\b"
)
# First words that are written small within a sentence; others may be names.
COMMON = frozenset(
    (
        *("A", "The", "There", "He", "She", "They", "It", "If", "In", "On", "Each"),
        *("Her", "His", "Their", "With", "All", "Right", "Now"),
    )
)
OPENERS = {
    "first": ("First, ", "To begin, ", "We know that "),
    "middle": ("Then ", "Next, ", "After that, "),
    "last": ("So ", "Finally, ", "Therefore, "),
}
CLOSINGS = ("", "The answer is {}.\n", "So the answer is {}.\n")


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


@dataclass(frozen=True)
class Unseen:
    """Problems that a model which learned from `word-problems` has not met. It answers those that
    it has met better, and with more confidence, than a policy will find it later.

    Training and validation part the validation problems of `word-problems` by their texts, three
    to one, and each template comes equally often. A template has few combinations of numbers there,
    so parting those would leave validation without some templates. Tests are drawn as those of
    `word-problems`, and are mostly other problems.

    Attributes:
        source: of all problems.
        templates: the problems of each template.
    """

    source: GeneratedSource
    templates: tuple[GeneratedSource, ...]

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        if split == "test":
            yield from self.source.stream(name, split, seed)
        streams = [
            source.stream(f"{name}/{split}/{number}", "validation", seed)
            for number, source in enumerate(self.templates)
        ]
        rng = random.Random(f"{name}/{split}/{seed}")
        while True:
            for stream in rng.sample(streams, len(streams)):
                yield next(example for example in stream if is_last(example) == (split != "train"))

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        return list(islice(self.stream(name, "train", group), stop - start))


def is_last(example: Example) -> bool:
    """Whether a problem is in the last quarter of the problems, by its text."""
    return zlib.crc32(example.prompt.encode()) % 4 == 3


def task(variant: str = "") -> Task:
    """The task `word-problems`; `word-problems:templates`, whose tests are of other templates; or
    `word-problems:unseen`, whose training problems the embedded model has not met.

    Raises:
        UnmaskError: for another variant, or if reasoning-gym is not installed.
    """
    name = f"word-problems:{variant}" if variant else "word-problems"
    if variant not in ("", "templates", "unseen"):
        raise UnmaskError(
            f"task {name!r} is not known; use word-problems, word-problems:templates, whose tests "
            "are of templates that training does not meet, or word-problems:unseen, whose problems "
            "embedded/word-problems was not trained on"
        )
    require_package("reasoning_gym", f"task {name}")
    all_problems = problems_of(TEMPLATES)
    source: Source = all_problems
    if variant == "templates":
        kept = tuple(template for template in TEMPLATES if template not in HELD_OUT)
        source = ByTemplate(problems_of(kept), problems_of(HELD_OUT))
    elif variant == "unseen":
        source = Unseen(all_problems, tuple(problems_of((template,)) for template in TEMPLATES))
    return Task(
        name=name,
        source=source,
        score=score,
        max_new_tokens=128,
        block_length=32,
        template="word-problems:unseen@3" if variant == "unseen" else "word-problems@2",
        find_answer=find_result,
    )


def problems_of(templates: tuple[int, ...]) -> GeneratedSource:
    """Problems of these templates, each template equally often."""

    def draw(rng: random.Random) -> Example:
        return draw_problem(rng, rng.choice(templates))

    return GeneratedSource(draw, split_key)


def split_key(example: Example) -> str:
    """What decides a problem's split: its template and the numbers of its question."""
    numbers = ",".join(NUMBER.findall(example.prompt))
    return f"{example.data[0]}:{numbers}"


def draw_problem(rng: random.Random, template: int) -> Example:
    """A random problem of one template with small whole numbers alone, its solution reworded."""
    write = write_functions()[template]
    while True:
        entry = write(rng, 1.0)
        question, solution = entry["question"].strip(), entry["metadata"]["answer_cot"].strip()
        if is_simple(f"{question} {solution}") and is_true(solution):
            answer = reword_solution(rng, solution)
            return Example(question, answer, data=(template, last_number(solution)))


def is_simple(text: str) -> bool:
    """Whether all numbers of a text are whole and at most `LARGEST`, and its prices in one currency
    (a few templates write dollars where the question has another)."""
    small = all(int(n) <= LARGEST for n in NUMBER.findall(text))
    return small and not NOT_WHOLE.search(text) and len(set(CURRENCY.findall(text))) <= 1


def is_true(solution: str) -> bool:
    """Whether a solution ends in a result and all its equations between numbers hold, each with at
    most `MOST_OPERATIONS` operations."""
    sides = ((NUMBER_OR_SIGN.findall(left), right) for left, right in EQUATION.findall(solution))
    return bool(RESULT.search(solution)) and all(
        len(left) <= 2 * MOST_OPERATIONS + 1 and calculate(left) == int(right)
        for left, right in sides
    )


def calculate(parts: list[str]) -> Fraction | None:
    """The value of numbers and signs in turn, products and quotients before sums; None for a
    division by zero."""
    terms = [Fraction(parts[0])]
    for sign, text in zip(parts[1::2], parts[2::2], strict=True):
        number = Fraction(text)
        if sign == "*":
            terms[-1] *= number
        elif sign == "/" and number:
            terms[-1] /= number
        elif sign == "/":
            return None
        else:
            terms.append(number if sign == "+" else -number)
    return sum(terms, Fraction(0))


def reword_solution(rng: random.Random, solution: str) -> str:
    """The same solution in one of many wordings; every step and every number stays."""
    *steps, result = solution.split("\n")
    steps = [swap_operands(rng, step.strip()) for step in order_steps(rng, steps)]
    for i, step in enumerate(steps):
        place = "first" if i == 0 else "last" if i == len(steps) - 1 else "middle"
        if rng.random() < 0.5 and not CONNECTED.match(step):
            steps[i] = rng.choice(OPENERS[place]) + without_capital(step)
    closing = rng.choice(CLOSINGS).format(last_number(solution))
    return "\n".join(steps) + f"\n{closing}{result.strip()}"


def order_steps(rng: random.Random, steps: list[str]) -> list[str]:
    """The steps with neighbours exchanged, each pair with probability one half, where the later one
    does not need the result of the earlier one."""
    steps = list(steps)
    for i in range(len(steps) - 1):
        one, other = steps[i], steps[i + 1]
        used = NUMBER.findall(other)
        free = NUMBER.search(one) and NUMBER.findall(one)[-1] not in used
        connected = CONNECTED.match(one) or CONNECTED.match(other)
        if free and not connected and i + 2 < len(steps) and rng.random() < 0.5:
            steps[i], steps[i + 1] = other, one
    return steps


def swap_operands(rng: random.Random, step: str) -> str:
    """The step with its sums and products of two numbers written from either side."""

    def swap(match: re.Match[str]) -> str:
        one, sign, other = match.groups()
        return f"{other}{sign}{one}" if rng.random() < 0.5 else match.group()

    return TWO_OPERANDS.sub(swap, step)


def without_capital(step: str) -> str:
    """The step as it is written behind an opener."""
    first = step.split(" ", 1)[0]
    return step[0].lower() + step[1:] if first in COMMON else step


@cache
def write_functions() -> dict[int, Callable[[random.Random, float], dict[str, Any]]]:
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
    return float(last_number(completion) == example.data[1])
