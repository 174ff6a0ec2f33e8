"""GSM8K (Cobbe et al. 2021): word problems of primary school, with one number as the result."""

from __future__ import annotations

from unmask.tasks.answers import final_number, number, same_number
from unmask.tasks.base import Task
from unmask.tasks.data import DataAccess, drop_unsolvable, read_rows
from unmask.tasks.examples import Example
from unmask.tasks.sources import data_set

TEMPLATE = "gsm8k@1"
USER = "{question}\n\nSolve the problem step by step. Put the final number in \\boxed{{}}."


def result_text(example: Example) -> str:
    """The result as the data set writes it, behind the last `####`."""
    return example.answer.rsplit("####", 1)[-1]


def has_result(example: Example) -> bool:
    return number(result_text(example)) is not None


def task(access: DataAccess) -> Task:
    """Trains on the official train split without 1/16 for validation, tests on the official test
    split (1,319 problems)."""

    def read(split: str) -> list[Example]:
        rows = read_rows(access, "gsm8k", "openai/gsm8k", split, ("question", "answer"), ("main",))
        examples = [
            Example(USER.format(question=row["question"].strip()), row["answer"], system="")
            for row in rows
        ]
        return drop_unsolvable("gsm8k", split, examples, has_result)

    def score(completion: str, example: Example) -> float:
        return float(same_number(completion, result_text(example)))

    return Task(
        name="gsm8k",
        source=data_set(read),
        score=score,
        max_new_tokens=256,
        template=TEMPLATE,
        find_answer=lambda completion, _: str(final_number(completion)),
    )
