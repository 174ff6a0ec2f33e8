"""GSM8K (Cobbe et al. 2021): word problems of primary school, with one number as the result."""

from __future__ import annotations

from unmask.tasks.base import Task
from unmask.tasks.data import DataAccess, read_rows
from unmask.tasks.examples import Example
from unmask.tasks.mathematics import number, number_candidate, same_number
from unmask.tasks.options import write_prompt
from unmask.tasks.rows import Row, Text, UnusableRow, make_examples
from unmask.tasks.sources import data_set

TEMPLATE = "gsm8k@1"
USER = "{question}\n\nSolve the problem step by step. Put the final number in \\boxed{}."


class Problem(Row):
    """The official columns."""

    question: Text
    answer: Text


def task(access: DataAccess) -> Task:
    """Trains on the official train split without 1/16 for validation, tests on the official test
    split (1,319 problems)."""
    options = access.options

    def make(row: Problem) -> Example:
        result = row.answer.rsplit("####", 1)[-1]
        if number(result) is None:
            raise UnusableRow(f"its answer ends in {result[-60:]!r} instead of a number")
        fields = {"question": row.question.strip()}
        own = write_prompt(options, USER, fields)
        key = USER.replace("{question}", fields["question"])
        return Example(own, row.answer, options.system(), data=result, key=key)

    def read(split: str) -> list[Example]:
        rows = read_rows(access, "gsm8k", "openai/gsm8k", split, ("question", "answer"), ("main",))
        return make_examples("gsm8k", split, rows, Problem, make)

    def score(completion: str, example: Example) -> float:
        return float(same_number(completion, example.data))

    return Task(
        name="gsm8k",
        source=data_set(read),
        score=score,
        max_new_tokens=256,
        template=options.template_name(TEMPLATE),
        find_answer=lambda completion, _: number_candidate(completion),
    )
