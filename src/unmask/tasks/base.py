"""What a task is: prompts with a checkable answer, split for good into train, validation and
test."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

from unmask.errors import UnmaskError, count_of, short_text
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
            vote on, or None where there is none; by default all of it. Mixtures and your own
            problems (jsonl) look at the example, which may be None.
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
    find_answer: Callable[[str, Example | None], str | None] = strip_answer
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

    def answer(self, completion: str, example: Example | None = None) -> str | None:
        """The part of a completion that several samples vote on; None where there is none.

        Args:
            completion: what a model wrote.
            example: the problem; a mixture needs it, since each of its tasks reads answers in its
                own way.

        Raises:
            UnmaskError: for a mixture without the example, or if `find_answer` gives no text.
        """
        found: object = self.find_answer(completion, example)
        if found is not None and not isinstance(found, str):
            raise UnmaskError(
                f"find_answer of task {self.name} gave {describe_value(found)} for the completion "
                f"{short_text(ascii(completion), 80)}; let it return a text, or None where there "
                "is no answer"
            )
        return found

    def verdict(self, completion: str, example: Example) -> Verdict:
        """What the verifier says of one completion.

        Raises:
            UnmaskError: if it gives something else than a number from 0 to 1, or than a `Verdict`
                of one where it has a limit on time.
        """
        if isinstance(self.score, TimedScore):
            verdict: object = self.score.judge(completion, example)
            if not isinstance(verdict, Verdict):
                raise UnmaskError(
                    f"the judge of task {self.name} gave {describe_value(verdict)} for the prompt "
                    f"{example.prompt[:80]!r}; let it return a Verdict"
                )
        else:
            verdict = Verdict(self.score(completion, example))
        correct = read_score(verdict.correct)
        if correct is None:
            raise UnmaskError(
                f"the verifier of task {self.name} gave the score "
                f"{describe_value(verdict.correct)} for the prompt "
                f"{example.prompt[:80]!r}; a score must lie between 0 and 1"
            )
        return replace(verdict, correct=correct)

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


def read_score(value: Any) -> float | None:
    """A score as a number of Python, whatever library it is of; None if it is no number from 0 to
    1. A text is none, even one that spells a number."""
    try:
        score = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last one is PyTorch's
        return None
    return score if 0 <= score <= 1 else None


def describe_value(value: object) -> str:
    """What a function of the user's gave, for an error message."""
    return short_text(ascii(value), 60)


def check_task(task: object) -> None:
    """Refuses what was given in place of a task.

    Raises:
        UnmaskError: if it is none.
    """
    if not isinstance(task, Task):
        raise UnmaskError(
            f"task is {task!r}; give an unmask.tasks.Task, or the name of one as a setting"
        )
