"""MATH (Hendrycks et al. 2021) for training, and MATH-500 (Lightman et al. 2023), the 500 of its
test problems that are usually reported."""

from __future__ import annotations

from unmask.tasks.answers import boxed
from unmask.tasks.base import Task
from unmask.tasks.data import DataAccess, read_rows
from unmask.tasks.examples import Example
from unmask.tasks.mathematics import candidate, has_truth, same_mathematics
from unmask.tasks.options import TaskOptions, write_prompt
from unmask.tasks.rows import Row, Text, UnusableRow, make_examples
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
USER = "{problem}\n\nSolve the problem step by step. Put the final answer in \\boxed{}."


class Problem(Row):
    """The columns of MATH that are used."""

    problem: Text
    solution: Text


class ProblemWithAnswer(Problem):
    """The columns of MATH-500 that are used."""

    answer: Text


def task(access: DataAccess) -> Task:
    """Trains on the official train split without 1/16 for validation; tests on the official test
    split (5,000 problems; `math500` has the usual 500)."""

    def make(row: Problem) -> Example:
        answer = boxed(row.solution)
        if answer is None:
            raise UnusableRow(f"its solution has no \\boxed{{…}} ({row.solution[-60:]!r})")
        return make_example(access.options, row, answer)

    def read(split: str) -> list[Example]:
        columns = ("problem", "solution")
        rows = read_rows(access, "math", "EleutherAI/hendrycks_math", split, columns, SUBJECTS)
        return make_examples("math", split, rows, Problem, make)

    return math_task("math", access.options, data_set(read))


def task500(access: DataAccess) -> Task:
    """MATH-500, for tests alone."""

    def make(row: ProblemWithAnswer) -> Example:
        return make_example(access.options, row, row.answer)

    def read(split: str) -> list[Example]:
        columns = ("problem", "solution", "answer")
        rows = read_rows(access, "math500", "HuggingFaceH4/MATH-500", split, columns)
        return make_examples("math500", split, rows, ProblemWithAnswer, make)

    return math_task("math500", access.options, data_set(read, train=None))


def math_task(name: str, options: TaskOptions, source: DatasetSource) -> Task:
    return Task(
        name=name,
        source=source,
        score=score,
        max_new_tokens=256,
        template=options.template_name(TEMPLATE),
        find_answer=lambda completion, _: candidate(completion),
    )


def make_example(options: TaskOptions, row: Problem, answer: str) -> Example:
    """The example of a row whose answer is known.

    Raises:
        UnusableRow: if the answer is empty.
    """
    if not has_truth(answer):
        raise UnusableRow(f"its answer is empty ({answer!r})")
    fields = {"problem": row.problem.strip()}
    key = USER.replace("{problem}", fields["problem"])
    prompt = write_prompt(options, USER, fields)
    return Example(prompt, row.solution, options.system(), data=answer, key=key)


def score(completion: str, example: Example) -> float:
    """1.0 if the completion's answer equals the true one, else 0.0."""
    return float(same_mathematics(completion, example.data))
