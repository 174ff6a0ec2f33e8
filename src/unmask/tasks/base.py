"""What a task is: prompts with a checkable answer, split for good into train, validation and
test."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, islice
from os import cpu_count
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from unmask.decoding import encode_prompt
from unmask.errors import UnmaskError
from unmask.models import Model

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
    """

    prompt: str
    answer: str
    system: str | None = None
    prefill: str = ""
    data: Any = field(default=None, compare=False)
    task: str = ""


@runtime_checkable
class Source(Protocol):
    """Where a task's examples come from."""

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        """Examples of a split: endless for training; for the others perhaps finite, and then in a
        fixed order."""
        ...

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        """The training examples number `start` to `stop` of a run; `group` names the batch (round
        and process) of those drawn afresh."""
        ...


@dataclass(frozen=True)
class Drawn:
    """Problems made by a generator, without end. A problem belongs to a split by its prompt
    (`split_of`), so no prompt that is held out can turn up in training, whatever the seeds.

    Attributes:
        draw: makes one random problem from a `random.Random`.
    """

    draw: Callable[[random.Random], Example]

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        rng = random.Random(f"{name}/{split}/{seed}")
        while True:
            example = self.draw(rng)
            if split_of(example.prompt) == split:
                yield example

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        return list(islice(self.stream(name, "train", group), stop - start))


@dataclass(frozen=True)
class Listed:
    """Problems of a data set. Training goes through them in epochs, each in an order of its own;
    the other splits are in the data set's order.

    Attributes:
        rows: the problems of a split; `validation` may be carved out of `train` (`held_out`).
    """

    rows: Callable[[Split], Sequence[Example]]

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        if split != "train":
            yield from self.rows(split)
            return
        for epoch in count():
            yield from self.epoch(name, epoch, seed)

    def epoch(self, name: str, epoch: int, seed: int) -> list[Example]:
        """All training problems in the order of one epoch."""
        rows = self.rows("train")
        return random.Random(f"{name}/{seed}/{epoch}").sample(rows, len(rows))

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        size = len(self.rows("train"))
        epochs = {
            epoch: self.epoch(name, epoch, seed)
            for epoch in range(start // size, (stop - 1) // size + 1)
        }
        return [epochs[i // size][i % size] for i in range(start, stop)]


@dataclass(frozen=True)
class Mixed:
    """A mixture of tasks: each example is of one of them, drawn with the weights; where one has no
    more (a finite test set), the others go on.

    Attributes:
        tasks: the tasks.
        weights: as many positive numbers.
    """

    tasks: tuple[Task, ...]
    weights: tuple[float, ...]

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        rng = random.Random(f"{name}/{split}/{seed}")
        streams = {
            task.name: (task.stream(split, seed), weight)
            for task, weight in zip(self.tasks, self.weights, strict=True)
        }
        while streams:
            chosen = rng.choices(list(streams), [weight for _, weight in streams.values()])[0]
            example = next(streams[chosen][0], None)
            if example is None:
                del streams[chosen]
            else:
                yield replace(example, task=chosen)

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        chosen = np.random.default_rng(seed).choice(
            len(self.tasks), stop, p=np.array(self.weights) / sum(self.weights)
        )
        found: dict[int, Iterator[Example]] = {}
        for i, task in enumerate(self.tasks):
            first, last = int((chosen[:start] == i).sum()), int((chosen == i).sum())
            found[i] = iter(
                task.source.batch(task.name, first, last, seed, group) if last > first else []
            )
        return [replace(next(found[i]), task=self.tasks[i].name) for i in chosen[start:].tolist()]


@dataclass(frozen=True)
class Task:
    """Problems and the verifier of their answers.

    Attributes:
        name: how commands and result files call it.
        source: where the problems come from.
        score: `(completion, example) -> r` with r in [0, 1], the correctness that rewards and
            accuracy use.
        words: every token an embedded model of this task needs, special tokens excepted; empty
            where pre-training makes a tokenizer from a sample.
        max_new_tokens: L, the length of the generation buffer in tokens; None is what the model was
            trained on, or 256.
        max_prompt_tokens: the longest prompt in tokens; None is measured from a sample when a model
            is pre-trained.
        block_length: the block length (BL) of this task's semi-autoregressive setting.
        template: name and version of the prompt's wording, the same for training and tests; results
            record it.
        answer: the part of a completion that several samples vote on; by default all of it.
        waits: whether `score` waits for another process, so that many are best checked side by
            side.
    """

    name: str
    source: Source
    score: Callable[[str, Example], float]
    words: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    max_prompt_tokens: int | None = None
    block_length: int = 32
    template: str = "plain@1"
    answer: Callable[[str], str] = str.strip
    waits: bool = False

    def stream(self, split: Split | str, seed: int = 0) -> Iterator[Example]:
        """Examples of one split, the same for the same seed: without end for training and from
        generators, else the split's rows in order.

        Raises:
            UnmaskError: for an unknown split, or one that the task has not.
        """
        if split not in SPLITS:
            raise UnmaskError(f"split {split!r} is not known; use one of {', '.join(SPLITS)}")
        return self.source.stream(self.name, split, seed)

    def examples(self, split: Split | str, n: int, seed: int = 0) -> list[Example]:
        """The first `n` examples of `stream(split, seed)` with different prompts, or all where a
        data set has fewer.

        Raises:
            UnmaskError: if n < 1, the split is unknown, or it has no examples.
        """
        if n < 1:
            raise UnmaskError(f"{n} examples were asked for; ask for at least 1")
        found: dict[str, Example] = {}
        misses = 0
        for example in self.stream(split, seed):
            misses = misses + 1 if example.prompt in found else 0
            found.setdefault(example.prompt, example)
            if len(found) == n or misses == 1000:  # a small space of problems is used up
                break
        if not found:
            raise UnmaskError(f"task {self.name} has no {split} examples; use another split")
        return list(found.values())

    def batch(self, n: int, seed: int, step: int, rank: int = 0, world: int = 1) -> list[Example]:
        """The `n` training examples of one round of a run on one of its `world` processes:
        generated for it, or the next rows of the epoch."""
        start = (step * world + rank) * n
        return self.source.batch(
            self.name, start, start + n, seed, (seed * 1_000_003 + step) * 1009 + rank + 1
        )

    def score_all(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """`score` for each pair, several at once where checking waits for other processes."""
        if not self.waits:
            return [
                self.score(text, example)
                for text, example in zip(completions, examples, strict=True)
            ]
        with ThreadPoolExecutor(cpu_count() or 1) as pool:
            return list(pool.map(self.score, completions, examples))


def mixture(name: str, tasks: Sequence[Task], weights: Sequence[float]) -> Task:
    """Several tasks as one: weights decide how often each is drawn, every answer is checked by its
    own task's verifier."""
    of = {task.name: task for task in tasks}
    lengths = [task.max_new_tokens for task in tasks]
    return Task(
        name=name,
        source=Mixed(tuple(tasks), tuple(weights)),
        score=lambda completion, example: of[example.task].score(completion, example),
        words=tuple(dict.fromkeys(word for task in tasks for word in task.words))
        if all(task.words for task in tasks)
        else (),
        max_new_tokens=max((length for length in lengths if length is not None), default=None),
        block_length=max(task.block_length for task in tasks),
        template=" + ".join(f"{task.name}: {task.template}" for task in tasks),
        waits=any(task.waits for task in tasks),
    )


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, from the CRC of its text alone: test 1/8, validation 1/16,
    train the rest."""
    bucket = zlib.crc32(prompt.encode()) % 16
    return "test" if bucket < 2 else "validation" if bucket == 2 else "train"


def held_out(rows: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The rows of a training set without and with those kept for validation (1/16, by the CRC of
    their prompts)."""
    validation = [split_of(row.prompt) == "validation" for row in rows]
    return [r for r, v in zip(rows, validation, strict=True) if not v], [
        r for r, v in zip(rows, validation, strict=True) if v
    ]


def data_set(
    read: Callable[[str], Sequence[Example]],
    train: str | None = "train",
    validation: str | None = None,
    test: str | None = "test",
) -> Listed:
    """The source of a data set's official splits, each read when it is first asked for.

    Args:
        read: the examples of one official split.
        train: the official split to train on; None where the data set is for tests alone.
        validation: that for validation; None holds out 1/16 of `train` by `held_out`.
        test: that for tests; None holds out 1/8 of `train` by `split_of`.
    """

    @cache
    def rows(split: Split) -> Sequence[Example]:
        official = {"train": train, "validation": validation, "test": test}[split]
        if split == "test" and official is not None:
            return read(official)
        if train is None:
            raise UnmaskError(
                f"this task is for tests alone and has no {split} examples; train on another task, "
                "for example a mixture of others"
            )
        everything = read(train)
        if validation is not None:
            return everything if split == "train" else read(validation)
        if test is None:
            return [row for row in everything if split_of(row.prompt) == split]
        kept, held = held_out(everything)
        return kept if split == "train" else held

    return Listed(rows)


def prompt_tokens(model: Model, example: Example) -> list[int]:
    """What the decoder is given for an example: the prompt, in the model's chat template if it is
    of a chat, with the answer's prefill behind it.

    Raises:
        UnmaskError: if the prompt has a token the model does not know.
    """
    prefill = encode_prompt(model, example.prefill) if example.prefill else []
    if example.system is None:
        return encode_prompt(model, example.prompt) + prefill
    messages = [{"role": "user", "content": example.prompt}]
    if example.system:
        messages.insert(0, {"role": "system", "content": example.system})
    return encode_prompt(model, messages) + prefill


def answer_length(model: Model, task: Task, given: int | None = None) -> int:
    """L: as given, else the task's own, else what the model was trained on, else 256."""
    lengths = (given, task.max_new_tokens, model.max_new_tokens, 256)
    return next(length for length in lengths if length is not None)
