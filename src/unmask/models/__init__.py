"""Frozen masked diffusion language models."""

from typing import TYPE_CHECKING

from unmask.lazy import lazy_names

__getattr__, __dir__, _ = lazy_names(
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

if TYPE_CHECKING:
    from unmask.models.base import FEATURES, Forward, Model, Proposal
    from unmask.models.head import Sampling
    from unmask.models.load import embedded_models, load_model

__all__ = [
    "FEATURES",
    "Forward",
    "Model",
    "Proposal",
    "Sampling",
    "embedded_models",
    "load_model",
]
