"""Figures from evaluation results."""

from unmask.analysis.plot import plot_pareto, read_points

__all__ = ["plot_pareto", "read_points"]
