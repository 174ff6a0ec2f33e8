"""The language-model head: each position's best token and its probability, without ever holding
logits over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

TILE = 2048  # tokens of the vocabulary at once
GROUP = 64  # tokens among which the largest logit is looked for first
LOGITS = 2**20  # logits at once: 4 MB in fp32, which stay in a CPU's cache


def tiles(head: Any, hidden: Float[Tensor, "m width"]) -> Iterator[tuple[int, Tensor]]:
    """fp32 logits [m, at most TILE] of one slice of the vocabulary after the other, each with the
    id of its first token.

    The slices depend on the head alone, so a row's bits do not depend on m. Heads of several layers
    (BERT's) are run whole.
    """
    if type(head) is not nn.Linear:
        yield 0, head(hidden).float()
        return
    for start in range(0, head.out_features, TILE):
        bias = None if head.bias is None else head.bias[start : start + TILE]
        yield start, linear(hidden, head.weight[start : start + TILE], bias).float()


def first_largest(x: Float[Tensor, "m v"]) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
    """The largest value of each row and its first index. Groups compete first: CPUs have a fast
    `amax`, and an `argmax` 20 times slower."""
    if x.shape[1] % GROUP:
        top, index = x.max(-1)
        return top, index
    groups = x.view(len(x), -1, GROUP)
    top, group = groups.amax(-1).max(-1)
    return top, group * GROUP + groups[torch.arange(len(x), device=x.device), group].argmax(-1)


def best_tokens(
    head: Any,
    hidden: Float[Tensor, "m width"],
    *,
    without: Float[Tensor, "m width"] | None = None,
    cfg_scale: float = 0.0,
    never: Sequence[int] = (),
    last: Sequence[int] = (),
    k: int = 1,
    entropy: bool = False,
    temperature: float = 0.0,
    noise: Callable[[int, int], Tensor] | None = None,
) -> tuple[Int[Tensor, " m"], Float[Tensor, "m k"], Float[Tensor, " m"] | None]:
    """Tokens, the k largest probabilities, and the entropy if it is asked for, of m positions.

    Each tile leaves a maximum and a log-sum-exp; they are put together at the end, so that memory
    is O(m · TILE).

    Args:
        head: from hidden states to logits.
        hidden: what it reads.
        without: the same without the prompt, for guidance.
        cfg_scale: its weight.
        never: tokens that have no probability and are not proposed.
        last: tokens that may be proposed, but are left out of the probabilities.
        k: how many probabilities.
        entropy: whether to compute it.
        temperature: τ > 0 draws tokens.
        noise: gives uniform numbers [m, n] for the tokens from an id on: `noise(id, n)`.
    """
    tops, picks, bests, log_zs, entropies = [], [], [], [], []
    for start, x in tiles(head, hidden if without is None else torch.cat([hidden, without])):
        if without is not None:
            x, other = x.chunk(2)
            x = other + (cfg_scale + 1) * (x - other)
        forbid(x, start, never)
        drawn = x if noise is None else x / temperature + gumbel(noise(start, x.shape[1]))
        top, pick = first_largest(drawn)
        tops.append(top)
        picks.append(start + pick)
        changed = forbid(x, start, last)
        best = (
            x.topk(min(k, x.shape[1])).values
            if k > 1
            else x.amax(-1, keepdim=True)
            if changed or noise
            else top[:, None]
        )
        p = x.softmax(
            -1
        )  # its largest is 1 / Σ exp(x − max): one fast kernel where logsumexp is three slow ones
        log_zs.append(
            torch.where(best[:, 0] > -torch.inf, best[:, 0] - p.amax(-1).log(), -torch.inf)
        )
        bests.append(best)
        if entropy:
            entropies.append(torch.special.entr(p).sum(-1).nan_to_num())
    token = torch.stack(picks, 1).gather(1, torch.stack(tops, 1).argmax(1, keepdim=True))[:, 0]
    each = torch.stack(log_zs, 1)
    log_z = each.logsumexp(1, keepdim=True)
    probabilities = (torch.cat(bests, 1).topk(k).values - log_z).exp()
    if not entropy:
        return token, probabilities, None
    share = (
        each - log_z
    ).exp()  # of a mixture of tiles: the mean of their entropies and the entropy of which one it is
    return (
        token,
        probabilities,
        (share * torch.stack(entropies, 1)).sum(1) + torch.special.entr(share).sum(1),
    )


def forbid(logits: Float[Tensor, "m v"], start: int, tokens: Sequence[int]) -> bool:
    """Sets the logits of tokens to −∞, in a tile whose first token is `start`; whether it holds
    any."""
    inside = [token - start for token in tokens if start <= token < start + logits.shape[1]]
    if inside:
        logits[:, inside] = -torch.inf
    return bool(inside)


def gumbel(uniform: Float[Tensor, "m v"]) -> Float[Tensor, "m v"]:
    """Gumbel noise from uniform numbers of 24 bits."""
    return -(-(uniform + 2.0**-25).log()).log()
