"""What a task is: prompts with a checkable answer, split for good into train, validation and
test."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from unmask.errors import UnmaskError, count_of
from unmask.sandbox import worker_count
from unmask.tasks.examples import SPLITS, Example, Split
from unmask.tasks.sources import Source, rows_before_repeat


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion.

    Attributes:
        correct: r in [0, 1], the correctness that rewards and accuracy use.
        timed_out: whether a limit on time decided, so that a faster or less busy machine might say
            something else.
    """

    correct: float
    timed_out: bool = False


@dataclass(frozen=True)
class TimedScore:
    """A verifier that has a limit on time. As a function it gives the correctness alone.

    Attributes:
        judge: `(completion, example) -> Verdict`.
    """

    judge: Callable[[str, Example], Verdict]

    def __call__(self, completion: str, example: Example) -> float:
        return self.judge(completion, example).correct


def strip_answer(completion: str, example: Example | None) -> str:
    """The whole completion, without white space around it."""
    return completion.strip()


@dataclass(frozen=True)
class Task:
    """Problems and the verifier of their answers.

    Attributes:
        name: how commands and result files call it.
        source: where the problems come from.
        score: `(completion, example) -> r` with r in [0, 1], the correctness that rewards and
            accuracy use; a `TimedScore` where a limit on time may decide it.
        words: every token an embedded model of this task needs, special tokens excepted; empty
            where pre-training makes a tokenizer from a sample.
        max_new_tokens: L, the length of the generation buffer in tokens; None is what the model was
            trained on, or 256.
        max_prompt_tokens: the longest prompt in tokens; None is measured from a sample when a model
            is pre-trained.
        block_length: the block length (BL) of this task's semi-autoregressive setting.
        template: name and version of the prompt's wording, the same for training and tests; results
            record it.
        find_answer: `(completion, example) -> str`, the part of a completion that several samples
            vote on; by default all of it. Mixtures and your own problems (jsonl) look at the
            example, which may be None.
        waits: whether `score` waits for another process, so that many are best checked side by
            side.
        has_answers: whether the examples have right answers, which pre-training needs.
    """

    name: str
    source: Source
    score: Callable[[str, Example], float]
    words: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    max_prompt_tokens: int | None = None
    block_length: int = 32
    template: str = "plain@1"
    find_answer: Callable[[str, Example | None], str] = strip_answer
    waits: bool = False
    has_answers: bool = True

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
        stream, repeats = self.stream(split, seed), 0
        # As many repeats say that a small space of problems is used up; every row of a data set is
        # among twice as many.
        most = max(1000, 2 * rows_before_repeat(self.source, cast(Split, split)))
        for example in stream:
            repeats = repeats + 1 if example.prompt in found else 0
            found.setdefault(example.prompt, example)
            if len(found) == n or repeats == most:
                break
        if not found:
            raise UnmaskError(f"task {self.name} has no {split} examples; use another split")
        if len(found) < n and split != "train":
            warnings.warn(
                f"task {self.name} has {count_of(len(found), f'{split} example')} with different "
                f"prompts; {n} were asked for",
                stacklevel=2,
            )
        return list(found.values())

    def batch(self, n: int, seed: int, step: int, rank: int = 0, world: int = 1) -> list[Example]:
        """The `n` training examples of one round of a run on one of its `world` processes:
        generated for it, or the next rows of the epoch."""
        start = (step * world + rank) * n
        group = (seed * 1_000_003 + step) * 1009 + rank + 1
        return self.source.batch(self.name, start, start + n, seed, group)

    def answer(self, completion: str, example: Example | None = None) -> str:
        """The part of a completion that several samples vote on.

        Args:
            completion: what a model wrote.
            example: the problem; a mixture needs it, since each of its tasks reads answers in its
                own way.

        Raises:
            UnmaskError: for a mixture without the example.
        """
        return self.find_answer(completion, example)

    def verdict(self, completion: str, example: Example) -> Verdict:
        """What the verifier says of one completion.

        Raises:
            UnmaskError: if it gives a score outside [0, 1].
        """
        if isinstance(self.score, TimedScore):
            verdict = self.score.judge(completion, example)
        else:
            verdict = Verdict(float(self.score(completion, example)))
        if not 0 <= verdict.correct <= 1:
            raise UnmaskError(
                f"the verifier of task {self.name} gave the score {verdict.correct} for the prompt "
                f"{example.prompt[:80]!r}; a score must lie between 0 and 1"
            )
        return verdict

    def verdicts(
        self, completions: Sequence[str], examples: Sequence[Example], workers: int | None = None
    ) -> list[Verdict]:
        """`verdict` for each pair, in their order.

        Args:
            completions: what a model wrote, one text for each example.
            examples: the problems.
            workers: how many are checked side by side where checking waits for other processes;
                None is this process' share of the machine's CPUs.

        Raises:
            UnmaskError: if the two are not equally many, or workers < 1.
        """
        if len(completions) != len(examples):
            raise UnmaskError(
                f"completions has {count_of(len(completions), 'entry', 'entries')} for "
                f"{count_of(len(examples), 'example')}; give one for each"
            )
        if workers is not None and workers < 1:
            raise UnmaskError(f"workers is {workers}; give at least 1, or None for a default")
        if not self.waits:
            return list(map(self.verdict, completions, examples))
        with ThreadPoolExecutor(workers or worker_count()) as pool:
            return list(pool.map(self.verdict, completions, examples))

    def score_all(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """The correctness of each pair, as in `verdicts`."""
        return [verdict.correct for verdict in self.verdicts(completions, examples)]


def check_task(task: object) -> None:
    """Refuses what was given in place of a task.

    Raises:
        UnmaskError: if it is none.
    """
    if not isinstance(task, Task):
        raise UnmaskError(
            f"task is {task!r}; give an unmask.tasks.Task, or the name of one as a setting"
        )
