"""The Bernoulli action distribution (paper §3.2): each eligible position is revealed or not,
independently."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


@dataclass(frozen=True)
class Bernoulli:
    """u^k ~ Bernoulli(sigmoid(logit^k)) over the eligible positions.

    Attributes:
        logits: fp32 [B, L], already divided by the policy temperature.
        eligible: bool [B, L].
    """

    logits: Float[Tensor, "B L"]
    eligible: Bool[Tensor, "B L"]

    @property
    def numbers(self) -> int:
        """How many uniform numbers a row's draw takes."""
        return self.logits.shape[1]

    def sample(self, uniform: Float[Tensor, "B L"], scale: float = 1.0) -> Bool[Tensor, "B L"]:
        """An action from uniform numbers: u^k = 1 with probability min(1, scale · s^k); `scale` is
        β of paper Fig. 6."""
        return (uniform < scale * self.logits.sigmoid()) & self.eligible

    def log_prob(self, action: Bool[Tensor, "B L"] | Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """log π(u) = Σ over eligible positions of u log s + (1 − u) log(1 − s)."""
        terms = torch.where(action > 0, logsigmoid(self.logits), logsigmoid(-self.logits))
        return (terms * self.eligible).sum(1)

    def entropy(self, action: Tensor | None = None) -> Float[Tensor, " B"]:
        """Entropy of the action in nats, summed over the eligible positions; it is exact and needs
        no action."""
        terms = softplus(self.logits) - self.logits * self.logits.sigmoid()
        return (terms * self.eligible).sum(1)
