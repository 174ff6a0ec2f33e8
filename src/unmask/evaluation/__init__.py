"""Evaluation: plans, runs, stores, and what their results say."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Difference": "comparison",
        "EvalPlan": "plan",
        "Gap": "front_comparison",
        "Ledger": "stores",
        "MemoryStore": "stores",
        "Point": "points",
        "Store": "stores",
        "accuracy_under_parallelism": "front",
        "area": "front",
        "bootstrap": "points",
        "compare": "comparison",
        "compare_fronts": "front_comparison",
        "describe": "points",
        "evaluate": "runs",
        "evaluate_plan": "runs",
        "families": "front",
        "family": "front",
        "fronts": "front",
        "join_verdicts": "front_comparison",
        "majority": "samples",
        "pareto": "front",
        "pass_at_k": "samples",
        "read_records": "stores",
        "sampling": "samples",
        "summarise": "points",
    },
)
