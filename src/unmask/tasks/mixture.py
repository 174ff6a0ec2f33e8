"""Several tasks as one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from unmask.errors import UnmaskError
from unmask.tasks.base import Task, TimedScore, Verdict
from unmask.tasks.examples import Example, Split

CHUNK = 2**20  # numbers drawn at a time on the way to a far example


class TaskSequence:
    """Which task each training example of a run is of: one number an example, drawn in order.

    It remembers where it is and how many of each task came before, so the next batch costs no more
    than its own numbers. To go back it starts anew.

    Args:
        weights: as many positive numbers as there are tasks.
        seed: of the run.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.shares = np.array(weights) / sum(weights)
        self.seed = seed
        self.restart()

    def restart(self) -> None:
        self.generator = np.random.default_rng(self.seed)
        self.position = 0
        self.counts = np.zeros(len(self.shares), dtype=np.int64)

    def draw(self, n: int) -> np.ndarray:
        """The next n numbers, int64 [n]."""
        chosen = self.generator.choice(len(self.shares), n, p=self.shares)
        self.position += n
        self.counts += np.bincount(chosen, minlength=len(self.shares))
        return chosen

    def between(self, start: int, stop: int) -> tuple[list[int], list[int]]:
        """How many examples of each task come before number `start`, and the tasks of those from
        `start` to `stop`."""
        if start < self.position:
            self.restart()
        while self.position < start:
            self.draw(min(start - self.position, CHUNK))
        before = self.counts.tolist()
        return before, self.draw(stop - start).tolist()


@dataclass(frozen=True)
class MixtureSource:
    """A mixture of tasks: each example is of one of them, drawn with the weights; where one has no
    more (a finite test set), the others go on.

    Attributes:
        tasks: the tasks.
        weights: as many positive numbers.
        sequences: the sequence of the seed that was asked for last.
    """

    tasks: tuple[Task, ...]
    weights: tuple[float, ...]
    sequences: dict[int, TaskSequence] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        if seed not in self.sequences:
            self.sequences.clear()
            self.sequences[seed] = TaskSequence(self.weights, seed)
        before, chosen = self.sequences[seed].between(start, stop)
        found: dict[int, Iterator[Example]] = {}
        for i in set(chosen):
            task, first = self.tasks[i], before[i]
            last = first + chosen.count(i)
            found[i] = iter(task.source.batch(task.name, first, last, seed, group))
        return [replace(next(found[i]), task=self.tasks[i].name) for i in chosen]


def mixture(name: str, tasks: Sequence[Task], weights: Sequence[float]) -> Task:
    """Several tasks as one: weights decide how often each is drawn; every answer is read and
    checked as its own task does it."""
    tasks_by_name = {task.name: task for task in tasks}

    def own_task(example: Example | None) -> Task:
        if example is None:
            raise UnmaskError(
                f"task {name} mixes several tasks, and each reads answers in its own way; give the "
                "example beside the completion: answer(completion, example)"
            )
        if example.task not in tasks_by_name:
            raise UnmaskError(
                f"the example is of task {example.task!r}, and {name} mixes "
                f"{', '.join(tasks_by_name)}; give an example of one of them"
            )
        return tasks_by_name[example.task]

    def judge(completion: str, example: Example) -> Verdict:
        return own_task(example).verdict(completion, example)

    def find_answer(completion: str, example: Example | None) -> str | None:
        return own_task(example).answer(completion, example)

    words = tuple(dict.fromkeys(word for task in tasks for word in task.words))
    lengths = [task.max_new_tokens for task in tasks if task.max_new_tokens is not None]
    return Task(
        name=name,
        source=MixtureSource(tuple(tasks), tuple(weights)),
        score=TimedScore(judge),
        words=words if all(task.words for task in tasks) else (),
        max_new_tokens=max(lengths, default=None),
        block_length=max(task.block_length for task in tasks),
        template=" + ".join(f"{task.name}: {task.template}" for task in tasks),
        find_answer=find_answer,
        waits=any(task.waits for task in tasks),
        has_answers=all(task.has_answers for task in tasks),
    )
