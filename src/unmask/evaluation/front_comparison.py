"""Whether one front is above another, at each number of passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unmask.errors import UnmaskError

Verdict = Literal["above", "below", "undecided"]
DRAWN_AT_ONCE = 1 << 20  # numbers drawn by the bootstrap before they are averaged
FOLDS = 10  # parts of the prompts: a part's best sampler is chosen on the others


@dataclass(frozen=True)
class Gap:
    """The first front less the second, for all budgets from one number of passes to another.

    Attributes:
        low, high: the budgets, in mean forward passes a prompt. The next gap begins at `high`; the
            last one has no end and `high` is infinite.
        difference: of the accuracies that the fronts afford, first less second, −1 to 1, with its
            95 % interval (percentiles of the bootstrap). Within a gap it is constant. The
            accuracies are cross-validated too, so that of a side may lie slightly below those of
            all its samplers.
        verdict: "above" if the interval is above 0, "below" if it is below 0.
    """

    low: float
    high: float
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

    A front affords, within a budget of n passes, the accuracy of its best sampler of at most n
    passes. Which one is best is cross-validated: for each tenth of the prompts it is chosen on the
    others. Were it chosen on the prompts that score it, the side with more samplers would win among
    equals. A side may consist of several training runs (seeds): each has a front of its own, and
    the side affords their mean. In each resample prompts are drawn with replacement, the same for
    both sides, and so are the runs of each side. The passes of a sampler are its mean over all
    prompts; they are not resampled.

    Args:
        first: for each run of this side, lines of `results.jsonl`.
        second: of the other side.
        resamples: how many.

    Returns:
        Gaps that follow one another, from the smallest budget that both sides have samplers for.

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
    return join_gaps(budgets, difference, low, high)


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
        for i, budget in enumerate(budgets):
            within = (side.run == run) & (side.nfe <= budget)
            for part in inside:
                others = (total - part)[:, within].round(9)  # equal ones stay equal
                best = others.argmax(1, keepdims=True)
                of_run[run, :, i] += np.take_along_axis(part[:, within], best, 1)[:, 0]
    if random is None:
        return of_run.mean(0)
    drawn = random.integers(0, side.count, (side.count, len(weights)))
    return of_run[drawn, np.arange(len(weights))].mean(0)


def join_gaps(
    budgets: np.ndarray, difference: np.ndarray, low: np.ndarray, high: np.ndarray
) -> list[Gap]:
    """The gaps between budgets, where neither front has a step."""
    ends = [*budgets[1:].tolist(), float("inf")]
    gaps: list[Gap] = []
    for i, begin in enumerate(budgets.tolist()):
        least, most = float(low[i]), float(high[i])
        verdict: Verdict = "above" if least > 0 else "below" if most < 0 else "undecided"
        gaps.append(Gap(begin, ends[i], float(difference[i]), least, most, verdict))
    return gaps


def join_verdicts(gaps: Sequence[Gap]) -> list[tuple[Verdict, float, float, float, float]]:
    """Neighbouring gaps of one verdict as one: the verdict, the budgets from and to, and the
    smallest and the largest difference."""
    ranges: list[tuple[Verdict, float, float, float, float]] = []
    for gap in gaps:
        d = gap.difference
        if ranges and ranges[-1][0] == gap.verdict:
            verdict, begin, _, least, most = ranges.pop()
            ranges.append((verdict, begin, gap.high, min(least, d), max(most, d)))
        else:
            ranges.append((gap.verdict, gap.low, gap.high, d, d))
    return ranges
