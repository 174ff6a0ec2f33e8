"""Your own problems: a JSON-lines (or parquet, Arrow) file with `prompt`, `answer` and
`verifier`."""

from __future__ import annotations

from pathlib import Path

from unmask.errors import UnmaskError
from unmask.tasks.answers import number, same_number, same_text
from unmask.tasks.base import Task, TimedScore, Verdict
from unmask.tasks.data import DataAccess, drop_unsolvable, read_rows
from unmask.tasks.examples import Example
from unmask.tasks.mathematics import judge_mathematics, plain
from unmask.tasks.sources import data_set

VERIFIERS = ("text", "number", "math")


def task(file: str) -> Task:
    """The task `jsonl:FILE`; by the CRC of its prompt a line is for training (13/16), validation
    (1/16) or tests (1/8).

    Raises:
        UnmaskError: if the file is missing or a line names no known verifier.
    """
    path = Path(file)
    if not path.is_file():
        raise UnmaskError(
            f"{file} is not a file; give jsonl:FILE with lines of prompt, answer and verifier"
        )

    def read(split: str) -> list[Example]:
        columns = ("prompt", "answer", "verifier")
        rows = read_rows(DataAccess(), f"jsonl:{file}", "", split, columns, files=[path])
        if unknown := {str(row["verifier"]) for row in rows} - set(VERIFIERS):
            raise UnmaskError(
                f"{file} names the verifier {sorted(unknown)[0]}; use one of {', '.join(VERIFIERS)}"
            )
        examples = [
            Example(str(row["prompt"]), str(row["answer"]), system="", data=row["verifier"])
            for row in rows
        ]
        return drop_unsolvable(f"jsonl:{file}", split, examples, has_answer)

    source = data_set(read, test=None)
    return Task(name=f"jsonl:{file}", source=source, score=TimedScore(judge), waits=True)


def judge(completion: str, example: Example) -> Verdict:
    """The verdict of the verifier that the line names."""
    if example.data == "math":
        return judge_mathematics(completion, example.answer)
    same = {"text": same_text, "number": same_number}[example.data]
    return Verdict(float(same(completion, example.answer)))


def has_answer(example: Example) -> bool:
    """Whether the verifier can call some completion right."""
    if example.data == "number":
        return number(example.answer) is not None
    return example.data != "math" or plain(example.answer) != ""
