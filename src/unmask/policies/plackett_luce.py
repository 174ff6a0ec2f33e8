"""Dynamic Plackett–Luce sampling, DPLS (paper App. E): positions are drawn one after the other
until STOP is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from unmask.rng import gumbel_noise

NEVER = -1e9  # utility of what cannot be drawn; finite, so that gradients stay finite


@dataclass(frozen=True)
class PlackettLuce:
    """The first position ~ softmax(logits) over the eligible; then, without replacement, softmax
    over the rest and STOP of utility 0.

    An action is int64 [B, L]: the place of each position in the order drawn, from 1, and 0 where
        nothing is revealed.

    Attributes:
        logits: fp32 [B, L], already divided by the policy temperature.
        eligible: bool [B, L], at least one in each row.
    """

    logits: Float[Tensor, "B L"]
    eligible: Bool[Tensor, "B L"]

    @property
    def numbers(self) -> int:
        """How many uniform numbers a row's draw takes."""
        return 2 * self.logits.shape[1] + 1

    def sample(self, uniform: Float[Tensor, "B n"], scale: float = 1.0) -> Int[Tensor, "B L"]:
        """An action from uniform numbers, `numbers` for each row; `scale` = β divides the weight of
        STOP.

        By the Gumbel-max trick: the largest of logits + noise is the first; with fresh noise, those
        above STOP follow in falling order.
        """
        length = self.logits.shape[1]
        noise = gumbel_noise(uniform)
        utility = self.logits.masked_fill(~self.eligible, -torch.inf)
        first = (utility + noise[:, :length]).argmax(1, keepdim=True)
        value = (utility + noise[:, length : 2 * length]).scatter(1, first, torch.inf)
        drawn = self.eligible & (value > noise[:, 2 * length :] - math.log(scale))
        place = value.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return torch.where(drawn, place + 1, 0)

    def stages(self, action: Int[Tensor, "B L"]) -> tuple[Tensor, Tensor, Tensor]:
        """The draws in order, for `log_prob` and `entropy`: utilities sorted by place, the rest
        behind; log of what is left; K."""
        rank = torch.where(action > 0, action, action.shape[1] + 1)
        order = rank.argsort(dim=1, stable=True)
        utility = self.logits.masked_fill(~self.eligible, NEVER).gather(1, order)
        left = suffix_logsumexp(utility)  # of the positions from this stage on
        return utility, left, (action > 0).sum(1, keepdim=True)

    def log_prob(self, action: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """Log-likelihood of the ordered draw; −∞ (about) for an empty one, which cannot be
        drawn."""
        utility, left, count = self.stages(action)
        with_stop = torch.cat(
            [left[:, :1], torch.logaddexp(left[:, 1:], torch.zeros_like(left[:, 1:]))], 1
        )
        stage = torch.arange(utility.shape[1], device=utility.device)
        chosen = ((utility - with_stop) * (stage < count)).sum(1)
        behind = torch.cat(
            [with_stop, torch.zeros_like(left[:, :1])], 1
        )  # after the last position only STOP is left
        return torch.where(count[:, 0] > 0, chosen - behind.gather(1, count)[:, 0], NEVER)

    def entropy(self, action: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """The entropies of the draws along `action`, summed, in nats: over actions of this
        distribution its mean is the entropy.

        A draw with the utilities u and Z = Σ e^u has the entropy log Z − Σ e^u u / Z. Both sums are
        over what is still left, so all draws of a row follow from sums over its suffixes, in O(L)
        memory.
        """
        utility, _, count = self.stages(action)
        utility = utility.double()  # two large terms of a late draw nearly cancel
        # Utilities are shifted below −1, which changes no entropy: then −u is above 1, and the
        # second sum has a logarithm too. STOP, whose utility is 0, is shifted with them.
        highest = utility.detach().amax(1, keepdim=True).clamp(min=0)
        items, stop = utility - highest - 1, -highest - 1
        left = suffix_logsumexp(items)
        weighted = suffix_logsumexp(items + (-items).log())
        # STOP can be drawn at every stage but the first, and alone after the last position.
        later, later_weighted = (pad(x[:, 1:], (0, 1), value=NEVER) for x in (left, weighted))
        left = torch.cat([left[:, :1], torch.logaddexp(later, stop)], 1)
        weighted = torch.cat(
            [weighted[:, :1], torch.logaddexp(later_weighted, stop + (-stop).log())], 1
        )
        entropies = left + (weighted - left).exp()
        stage = torch.arange(entropies.shape[1], device=utility.device)
        return (entropies * (stage <= count)).sum(1).to(self.logits.dtype)


def suffix_logsumexp(x: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """log Σ e^x over the positions from each one on."""
    return x.flip(1).logcumsumexp(1).flip(1)
