"""`unmask analyze`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unmask.errors import UnmaskError


@dataclass(frozen=True)
class Config:
    """Measure and draw in which order samplers reveal, from traces of `unmask evaluate
    --traces`."""

    results: tuple[Path, ...] = ()
    """Directories of `unmask evaluate --traces`."""
    out: Path = Path("runs/analysis")
    """New directory for analysis.json, order.png (when and where tokens are revealed) and
    tokens.png (token grids)."""
    prompt: int = 0
    """Which prompt the token grids show, from 0."""


def run(config: Config) -> None:
    from unmask.analysis import analyse, plot_order, plot_tokens, read_points, read_traces
    from unmask.files import filling, new_directory, write_json

    traces = [trace for directory in config.results for trace in read_traces(directory)]
    if not traces:
        raise UnmaskError(
            "no results were given; give directories that `unmask evaluate --traces` wrote"
        )
    read_points(config.results)  # refuses results of different settings
    if len({trace.reveal_step.shape[1] for trace in traces}) > 1:
        raise UnmaskError("the results differ in length L; analyse them apart")
    if not 0 <= config.prompt < min(len(trace.prompts) for trace in traces):
        raise UnmaskError(
            f"prompt is {config.prompt}; give 0 to "
            f"{min(len(trace.prompts) for trace in traces) - 1}"
        )
    if len({trace.prompts[config.prompt] for trace in traces}) > 1:
        raise UnmaskError("the results are of different prompts; analyse them apart")
    rows = analyse(traces)
    out = new_directory(config.out)
    with filling(out) as part:
        write_json(part / "analysis.json", rows)
        plot_order(rows, part / "order.png")
        plot_tokens(traces, config.prompt, part / "tokens.png")
    for row in rows:
        per_block = " ".join(f"{value:.1f}" for value in row["nfe_per_block"])
        name = f"{row['sampler']:<40} BL {row['block_length']:>3}"
        share = row["adjacent_share"]
        together = "" if share is None else f"  adjacent together {100 * share:.0f} %"
        passes = f"NFE {row['nfe']:5.1f}  of the text {row['text_nfe']:.1f}"
        print(f"{name}  {passes}  per block {per_block}{together}")
    print(f"written to {out}/analysis.json, order.png and tokens.png")
