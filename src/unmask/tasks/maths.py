"""MATH (Hendrycks et al. 2021) for training, and MATH-500 (Lightman et al. 2023), the 500 of its
test problems that are usually reported."""

from __future__ import annotations

from typing import Any

from unmask.errors import UnmaskError
from unmask.tasks.answers import boxed, final_text
from unmask.tasks.base import Task, TimedScore, Verdict
from unmask.tasks.data import DataAccess, drop_unsolvable, read_rows
from unmask.tasks.examples import Example
from unmask.tasks.mathematics import judge_mathematics, plain
from unmask.tasks.sources import DatasetSource, data_set

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
TEMPLATE = "math@1"
USER = "{problem}\n\nSolve the problem step by step. Put the final answer in \\boxed{{}}."


def task(access: DataAccess) -> Task:
    """Trains on the official train split without 1/16 for validation; tests on the official test
    split (5,000 problems; `math500` has the usual 500)."""
    columns = ("problem", "level", "type", "solution")

    def read(split: str) -> list[Example]:
        rows = read_rows(access, "math", "EleutherAI/hendrycks_math", split, columns, SUBJECTS)
        examples = [make_example(row, boxed_answer(row["solution"])) for row in rows]
        return drop_unsolvable("math", split, examples, has_answer)

    return math_task("math", data_set(read))


def task500(access: DataAccess) -> Task:
    """MATH-500, for tests alone."""
    columns = ("problem", "solution", "answer")

    def read(split: str) -> list[Example]:
        rows = read_rows(access, "math500", "HuggingFaceH4/MATH-500", split, columns)
        examples = [make_example(row, row["answer"]) for row in rows]
        return drop_unsolvable("math500", split, examples, has_answer)

    return math_task("math500", data_set(read, train=None))


def math_task(name: str, source: DatasetSource) -> Task:
    return Task(
        name=name,
        source=source,
        score=TimedScore(judge),
        max_new_tokens=256,
        template=TEMPLATE,
        find_answer=lambda completion, _: final_text(completion) or "",
        waits=True,
    )


def make_example(row: dict[str, Any], answer: str) -> Example:
    prompt = USER.format(problem=row["problem"].strip())
    return Example(prompt, row["solution"], system="", data=answer)


def boxed_answer(solution: str) -> str:
    """What a solution puts in its last box.

    Raises:
        UnmaskError: if it has none.
    """
    found = boxed(solution)
    if found is None:
        raise UnmaskError(
            f"a MATH solution has no \\boxed{{…}} ({solution[-60:]!r}); the official ones end in "
            "one"
        )
    return found


def has_answer(example: Example) -> bool:
    return plain(example.data) != ""


def judge(completion: str, example: Example) -> Verdict:
    return judge_mathematics(completion, example.data)
