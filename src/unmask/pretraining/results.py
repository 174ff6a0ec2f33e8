"""Single lines of solutions with one computed number hidden.

In a whole solution a hidden result is seldom something to compute: mostly its operands are hidden
too, or it stands in the next line once more. A line alone, such as `5 bills * $20 = $100 in total`,
is a tenth as long and always has something to compute.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.pretraining.config import PretrainConfig
from unmask.pretraining.data import (
    BATCHES_AT_ONCE,
    TRIES,
    Vocabulary,
    draw_examples,
    step_seed,
    tokenize,
)
from unmask.tasks import Task

SHORTEST = 5  # tokens of a line with two operands
LINE_SEED = 500_000_000  # is added to the seeds of the whole examples of the same steps


@dataclass(frozen=True)
class LineBatch:
    """Lines of like length.

    Attributes:
        tokens: [B, S], padded with EOS.
        ends: [B], the position behind the first EOS of each row.
        masks: bool [B, S], one hidden number a row, all of its digits.
    """

    tokens: Tensor
    ends: Tensor
    masks: Tensor


@dataclass(frozen=True)
class TokenKinds:
    """What is looked for in lines.

    Attributes:
        newlines: tokens that hold a line break.
        numbers: tokens that are numbers, or digits of them.
        equals: tokens that hold an equals sign.
        spaces: tokens that are spaces alone.
    """

    newlines: frozenset[int]
    numbers: frozenset[int]
    equals: frozenset[int]
    spaces: frozenset[int]


def find_kinds(vocabulary: Vocabulary) -> TokenKinds:
    """The kinds of all tokens of a vocabulary."""
    size = len(vocabulary.tokenizer)
    texts = vocabulary.tokenizer.batch_decode([[i] for i in range(size)])
    return TokenKinds(
        frozenset(i for i, text in enumerate(texts) if "\n" in text),
        frozenset(i for i, text in enumerate(texts) if text.isascii() and text.isdigit()),
        frozenset(i for i, text in enumerate(texts) if "=" in text),
        frozenset(i for i, text in enumerate(texts) if text and not text.strip(" ")),
    )


def split_lines(answer: list[int], kinds: TokenKinds) -> list[tuple[list[int], range]]:
    """The lines of an answer in which a number comes right behind an equals sign, perhaps with a
    sign of currency between them; each with the positions of the last such number."""
    lines: list[list[int]] = [[]]
    for token in answer:
        if token in kinds.newlines:
            lines.append([])
        else:
            lines[-1].append(token)
    found = []
    for line in lines:
        results = [
            i
            for i, token in enumerate(line)
            if token in kinds.numbers and follows_equals(line[:i], kinds)
        ]
        if results and len(line) >= SHORTEST:
            found.append((line, number_at(line, results[-1], kinds)))
    return found


def follows_equals(before: list[int], kinds: TokenKinds) -> bool:
    """Whether the last or the last but one of some tokens, not counting spaces, is an equals sign
    with no number behind it."""
    last = [token for token in before[-4:] if token not in kinds.spaces][-2:]
    return bool(kinds.equals.intersection(last)) and not kinds.numbers.intersection(last[-1:])


def number_at(line: list[int], position: int, kinds: TokenKinds) -> range:
    """The positions of the whole number that a position belongs to: of several tokens where the
    vocabulary writes it with its digits."""
    start = stop = position
    while start > 0 and line[start - 1] in kinds.numbers:
        start -= 1
    while stop < len(line) and line[stop] in kinds.numbers:
        stop += 1
    return range(start, stop)


def line_batches(
    task: Task, vocabulary: Vocabulary, config: PretrainConfig, steps: range
) -> Iterator[LineBatch]:
    """The lines of each of these steps."""
    kinds, pool = find_kinds(vocabulary), []
    for step in steps:
        part, index = divmod(step, BATCHES_AT_ONCE)
        if not pool or index == 0:
            pool = draw_lines(task, vocabulary, kinds, config, part)
        yield pool[index]


def draw_lines(
    task: Task, vocabulary: Vocabulary, kinds: TokenKinds, config: PretrainConfig, part: int
) -> list[LineBatch]:
    """The lines for `BATCHES_AT_ONCE` steps.

    Raises:
        UnmaskError: if the task's answers have hardly any such lines.
    """
    size, needed = config.result_lines, config.result_lines * BATCHES_AT_ONCE
    stream = draw_examples(task, config, part, needed, LINE_SEED)
    lines, drawn = [], 0
    while len(lines) < needed:
        for _, answer in tokenize(vocabulary.tokenizer, list(islice(stream, size))):
            lines += split_lines(answer, kinds)
        drawn += size
        if drawn > TRIES * (size + len(lines)):
            raise UnmaskError(
                f"answers of task {task.name} have no lines with a number behind an equals sign; "
                "leave out result_lines"
            )
    lines = sorted(lines[:needed], key=lambda pair: len(pair[0]))
    batches = [
        pad_lines(lines[i : i + size], cast(int, vocabulary.tokenizer.eos_token_id))
        for i in range(0, needed, size)
    ]
    random.Random(step_seed(config, part) + LINE_SEED).shuffle(batches)
    return batches


def pad_lines(lines: list[tuple[list[int], range]], eos: int) -> LineBatch:
    """Rows of one length, each with at least one EOS behind it."""
    tokens = torch.full((len(lines), max(len(line) for line, _ in lines) + 1), eos)
    for row, (line, _) in zip(tokens, lines, strict=True):
        row[: len(line)] = torch.tensor(line)
    hidden = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (_, number) in zip(hidden, lines, strict=True):
        row[number.start : number.stop] = True
    ends = torch.tensor([len(line) + 1 for line, _ in lines])
    return LineBatch(tokens, ends, hidden)
