"""Any generator of `reasoning-gym` (Stojanovski et al. 2025): a million problems of each, made
offline and checked by the generator's own verifier."""

from __future__ import annotations

import dis
import random
import re
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache, lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from unmask.errors import UnmaskError, short_error
from unmask.extras import require_package
from unmask.tasks.answers import tagged
from unmask.tasks.base import Task
from unmask.tasks.examples import Example
from unmask.tasks.formulas import is_antiderivative, read_formula
from unmask.tasks.sources import GeneratedSource

# A million problems, in parts: some generators take no larger data sets.
SIZE, PARTS = 20_000, 50
# Generators that prepare every problem of a data set when it is made: theirs are made in parts of
# this size.
PREPARED = {"acre": 20}
# Answers that are right in no problem, except where the generator's own answer is the same.
NONSENSE = ("nan", "inf", "0", "987654321987", "x", "?", "None", "I do not know")
TRIED = 2  # problems
GYM = "reasoning_gym"
# Verifiers that evaluate an answer as Python. Those of `COMPARED` do so for a little credit, which
# does not count here, so their answers are compared; the others see formulas alone.
COMPARED = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
INTEGRALS = ("intermediate_integration", "simple_integration")
# Formulas of these characters alone: without functions, and in the games without powers, which may
# take a verifier hours.
FORMULAS = {
    "countdown": re.compile(r"(?:[0-9.\s+/()-]|\*(?!\*))*"),
    "polynomial_multiplication": re.compile(r"(?:[0-9.\s+*/()-]|[A-Za-z](?![A-Za-z]))*"),
    "puzzle24": re.compile(r"(?:[0-9.\s+/()-]|\*(?!\*))*"),
}
# What other verifiers may see: of those that evaluate their own problem, numbers; of those that
# repeat a move or shift bits as often as an answer says, no large number.
NO_LARGE_NUMBER = re.compile(r"(?:\D|\d(?!\d))*")
PATTERNS = {
    "bitwise_arithmetic": re.compile(r"[+-]?(?:0[xXoObB])?[0-9A-Fa-f]{1,1000}"),
    "number_sorting": re.compile(r"""[][0-9\s.,'"+-]{1,5000}"""),
    "rubiks_cube": NO_LARGE_NUMBER,
    "rush_hour": NO_LARGE_NUMBER,
}
TEMPLATE = "reasoning-gym@1"
SYSTEM = (
    "Reason step by step if you need to, then give the final answer between <answer> and "
    "</answer>, and nothing else there."
)


def task(name: str) -> Task:
    """The task `reasoning_gym:NAME`.

    Raises:
        UnmaskError: if there is no generator of this name, its verifier evaluates answers, does
            not take those of its own first problems, or takes nonsense.
    """
    gym = require_package("reasoning_gym", f"task reasoning_gym:{name}")
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS or name == "composite":  # that one mixes others; our mixtures do
        raise UnmaskError(
            f"reasoning-gym has no generator {name!r}; it has "
            f"{', '.join(sorted(set(DATASETS) - {'composite'}))}"
        )
    guarded = (*COMPARED, *INTEGRALS, *FORMULAS, *PATTERNS)
    if name not in guarded and evaluates_text(DATASETS[name][0]):
        raise UnmaskError(
            f"the verifier of reasoning_gym:{name} may run what a model writes as Python, outside "
            "of any sandbox; use another generator"
        )

    size = PREPARED.get(name, SIZE)
    problems = read_parts(gym, name, size)

    def draw(rng: random.Random) -> Example:
        number = rng.randrange(PARTS) * SIZE + rng.randrange(SIZE)
        return make_example(problems(number // size)[number % size])

    def score(completion: str, example: Example) -> float:
        """The verifier's credit in full, or none: some verifiers give a little for any answer, or a
        part for one that holds the right one."""
        return float(takes_answer(name, problems(0), find_answer(completion), example.data))

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
            credit = 1.0
            if own is not None:
                credit = give_credit(name, problems, find_answer(str(own)), entry)
            reason = f"it gives {credit} instead of 1"
        except Exception as error:  # generators and verifiers raise anything
            entry, own, credit, reason = {}, None, 0.0, short_error(error)
        if not credit >= 1:
            raise UnmaskError(
                f"the verifier of reasoning_gym:{name} does not take the generator's own answer "
                f"({reason}); use another generator or another version of reasoning-gym"
            )
        for nonsense in NONSENSE:
            if not same_answer(nonsense, own) and takes_answer(name, problems, nonsense, entry):
                raise UnmaskError(
                    f"the verifier of reasoning_gym:{name} takes {nonsense!r} for a right answer "
                    f"where it is {str(own)[:40]!r}; a policy would be rewarded for nonsense, so "
                    "use another generator"
                )


def takes_answer(name: str, problems: Any, answer: str, entry: dict[str, Any]) -> bool:
    """Whether a verifier gives full credit."""
    try:
        return bool(give_credit(name, problems, answer, entry) >= 1)
    except Exception:  # some verifiers parse without care
        return False


def give_credit(name: str, problems: Any, answer: str, entry: dict[str, Any]) -> float:
    """What a verifier gives for an answer; 0 or an error where it must not see it.

    Raises:
        Exception: of any kind, where verifiers parse without care; ValueError for what should be a
            formula and is none.
    """
    if name in COMPARED:
        return float(answer in entry["metadata"].get("valid_answers", [entry["answer"]]))
    if name in PATTERNS and not PATTERNS[name].fullmatch(answer):
        return 0.0
    if name in INTEGRALS:
        slope = read_formula(entry["metadata"]["integrand"])
        if answer == entry["answer"]:  # some of the library's hold an integral that is not solved
            return 1.0
        # Numbers decide: for some texts the verifier would take hours to simplify a difference.
        letter = entry["metadata"]["variable"]
        return float(is_antiderivative(read_formula(answer), slope, letter))
    if name in FORMULAS:
        if not FORMULAS[name].fullmatch(answer):
            return 0.0
        read_formula(answer)
    return problems.score_answer(answer, entry)


def evaluates_text(dataset: type) -> bool:
    """Whether a verifier, or what it uses of its library, calls `eval` or `exec`, or anything of
    sympy, whose functions evaluate the texts that they are given."""
    pending, seen = [dataset.score_answer], set()
    while pending:
        function = pending.pop()
        if function in seen:
            continue
        seen.add(function)
        around = function.__globals__
        for name, is_attribute in used_names(function.__code__):
            used = around.get(name)
            if is_attribute:
                holders = [dataset, *(each for each in around.values() if library_of(each) == GYM)]
                used = next((getattr(each, name) for each in holders if hasattr(each, name)), None)
            if "sympy" in (library_of(used), name.split(".")[0]) or (
                used is None and name in ("eval", "exec")
            ):
                return True
            if library_of(used) == GYM:
                methods = vars(used).values() if isinstance(used, type) else (used,)
                methods = (getattr(each, "__func__", each) for each in methods)
                pending += [each for each in methods if isinstance(each, FunctionType)]
    return False


def library_of(thing: Any) -> str:
    """The name of the library that a function, class or module is of; empty for other things."""
    if isinstance(thing, ModuleType):
        return thing.__name__.split(".")[0]
    return str(getattr(thing, "__module__", "")).split(".")[0]


def used_names(code: CodeType) -> set[tuple[str, bool]]:
    """The names that a function looks up or imports, and whether each is an attribute."""
    found = set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            found.add((step.argval, False))
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            found.add((step.argval, True))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= used_names(inner)
    return found


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
