"""The Pareto figure: accuracy against NFE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from unmask.analysis.traces import Trace
from unmask.errors import UnmaskError
from unmask.evaluation import Point, family
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


def plot_pareto(
    points: Sequence[Point],
    length: int,
    title: str,
    out: str | Path,
    *,
    against: Literal["nfe", "seconds"] = "nfe",
) -> Path:
    """Draws a panel for full diffusion and one for each smaller block length; heuristics thin,
    learned policies bold.

    Args:
        points: what to draw, with 95 % intervals of the accuracy.
        length: L, to tell full diffusion.
        title: of the figure.
        out: image file; its ending decides the format.
        against: the cost that accuracy is drawn against.

    Raises:
        UnmaskError: if the file cannot be written, or the points do not say their seconds.
    """
    out = Path(out)
    if out.is_dir() or not out.suffix:
        raise UnmaskError(f"figure {out} is no image file; name a .png, .svg or .pdf file")
    costs = {(point.sampler, point.block_length): getattr(point, against) for point in points}
    if None in costs.values():
        raise UnmaskError(
            "these results do not say how many seconds they took; evaluate again, or draw against "
            "nfe"
        )

    def cost(point: Point) -> float:
        return costs[point.sampler, point.block_length]

    blocks = sorted({point.block_length for point in points}, reverse=True)
    families = sorted(
        {family(point.sampler) for point in points},
        key=lambda name: (name.startswith("policy"), name),
    )
    colours = plt.colormaps["tab10" if len(families) <= 10 else "tab20"]
    columns = min(len(families), 3 * len(blocks))
    lines = -(-len(families) // columns)
    figure, axes = plt.subplots(
        1,
        len(blocks),
        figsize=(6.2 * len(blocks), 4.8 + 0.22 * lines),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, block_length in zip(axes[0], blocks, strict=True):
        for i, name in enumerate(families):
            drawn = sorted(
                (p for p in points if family(p.sampler) == name and p.block_length == block_length),
                key=cost,
            )
            if not drawn:
                continue
            learned = name.startswith("policy")
            errors = [
                [100 * (p.accuracy - p.accuracy_low) for p in drawn],
                [100 * (p.accuracy_high - p.accuracy) for p in drawn],
            ]
            axis.errorbar(
                [cost(p) for p in drawn],
                [100 * p.accuracy for p in drawn],
                yerr=errors,
                label=name,
                color=colours(i % 20),
                marker="*" if learned else "o",
                markersize=11 if learned else 4,
                linewidth=1.8 if learned else 1,
                capsize=2,
                zorder=3 if learned else 2,
            )
        axis.set_title(
            "full diffusion"
            if block_length == length
            else f"semi-autoregressive, block length {block_length}"
        )
        axis.set_xlabel({"nfe": "mean NFE", "seconds": "seconds a prompt"}[against])
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.3g}")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy (%)")
    labels = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    named = [name for name in families if name in labels]
    figure.legend(
        [labels[name] for name in named],
        named,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
    )
    figure.suptitle(fill(title, 85 * len(blocks)))
    return save_figure(figure, out)


def save_figure(figure: Figure, out: Path) -> Path:
    """Writes a figure and closes it.

    Raises:
        UnmaskError: if the file cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as error:
        raise UnmaskError(
            f"figure {out} cannot be written ({error}); name a .png, .svg or .pdf file that you "
            "may write"
        ) from None
    finally:
        plt.close(figure)
    return out


def plot_order(rows: Sequence[Mapping[str, Any]], out: str | Path) -> Path:
    """Two panels from rows of `analyse`: mean reveal time by position (paper Fig. 7), and NFE per
    block (Fig. 5)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4))
    width = 0.8 / len(rows)
    for i, row in enumerate(rows):
        label = f"{short(row['sampler'])}, BL {row['block_length']}: {100 * row['accuracy']:.0f} % @ {row['nfe']:.1f}"
        left.plot(row["mean_reveal_time"], label=label, linewidth=1.4)
        places = [j + (i - (len(rows) - 1) / 2) * width for j in range(len(row["nfe_per_block"]))]
        right.bar(places, row["nfe_per_block"], width, label=label)
    left.set_xlabel("position in the generation buffer")
    left.set_ylabel("mean reveal time (share of the row's passes)")
    right.set_xlabel(f"block of {rows[0]['measured_block_length']} positions")
    right.set_ylabel("passes that revealed something")
    right.set_xticks(range(len(rows[0]["nfe_per_block"])))
    left.legend(fontsize=8)
    figure.tight_layout()
    return save_figure(figure, Path(out))


def plot_tokens(traces: Sequence[Trace], prompt: int, out: str | Path) -> Path:
    """One grid of tokens for each trace, coloured by the step that revealed them (paper Figs.
    27–33)."""
    columns = 12
    length = traces[0].reveal_step.shape[1]
    lines = -(-length // columns)
    figure, axes = plt.subplots(
        len(traces), 1, figsize=(11, (0.42 * lines + 0.5) * len(traces)), squeeze=False
    )
    for axis, trace in zip(axes[:, 0], traces, strict=True):
        steps = trace.reveal_step[prompt]
        grid = [[float("nan")] * columns for _ in range(lines)]
        for i, (step, token) in enumerate(zip(steps, trace.tokens[prompt], strict=True)):
            grid[i // columns][i % columns] = step
            axis.text(
                i % columns, i // columns, f"{token} {step}", ha="center", va="center", fontsize=7
            )
        axis.imshow(grid, aspect="auto", cmap="YlGnBu", alpha=0.6, vmin=0, vmax=max(1, steps.max()))
        verdict = "right" if trace.correct[prompt] >= 0.5 else "wrong"
        name = f"{short(trace.sampler)}, BL {trace.block_length}: {verdict} in {steps.max() + 1} passes"
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(traces[0].prompts[prompt], fontsize=9)
    figure.tight_layout()
    return save_figure(figure, Path(out))


def short(sampler: str) -> str:
    """A sampler's spec without the directories above its run."""
    directory, at, settings = sampler.partition("@")
    parts = Path(directory).parts
    return ("/".join(parts[-2:]) if len(parts) > 1 else directory) + at + settings
