"""α, the trade-off between accuracy and speed: what each prompt of a round is rewarded for."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.training.config import RewardConfig


def draw_alpha(config: RewardConfig, n: int, progress: float, seed: int) -> Float[Tensor, " n"]:
    """α of n prompts, fp32 [n] on the CPU: the run's at this moment, or log-uniform in its range.

    Args:
        config: the run's α, where it starts, and its range.
        n: how many prompts.
        progress: the share of the rounds that is over, from 0.
        seed: of the draws.
    """
    if config.alpha_range is None:
        alpha, start = config.alpha, config.alpha_start
        if start is not None:
            alpha *= (start / alpha) ** max(0.0, 1 - 2 * progress)
        return torch.full((n,), alpha, dtype=torch.float32)
    low, high = (math.log(alpha) for alpha in config.alpha_range)
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return (low + (high - low) * drawn).exp()


def alpha_grid(config: RewardConfig, n: int) -> list[float]:
    """n values of α, log-spaced over the run's range; the run's α alone if it has none."""
    if config.alpha_range is None:
        return [config.alpha]
    low, high = (math.log10(alpha) for alpha in config.alpha_range)
    return torch.logspace(low, high, n, dtype=torch.float64).tolist()
