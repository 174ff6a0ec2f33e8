"""Frozen masked diffusion language models."""

from unmask.models.base import FEATURES, Model, Proposal
from unmask.models.load import embedded_models, load_model, usable_device

__all__ = ["FEATURES", "Model", "Proposal", "embedded_models", "load_model", "usable_device"]
