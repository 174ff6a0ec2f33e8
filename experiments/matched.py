"""Markdown tables of learned policies against the best heuristic at no more NFE: `python
experiments/matched.py DIRECTORY`.

A policy's point is compared with all heuristics whose mean NFE is at most 5 % above its own, in its
own setting and, for full diffusion, in the semi-autoregressive one as well. "above" and "below"
mean that the 95 % intervals do not overlap.
"""

from __future__ import annotations

import sys
from pathlib import Path

from unmask.analysis import read_points
from unmask.evaluation import Point


def shown(point: Point) -> str:
    low, high = 100 * point.accuracy_low, 100 * point.accuracy_high
    return f"{100 * point.accuracy:.1f} [{low:.1f}, {high:.1f}] @ {point.nfe:.2f}"


def against(point: Point, heuristics: list[Point]) -> str:
    """The most accurate heuristic at matched NFE, and how the policy stands to it."""
    rivals = [h for h in heuristics if h.nfe <= 1.05 * point.nfe]
    if not rivals:
        return "none at this NFE"
    best = max(rivals, key=lambda h: h.accuracy)
    verdict = (
        "above"
        if point.accuracy_low > best.accuracy_high
        else "below"
        if point.accuracy_high < best.accuracy_low
        else "level"
    )
    return f"{verdict}: `{best.sampler}` {shown(best)}"


def main(directory: Path) -> None:
    settings = [
        setting
        for setting in ("full", "semi", "blocks")
        if (directory / f"heuristics-{setting}").is_dir()
    ]
    heuristics = {
        setting: read_points([directory / f"heuristics-{setting}"])[0] for setting in settings
    }
    names = {"full": "full diffusion", "semi": "semi-autoregressive", "blocks": "block-causal"}
    header = ("policy", "decoded with", "accuracy % @ NFE", "best heuristic")
    parts = []
    for setting in settings:
        pattern = f"policy-{setting}-*/" if len(settings) > 1 else "policy-*/"
        for rival in ("full", "semi") if setting == "full" else (setting,):
            lines = [f"## Policies of {names[setting]}, heuristics of {names[rival]}", ""]
            lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
            for path in sorted(directory.glob(pattern)):
                for point in sorted(read_points([path])[0], key=lambda p: p.nfe):
                    run, _, settings_of = point.sampler.partition("/last@")
                    rated = against(point, heuristics[rival])
                    lines.append(f"| {Path(run).name} | {settings_of} | {shown(point)} | {rated} |")
            parts.append("\n".join(lines))
    print("# Policies against heuristics at matched NFE", *parts, sep="\n\n")


main(Path(sys.argv[1]))
