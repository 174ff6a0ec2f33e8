"""The points of evaluations that may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.evaluation.points import Point
from unmask.files import read_json


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
        summary = read_json(path)
        try:
            settings.setdefault(
                tuple(str(summary[key]) for key in ("model", "task", "split", "max_new_tokens")),
                path,
            )
            int(summary["max_new_tokens"])
            points += [Point(**point) for point in summary["points"]]
        except (KeyError, TypeError, ValueError):
            raise UnmaskError(
                f"{path} is not a summary of `unmask evaluate`; give its directory"
            ) from None
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
