"""What evaluations say about each other: the Pareto front, the area under it, and whether two
samplers differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.errors import UnmaskError
from unmask.evaluation.points import Point
from unmask.policies import HEURISTICS


def family(sampler: str) -> str:
    """What samplers are grouped by: the heuristic's name and settings, or `policy` and the
    directory of a learned policy's run."""
    spec, at, settings = sampler.partition("@")
    name = spec.partition(":")[0]
    if name in HEURISTICS:
        return name + at + settings
    directory = Path(spec)
    return "policy " + (
        directory.parent.name if directory.name in ("best", "last") else directory.name
    )


def pareto(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats (at most its NFE, and more accurate; or as accurate with fewer
    passes), by rising NFE."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.nfe, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def area(points: Iterable[Point], length: int) -> float:
    """Mean accuracy that the front of `points` affords over budgets from 1 to L passes, evenly
    spread in log NFE; 0 to 1.

    A budget affords the best point within it, and accuracy 0 below the cheapest one. So a front
    further up and left is worth more.

    Args:
        length: L, what one position a pass costs.

    Raises:
        UnmaskError: if L < 2: there is only one budget.
    """
    if length < 2:
        raise UnmaskError(f"L is {length}; the area under a front needs at least 2")
    front = pareto(points)
    edges = [min(max(math.log(point.nfe), 0.0), math.log(length)) for point in front] + [
        math.log(length)
    ]
    widths = np.diff(edges)
    return float(
        sum(point.accuracy * width for point, width in zip(front, widths, strict=True))
        / math.log(length)
    )


def fronts(points: Sequence[Point], length: int) -> list[dict[str, Any]]:
    """For each block length the front of all points and that of each family: its samplers and the
    area under it."""
    rows = []
    for block_length in dict.fromkeys(point.block_length for point in points):
        here = [point for point in points if point.block_length == block_length]
        for name in ("all", *dict.fromkeys(family(point.sampler) for point in here)):
            members = [point for point in here if name in ("all", family(point.sampler))]
            front = [point.sampler for point in pareto(members)]
            rows.append(
                {
                    "block_length": block_length,
                    "family": name,
                    "front": front,
                    "area": area(members, length) if length > 1 else None,
                }
            )
    return rows


@dataclass(frozen=True)
class Difference:
    """How far a second sampler is above a first on the same prompts.

    Attributes:
        block_length: BL.
        prompts: how many.
        accuracy: mean difference of correctness, second minus first, with its 95 % interval.
        p_accuracy: two-sided p-value that there is none.
        nfe: mean difference of NFE, likewise.
    """

    block_length: int
    prompts: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    p_accuracy: float
    nfe: float
    nfe_low: float
    nfe_high: float
    p_nfe: float


def compare(
    first: Iterable[Mapping[str, Any]],
    second: Iterable[Mapping[str, Any]],
    *,
    resamples: int = 10_000,
) -> list[Difference]:
    """Two samplers on the same prompts by the paired bootstrap, at each block length that both were
    run at.

    A prompt's results are averaged over seeds, then prompts are resampled. p is twice the share of
    resamples on the other side of zero; one is added to both counts, so that it is never 0.

    Args:
        first: lines of `results.jsonl` of one sampler.
        second: of the other.
        resamples: how many.

    Raises:
        UnmaskError: if they share no block length, or their prompts differ.
    """
    of_first, of_second = by_prompt(first), by_prompt(second)
    shared = [block_length for block_length in of_first if block_length in of_second]
    if not shared:
        raise UnmaskError(
            f"the samplers share no block length ({sorted(of_first)} and {sorted(of_second)}); "
            "evaluate both at one"
        )
    found = []
    for block_length in shared:
        a, b = of_first[block_length], of_second[block_length]
        if set(a) != set(b):
            raise UnmaskError(
                f"the samplers were run on different prompts ({len(a)} and {len(b)}, "
                f"{len(set(a) & set(b))} in both)"
            )
        differences = np.array([np.subtract(b[prompt], a[prompt]) for prompt in a])
        random = np.random.default_rng(0)
        means = np.array(
            [differences[random.integers(0, len(a), len(a))].mean(0) for _ in range(resamples)]
        )
        values: list[float] = []
        for column in range(2):
            low, high = np.percentile(means[:, column], [2.5, 97.5])
            tail = min((means[:, column] <= 0).sum(), (means[:, column] >= 0).sum())
            values += [
                differences[:, column].mean(),
                low,
                high,
                min(1.0, 2 * (tail + 1) / (resamples + 1)),
            ]
        found.append(Difference(block_length, len(a), *map(float, values)))
    return found


def by_prompt(records: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, tuple[float, float]]]:
    """Mean correctness and NFE of each prompt over seeds, by block length."""
    groups: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        groups.setdefault(record["block_length"], {}).setdefault(record["prompt"], []).append(
            (record["correct"], record["nfe"])
        )
    return {
        bl: {prompt: tuple(np.mean(rows, 0)) for prompt, rows in prompts.items()}
        for bl, prompts in groups.items()
    }
