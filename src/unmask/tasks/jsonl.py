"""Your own problems: a JSON-lines (or parquet, Arrow) file with `prompt`, `answer` and
`verifier`."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from unmask.errors import UnmaskError, count_of, short_text
from unmask.tasks.answers import same_text, text_candidate
from unmask.tasks.base import Task
from unmask.tasks.data import DataAccess, is_file, read_rows
from unmask.tasks.examples import SPLITS, Example, Split
from unmask.tasks.mathematics import (
    candidate,
    has_truth,
    number,
    number_candidate,
    same_mathematics,
    same_number,
)
from unmask.tasks.options import TaskOptions, Verifier, write_prompt
from unmask.tasks.rows import Row, Text, UnusableRow, make_examples
from unmask.tasks.sources import DatasetSource

FEWEST = 3  # problems that can be split: one each for training, validation and tests
PROMPT = "{prompt}"
# Each with what several samples vote on.
VERIFIERS: dict[Verifier, tuple[Callable[[str, str], bool], Callable[[str], str]]] = {
    Verifier.TEXT: (same_text, text_candidate),
    Verifier.NUMBER: (same_number, number_candidate),
    Verifier.MATH: (same_mathematics, candidate),
}


def write_number(value: object) -> object:
    """A number of JSON as text, since `"answer": 18` is clear."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if plain else value


class Problem(Row):
    """A line."""

    prompt: Text
    answer: Annotated[str, BeforeValidator(write_number)]
    verifier: str | None = None


def task(file: str, access: DataAccess) -> Task:
    """The task `jsonl:FILE`. By the CRC of its prompt a line is for training (13/16), validation
    (1/16) or tests (1/8); a file that is too small for this gets at least one line of each. With
    the setting `split=test` all lines are test problems.

    Raises:
        UnmaskError: if the file is missing.
    """
    path, options, name = Path(file), access.options, f"jsonl:{file}"
    if not is_file(file):
        raise UnmaskError(
            f"{short_text(file)} is not a file; give jsonl:FILE with lines of prompt, answer and "
            "verifier"
        )

    @cache
    def read_parts() -> dict[Split, list[Example]]:
        columns = ("prompt", "answer") if options.verifier else ("prompt", "answer", "verifier")
        rows = read_rows(DataAccess(), name, "", "all", columns, files=[path])
        examples = make_examples(name, "all", rows, Problem, lambda row: make(row, options))
        warn_equal(name, examples)
        if options.split == "test":
            return {"train": [], "validation": [], "test": examples}
        return split_examples(name, examples)

    def rows(split: Split) -> Sequence[Example]:
        part = read_parts()[split]
        if not part:
            raise UnmaskError(
                f"all lines of {file} are test problems, because split=test was said; leave it out "
                f"to have {split} problems"
            )
        return part

    return Task(
        name=name,
        source=DatasetSource(rows),
        score=score,
        template=options.template_name("plain@1"),
        find_answer=find_answer,
    )


def make(row: Problem, options: TaskOptions) -> Example:
    """The example of a line.

    Raises:
        UnusableRow: if it names no known verifier, or one that cannot read the answer.
    """
    try:
        verifier = options.verifier or Verifier(row.verifier or "")
    except ValueError:
        raise UnusableRow(
            f"its verifier is {row.verifier!r}; use one of {', '.join(Verifier)}"
        ) from None
    if verifier == Verifier.NUMBER and number(row.answer) is None:
        raise UnusableRow(f"its answer {row.answer[-60:]!r} is no number")
    if verifier == Verifier.MATH and not has_truth(row.answer):
        raise UnusableRow(f"its answer is empty ({row.answer!r})")
    prompt = write_prompt(options, PROMPT, {"prompt": row.prompt})
    return Example(prompt, row.answer, options.system(), data=str(verifier), key=row.prompt)


def score(completion: str, example: Example) -> float:
    """What the verifier of the line says."""
    same, _ = VERIFIERS[Verifier(example.data)]
    return float(same(completion, example.answer))


def find_answer(completion: str, example: Example | None) -> str:
    """What several samples vote on, by the verifier of the line; all of the text without one."""
    if example is None:
        return text_candidate(completion)
    _, vote = VERIFIERS[Verifier(example.data)]
    return vote(completion)


def warn_equal(name: str, examples: Sequence[Example]) -> None:
    """Says how many lines repeat a prompt, since an evaluation uses the first of them alone."""
    repeated = len(examples) - len({example.prompt for example in examples})
    if repeated:
        warnings.warn(
            f"task {name}: {repeated} of {len(examples)} lines have the prompt of an earlier line; "
            "evaluations use the first line with a prompt, training uses all",
            stacklevel=2,
        )


def split_examples(name: str, examples: Sequence[Example]) -> dict[Split, list[Example]]:
    """Training, validation and test problems, none of them empty.

    Raises:
        UnmaskError: if there are fewer than three different prompts.
    """
    parts: dict[Split, list[Example]] = {
        split: [e for e in examples if e.split() == split] for split in SPLITS
    }
    if all(parts.values()):
        return parts
    keys = {e.key for e in examples}
    if len(keys) < FEWEST:
        raise UnmaskError(
            f"task {name} has {count_of(len(keys), 'usable line')} with different prompts; at "
            f"least {FEWEST} are needed to have training, validation and test problems. Give more, "
            f"or say {name}@split=test to use all of them as tests"
        )
    # By the CRC too, so that a line's part depends on the prompts of the file and not on their
    # order.
    ranked = sorted(keys, key=lambda key: (zlib.crc32(key.encode("utf-8", "surrogatepass")), key))
    tests, held = max(1, len(ranked) // 8), max(1, len(ranked) // 16)
    chosen: dict[str, Split] = dict.fromkeys(ranked, "train")
    chosen |= dict.fromkeys(ranked[:tests], "test")
    chosen |= dict.fromkeys(ranked[tests : tests + held], "validation")
    return {split: [e for e in examples if chosen[e.key] == split] for split in SPLITS}
