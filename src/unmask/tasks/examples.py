"""One problem, and the split that it belongs to for good."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One problem.

    Attributes:
        prompt: the text the model is given.
        answer: one correct answer, as it would be written for pre-training; others may be just as
            correct.
        system: the system message, perhaps empty, of a chat in which `prompt` is what the user
            says; None puts it in no chat at all.
        prefill: how the answer is made to begin; the model goes on from there.
        data: what the verifier needs beside the prompt.
        task: the task it is of, in mixtures.
        key: what its split is decided by; the prompt where it is empty. So a problem stays in its
            split whatever the wording of its prompt.
    """

    prompt: str
    answer: str
    system: str | None = None
    prefill: str = ""
    data: Any = field(default=None, compare=False)
    task: str = ""
    key: str = field(default="", compare=False, repr=False)

    def split(self) -> Split:
        """The split that this problem belongs to."""
        return split_of(self.key or self.prompt)


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, from the CRC of its text alone: test 1/8, validation 1/16,
    train the rest."""
    bucket = zlib.crc32(prompt.encode("utf-8", "surrogatepass")) % 16
    return "test" if bucket < 2 else "validation" if bucket == 2 else "train"
