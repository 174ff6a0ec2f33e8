"""Rewards of a finished rollout (paper §3.3): functions of its correctness, its NFE, L and α."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

Reward = Callable[
    [Float[Tensor, " N"], Int[Tensor, " N"], int, Float[Tensor, " N"] | float], Float[Tensor, " N"]
]


def speed(nfe: Int[Tensor, " N"], length: int) -> Float[Tensor, " N"]:
    """(L − min(n, L) + 1) / L: 1 for one step, 1 / L for L steps, in the form of the paper's
    code."""
    return (length - nfe.clamp(max=length) + 1) / length


def multiplicative(
    correctness: Float[Tensor, " N"],
    nfe: Int[Tensor, " N"],
    length: int,
    alpha: Float[Tensor, " N"] | float,
) -> Float[Tensor, " N"]:
    """r · speed^α: one step gives r itself, L steps still a little; a larger α prefers speed.

    Args:
        correctness: r in [0, 1], [N].
        nfe: n, forward passes, [N].
        length: L.
        alpha: α ≥ 0, one for all or one a row.
    """
    return correctness * speed(nfe, length) ** alpha


def additive(
    correctness: Float[Tensor, " N"],
    nfe: Int[Tensor, " N"],
    length: int,
    alpha: Float[Tensor, " N"] | float,
) -> Float[Tensor, " N"]:
    """r − α · n / L (the ablation of paper Fig. 9: fast wrong answers beat slow ones, so training
    with it collapses to one step)."""
    return correctness - alpha * nfe / length


def accuracy(
    correctness: Float[Tensor, " N"],
    nfe: Int[Tensor, " N"],
    length: int,
    alpha: Float[Tensor, " N"] | float,
) -> Float[Tensor, " N"]:
    """r, whatever it costs."""
    return correctness


# The names are those of `config.RewardName`.
REWARDS: dict[str, Reward] = {
    "multiplicative": multiplicative,
    "additive": additive,
    "accuracy": accuracy,
}


def name_function(function: Callable[..., Any]) -> str:
    """Module and qualified name of a user's reward or label function, which a run records."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
