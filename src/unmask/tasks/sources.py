"""Where a task's examples come from: a generator or a data set."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice
from typing import Any, Protocol, runtime_checkable

from unmask.errors import UnmaskError
from unmask.tasks.examples import Example, Split, split_of

DRAWS = 10_000  # problems without one of a split, after which a generator has none


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
class GeneratedSource:
    """Problems made by a generator, without end. A problem belongs to a split by its prompt
    (`split_of`), so no prompt that is held out can turn up in training, whatever the seeds.

    Attributes:
        draw: makes one random problem from a `random.Random`.
        key: the text that decides a problem's split, where it is not the prompt: problems that are
            alike have the same one.
    """

    draw: Callable[[random.Random], Example]
    key: Callable[[Example], str] = operator.attrgetter("prompt")

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        rng = random.Random(f"{name}/{split}/{seed}")
        others = 0
        while others < DRAWS:
            example = self.draw(rng)
            others += 1
            if split_of(self.key(example)) == split:
                others = 0
                yield example
        raise UnmaskError(
            f"task {name} has no {split} problem among {DRAWS} drawn; let its generator make more "
            "different ones, at least a few hundred"
        )

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        return list(islice(self.stream(name, "train", group), stop - start))


@dataclass(frozen=True)
class DatasetSource:
    """Problems of a data set. Training goes through them in epochs, each in an order of its own;
    the other splits are in the data set's order.

    Attributes:
        rows: the problems of a split; `validation` may be carved out of `train` (`held_out`).
        epochs: the problems in the order of the epochs that were asked for last, by name, epoch and
            seed. A round takes a few rows of an epoch, so shuffling them all again would cost more
            than the round.
    """

    rows: Callable[[Split], Sequence[Example]]
    epochs: dict[tuple[str, int, int], list[Example]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def stream(self, name: str, split: Split, seed: int) -> Iterator[Example]:
        if split != "train":
            yield from self.rows(split)
            return
        self.training_rows(name)
        for epoch in count():
            yield from self.shuffle_epoch(name, epoch, seed)

    def training_rows(self, name: str) -> Sequence[Example]:
        """The problems to train on.

        Raises:
            UnmaskError: if there are none: epochs of nothing would never end.
        """
        rows = self.rows("train")
        if not rows:
            raise UnmaskError(f"task {name} has no train examples; give a data set with more rows")
        return rows

    def shuffle_epoch(self, name: str, epoch: int, seed: int) -> list[Example]:
        """All training problems in the order of one epoch."""
        key = (name, epoch, seed)
        if key not in self.epochs:
            rows = self.training_rows(name)
            while len(self.epochs) > 1:  # two: a batch may lie across the end of an epoch
                del self.epochs[next(iter(self.epochs))]
            self.epochs[key] = random.Random(f"{name}/{seed}/{epoch}").sample(rows, len(rows))
        return self.epochs[key]

    def batch(self, name: str, start: int, stop: int, seed: int, group: int) -> list[Example]:
        size = len(self.training_rows(name))
        found = []
        for epoch in range(start // size, (stop - 1) // size + 1):
            first, last = max(start - epoch * size, 0), min(stop - epoch * size, size)
            found += self.shuffle_epoch(name, epoch, seed)[first:last]
        return found


def rows_before_repeat(source: Source, split: Split) -> int:
    """How many rows of a split come before the first of them comes again; of a mixture, those of
    all its data sets. Generators have none."""
    if isinstance(source, DatasetSource):
        return len(source.rows(split))
    parts: Sequence[Any] = getattr(source, "tasks", ())
    return sum(rows_before_repeat(task.source, split) for task in parts)


def held_out(rows: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The rows of a training set without and with those kept for validation (1/16, by the CRC of
    their prompts)."""
    kept, held = [], []
    for row in rows:
        (held if row.split() == "validation" else kept).append(row)
    return kept, held


def data_set(
    read: Callable[[str], Sequence[Example]],
    train: str | None = "train",
    validation: str | None = None,
    test: str | None = "test",
) -> DatasetSource:
    """The source of a data set's official splits, each read when it is first asked for.

    Args:
        read: the examples of one official split.
        train: the official split to train on; None where the data set is for tests alone.
        validation: that for validation; None holds out 1/16 of `train` by `held_out`.
        test: that for tests; None holds out 1/8 of `train` by `split_of`.
    """

    read = cache(read)  # a split that is carved out of another is read with it

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
            return [row for row in everything if row.split() == split]
        kept, held = held_out(everything)
        return kept if split == "train" else held

    return DatasetSource(rows)
