"""Frozen masked diffusion language models."""

from typing import TYPE_CHECKING

from unmask.lazy import lazy_names

__getattr__, __dir__, _ = lazy_names(
    __name__,
    {
        "FEATURES": "base",
        "Model": "base",
        "Proposal": "base",
        "embedded_models": "load",
        "load_model": "load",
        "usable_device": "load",
    },
)

if TYPE_CHECKING:
    from unmask.models.base import FEATURES, Model, Proposal
    from unmask.models.load import embedded_models, load_model, usable_device

__all__ = ["FEATURES", "Model", "Proposal", "embedded_models", "load_model", "usable_device"]
