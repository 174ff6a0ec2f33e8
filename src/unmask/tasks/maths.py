"""MATH (Hendrycks et al. 2021) for training, and MATH-500 (Lightman et al. 2023), the 500 of its
test problems that are usually reported."""

from __future__ import annotations

from unmask.errors import UnmaskError
from unmask.tasks.answers import boxed, final_text
from unmask.tasks.base import Example, Task, data_set
from unmask.tasks.data import Place, read_rows
from unmask.tasks.mathematics import same_mathematics

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


def example(problem: str, solution: str, answer: str) -> Example:
    return Example(USER.format(problem=problem.strip()), solution, system="", data=answer)


def answer_of(solution: str) -> str:
    found = boxed(solution)
    if found is None:
        raise UnmaskError(
            f"a MATH solution has no \\boxed{{…}} ({solution[-60:]!r}); the official ones end in "
            "one"
        )
    return found


def score(completion: str, example: Example) -> float:
    return float(same_mathematics(completion, example.data))


def task(place: Place) -> Task:
    """Trains on the official train split without 1/16 for validation; tests on the official test
    split (5,000 problems; `math500` has the usual 500)."""

    def read(split: str) -> list[Example]:
        rows = read_rows(
            place,
            "math",
            "EleutherAI/hendrycks_math",
            split,
            ("problem", "level", "type", "solution"),
            SUBJECTS,
        )
        return [
            example(row["problem"], row["solution"], answer_of(row["solution"])) for row in rows
        ]

    return made("math", data_set(read))


def task500(place: Place) -> Task:
    """MATH-500, for tests alone."""

    def read(split: str) -> list[Example]:
        rows = read_rows(
            place, "math500", "HuggingFaceH4/MATH-500", split, ("problem", "solution", "answer")
        )
        return [example(row["problem"], row["solution"], row["answer"]) for row in rows]

    return made("math500", data_set(read, train=None))


def made(name: str, source) -> Task:
    return Task(
        name=name,
        source=source,
        score=score,
        max_new_tokens=256,
        template=TEMPLATE,
        answer=lambda c: final_text(c) or "",
        waits=True,
    )
