"""The language-model head: each position's token and its probability, in slices of the vocabulary,
so that logits over all of it are never held for many positions at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from unmask.rng import gumbel_noise
from unmask.transfer import to_device

# What confidences are above temperature 0. Results and runs record it: until this rule they were
# the largest probability, whatever token was drawn.
CONFIDENCE_RULE = "probability of the drawn token"
# Which tokens of a slice of the vocabulary may stand at each of m positions: a function of the
# slice's first token and how many it has, which gives bool [m, that many].
TokenMask = Callable[[int, int], Tensor]
GROUP = 64  # tokens among which the largest logit is looked for first


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits. Equal values may share one pass through the head.

    Attributes:
        temperature: τ; 0 takes the most probable token, else it is drawn from softmax(logits / τ).
        top_p: draws are among the most probable tokens (at τ) that together hold this share.
        top_k: draws are among this many most probable tokens; 0 is all.
        cfg_scale: weight w of classifier-free guidance, l_u + (w + 1)·(l − l_u); 0 is none.
        eos: "free"; "never" proposes no end-of-text token; "last" proposes it with confidence 0, so
            that policies that go by confidence reveal it last.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    cfg_scale: float = 0.0
    eos: Literal["free", "never", "last"] = "free"

    @property
    def restricted(self) -> bool:
        """Whether a draw is among some tokens only: that takes all logits of a position at once."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0)


GREEDY = Sampling()


@dataclass(frozen=True)
class TokenRules:
    """Tokens that are not treated like the others.

    Attributes:
        never: they have no probability and are not proposed.
        last: they may be proposed, but are left out of the probabilities.
        allowed: the tokens that have probability at each position; None is every token.
    """

    never: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    allowed: TokenMask | None = None


@dataclass(frozen=True)
class HeadPlan:
    """How much of the head's work is done at once.

    On a CPU 4 MB of logits stay in the cache, and slices of 2,048 tokens too. A GPU wants few large
    kernels: there the vocabulary is not sliced, and half a gigabyte of logits is made at a time.

    Attributes:
        tile: tokens of the vocabulary in a slice.
        logits: logits (fp32) at once.
        drawn: the same where tokens are drawn: noise takes another 32 bytes a logit.
    """

    tile: int
    logits: int
    drawn: int

    @staticmethod
    def for_device(kind: str) -> HeadPlan:
        """The plan for "cpu", or for any other kind of device."""
        return HeadPlan(2048, 2**20, 2**20) if kind == "cpu" else HeadPlan(2**20, 2**27, 2**25)


@dataclass(frozen=True)
class GivenLogits:
    """Stands where a network and its head do, for logits that another program has computed: they
    are the hidden states, and the head changes nothing.

    Attributes:
        vocabulary: V, how many logits a position has.
    """

    vocabulary: int

    def __call__(self, logits: Float[Tensor, "*rows V"]) -> Float[Tensor, "*rows V"]:
        return logits

    def get_input_embeddings(self) -> nn.Embedding:
        """Embeddings without width: they say only how many tokens there are."""
        return nn.Embedding(self.vocabulary, 0, device="meta")


@lru_cache(maxsize=256)
def ids_on_device(ids: tuple[int, ...], start: int, stop: int, device: torch.device) -> Tensor:
    """Those of some token ids that are in a slice of the vocabulary, counted from its start.

    Cached, as every slice of every pass asks for them.
    """
    return to_device([i - start for i in ids if start <= i < stop], device)


def tiles(
    head: Any, hidden: Float[Tensor, "m width"], tile: int, most: int = 0
) -> Iterator[tuple[int, Float[Tensor, "m t v"]]]:
    """fp32 logits of some slices of the vocabulary after the other, with the id of the first token.

    The slices depend on the head alone, and all that is done later is done within a slice, so a
    row's bits do not depend on m. With few positions a slice is little work, and its operations
    cost more to call than to do; so t slices are computed together. Heads of several layers
    (BERT's) are run whole. Given logits (fp32) are sliced without a copy, and the caller may change
    them.

    Args:
        head: from hidden states to logits.
        hidden: what it reads.
        tile: tokens in a slice; the last slice may be smaller.
        most: logits in the slices of one yield, unless a single slice has more.
    """
    given = isinstance(head, GivenLogits)
    if not given and type(head) is not nn.Linear:
        yield 0, head(hidden).float()[:, None]
        return
    vocabulary = head.vocabulary if given else head.out_features
    whole = vocabulary // tile * tile
    together = tile * max(1, most // max(1, len(hidden) * tile))
    starts = [*range(0, whole, together), whole]
    spans = list(itertools.pairwise(starts))
    for start, stop in [*spans, (whole, vocabulary)] if whole < vocabulary else spans:
        if given:
            x = hidden[:, start:stop]
        else:
            bias = None if head.bias is None else head.bias[start:stop]
            x = linear(hidden, head.weight[start:stop], bias)
        yield start, x.float().unflatten(1, (-1, min(tile, stop - start)))


def first_largest(
    x: Float[Tensor, "m t v"],
) -> tuple[Float[Tensor, "m t"], Int[Tensor, "m t"]]:
    """The largest value of each slice and its first index.

    Groups compete first: CPUs have a fast `amax`, and an `argmax` that is 20 times slower.
    """
    if x.shape[-1] % GROUP:
        top, index = x.max(-1)
        return top, index
    groups = x.unflatten(-1, (-1, GROUP))
    top, group = groups.amax(-1).max(-1)
    own = groups.take_along_dim(group[..., None, None], 2)[..., 0, :]
    return top, group * GROUP + own.argmax(-1)


def forbid(logits: Float[Tensor, "m t v"], start: int, tokens: tuple[int, ...]) -> bool:
    """Sets the logits of tokens to −∞, in slices the first token of which is `start`.

    Returns:
        Whether the slices hold any of them.
    """
    flat = logits.flatten(1)
    inside = ids_on_device(tokens, start, start + flat.shape[1], logits.device)
    if len(inside):
        flat.index_fill_(1, inside, -torch.inf)
    return len(inside) > 0


def restrict(logits: Float[Tensor, "m V"], sampling: Sampling) -> Float[Tensor, "m V"]:
    """Logits at temperature τ of the tokens that may be drawn; −∞ for the others.

    First the `top_k` largest stay (all that equal the last of them too), then the shortest prefix
    in falling order whose share is at least `top_p`; the most probable token always stays.
    """
    scaled = logits / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[1]:
        least = scaled.topk(sampling.top_k).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if sampling.top_p < 1:
        ranked, order = scaled.sort(dim=-1, descending=True, stable=True)
        share = ranked.softmax(-1)
        beyond = share.cumsum(-1) - share >= sampling.top_p
        beyond[:, 0] = False
        scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
    return scaled


def guided_tiles(
    head: Any,
    hidden: Float[Tensor, "m width"],
    without: Float[Tensor, "m width"] | None,
    sampling: Sampling,
    rules: TokenRules,
) -> Iterator[tuple[int, Float[Tensor, "m t v"]]]:
    """`tiles` after guidance, without the tokens that are never proposed or not allowed; t of them
    at once.

    One slice of the whole vocabulary where draws are among some tokens only.
    """
    plan = HeadPlan.for_device(hidden.device.type)
    both = hidden if without is None else torch.cat([hidden, without])
    most = plan.drawn if sampling.temperature > 0 else plan.logits
    pieces: Any = tiles(head, both, plan.tile, most)
    if sampling.restricted:
        pieces = [(0, torch.cat([x.flatten(1) for _, x in pieces], 1)[:, None])]
    for start, x in pieces:
        if without is not None:
            x, other = x.chunk(2)
            x = other + (sampling.cfg_scale + 1) * (x - other)
        forbid(x, start, rules.never)
        if rules.allowed is not None:
            flat = x.flatten(1)
            flat.masked_fill_(~rules.allowed(start, flat.shape[1]), -torch.inf)
        yield start, x


@dataclass(frozen=True)
class Choice:
    """The tokens of m positions, and how sure the model is of them; probabilities at τ = 1.

    Attributes:
        token: the most probable one, or the one drawn.
        own: its probability.
        largest: the k largest probabilities, descending.
        entropy: in nats, if it was asked for.
    """

    token: Int[Tensor, " m"]
    own: Float[Tensor, " m"]
    largest: Float[Tensor, "m k"]
    entropy: Float[Tensor, " m"] | None

    def confidence(self, k: int) -> Float[Tensor, "m k"]:
        """What policies go by: the token's own probability, then the k − 1 largest others.

        The most probable token's own is the largest, so without a draw these are the k largest.
        """
        rank = (self.largest > self.own[:, None]).sum(1, keepdim=True)
        places = torch.arange(k - 1, device=rank.device)
        others = self.largest.gather(1, places + (places >= rank).long())
        return torch.cat([self.own[:, None], others], 1)


def best_tokens(
    head: Any,
    hidden: Float[Tensor, "m width"],
    *,
    without: Float[Tensor, "m width"] | None = None,
    sampling: Sampling = GREEDY,
    rules: TokenRules = TokenRules(),
    k: int = 1,
    entropy: bool = False,
    noise: Callable[[int, int], Tensor] | None = None,
) -> Choice:
    """The tokens of m positions with their probabilities, and the entropy if it is asked for.

    Each slice of the vocabulary leaves a maximum and a log-sum-exp; they are put together at the
    end, so memory is O(m · slice). Probabilities are those at τ = 1.

    Args:
        head: from hidden states to logits.
        hidden: what it reads.
        without: the same from a canvas without the prompt, for guidance.
        sampling: how tokens are drawn.
        rules: tokens that are not treated like the others.
        k: how many of the largest probabilities.
        entropy: whether to compute it, in nats.
        noise: for τ > 0, uniform numbers [m, n] for the tokens from an id on: `noise(id, n)`.
    """
    tops, picks, owns, bests, log_zs, entropies = [], [], [], [], [], []
    for start, x in guided_tiles(head, hidden, without, sampling, rules):
        slices, width = x.shape[1:]
        first = start + width * torch.arange(slices, device=x.device)
        drawn = x
        if noise is not None:
            if sampling.restricted:
                scaled = restrict(x[:, 0], sampling)[:, None]
            else:
                scaled = x / sampling.temperature
            drawn = scaled + gumbel_noise(noise(start, slices * width)).view_as(x)
        top, pick = first_largest(drawn)
        tops.append(top)
        picks.append(first + pick)
        if noise is not None:  # the draw's own logit, which τ and noise have not touched
            owns.append(x.gather(2, pick[..., None])[..., 0])
        changed = forbid(x, start, rules.last)
        if k > 1:
            best = x.topk(min(k, width)).values
        elif changed or noise is not None:
            best = x.amax(-1, keepdim=True)
        else:
            best = top[..., None]
        # The largest probability is 1 / Σ exp(x − max): one fast kernel where logsumexp is three.
        p = x.softmax(-1)
        log_z = best[..., 0] - p.amax(-1).log()
        # A slice may hold nothing but −∞; NaN (a broken model) must stay NaN, so that it is found.
        log_zs.append(torch.where(best[..., 0] == -torch.inf, -torch.inf, log_z))
        bests.append(best.flatten(1))
        if entropy:
            entropies.append(torch.special.entr(p).sum(-1).nan_to_num())
    winner = torch.cat(tops, 1).argmax(1, keepdim=True)
    token = torch.cat(picks, 1).gather(1, winner)[:, 0]
    each = torch.cat(log_zs, 1)
    log_z = each.logsumexp(1, keepdim=True)
    largest = (torch.cat(bests, 1).topk(k).values - log_z).exp()
    own = largest[:, 0]
    if noise is not None:
        own = (torch.cat(owns, 1).gather(1, winner) - log_z).exp()[:, 0]
    if not entropy:
        return Choice(token, own, largest, None)
    # Of a mixture of slices: the mean of their entropies, and the entropy of which slice it is.
    share = (each - log_z).exp()
    whole = (share * torch.cat(entropies, 1)).sum(1) + torch.special.entr(share).sum(1)
    return Choice(token, own, largest, whole)


def log_probs_of(
    head: Any,
    hidden: Float[Tensor, "m width"],
    targets: Int[Tensor, " m"],
    never: tuple[int, ...] = (),
) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
    """The log-probability (fp32, nats, at τ = 1) of a given token at each of m positions, and the
    most probable token; in slices of the vocabulary, as `best_tokens`.

    Args:
        head: from hidden states to logits.
        hidden: what it reads.
        targets: the tokens.
        never: tokens without probability.
    """
    own, log_zs, tops, picks = torch.full_like(hidden[:, 0], -torch.inf).float(), [], [], []
    for start, x in guided_tiles(head, hidden, None, GREEDY, TokenRules(never)):
        flat, (slices, width) = x.flatten(1), x.shape[1:]
        place = targets - start
        within = (place >= 0) & (place < flat.shape[1])
        found = flat.gather(1, place.clamp(0, flat.shape[1] - 1)[:, None])[:, 0]
        own = torch.where(within, found, own)
        log_zs.append(x.logsumexp(-1))
        top, pick = first_largest(x)
        tops.append(top)
        picks.append(start + width * torch.arange(slices, device=x.device) + pick)
    winner = torch.cat(tops, 1).argmax(1, keepdim=True)
    best = torch.cat(picks, 1).gather(1, winner)[:, 0]
    return own - torch.cat(log_zs, 1).logsumexp(1), best
