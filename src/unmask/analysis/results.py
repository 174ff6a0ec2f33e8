"""The points of evaluations that may be compared."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.evaluation.plan import OF_A_PIECE
from unmask.evaluation.points import Point
from unmask.evaluation.stores import DEFAULTS, read_summary


def read_points(paths: Sequence[str | Path]) -> tuple[list[Point], list[str], int]:
    """Points of summary files (or of the directories that hold them), the settings they share
    (model, task, split), and L. Samplers, block lengths, seeds and prompts may differ.

    Raises:
        UnmaskError: if there are none, one cannot be read, or they are of different settings.
    """
    if not paths:
        raise UnmaskError("no results were given; give directories that `unmask evaluate` wrote")
    files = [path / "summary.json" if path.is_dir() else path for path in map(Path, paths)]
    summaries = {path: read_summary(path) for path in files}
    for (one, first), (other, second) in combinations(summaries.items(), 2):
        if differ := differing_settings(first, second):
            raise UnmaskError(
                f"{one} and {other} differ in {', '.join(differ)}; give results of the same "
                "settings"
            )
        one_dtype, other_dtype = first.get("dtype"), second.get("dtype")
        if one_dtype and other_dtype and one_dtype != other_dtype:
            warnings.warn(
                f"{one} is of the model in {one_dtype} and {other} in {other_dtype}, whose "
                "confidences differ a little; give --dtype to decode both in one",
                stacklevel=2,
            )
    points = [Point(**point) for path in files for point in summaries[path]["points"]]
    if not points:
        raise UnmaskError(
            f"{' and '.join(map(str, summaries))} hold no points; run `unmask evaluate` first"
        )
    summary = summaries[files[0]]
    settings = [str(summary[name]) for name in ("model", "task", "split")]
    return points, settings, int(summary["max_new_tokens"])


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The settings that two summaries must share to stand side by side, and do not. A decode option
    that an older one lacks had its default; other settings are compared where both say them. Of two
    dtypes, a model has different contents anyway. What a confidence is, only results above
    temperature 0 say, and older ones of these do not: theirs was another."""
    same_dtype = first.get("dtype") == second.get("dtype")
    names = ["model", "task", "template", "split", *(["model_contents"] if same_dtype else [])]
    both = [name for name in names if name in first and name in second]
    options = [name for name in DEFAULTS if name not in OF_A_PIECE]
    if first.get("temperature", 0) == second.get("temperature", 0):
        options.append("confidence")
    return [
        name
        for name in (*both, *options)
        if first.get(name, DEFAULTS.get(name)) != second.get(name, DEFAULTS.get(name))
    ]
