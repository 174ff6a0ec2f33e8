"""Evaluation: runs, intervals, summaries."""

from unmask.evaluation.run import Point, bootstrap, describe, evaluate, summarise

__all__ = ["Point", "bootstrap", "describe", "evaluate", "summarise"]
