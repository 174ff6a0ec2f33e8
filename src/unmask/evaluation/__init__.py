"""Evaluation: runs, intervals, summaries."""

from unmask.evaluation.fronts import Difference, area, compare, family, fronts, pareto
from unmask.evaluation.ledger import read_records
from unmask.evaluation.points import Point, bootstrap, describe, summarise
from unmask.evaluation.run import evaluate
from unmask.evaluation.samples import majority, pass_at_k, sampling

__all__ = [
    "Difference",
    "Point",
    "area",
    "bootstrap",
    "compare",
    "describe",
    "evaluate",
    "family",
    "fronts",
    "majority",
    "pareto",
    "pass_at_k",
    "read_records",
    "sampling",
    "summarise",
]
