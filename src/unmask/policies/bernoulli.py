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
        eligible: bool [B, L], at least one in each row.
        fallback: likelihood and entropy are those of the behaviour in which an empty draw reveals
            the best position, the one with the largest logit. A draw itself may be empty.
    """

    logits: Float[Tensor, "B L"]
    eligible: Bool[Tensor, "B L"]
    fallback: bool = False

    @property
    def numbers(self) -> int:
        """How many uniform numbers a row's draw takes."""
        return self.logits.shape[1]

    def sample(self, uniform: Float[Tensor, "B L"], scale: float = 1.0) -> Bool[Tensor, "B L"]:
        """An action from uniform numbers: u^k = 1 with probability min(1, scale · s^k); `scale` is
        β of paper Fig. 6."""
        return (uniform < scale * self.logits.sigmoid()) & self.eligible

    @property
    def best(self) -> Bool[Tensor, "B L"]:
        """The eligible position with the largest logit in each row; the first of equal ones."""
        place = self.logits.masked_fill(~self.eligible, -torch.inf).argmax(1, keepdim=True)
        return torch.zeros_like(self.eligible).scatter(1, place, True)

    def log_prob(self, action: Bool[Tensor, "B L"] | Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """log π(u) = Σ over eligible positions of u log s + (1 − u) log(1 − s).

        With `fallback`, an action that is the best position b alone is drawn as {b} or as nothing:
        its probability is s_b Π (1 − s_j) + (1 − s_b) Π (1 − s_j) = Π (1 − s_j) over the others j.
        Best is what is best under these logits, whichever position was it when the action was
        taken: where another one is now, {b} has its own probability alone.
        """
        revealed = action > 0
        terms = torch.where(revealed, logsigmoid(self.logits), logsigmoid(-self.logits))
        counts = self.eligible
        if self.fallback:
            alone = revealed & (revealed.sum(1, keepdim=True) == 1)
            counts = counts & ~(alone & self.best)
        return (terms * counts).sum(1)

    def kl_from(self, other: Bernoulli) -> Float[Tensor, " B"]:
        """KL(other ‖ self) of independent draws in nats, summed over the eligible positions.
        `fallback` is left out of account."""
        chance = other.logits.sigmoid()
        terms = chance * (logsigmoid(other.logits) - logsigmoid(self.logits))
        terms = terms + (1 - chance) * (logsigmoid(-other.logits) - logsigmoid(-self.logits))
        return (terms * self.eligible).sum(1)

    def entropy(self, action: Tensor | None = None) -> Float[Tensor, " B"]:
        """Entropy of the action in nats, summed over the eligible positions; it is exact and needs
        no action.

        With `fallback`, where nothing else is drawn it does not matter whether the best position
        is.
        """
        terms = softplus(self.logits) - self.logits * self.logits.sigmoid()
        entropy = (terms * self.eligible).sum(1)
        if self.fallback:
            best = self.best
            others = (logsigmoid(-self.logits) * (self.eligible & ~best)).sum(1)
            entropy = entropy - others.exp() * (terms * best).sum(1)
        return entropy
