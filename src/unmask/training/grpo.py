"""The GRPO loss over unmasking decisions (paper §3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def group_advantages(rewards: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """A^g = R^g − mean_g R, for P prompts of G rollouts; not divided by the standard deviation."""
    return rewards - rewards.mean(1, keepdim=True)


def grpo_loss(
    log_prob: Float[Tensor, " T"],
    old_log_prob: Float[Tensor, " T"],
    advantage: Float[Tensor, " T"],
    weight: Float[Tensor, " T"],
    epsilon: float,
) -> Float[Tensor, ""]:
    """−Σ_t w_t min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t), with the ratio ρ_t = π(u_t|s_t) / π_old(u_t|s_t) of each step.

    Args:
        log_prob: log π(u_t|s_t), with gradient.
        old_log_prob: log π_old(u_t|s_t) of the policy that acted.
        advantage: of the rollout that step t belongs to.
        weight: 1 / (T_g · number of rollouts), which makes the sum the mean over rollouts of the mean over their steps.
        epsilon: ε of the clip.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -(weight * torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)).sum()
