"""`unmask plot`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmask.errors import count_of


@dataclass(frozen=True)
class Config:
    """Draw accuracy against NFE from what `unmask evaluate` wrote."""

    results: tuple[Path, ...] = ()
    """Directories of `unmask evaluate`, or summary files."""
    out: Path = Path("pareto.png")
    """Image file: .png, .svg or .pdf."""
    against: Literal["nfe", "seconds"] = "nfe"
    """What accuracy is drawn against: forward passes, or seconds of decoding a prompt (paper Fig.
    12), on the machine of the results."""
    title: str | None = None
    """Title of the figure; leave out for model and task."""


def run(config: Config) -> None:
    from unmask.analysis import plot_pareto, read_points

    points, (model, task, split), length = read_points(config.results)
    least, most = (pick(point.prompts for point in points) for pick in (min, max))
    prompts = ("" if least == most else f"{least} to ") + count_of(most, f"{split} prompt")
    title = config.title or f"{model} on {task}, {prompts}, 95 % intervals"
    print(f"written to {plot_pareto(points, length, title, config.out, against=config.against)}")
