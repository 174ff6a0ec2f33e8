"""Which families of masked diffusion models can be loaded: one small file each, chosen by what
`config.json` says."""

from unmask.models.families import (
    a2d,
    dream,
    encoders,
    llada,
    llada2_moe,
    llada_moe,
    nemotron,
    plain,
    sdar,
    sdar_moe,
)
from unmask.models.families.base import Family

FAMILIES = (llada, dream, a2d, llada_moe, sdar, sdar_moe, llada2_moe, nemotron, encoders, plain)

__all__ = ["FAMILIES", "Family"]
