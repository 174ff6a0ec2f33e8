"""Evaluation: runs, intervals, summaries."""

from unmask.evaluation.run import Point, bootstrap, describe, evaluate, summarise
from unmask.evaluation.samples import majority, pass_at_k, sampling

__all__ = ["Point", "bootstrap", "describe", "evaluate", "majority", "pass_at_k", "sampling", "summarise"]
