"""The points of evaluations that may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.evaluation.points import Point
from unmask.evaluation.stores import read_summary


def read_points(paths: Sequence[str | Path]) -> tuple[list[Point], list[str], int]:
    """Points of summary files (or of the directories that hold them), the settings they share, and
    L.

    Raises:
        UnmaskError: if there are none, one cannot be read, or they are of different tasks, models
            or lengths.
    """
    if not paths:
        raise UnmaskError("no results were given; give directories that `unmask evaluate` wrote")
    points: list[Point] = []
    settings: dict[tuple, str | Path] = {}
    for path in map(Path, paths):
        path = path / "summary.json" if path.is_dir() else path
        summary = read_summary(path)
        names = ("model", "task", "split", "max_new_tokens")
        settings.setdefault(tuple(str(summary[name]) for name in names), path)
        points += [Point(**point) for point in summary["points"]]
    if len(settings) > 1:
        raise UnmaskError(
            f"{' and '.join(map(str, settings.values()))} differ in model, task, split or length; "
            "plot them apart"
        )
    if not points:
        raise UnmaskError(
            f"{' and '.join(map(str, settings.values()))} hold no points; run `unmask evaluate` "
            "first"
        )
    setting = next(iter(settings))
    return points, list(setting[:3]), int(setting[3])
