"""Measures and figures from evaluation results."""

from unmask.analysis.plot import plot_order, plot_pareto, plot_tokens, read_points
from unmask.analysis.traces import (
    Trace,
    adjacent_share,
    analyse,
    mean_reveal_time,
    nfe_per_block,
    order_correlation,
    read_traces,
)

__all__ = [
    "Trace",
    "adjacent_share",
    "analyse",
    "mean_reveal_time",
    "nfe_per_block",
    "order_correlation",
    "plot_order",
    "plot_pareto",
    "plot_tokens",
    "read_points",
    "read_traces",
]
