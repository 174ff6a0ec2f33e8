"""Rewards of a finished rollout (paper §3.3)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def multiplicative(correctness: Float[Tensor, " N"], nfe: Int[Tensor, " N"], length: int, alpha: float) -> Float[Tensor, " N"]:
    """r · ((L − min(n, L) + 1) / L)^α: one step gives r itself, L steps still a little; a larger α prefers speed.

    Args:
        correctness: r in [0, 1], [N].
        nfe: n, forward passes, [N].
        length: L.
        alpha: α ≥ 0.
    """
    return correctness * ((length - nfe.clamp(max=length) + 1) / length) ** alpha
