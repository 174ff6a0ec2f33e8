"""The Pareto figure: accuracy against NFE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unmask.errors import UnmaskError
from unmask.evaluation import Point
from unmask.files import read_json
from unmask.policies import HEURISTICS


def read_points(paths: Sequence[str | Path]) -> tuple[list[Point], list[str], int]:
    """Points of summary files (or of the directories that hold them), the settings they share, and L.

    Raises:
        UnmaskError: if there are none, one cannot be read, or they are of different tasks, models or lengths.
    """
    if not paths:
        raise UnmaskError("no results were given; give directories that `unmask evaluate` wrote")
    points: list[Point] = []
    settings: dict[tuple, str | Path] = {}
    for path in map(Path, paths):
        path = path / "summary.json" if path.is_dir() else path
        summary = read_json(path)
        try:
            settings.setdefault(tuple(str(summary[key]) for key in ("model", "task", "split", "max_new_tokens")), path)
            int(summary["max_new_tokens"])
            points += [Point(**point) for point in summary["points"]]
        except (KeyError, TypeError, ValueError):
            raise UnmaskError(f"{path} is not a summary of `unmask evaluate`; give its directory") from None
    if len(settings) > 1:
        raise UnmaskError(f"{' and '.join(map(str, settings.values()))} differ in model, task, split or length; plot them apart")
    if not points:
        raise UnmaskError(f"{' and '.join(map(str, settings.values()))} hold no points; run `unmask evaluate` first")
    setting = next(iter(settings))
    return points, list(setting[:3]), int(setting[3])


def family(point: Point) -> str:
    """What a point is drawn as: the heuristic's name, or the directory of a learned policy's run."""
    name = point.sampler.partition(":")[0]
    if name in HEURISTICS:
        return name
    directory = Path(point.sampler.partition("@")[0])
    return "policy " + (directory.parent.name if directory.name in ("best", "last") else directory.name)


def plot_pareto(points: Sequence[Point], length: int, title: str, out: str | Path) -> Path:
    """Draws a panel for full diffusion and one for each smaller block length; heuristics thin, learned policies bold.

    Args:
        points: what to draw, with 95 % intervals of the accuracy.
        length: L, to tell full diffusion.
        title: of the figure.
        out: image file; its ending decides the format.

    Raises:
        UnmaskError: if the file cannot be written.
    """
    out = Path(out)
    if out.is_dir() or not out.suffix:
        raise UnmaskError(f"figure {out} is no image file; name a .png, .svg or .pdf file")
    blocks = sorted({point.block_length for point in points}, reverse=True)
    figure, axes = plt.subplots(1, len(blocks), figsize=(6.2 * len(blocks), 4.6), sharey=True, squeeze=False)
    families = sorted({family(point) for point in points}, key=lambda name: (name.startswith("policy"), name))
    for axis, block_length in zip(axes[0], blocks, strict=True):
        for i, name in enumerate(families):
            drawn = sorted((p for p in points if family(p) == name and p.block_length == block_length), key=lambda p: p.nfe)
            if not drawn:
                continue
            learned = name.startswith("policy")
            errors = [[100 * (p.accuracy - p.accuracy_low) for p in drawn], [100 * (p.accuracy_high - p.accuracy) for p in drawn]]
            axis.errorbar(
                [p.nfe for p in drawn],
                [100 * p.accuracy for p in drawn],
                yerr=errors,
                label=name,
                color=f"C{i % 10}",
                marker="*" if learned else "o",
                markersize=11 if learned else 4,
                linewidth=1.8 if learned else 1,
                capsize=2,
                zorder=3 if learned else 2,
            )
        axis.set_title("full diffusion" if block_length == length else f"semi-autoregressive, block length {block_length}")
        axis.set_xlabel("mean NFE")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("accuracy (%)")
    figure.suptitle(title)
    figure.tight_layout()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as error:
        raise UnmaskError(f"figure {out} cannot be written ({error}); name a .png, .svg or .pdf file that you may write") from None
    finally:
        plt.close(figure)
    return out
