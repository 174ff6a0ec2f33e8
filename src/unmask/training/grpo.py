"""The GRPO loss over unmasking decisions (paper §3.3)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def group_advantages(rewards: Float[Tensor, "P G"], scaled: bool = False) -> Float[Tensor, "P G"]:
    """A^g = R^g − mean_g R, for P prompts of G rollouts; `scaled` divides by the standard deviation
    plus 0.01 (not the paper's)."""
    advantages = rewards - rewards.mean(1, keepdim=True)
    return (
        advantages / (rewards.std(1, correction=0, keepdim=True) + 0.01) if scaled else advantages
    )


def grpo_loss(
    log_prob: Float[Tensor, " T"],
    old_log_prob: Float[Tensor, " T"],
    advantage: Float[Tensor, " T"],
    weight: Float[Tensor, " T"],
    epsilon: float,
) -> Float[Tensor, ""]:
    """−Σ_t w_t min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t), with the ratio ρ_t = π(u_t|s_t) /
    π_old(u_t|s_t) of each step.

    Args:
        log_prob: log π(u_t|s_t), with gradient.
        old_log_prob: log π_old(u_t|s_t) of the policy that acted.
        advantage: of the rollout that step t belongs to.
        weight: 1 / (T_g · number of rollouts), which makes the sum the mean over rollouts of the
            mean over their steps.
        epsilon: ε of the clip.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -(
        weight * torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
    ).sum()


def steered_log_prob(
    log_prob: Float[Tensor, " T"], steered: Bool[Tensor, " T"], rollouts: int, experts: int
) -> Float[Tensor, " T"]:
    """Log-likelihood under the behaviour that took the decision (paper §3.3, expert steering).

    The policy's own decisions keep log π. An expert's are likelihoods of the mixture π_ES = G/(G +
    E) · π + 1/(G + E) · δ_expert at what that expert decided, where δ is 1; in the ratio it stands
    for the new policy as for the old.

    Args:
        log_prob: log π(u_t|s_t).
        steered: True where an expert decided.
        rollouts: G.
        experts: E ≥ 1.
    """
    own, expert = math.log(rollouts / (rollouts + experts)), -math.log(rollouts + experts)
    return torch.where(
        steered, torch.logaddexp(log_prob + own, torch.full_like(log_prob, expert)), log_prob
    )
