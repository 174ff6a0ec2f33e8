"""Log-likelihoods for lm-evaluation-harness: multiple choice and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unmask.decoding import Engine, Request
from unmask.decoding.options import check_whole
from unmask.decoding.prompts import prompt_ids
from unmask.decoding.request import with_trained_blocks
from unmask.errors import UnmaskError
from unmask.models import Model
from unmask.models.limits import canvas_limit
from unmask.rng import row_keys
from unmask.scoring import Likelihood, Text, bound_likelihood, exact_likelihood
from unmask.scoring.texts import check_size, fill_up, impossible_tokens, join_pair

if TYPE_CHECKING:
    from unmask.integrations.lm_eval.model import UnmaskLM

KINDS = ("bound", "left-to-right", "policy")


def check_likelihood(kind: str, samples: int | str) -> tuple[str, int]:
    """The kind of likelihood and the number of masks.

    Raises:
        UnmaskError: if one of them cannot be used.
    """
    if kind not in KINDS:
        raise UnmaskError(f"likelihood is {kind!r}; give one of {', '.join(KINDS)}")
    count = int(samples) if isinstance(samples, str) and samples.isdigit() else samples
    check_whole("mc_samples", count, 2)
    assert isinstance(count, int)
    if count % 2:
        raise UnmaskError(f"mc_samples is {count}; give an even number")
    return kind, count


def check_canvas(length: int | str | None) -> int | None:
    """The length L that continuations are filled up to, if any.

    Raises:
        UnmaskError: if it cannot be used.
    """
    if length is None:
        return None
    count = int(length) if isinstance(length, str) and length.isdigit() else length
    check_whole("likelihood_canvas", count, 1)
    assert isinstance(count, int)
    return count


def score_texts(lm: UnmaskLM, texts: Sequence[Text]) -> list[Likelihood]:
    """Log-likelihoods of the kind that the model object was made for: −∞ where a text holds a token
    that the model never proposes."""
    possible = [text for text in texts if not impossible_tokens(lm.model, text)]
    found = iter(score_possible(lm, possible) if possible else ())
    return [
        Likelihood(-math.inf, 0.0, len(text.places), 0)
        if impossible_tokens(lm.model, text)
        else next(found)
        for text in texts
    ]


def score_possible(lm: UnmaskLM, texts: Sequence[Text]) -> list[Likelihood]:
    """Log-likelihoods of texts that the model can write."""
    options, size = lm.options, lm.batch_size
    if lm.likelihood == "bound":
        return bound_likelihood(
            lm.model, texts, samples=lm.mc_samples, seed=options.seed, batch_size=size
        )
    order = lm.policy if lm.likelihood == "policy" else lm.likelihood
    blocks = options.block_length if lm.model.attention_block is None else None
    return exact_likelihood(
        lm.model, texts, order, block_length=blocks, seed=options.seed, batch_size=size
    )


def decodes_as(lm: UnmaskLM, texts: Sequence[Text]) -> tuple[list[bool], int]:
    """Whether the policy, greedily, writes just the scored tokens, in the blocks in which it would
    answer; and the passes that took."""
    engine = Engine(lm.model, lm.batch_size)
    options = replace(lm.options, temperature=0.0, stop=(), choices=(), max_new_tokens=None)
    same, passes = [False] * len(texts), 0
    rows: dict[int, int] = {}  # ticket → number of the text
    for i, text in enumerate(texts):
        if impossible_tokens(lm.model, text):
            continue
        own = options.with_length(len(text.places))
        if lm.model.attention_block is not None:
            own = replace(own, block_length=None)
        own = with_trained_blocks(lm.model, lm.policy, own)
        key = row_keys([text.given], options.seed)[0]
        rows[engine.submit(Request(text.given, lm.policy, own, key))] = i
    while (step := engine.step()) is not None:
        for result in step.results:
            if result.error:
                raise UnmaskError(result.error)
            passes += result.nfe
            i = rows[result.ticket]
            same[i] = writes_text(lm.model, result.tokens.tolist(), texts[i].targets)
    return same, passes


def writes_text(model: Model, tokens: Sequence[int], targets: Sequence[int]) -> bool:
    """Whether a buffer holds just these tokens. Where the row was finished at an end of text, what
    stands behind it is still masked, and counts as further ends."""
    ended = next((i for i, token in enumerate(tokens) if token in model.end_set), len(tokens))
    filled = [
        model.eos_ids[0] if i > ended and token == model.mask_id else token
        for i, token in enumerate(tokens)
    ]
    return filled == list(targets)


def join_texts(model: Model, context: str, continuation: str, canvas: int | None) -> Text:
    """A context and its continuation, as a text to score, filled up with end-of-text tokens to
    `canvas` if that is given.

    Raises:
        UnmaskError: if it is too long, or the continuation is empty.
    """
    text = join_pair(model, context, continuation, prompt_ids)
    if canvas is not None:
        text = fill_up(model, text, canvas, "likelihood_canvas")
    check_size(model, text)
    return text


def cut_text(model: Model, string: str) -> list[Text]:
    """A whole text to score with nothing before it: in one piece where the model was made for so
    many tokens, else in pieces of half that, each given the half before it."""
    ids = tuple(prompt_ids(model, string))
    if not ids:
        return []
    config = model.network.config
    most = min(
        canvas_limit(config),
        model.max_positions or 2**62,
        getattr(config, "max_position_embeddings", None) or 2**62,
    )
    first, half = min(most, len(ids)), max(1, most // 2)
    pieces = [Text(ids[:first], tuple(range(first)))]
    for start in range(first, len(ids), half):
        end, before = min(start + half, len(ids)), min(start, half)
        scored = tuple(range(before, before + end - start))
        pieces.append(Text(ids[start - before : end], scored))
    for piece in pieces:
        check_size(model, piece)
    return pieces
