"""Whether one front is above another, at each number of passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unmask.errors import UnmaskError

Verdict = Literal["above", "below", "undecided"]
DRAWN_AT_ONCE = 1 << 20  # numbers drawn by the bootstrap before they are averaged
FOLDS = 10  # parts of the prompts: the samplers that answer a part are chosen on the others
SAME = 1e-9  # accuracies, and areas of accuracy by passes, that differ by less are equal
LEAST_DIFFERING = 6  # prompts: with five, all of one sign, a test of signs has p = 2 · 2^−5 > 0.05
# The 97.5 % quantiles of Student's t with 1 to 10 degrees of freedom. With more the last one is
# taken, which is a little too large.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Gap:
    """The first front less the second at one budget, the passes of a sampler of either side.
    Between two neighbouring budgets both fronts are straight lines; after the last one they are
    level.

    Attributes:
        nfe: the budget, in mean forward passes a prompt.
        difference: of the accuracies that the fronts afford, first less second, −1 to 1, with its
            95 % interval. The accuracies are cross-validated too, so that of a side may lie
            slightly below those of all its samplers.
        verdict: "above" if the interval is above 0, "below" if it is below 0; "undecided" where
            fewer than six prompts differ, of which no test of signs can tell anything.
    """

    nfe: float
    difference: float
    difference_low: float
    difference_high: float
    verdict: Verdict


@dataclass(frozen=True)
class Runs:
    """The samplers of one side, run by run, those of a run in the order of their names.

    Attributes:
        correct: float [S, P], mean correctness of each sampler and prompt over sampling seeds.
        nfe: float [S, P], mean forward passes likewise.
        run: int [S], which training run a sampler belongs to; 0 to n − 1.
    """

    correct: np.ndarray
    nfe: np.ndarray
    run: np.ndarray

    @property
    def count(self) -> int:
        """How many training runs."""
        return int(self.run.max()) + 1

    def passes(self, weights: np.ndarray) -> np.ndarray:
        """Mean passes of each sampler, float [R, S], under weights [R, P] of the prompts. They are
        rounded: samplers that are equal prompt by prompt have the same."""
        return (weights @ self.nfe.T).round(9)

    def cheapest(self, passes: np.ndarray) -> float:
        """The smallest budget within which every run has a sampler; passes is float [S]."""
        return max(float(passes[self.run == run].min()) for run in range(self.count))


def compare_fronts(
    first: Sequence[Iterable[Mapping[str, Any]]],
    second: Sequence[Iterable[Mapping[str, Any]]],
    *,
    resamples: int = 2000,
) -> list[Gap]:
    """The front of one side against that of the other, with the uncertainty of prompts and runs.

    A front affords, within a budget of n passes a prompt in the mean, the best accuracy that its
    samplers reach alone or as a mixture of two: each prompt is given to one of the two, at random,
    so that the mean is at most n. So a front is the upper concave envelope of its samplers, a
    straight line between two neighbours. Which samplers are on it is cross-validated: for each
    tenth of the prompts they are chosen on the others. Were they chosen on the prompts that score
    them, the side with more samplers would win among equals. A side may consist of several training
    runs (seeds): each has a front of its own, and the side affords their mean.

    In each resample prompts are drawn with replacement, the same for both sides; correctness and
    passes are theirs. The 2.5 and 97.5 percentiles are the interval for the prompts. A bootstrap of
    two or three runs would be too narrow, so that of a side's n runs is Student's: t(n − 1) s / √n,
    with the standard deviation s of their accuracies at that budget. The three are joined by the
    root of the sum of the squares of their widths, below and above (Zou and Donner 2008, 10.1002/
    sim.3095). Of a side of one run the interval says nothing about other runs.

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
    sides = [collect_runs(side, prompts) for side in (first, second)]
    count = len(prompts)
    every = np.ones((1, count)) / count
    taken = [side.passes(every)[0] for side in sides]
    start = max(side.cheapest(passes) for side, passes in zip(sides, taken, strict=True))
    steps = np.concatenate(taken)
    budgets = np.unique(np.append(steps[steps > start], start))

    answers = [answer_prompts(side, budgets) for side in sides]
    by_prompt = answers[0].mean(0) - answers[1].mean(0)
    difference = by_prompt.mean(1)
    few = np.count_nonzero(abs(by_prompt) > SAME, 1) < LEAST_DIFFERING
    random, drawn = np.random.default_rng(0), []
    at_once = max(1, DRAWN_AT_ONCE // count)
    for begin in range(0, resamples, at_once):
        n = min(at_once, resamples - begin)
        weights = random.multinomial(count, every[0], size=n) / count
        one, other = (afford(side, weights, budgets) for side in sides)
        drawn.append(one - other)
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    squares = sum(run_width(each.mean(2)) ** 2 for each in answers)
    low = difference - np.sqrt(np.maximum(difference - low, 0) ** 2 + squares)
    high = difference + np.sqrt(np.maximum(high - difference, 0) ** 2 + squares)
    rows = np.stack([budgets, difference, low, high], 1).tolist()
    return [
        Gap(*row, verdict="undecided" if too_few else decide(row[2], row[3]))
        for row, too_few in zip(rows, few, strict=True)
    ]


def decide(low: float, high: float) -> Verdict:
    """What an interval of the difference says."""
    return "above" if low > SAME else "below" if high < -SAME else "undecided"


def run_width(accuracy: np.ndarray) -> np.ndarray:
    """Half the width of Student's 95 % interval of a mean over runs; 0 for one run.

    Args:
        accuracy: float [runs, budgets].
    """
    count = len(accuracy)
    if count == 1:
        return np.zeros(accuracy.shape[1])
    quantile = STUDENT[min(count - 1, len(STUDENT)) - 1]
    return quantile * accuracy.std(0, ddof=1) / math.sqrt(count)


def collect_runs(side: Sequence[Iterable[Mapping[str, Any]]], prompts: list[str]) -> Runs:
    """The samplers of one side as arrays; `prompts` is filled by the first run that is read.

    Raises:
        UnmaskError: as `compare_fronts`.
    """
    found: list[tuple[int, str, int, np.ndarray]] = []
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
            found.append((number, sampler, block_length, means.T))
    if not found:
        raise UnmaskError("a side has no runs; give directories that `unmask evaluate` wrote")
    runs, _, _, means = zip(*sorted(found, key=lambda each: each[:3]), strict=True)
    values = np.array(means)
    return Runs(correct=values[:, 0], nfe=values[:, 1], run=np.array(runs))


@dataclass(frozen=True)
class Mixtures:
    """Which samplers answer a part of the prompts for one run, within each budget.

    Attributes:
        run: whose they are.
        fold: number of the part: prompts fold, fold + n, fold + 2 n and so on of n parts.
        fast: int [R, budgets], the sampler of the fewer passes in each resample.
        slow: int [R, budgets], that of more passes; the same where no mixture is better.
        share: float [R, budgets], of the prompts that the slow one gets.
    """

    run: int
    fold: int
    fast: np.ndarray
    slow: np.ndarray
    share: np.ndarray

    def mix(self, values: np.ndarray) -> np.ndarray:
        """The mean of both, where each sampler has a value in each resample: [R, S] to
        [R, budgets]."""
        fast, slow = (np.take_along_axis(values, at, 1) for at in (self.fast, self.slow))
        return self.share * slow + (1 - self.share) * fast


def sum_folds(side: Runs, weights: np.ndarray) -> list[np.ndarray]:
    """What each part of the prompts adds to the accuracy of each sampler: float [R, S] each, under
    weights [R, P]."""
    folds = min(FOLDS, weights.shape[1])
    return [weights[:, k::folds] @ side.correct[:, k::folds].T for k in range(folds)]


def choose_mixtures(
    side: Runs, weights: np.ndarray, inside: Sequence[np.ndarray], budgets: np.ndarray
) -> Iterator[Mixtures]:
    """The mixtures that are best on the prompts outside of each part, for each run. Within a budget
    that no sampler of a resample can keep, the one of the fewest passes answers.

    Args:
        side: the samplers.
        weights: float [R, P], of the prompts in each resample; a row's sum is 1.
        inside: of `sum_folds`.
        budgets: rising.
    """
    passes, total = side.passes(weights), sum(inside)
    for run in range(side.count):
        here = np.flatnonzero(side.run == run)
        order = here[np.argsort(passes[:, here], 1, kind="stable")]  # equal ones by their names
        nfe = np.take_along_axis(passes, order, 1)
        within = np.maximum(budgets, nfe[:, :1])
        for fold, part in enumerate(inside):
            others = np.take_along_axis(total - part, order, 1)
            left, right = neighbours(corners(nfe, others), nfe, within)
            low, high = (np.take_along_axis(nfe, at, 1) for at in (left, right))
            width = high - low
            share = np.divide(within - low, width, np.zeros_like(width), where=width > 0)
            fast, slow = (np.take_along_axis(order, at, 1) for at in (left, right))
            yield Mixtures(run, fold, fast, slow, share)


def afford(side: Runs, weights: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """The accuracy that a side affords within each budget, in each resample: float [R, budgets].
    Arguments as of `choose_mixtures`."""
    inside = sum_folds(side, weights)
    found = np.zeros((len(weights), len(budgets)))
    for chosen in choose_mixtures(side, weights, inside, budgets):
        found += chosen.mix(inside[chosen.fold])
    return found / side.count


def answer_prompts(side: Runs, budgets: np.ndarray) -> np.ndarray:
    """What each run affords on each prompt within each budget: float [runs, budgets, P]."""
    count = side.correct.shape[1]
    every = np.ones((1, count)) / count
    inside = sum_folds(side, every)
    found = np.zeros((side.count, len(budgets), count))
    for chosen in choose_mixtures(side, every, inside, budgets):
        part = slice(chosen.fold, None, len(inside))
        found[chosen.run, :, part] = chosen.mix(side.correct[:, part].T).T
    return found


def corners(nfe: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Which samplers are corners of the upper concave envelope, in each resample: bool [R, S].

    A corner is more accurate than all samplers, and all mixtures of two, that take at most as many
    passes. Of equal samplers the first is one.

    Args:
        nfe: float [R, S], rising along S.
        accuracy: float [R, S].
    """
    rows = np.arange(len(accuracy))
    stack = np.zeros(accuracy.shape, int)  # the corners so far, by rising passes and accuracy
    size = np.ones(len(accuracy), int)
    for s in range(1, nfe.shape[1]):
        better = accuracy[:, s] > accuracy[rows, stack[rows, size - 1]] + SAME
        hidden = better
        while hidden.any():
            last, before = stack[rows, size - 1], stack[rows, np.maximum(size - 2, 0)]
            rise, next_rise = (
                accuracy[rows, last] - accuracy[rows, before],
                accuracy[:, s] - accuracy[rows, last],
            )
            run, next_run = nfe[rows, last] - nfe[rows, before], nfe[:, s] - nfe[rows, last]
            below = rise * next_run <= next_rise * run + SAME
            hidden = hidden & np.where(size > 1, below, next_run == 0)
            size = size - hidden
            hidden = hidden & (size > 0)
        size = size + better
        stack[better, size[better] - 1] = s
    found = np.zeros(accuracy.shape, bool)
    shown = np.where(np.arange(nfe.shape[1]) < size[:, None], stack, stack[:, :1])
    found[rows[:, None], shown] = True
    return found


def neighbours(
    corner: np.ndarray, nfe: np.ndarray, budgets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The corners beside each budget: the last one within it and the next one, or the last one
    again where there is none: int [R, budgets] each.

    Args:
        corner: bool [R, S].
        nfe: float [R, S], rising along S.
        budgets: float [R, budgets], none below a row's first sampler.
    """
    count = nfe.shape[1]
    index = np.arange(count)
    until = np.maximum.accumulate(np.where(corner, index, -1), 1)
    after = np.minimum.accumulate(np.where(corner, index, count)[:, ::-1], 1)[:, ::-1]
    within = (nfe[:, :, None] <= budgets[:, None, :]).sum(1)  # samplers of at most so many passes
    left = np.take_along_axis(until, within - 1, 1)
    right = np.take_along_axis(np.pad(after, ((0, 0), (0, 1)), constant_values=count), within, 1)
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
