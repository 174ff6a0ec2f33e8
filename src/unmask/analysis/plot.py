"""Figures: accuracy against cost, reveal orders, token grids.

Figures are made without `matplotlib.pyplot`, whose backend and open figures belong to the caller.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from unmask.analysis.traces import Trace
from unmask.errors import UnmaskError, count_of
from unmask.evaluation.front import families
from unmask.evaluation.points import Point
from unmask.files import write_bytes

Against = Literal["nfe", "seconds"]


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of so many inches that draws itself with Agg."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def plot_pareto(
    points: Sequence[Point],
    length: int,
    title: str,
    out: str | Path,
    *,
    against: Against = "nfe",
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
    cost_of = costs_against(points, against)
    blocks = sorted({point.block_length for point in points}, reverse=True)
    family_of = families([point.sampler for point in points])
    names = sorted(
        set(family_of.values()),
        key=lambda name: (name.startswith("policy"), name),
    )
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    columns = min(len(names), 3 * len(blocks))
    lines = -(-len(names) // columns)
    figure = new_figure(6.2 * len(blocks), 4.8 + 0.22 * lines, layout="constrained")
    axes = figure.subplots(1, len(blocks), sharey=True, squeeze=False)[0]
    for axis, block_length in zip(axes, blocks, strict=True):
        here = [point for point in points if point.block_length == block_length]
        for i, name in enumerate(names):
            members = [point for point in here if family_of[point.sampler] == name]
            if members:
                draw_family(axis, name, sorted(members, key=cost_of), cost_of, colours(i % 20))
        label_panel(axis, block_length, length, against)
    axes[0].set_ylabel("accuracy (%)")
    handles = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    named = [name for name in names if name in handles]
    figure.legend(
        [handles[name] for name in named],
        named,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
    )
    figure.suptitle(fill(title, 60 * len(blocks)))
    return save_figure(figure, out)


def costs_against(points: Sequence[Point], against: Against) -> Callable[[Point], float]:
    """The cost of each point.

    Raises:
        UnmaskError: if they do not say it.
    """
    if any(getattr(point, against) is None for point in points):
        raise UnmaskError(
            "these results do not say how many seconds they took; evaluate again, or draw against "
            "nfe"
        )
    return lambda point: getattr(point, against)


def draw_family(
    axis: Axes,
    name: str,
    points: Sequence[Point],
    cost_of: Callable[[Point], float],
    colour: Any,
) -> None:
    """A line through the points of one family, with their intervals."""
    learned = name.startswith("policy")
    errors = [
        [100 * (p.accuracy - p.accuracy_low) for p in points],
        [100 * (p.accuracy_high - p.accuracy) for p in points],
    ]
    axis.errorbar(
        [cost_of(p) for p in points],
        [100 * p.accuracy for p in points],
        yerr=errors,
        label=name,
        color=colour,
        marker="*" if learned else "o",
        markersize=11 if learned else 4,
        linewidth=1.8 if learned else 1,
        capsize=2,
        zorder=3 if learned else 2,
    )


def label_panel(axis: Axes, block_length: int, length: int, against: Against) -> None:
    """Title, axis and grid of one block length's panel."""
    axis.set_title(
        "full diffusion"
        if block_length == length
        else f"semi-autoregressive, block length {block_length}"
    )
    axis.set_xlabel({"nfe": "mean NFE", "seconds": "seconds a prompt"}[against])
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.3g}")
    axis.grid(alpha=0.3)


def save_figure(figure: Figure, out: Path) -> Path:
    """Writes a figure.

    Raises:
        UnmaskError: if the file cannot be written.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a prompt's dollar signs are dollar signs
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Not straight to the file: what matplotlib says of a full disk depends on the format.
        image = io.BytesIO()
        figure.savefig(image, dpi=130, format=out.suffix[1:])
        write_bytes(out, image.getvalue())
    except (OSError, ValueError) as error:
        raise UnmaskError(
            f"figure {out} cannot be written ({error}); name a .png, .svg or .pdf file that you "
            "may write"
        ) from None
    return out


def plot_order(rows: Sequence[Mapping[str, Any]], out: str | Path) -> Path:
    """Two panels from rows of `analyse`: mean reveal time by position (paper Fig. 7), and NFE per
    block (Fig. 5)."""
    figure = new_figure(12.0, 4.4)
    left, right = figure.subplots(1, 2)
    width = 0.8 / len(rows)
    for i, row in enumerate(rows):
        result = f"{100 * row['accuracy']:.0f} % @ {row['nfe']:.1f}"
        label = f"{short_name(row['sampler'])}, BL {row['block_length']}: {result}"
        times = [float("nan") if time is None else time for time in row["mean_reveal_time"]]
        left.plot(times, label=label, linewidth=1.4)
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
    prompt_text = fill(traces[0].prompts[prompt], 150)
    head = 0.3 + 0.16 * prompt_text.count("\n")  # inches
    height = (0.42 * lines + 0.5) * len(traces) + head
    figure = new_figure(11.0, height)
    axes = figure.subplots(len(traces), 1, squeeze=False)
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
        name = f"{short_name(trace.sampler)}, BL {trace.block_length}"
        passes = count_of(int(trace.nfe[prompt]), "pass", "passes")
        title = f"{name}: {verdict} in {passes}"
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(prompt_text, fontsize=9, y=1 - 0.05 / height)
    figure.set_layout_engine("tight", rect=(0, 0, 1, 1 - head / height))
    return save_figure(figure, Path(out))


def short_name(sampler: str) -> str:
    """A sampler's spec without the directories above its run."""
    directory, at, settings = sampler.partition("@")
    parts = Path(directory).parts
    return ("/".join(parts[-2:]) if len(parts) > 1 else directory) + at + settings
