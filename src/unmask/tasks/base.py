"""What a task is: prompts with a checkable answer, split for good into train, validation and test."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from unmask.errors import UnmaskError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
        prompt: the text the model is given.
        answer: one correct answer, as it would be written for pre-training; others may be just as correct.
    """

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """A generator of problems and the verifier of their answers.

    Attributes:
        name: how commands and result files call it.
        draw: makes one random problem from a `random.Random`.
        score: `(completion, example) -> r` with r in [0, 1], the correctness that rewards and accuracy use.
        words: every token an embedded model of this task needs, special tokens excepted.
        max_new_tokens: L, the length of the generation buffer in tokens.
        max_prompt_tokens: the longest prompt in tokens.
        block_length: the block length (BL) of this task's semi-autoregressive setting.
        answer: the part of a completion that several samples vote on; by default all of it.
    """

    name: str
    draw: Callable[[random.Random], Example]
    score: Callable[[str, Example], float]
    words: tuple[str, ...]
    max_new_tokens: int
    max_prompt_tokens: int
    block_length: int
    answer: Callable[[str], str] = str.strip

    def stream(self, split: Split | str, seed: int = 0) -> Iterator[Example]:
        """Endless examples of one split, the same for the same seed.

        A problem belongs to a split by the CRC of its prompt (test 1/8, validation 1/16, train the rest), so no prompt that
        is held out can turn up in training, whatever the seeds.

        Raises:
            UnmaskError: for an unknown split.
        """
        if split not in SPLITS:
            raise UnmaskError(f"split {split!r} is not known; use one of {', '.join(SPLITS)}")
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            example = self.draw(rng)
            if split_of(example.prompt) == split:
                yield example

    def examples(self, split: Split | str, n: int, seed: int = 0) -> list[Example]:
        """The first `n` examples of `stream(split, seed)` with different prompts.

        Raises:
            UnmaskError: if n < 1 or the split is unknown.
        """
        if n < 1:
            raise UnmaskError(f"{n} examples were asked for; ask for at least 1")
        found: dict[str, Example] = {}
        for example in self.stream(split, seed):
            found.setdefault(example.prompt, example)
            if len(found) == n:
                break
        return list(found.values())


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, from its text alone."""
    bucket = zlib.crc32(prompt.encode()) % 16
    return "test" if bucket < 2 else "validation" if bucket == 2 else "train"
