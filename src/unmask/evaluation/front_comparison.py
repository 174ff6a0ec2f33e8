"""Whether one front is above another, at each number of passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unmask.errors import UnmaskError

Verdict = Literal["above", "below", "undecided"]
DRAWN_AT_ONCE = 1 << 20  # numbers drawn by the bootstrap before they are averaged
FOLDS = 10  # parts of the prompts: the samplers that answer a part are chosen on the others
SAME = 1e-9  # accuracies, and areas of accuracy by passes, that differ by less are equal


@dataclass(frozen=True)
class Gap:
    """The first front less the second at one budget, the passes of a sampler of either side.
    Between two neighbouring budgets both fronts are straight lines; after the last one they are
    level.

    Attributes:
        nfe: the budget, in mean forward passes a prompt.
        difference: of the accuracies that the fronts afford, first less second, −1 to 1, with its
            95 % interval (percentiles of the bootstrap). The accuracies are cross-validated too,
            so that of a side may lie slightly below those of all its samplers.
        verdict: "above" if the interval is above 0, "below" if it is below 0.
    """

    nfe: float
    difference: float
    difference_low: float
    difference_high: float
    verdict: Verdict


@dataclass(frozen=True)
class Runs:
    """The samplers of one side, run by run. Those of a run begin with the fewest passes, equal ones
    in the order of their names: of equally good samplers the first is chosen.

    Attributes:
        correct: float [S, P], mean correctness of each sampler and prompt over sampling seeds.
        nfe: float [S], mean forward passes a prompt.
        run: int [S], which training run a sampler belongs to; 0 to n − 1.
    """

    correct: np.ndarray
    nfe: np.ndarray
    run: np.ndarray

    @property
    def count(self) -> int:
        """How many training runs."""
        return int(self.run.max()) + 1

    @property
    def cheapest(self) -> float:
        """The smallest budget within which every run has a sampler."""
        return max(float(self.nfe[self.run == run].min()) for run in range(self.count))


def compare_fronts(
    first: Sequence[Iterable[Mapping[str, Any]]],
    second: Sequence[Iterable[Mapping[str, Any]]],
    *,
    resamples: int = 2000,
) -> list[Gap]:
    """The front of one side against that of the other, by a bootstrap over prompts and runs.

    A front affords, within a budget of n passes a prompt in the mean, the best accuracy that its
    samplers reach alone or as a mixture of two: each prompt is given to one of the two, at random,
    so that the mean is at most n. So a front is the upper concave envelope of its samplers, a
    straight line between two neighbours. Which samplers are on it is cross-validated: for each
    tenth of the prompts they are chosen on the others. Were they chosen on the prompts that score
    them, the side with more samplers would win among equals. A side may consist of several training
    runs (seeds): each has a front of its own, and the side affords their mean. In each resample
    prompts are drawn with replacement, the same for both sides, and so are the runs of each side.
    The passes of a sampler are its mean over all prompts; they are not resampled.

    Args:
        first: for each run of this side, lines of `results.jsonl`.
        second: of the other side.
        resamples: how many.

    Returns:
        One for each number of passes that a sampler of either side takes, rising, from the smallest
        budget within which every run of both sides has a sampler.

    Raises:
        UnmaskError: if a run has no results, or prompts differ between runs.
    """
    prompts: list[str] = []
    one, other = (collect_runs(side, prompts) for side in (first, second))
    start = max(one.cheapest, other.cheapest)
    steps = np.concatenate([one.nfe, other.nfe])
    budgets = np.unique(np.append(steps[steps > start], start))
    random = np.random.default_rng(0)
    everything = np.ones((1, len(prompts))) / len(prompts)
    difference = (
        afford(one, everything, None, budgets) - afford(other, everything, None, budgets)
    )[0]
    drawn: list[np.ndarray] = []
    at_once = max(1, DRAWN_AT_ONCE // len(prompts))
    for begin in range(0, resamples, at_once):
        n = min(at_once, resamples - begin)
        weights = random.multinomial(len(prompts), everything[0], size=n) / len(prompts)
        drawn.append(
            afford(one, weights, random, budgets) - afford(other, weights, random, budgets)
        )
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    rows = np.stack([budgets, difference, low, high], 1).tolist()
    return [Gap(*row, verdict=decide(row[2], row[3])) for row in rows]


def decide(low: float, high: float) -> Verdict:
    """What an interval of the difference says."""
    return "above" if low > SAME else "below" if high < -SAME else "undecided"


def collect_runs(side: Sequence[Iterable[Mapping[str, Any]]], prompts: list[str]) -> Runs:
    """The samplers of one side as arrays; `prompts` is filled by the first run that is read.

    Raises:
        UnmaskError: as `compare_fronts`.
    """
    found: list[tuple[int, float, str, int, np.ndarray]] = []
    for number, records in enumerate(side):
        cells: dict[tuple[str, int], dict[str, list[tuple[float, float]]]] = {}
        for record in records:
            cell = cells.setdefault((record["sampler"], record["block_length"]), {})
            cell.setdefault(record["prompt"], []).append((record["correct"], record["nfe"]))
        if not cells:
            raise UnmaskError("a run has no results; give directories that `unmask evaluate` wrote")
        for (sampler, block_length), cell in cells.items():
            if not prompts:
                prompts += cell
            if set(cell) != set(prompts):
                raise UnmaskError(
                    f"{sampler} was run on {len(cell)} prompts and another sampler on "
                    f"{len(prompts)}, {len(set(cell) & set(prompts))} of them in both; evaluate "
                    "all on the same prompts"
                )
            means = np.array([np.mean(cell[prompt], 0) for prompt in prompts], dtype=float)
            nfe = float(means[:, 1].mean())
            found.append((number, nfe, sampler, block_length, means[:, 0]))
    if not found:
        raise UnmaskError("a side has no runs; give directories that `unmask evaluate` wrote")
    runs, nfe, _, _, correct = zip(*sorted(found, key=lambda each: each[:4]), strict=True)
    return Runs(np.array(correct), np.array(nfe), np.array(runs))


def afford(
    side: Runs, weights: np.ndarray, random: np.random.Generator | None, budgets: np.ndarray
) -> np.ndarray:
    """The accuracy that a side affords within each budget: float [R, budgets].

    Args:
        side: its samplers.
        weights: float [R, P], of the prompts in each resample; a row's sum is 1.
        random: draws the runs of each resample; None takes each run once.
        budgets: rising, none below `side.cheapest`.
    """
    folds = range(min(FOLDS, weights.shape[1]))
    inside = [weights[:, k :: len(folds)] @ side.correct[:, k :: len(folds)].T for k in folds]
    total = sum(inside)
    of_run = np.zeros((side.count, len(weights), len(budgets)))
    for run in range(side.count):
        here = side.run == run
        nfe = side.nfe[here]
        for part in inside:
            others = (total - part)[:, here]
            left, right = neighbours(corners(nfe, others), nfe, budgets)
            width = nfe[right] - nfe[left]
            share = np.divide(budgets - nfe[left], width, np.zeros_like(width), where=width > 0)
            slow, fast = (np.take_along_axis(part[:, here], at, 1) for at in (right, left))
            of_run[run] += share * slow + (1 - share) * fast
    if random is None:
        return of_run.mean(0)
    drawn = random.integers(0, side.count, (side.count, len(weights)))
    return of_run[drawn, np.arange(len(weights))].mean(0)


def corners(nfe: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Which samplers are corners of the upper concave envelope, in each resample: bool [R, S].

    A corner is more accurate than all samplers, and all mixtures of two, that take at most as many
    passes. Of equal samplers the first is one.

    Args:
        nfe: float [S], rising.
        accuracy: float [R, S].
    """
    rows = np.arange(len(accuracy))
    stack = np.zeros(accuracy.shape, int)  # the corners so far, by rising passes and accuracy
    size = np.ones(len(accuracy), int)
    for s in range(1, len(nfe)):
        better = accuracy[:, s] > accuracy[rows, stack[rows, size - 1]] + SAME
        hidden = better
        while hidden.any():
            last, before = stack[rows, size - 1], stack[rows, np.maximum(size - 2, 0)]
            rise, next_rise = (
                accuracy[rows, last] - accuracy[rows, before],
                accuracy[:, s] - accuracy[rows, last],
            )
            below = rise * (nfe[s] - nfe[last]) <= next_rise * (nfe[last] - nfe[before]) + SAME
            hidden = hidden & np.where(size > 1, below, nfe[s] == nfe[last])
            size = size - hidden
            hidden = hidden & (size > 0)
        size = size + better
        stack[better, size[better] - 1] = s
    found = np.zeros(accuracy.shape, bool)
    found[rows[:, None], np.where(np.arange(len(nfe)) < size[:, None], stack, stack[:, :1])] = True
    return found


def neighbours(
    corner: np.ndarray, nfe: np.ndarray, budgets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The corners beside each budget: the last one within it and the next one, or the last one
    again where there is none: int [R, budgets] each."""
    count = len(nfe)
    index = np.arange(count)
    until = np.maximum.accumulate(np.where(corner, index, -1), 1)
    after = np.minimum.accumulate(np.where(corner, index, count)[:, ::-1], 1)[:, ::-1]
    within = np.searchsorted(nfe, budgets, side="right")  # samplers of at most so many passes
    left = until[:, within - 1]
    right = np.pad(after, ((0, 0), (0, 1)), constant_values=count)[:, within]
    return left, np.where(right < count, right, left)


def join_verdicts(gaps: Sequence[Gap]) -> list[tuple[Verdict, float, float, float, float]]:
    """Neighbouring budgets of one verdict as one range: the verdict, the first and the last budget
    (infinite where no other verdict follows), and the smallest and the largest difference."""
    ranges: list[tuple[Verdict, float, float, float, float]] = []
    for gap in gaps:
        d = gap.difference
        if ranges and ranges[-1][0] == gap.verdict:
            verdict, begin, _, least, most = ranges.pop()
            ranges.append((verdict, begin, gap.nfe, min(least, d), max(most, d)))
        else:
            ranges.append((gap.verdict, gap.nfe, gap.nfe, d, d))
    return [(*each[:2], math.inf, *each[3:]) if each is ranges[-1] else each for each in ranges]
