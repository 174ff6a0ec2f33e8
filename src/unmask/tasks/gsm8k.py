"""GSM8K (Cobbe et al. 2021): word problems of primary school, with one number as the result."""

from __future__ import annotations

from unmask.tasks.answers import final_number, same_number
from unmask.tasks.base import Example, Task, data_set
from unmask.tasks.data import Place, read_rows

TEMPLATE = "gsm8k@1"
USER = "{question}\n\nSolve the problem step by step. Put the final number in \\boxed{{}}."


def task(place: Place) -> Task:
    """Trains on the official train split without 1/16 for validation, tests on the official test
    split (1,319 problems)."""

    def read(split: str) -> list[Example]:
        rows = read_rows(place, "gsm8k", "openai/gsm8k", split, ("question", "answer"), ("main",))
        return [
            Example(USER.format(question=row["question"].strip()), row["answer"], system="")
            for row in rows
        ]

    return Task(
        name="gsm8k",
        source=data_set(read),
        score=lambda completion, example: float(
            same_number(completion, example.answer.rsplit("####", 1)[-1])
        ),
        max_new_tokens=256,
        template=TEMPLATE,
        answer=lambda completion: str(final_number(completion)),
    )
