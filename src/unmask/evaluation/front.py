"""The Pareto front of points, and the area under it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmask.errors import UnmaskError
from unmask.evaluation.points import Point
from unmask.policies import HEURISTICS


def family(sampler: str) -> str:
    """What samplers are grouped by: the heuristic's name and settings, or `policy` and the
    directory of a learned policy's run; where the directory's own name begins so, that alone."""
    spec, at, settings = sampler.partition("@")
    name = spec.partition(":")[0]
    if name in HEURISTICS:
        return name + at + settings
    name = run_directory(spec).name
    return name if name.startswith("policy") else f"policy {name}"


def run_directory(spec: str) -> Path:
    """The directory of a learned policy's run, or of the policy where that has no run."""
    directory = Path(spec.partition("@")[0])
    return directory.parent if directory.name in ("best", "last") else directory


def families(samplers: Iterable[str]) -> dict[str, str]:
    """The `family` of each sampler. Learned policies of different directories are of different
    families: where the names are equal, the whole directory is the name."""
    names = {sampler: family(sampler) for sampler in samplers}
    homes: dict[str, set[Path]] = {}
    for sampler, name in names.items():
        if name.startswith("policy"):
            homes.setdefault(name, set()).add(run_directory(sampler))
    return {
        sampler: f"policy {run_directory(sampler)}" if len(homes.get(name, ())) > 1 else name
        for sampler, name in names.items()
    }


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
    edges = [min(max(math.log(max(point.nfe, 1.0)), 0.0), math.log(length)) for point in front] + [
        math.log(length)
    ]
    widths = np.diff(edges)
    return float(
        sum(point.accuracy * width for point, width in zip(front, widths, strict=True))
        / math.log(length)
    )


def accuracy_under_parallelism(
    points: Iterable[Point], best: float | None = None, penalty: float = 3.0
) -> float | None:
    """AUP, the weighted area under accuracy (percent) against tokens per forward pass (d3LLM, Qian
    et al. 2026, arXiv 2601.07568).

    With points sorted by tokens per forward ρ and accuracy y in percent, AUP = ρ₁y₁ + ½ Σ (ρᵢ −
    ρᵢ₋₁)(yᵢW(yᵢ) + yᵢ₋₁W(yᵢ₋₁)), where W(y) = min(exp(−penalty·(1 − y/best)), 1). Points more than
    5 percent below y₁, the accuracy of the slowest one, are left out.

    Args:
        points: of one model and task; those without tokens per forward cannot be used.
        best: the best accuracy that is known for the task, 0 to 1; the best of the points if left
            out.
        penalty: how hard a loss of accuracy counts.

    Returns:
        The score; None if no point has tokens per forward.
    """
    known = [(p.tokens_per_forward, 100 * p.accuracy) for p in points if p.tokens_per_forward]
    if not known:
        return None
    known.sort()
    kept = [(rate, y) for rate, y in known if y >= known[0][1] - 5]
    top = 100 * best if best is not None else max(y for _, y in kept)
    weighted = [y * min(math.exp(-penalty * (1 - y / top)), 1.0) if top else 0.0 for _, y in kept]
    score = kept[0][0] * kept[0][1]
    for i in range(1, len(kept)):
        score += (kept[i][0] - kept[i - 1][0]) * (weighted[i] + weighted[i - 1]) / 2
    return score


def fronts(points: Sequence[Point], length: int) -> list[dict[str, Any]]:
    """For each block length the front of all points and that of each family: its samplers and the
    area under it, and its AUP against the best accuracy of all points."""
    rows: list[dict[str, Any]] = []
    best = max((point.accuracy for point in points), default=None)
    family_of = families(point.sampler for point in points)
    for block_length in dict.fromkeys(point.block_length for point in points):
        here = [point for point in points if point.block_length == block_length]
        for name in ("all", *dict.fromkeys(family_of[point.sampler] for point in here)):
            members = [point for point in here if name in ("all", family_of[point.sampler])]
            front = [point.sampler for point in pareto(members)]
            rows.append(
                {
                    "block_length": block_length,
                    "family": name,
                    "front": front,
                    "area": area(members, length) if length > 1 else None,
                    "aup": accuracy_under_parallelism(members, best),
                }
            )
    return rows
