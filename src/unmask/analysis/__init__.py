"""Measures and figures from evaluation results."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "Trace": "traces",
        "adjacent_share": "traces",
        "analyse": "traces",
        "mean_reveal_time": "traces",
        "nfe_per_block": "traces",
        "order_correlation": "traces",
        "plot_order": "plot",
        "plot_pareto": "plot",
        "plot_tokens": "plot",
        "read_points": "results",
        "read_traces": "traces",
        "text_nfe": "traces",
    },
)
