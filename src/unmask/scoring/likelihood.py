"""Log-likelihoods of texts under a masked diffusion model: LLaDA's bound, and the exact likelihood
of decoding in a given order, one token a pass.

Both are at temperature 1, of the distribution that the decoder draws from: tokens that it never
proposes have no probability. A block-causal model is scored block after block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.options import check_whole
from unmask.decoding.request import trained_blocks
from unmask.errors import UnmaskError, short_text
from unmask.models.base import Model, check_model
from unmask.policies.base import Observation, PolicyLike, current_block, decide, needs_of
from unmask.policies.load import load_policy
from unmask.rng import RowGenerator, row_keys
from unmask.scoring.texts import (
    Question,
    Text,
    ask_in_turn,
    check_text,
    hide_places,
    lay_out,
    split_text,
)
from unmask.transfer import to_device

LEFT_TO_RIGHT = "left-to-right"
MASKS = 2  # the stream of random numbers that masks are drawn with; see unmask.rng


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds the scored tokens of a text.

    Attributes:
        log_likelihood: natural logarithm of the probability, or the estimate of a lower bound.
        standard_error: of that estimate, in nats; 0 where nothing is drawn.
        tokens: how many tokens are scored.
        passes: rows of forward passes that this took, equal ones once.
    """

    log_likelihood: float
    standard_error: float
    tokens: int
    passes: int

    @property
    def per_token(self) -> float:
        """The mean log-likelihood of a token."""
        return self.log_likelihood / self.tokens


@torch.no_grad()
def bound_likelihood(
    model: Model,
    texts: Sequence[Text],
    *,
    samples: int = 128,
    seed: int = 0,
    batch_size: int = 64,
) -> list[Likelihood]:
    """LLaDA's lower bound of log-likelihoods (arXiv 2502.09992, eq. 6).

    Of n scored tokens, l are masked, with l uniform on 1 … n and all subsets of l equally likely;
    the bound is the expectation of n/l · Σ log p(token | rest) over the masked ones. In n ≤ log₂
    samples tokens every subset is tried, so nothing is drawn. Otherwise l is drawn in strata: its
    range is cut into samples / 2 equal parts with two independent draws in each, which varies less
    than plain draws and still gives an unbiased standard error.

    Args:
        model: from `load_model`.
        texts: from `encode_pair`.
        samples: masks for each text (of a block-causal model: for each of its blocks), an even
            number. It changes the standard error, as 1 / √samples or faster.
        seed: of the masks. They depend on the seed and the text alone.
        batch_size: rows side by side; it changes the speed, never the result.

    Raises:
        UnmaskError: if a text cannot be scored, a number is out of range, or a logit is not finite.

    Examples:
        >>> from unmask.scoring import bound_likelihood, encode_pair
        >>> model = unmask.load_model("embedded/chain")
        >>> text = encode_pair(model, "7 a +5 b *3 =", " # 6")
        >>> bound_likelihood(model, [text])[0].log_likelihood
        -36...
    """
    check_scoring(model, texts, batch_size, seed)
    check_samples(samples)
    parts = [(i, part) for i, text in enumerate(texts) for part in split_text(model, text)]
    parts.sort(key=lambda pair: -len(pair[1].tokens))  # rows of like length share a pass
    groups = (ask_masks(model, part, draw_masks(part, samples, seed)) for _, part in parts)
    asked = ask_in_turn(model, groups, batch_size)
    mean, variance, passes = [0.0] * len(texts), [0.0] * len(texts), [0] * len(texts)
    for (i, part), (questions, answers) in zip(parts, asked, strict=True):
        masked = torch.tensor([len(question.places) for question in questions])
        sums = torch.tensor([sum(logs) for logs in answers], dtype=torch.float64)
        part_mean, part_variance = estimate_bound(len(part.places), masked, sums, samples)
        mean[i], variance[i] = mean[i] + part_mean, variance[i] + part_variance
        passes[i] += len(set(questions))
    columns = zip(mean, map(math.sqrt, variance), texts, passes, strict=True)
    return [
        check_finite(Likelihood(value, error, len(text.places), count))
        for value, error, text, count in columns
    ]


def check_samples(samples: Any) -> None:
    """Refuses a number of masks that the bound cannot be estimated with.

    Raises:
        UnmaskError: if so.
    """
    check_whole("samples", samples, 2)
    if samples % 2:
        raise UnmaskError(f"samples is {samples}; give an even number, as strata hold two each")


def draw_masks(part: Text, samples: int, seed: int) -> Bool[Tensor, "m n"]:
    """Which of a part's n scored tokens each question masks: every subset, where that takes no more
    questions than `samples`, else as many draws, two a stratum one after the other."""
    n = len(part.places)
    if 2 ** min(n, 40) - 1 <= samples:
        return torch.tensor(list(product((False, True), repeat=n))[1:])
    key = row_keys([(*part.tokens, *part.places)], seed)[0]
    generator = RowGenerator(torch.full((samples,), key))
    draws = generator.uniform(torch.arange(samples), n + 1, MASKS).double()
    stratum = torch.arange(samples) // 2
    share = (stratum + draws[:, 0]) / (samples // 2)
    masked = 1 + (n * share).long().clamp(max=n - 1)
    rank = draws[:, 1:].argsort(dim=1, stable=True).argsort(dim=1)
    return rank < masked[:, None]


def ask_masks(model: Model, part: Text, masks: Bool[Tensor, "m n"]) -> list[Question]:
    """A question for each row of masks: the masked tokens, given all the others."""
    questions = []
    for row in masks.tolist():
        places = tuple(p for p, hidden in zip(part.places, row, strict=True) if hidden)
        targets = tuple(part.tokens[place] for place in places)
        questions.append(Question(hide_places(model, part, places), places, targets))
    return questions


def estimate_bound(
    n: int, masked: Int[Tensor, " m"], sums: Float[Tensor, " m"], samples: int
) -> tuple[float, float]:
    """The bound of a part and the variance of that estimate.

    Args:
        n: scored tokens of the part.
        masked: int64 [m], how many of them each question of `draw_masks` masks.
        sums: fp64 [m], Σ log p over these.
        samples: as for `draw_masks`.
    """
    values = n / masked * sums
    if 2 ** min(n, 40) - 1 <= samples:
        subsets = torch.tensor(
            [math.comb(n, count) for count in masked.tolist()], dtype=torch.float64
        )
        return float((values / (n * subsets)).sum()), 0.0
    pairs = values.view(-1, 2)  # the variance of the mean of two draws is a quarter of (a − b)²
    variance = ((pairs[:, 0] - pairs[:, 1]) ** 2 / 4).sum() / len(pairs) ** 2
    return float(values.mean()), float(variance)


@torch.no_grad()
def exact_likelihood(
    model: Model,
    texts: Sequence[Text],
    order: str | Path | PolicyLike = LEFT_TO_RIGHT,
    *,
    block_length: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> list[Likelihood]:
    """The exact log-likelihood of texts that are decoded one token a pass: the chain rule.

    With a fixed order, or one that a policy chooses by what it has seen so far, the probabilities
    of all texts of one length sum to 1. It is the likelihood of the sampler with this order, not
    of all orders together.

    Args:
        model: from `load_model`.
        texts: from `encode_pair`.
        order: "left-to-right", or a policy, as for `generate`: of the positions that it accepts in
            a pass, the one that is first in its order, or the most confident one, comes next, and
            the text's own token is written there.
        block_length: BL of a policy, in tokens; None is the one that a learned policy was trained
            in, else full diffusion. A block-causal model has its own.
        seed: of a policy that draws.
        batch_size: rows side by side; it changes the speed, never the result.

    Raises:
        UnmaskError: if the order is unknown, a text cannot be scored, a number is out of range, or
            a logit is not finite.

    Examples:
        >>> from unmask.scoring import encode_pair, exact_likelihood
        >>> model = unmask.load_model("embedded/chain")
        >>> text = encode_pair(model, "7 a +5 b *3 =", " # 6")
        >>> exact_likelihood(model, [text], "confidence:1")[0].log_likelihood
        -36...
    """
    check_scoring(model, texts, batch_size, seed)
    if block_length is not None:
        check_whole("block_length", block_length, 1)
    if block_length not in (None, model.attention_block) and model.attention_block is not None:
        raise UnmaskError(
            f"block_length is {block_length}; this model is decoded in its own blocks of "
            f"{model.attention_block}, so leave it out"
        )
    parts = [(i, part) for i, text in enumerate(texts) for part in split_text(model, text)]
    if order == LEFT_TO_RIGHT:
        sums = score_in_order(model, [part for _, part in parts], batch_size)
    else:
        loaded = load_policy(order, device=model.device) if isinstance(order, str | Path) else order
        block_length = block_length or trained_blocks(model, loaded)
        sums = [0.0] * len(parts)
        for numbers in group_parts(model, [part for _, part in parts], batch_size):
            group = [parts[i][1] for i in numbers]
            size = len(seen_places(model, group[0]))
            length = min(block_length or size, size)
            for i, value in zip(
                numbers, score_with_policy(model, group, loaded, length, seed), strict=True
            ):
                sums[i] = value
    totals = [0.0] * len(texts)
    for (i, _), value in zip(parts, sums, strict=True):
        totals[i] += value
    pairs = zip(texts, totals, strict=True)
    counts = [(len(text.places), total) for text, total in pairs]
    return [check_finite(Likelihood(total, 0.0, count, count)) for count, total in counts]


def score_in_order(model: Model, parts: Sequence[Text], batch_size: int) -> list[float]:
    """Σ log p of parts from left to right; the order is known, so all passes stand side by side."""
    order = sorted(range(len(parts)), key=lambda i: -len(parts[i].tokens))
    groups = ([question] for i in order for question in ask_from_left(model, parts[i]))
    asked = ask_in_turn(model, groups, batch_size)
    sums = [0.0] * len(parts)
    for i in order:
        sums[i] = sum(logs[0] for _, (logs,) in islice(asked, len(parts[i].places)))
    return sums


def ask_from_left(model: Model, part: Text) -> Iterator[Question]:
    """A question for each scored token of a part, given all others before it."""
    for i, place in enumerate(part.places):
        canvas = hide_places(model, part, part.places[i:])
        yield Question(canvas, (place,), (part.tokens[place],))


def seen_places(model: Model, part: Text) -> Sequence[int]:
    """The positions that a policy sees: those that are scored; of a block-causal model its whole
    block, as in decoding, up to the end of the text."""
    size = model.attention_block
    if size is None:
        return part.places
    return range(part.places[0] // size * size, len(part.tokens))


def group_parts(model: Model, parts: Sequence[Text], batch_size: int) -> list[list[int]]:
    """The numbers of parts to score side by side: as many scored tokens and positions that a policy
    sees each, and at most `batch_size`."""
    by_length: dict[tuple[int, int], list[int]] = {}
    for i in sorted(range(len(parts)), key=lambda i: -len(parts[i].tokens)):
        lengths = (len(parts[i].places), len(seen_places(model, parts[i])))
        by_length.setdefault(lengths, []).append(i)
    return [
        numbers[start : start + batch_size]
        for numbers in by_length.values()
        for start in range(0, len(numbers), batch_size)
    ]


def score_with_policy(
    model: Model, parts: Sequence[Text], policy: PolicyLike, block_length: int, seed: int
) -> list[float]:
    """Σ log p of parts of one group of `group_parts`, in the order that a policy chooses."""
    needs, device = needs_of(policy), model.device
    whole, inside = lay_out(model, [part.tokens for part in parts])
    seen = [seen_places(model, part) for part in parts]
    pairs = list(zip(parts, seen, strict=True))
    places = to_device([list(row) for row in seen], device)
    targets = whole.gather(1, places)
    hidden_ones = [[place in part.places for place in row] for part, row in pairs]
    masked = to_device(hidden_ones, device, torch.bool)
    tokens = whole.scatter(1, places, targets.masked_fill(masked, model.mask_id))
    # The draws of a policy must not depend on the text, or its likelihoods would not sum to 1.
    keys = [row_keys([part.given], seed)[0] for part in parts]
    generator = RowGenerator(to_device(keys, device))
    alpha = getattr(policy, "alpha", None)
    told = None if alpha is None else torch.full((len(parts),), float(alpha), device=device)
    total = torch.zeros(len(parts), dtype=torch.float64, device=device)
    n = places.shape[1]
    for step in range(len(parts[0].places)):
        eligible = current_block(masked, block_length)
        hidden = model.hidden_at(tokens, inside, places)
        needed = None if needs.everywhere else eligible
        proposal = model.proposal(hidden, needs=needs.features, k=needs.top_k, needed=needed)
        steps = torch.full((len(parts),), step, device=device)
        observation = Observation(
            proposal.confidence, masked, eligible, steps, n, proposal.features, told
        )
        action = decide(policy, observation, generator).long() * eligible
        chosen = first_chosen(action, proposal.confidence[..., 0], eligible)
        at = torch.zeros_like(masked).scatter(1, chosen, True)
        log_probs, _ = model.token_log_probs(hidden, targets, needed=at, count=len(parts))
        total += log_probs.gather(1, chosen)[:, 0].double()
        masked = masked & ~at
        where = places.gather(1, chosen)
        tokens = tokens.scatter(1, where, targets.gather(1, chosen))
    return total.tolist()


def first_chosen(
    action: Tensor, confidence: Float[Tensor, "B n"], eligible: Bool[Tensor, "B n"]
) -> Tensor:
    """The one position of each row that comes next, int64 [B, 1]: the first in the policy's order,
    the most confident one of equal ones; the most confident eligible one if it accepts none."""
    last = torch.where(action > 0, action, action.amax() + 1)
    rank = (last.double() - confidence.double() / 2).masked_fill(~eligible, torch.inf)
    return rank.argmin(1, keepdim=True)


def check_scoring(model: Model, texts: Sequence[Text], batch_size: int, seed: int) -> None:
    """Refuses what cannot be scored.

    Raises:
        UnmaskError: if there are no texts, one cannot be scored, or a number is out of range.
    """
    check_model(model)
    if model.causal_context:
        raise UnmaskError(
            f"a {model.family} model reads its context in another way than the block that it "
            "denoises, and likelihoods are not computed for it; use a model of another family"
        )
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        given = short_text(repr(texts))
        raise UnmaskError(f"texts is {given}; give a list of what encode_pair returns")
    if not texts:
        raise UnmaskError("no texts were given; give at least one to score")
    for text in texts:
        check_text(model, text)
    check_whole("batch_size", batch_size, 1)
    check_whole("seed", seed, 0, 2**63 - 1)


def check_finite(found: Likelihood) -> Likelihood:
    """A likelihood, if it is a number.

    Raises:
        UnmaskError: if it is none.
    """
    if not math.isfinite(found.log_likelihood):
        raise UnmaskError(
            "a log-likelihood is not finite: the model's logits are NaN or infinite; load it with "
            "dtype bfloat16 or float32, or check its weights"
        )
    return found
