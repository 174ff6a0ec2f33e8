"""From the tokens of a row to what a client reads: text that can no longer change, the finished
answer and its cost, the canvas after a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unmask.decoding.generation import (
    UNSETTLED,
    answer_of,
    answer_text,
    buffer_tokens,
    count_answer,
    count_before,
    find_stop,
)
from unmask.decoding.request import Request
from unmask.models.base import Model


@dataclass(frozen=True)
class Answer:
    """A finished row, as a client reads it.

    Attributes:
        text: up to the end of text or the first stop string.
        finish_reason: "stop" if one of the two was there, else "length".
        tokens: how many tokens were revealed before it.
        nfe: forward passes.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    nfe: int


@dataclass(frozen=True)
class Update:
    """What a pass did to one row, on the host.

    Attributes:
        row: the row's number in its job.
        step: the number of the pass, from 0.
        tokens: the buffer after the pass, L ids; empty where nobody asked for steps.
        revealed: the positions that the pass revealed.
        confidence: of those positions.
        steps: for a finished row the pass that revealed each position, −1 never; None before.
        nfe: of a finished row.
        error: why a row could not be finished.
    """

    row: int
    step: int
    tokens: Sequence[int] = ()
    revealed: Sequence[int] = ()
    confidence: Sequence[float] = ()
    steps: Sequence[int] | None = None
    nfe: int = 0
    error: str = ""


def finished_answer(model: Model, request: Request, update: Update) -> Answer:
    """The answer of a row that is done."""
    tokens, steps = update.tokens, update.steps or ()
    stopped = find_stop(model, answer_of(model, tokens), request.options.stop) is not None
    ended = any(token in model.end_set for token in tokens)
    return Answer(
        answer_text(model, tokens, request.options.stop),
        "stop" if stopped or ended else "length",
        count_answer(model, request, tokens, steps),
        update.nfe,
    )


def count_settled(model: Model, tokens: Sequence[int]) -> int:
    """How many tokens of a buffer stand before its first mask."""
    return next((i for i, token in enumerate(tokens) if token == model.mask_id), len(tokens))


def settled_text(model: Model, request: Request, tokens: Sequence[int]) -> str:
    """The beginning of a row's text that no later pass can change: whole characters of the tokens
    before the first mask, as far as no stop string can begin in them.

    Args:
        model: whose tokenizer is used.
        request: the row.
        tokens: its buffer, masks where nothing is revealed.
    """
    prefix = answer_of(model, tokens[: count_settled(model, tokens)])
    stop = request.options.stop
    if stop and find_stop(model, prefix, stop) is not None:
        return answer_text(model, prefix, stop)
    if stop:
        prefix = prefix[: free_of_stops(model, prefix, stop)]
    tokenizer = model.tokenizer
    text = tokenizer.decode(buffer_tokens(model, prefix), skip_special_tokens=True)
    text = text.rstrip("�")  # the bytes of a character that is not whole yet
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        text = text[:-UNSETTLED]
    return text


def free_of_stops(model: Model, tokens: Sequence[int], stop: Sequence[str]) -> int:
    """How many tokens lie wholly before the last place where a stop string may have begun."""
    whole = model.tokenizer.decode(list(tokens)).rstrip("�")
    open_end = max((count_begun(whole, text) for text in stop), default=0)
    if not open_end:
        return len(tokens)
    return count_before(model, tokens, whole[: len(whole) - open_end])


def count_begun(whole: str, text: str) -> int:
    """How many characters at the end of a whole text are the beginning of a stop string, at most
    all but its last."""
    place = whole.find(text[0], max(0, len(whole) - len(text) + 1))
    while place >= 0 and not text.startswith(whole[place:]):
        place = whole.find(text[0], place + 1)
    return 0 if place < 0 else len(whole) - place


def canvas_event(model: Model, index: int, update: Update) -> dict[str, Any]:
    """The canvas of one row after a pass, for JSON.

    Returns:
        `index` of the answer, `pass` from 1, `canvas` (L texts, null where masked) and `revealed`
        (position, token, text and confidence of what the pass revealed).
    """
    canvas = [
        None if token == model.mask_id else token_text(model, token) for token in update.tokens
    ]
    revealed = [
        {
            "position": position,
            "token": update.tokens[position],
            "text": canvas[position],
            "confidence": round(confidence, 4),
        }
        for position, confidence in zip(update.revealed, update.confidence, strict=True)
    ]
    return {"index": index, "pass": update.step + 1, "canvas": canvas, "revealed": revealed}


def token_text(model: Model, token: int) -> str:
    """How one token is written; "" for an end of text."""
    if token in model.end_set:
        return ""
    return model.tokenizer.decode([token])
