"""Evaluation: plans, runs, stores, and what their results say."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Difference": "comparison",
        "EvalPlan": "plan",
        "Ledger": "stores",
        "MemoryStore": "stores",
        "Point": "points",
        "Store": "stores",
        "area": "front",
        "bootstrap": "points",
        "compare": "comparison",
        "describe": "points",
        "evaluate": "runs",
        "evaluate_plan": "runs",
        "family": "front",
        "fronts": "front",
        "majority": "samples",
        "pareto": "front",
        "pass_at_k": "samples",
        "read_records": "stores",
        "sampling": "samples",
        "summarise": "points",
    },
)
