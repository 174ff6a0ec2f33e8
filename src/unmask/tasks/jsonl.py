"""Your own problems: a JSON-lines (or parquet, Arrow) file with `prompt`, `answer` and
`verifier`."""

from __future__ import annotations

from pathlib import Path

from unmask.errors import UnmaskError
from unmask.tasks.answers import same_number, same_text
from unmask.tasks.base import Example, Task, data_set
from unmask.tasks.data import Place, read_rows
from unmask.tasks.mathematics import same_mathematics

VERIFIERS = {"text": same_text, "number": same_number, "math": same_mathematics}


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
        rows = read_rows(
            Place(), f"jsonl:{file}", "", split, ("prompt", "answer", "verifier"), files=[path]
        )
        if unknown := {str(row["verifier"]) for row in rows} - set(VERIFIERS):
            raise UnmaskError(
                f"{file} names the verifier {sorted(unknown)[0]}; use one of {', '.join(VERIFIERS)}"
            )
        return [
            Example(str(row["prompt"]), str(row["answer"]), system="", data=row["verifier"])
            for row in rows
        ]

    def score(completion: str, example: Example) -> float:
        return float(VERIFIERS[example.data](completion, example.answer))

    return Task(name=f"jsonl:{file}", source=data_set(read, test=None), score=score, waits=True)
