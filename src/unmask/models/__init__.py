"""Frozen masked diffusion language models."""

from unmask.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "FEATURES": "base",
        "Forward": "base",
        "Model": "base",
        "Proposal": "base",
        "Sampling": "head",
        "embedded_models": "load",
        "load_model": "load",
    },
)
