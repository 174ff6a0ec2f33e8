"""What answers may say: tokens allowed at each position, or one of some fixed answers.

A position's confidence is the probability among what it may still become, so policies need not know
of this. Where an answer must be one of some choices, a token is possible if a choice that agrees
with all revealed tokens has it there; once one choice is left, everything is sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import ref

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.canvas import Canvas
from unmask.decoding.prompts import encode_prompt
from unmask.decoding.request import Extent, Request
from unmask.errors import UnmaskError, short_text
from unmask.models.base import Model
from unmask.models.head import TokenMask

ANY = -1  # in a choice, where any token may stand


@dataclass(frozen=True)
class Limits:
    """What one row may say, on the host.

    Attributes:
        sets: the tokens allowed at each position of its buffer; None is every token.
        choices: tokens of each choice at these positions, ANY where anything may stand; at least
            one choice, which is ANY everywhere if the row has none.
    """

    sets: tuple[tuple[int, ...] | None, ...]
    choices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Constraints:
    """What the rows in flight may say, on the device.

    Attributes:
        sets: bool [K, V], sets of tokens; the first one is every token.
        which: int64 [slots, L], the set of each buffer position.
        choices: int64 [slots, C, L], the choices of each row; some may stand twice.
    """

    sets: Bool[Tensor, "K V"]
    which: Int[Tensor, "slots L"]
    choices: Int[Tensor, "slots C L"]

    def open_choices(self, canvas: Canvas, rows: Int[Tensor, " B"]) -> Bool[Tensor, "B C"]:
        """Which choices agree with all tokens that are revealed."""
        choices = self.choices[rows]
        buffer = canvas.tokens[rows[:, None], canvas.where[rows]]
        free = (canvas.reveal_step[rows] < 0)[:, None] | (choices == ANY)
        return (free | (choices == buffer[:, None])).all(-1)

    def mask_tokens(
        self,
        slots: Int[Tensor, " m"],
        places: Int[Tensor, " m"],
        possible: Bool[Tensor, "m C"],
    ) -> TokenMask:
        """Which tokens may stand at m positions: a function of the first token and how many.

        Args:
            slots: the row of each position.
            places: its place in the buffer.
            possible: what `open_choices` says of its row.
        """
        sets = self.which[slots, places]
        tokens = self.choices[slots, :, places]
        anything = (possible & (tokens == ANY)).any(1, keepdim=True)

        def allowed(first: int, count: int) -> Bool[Tensor, "m count"]:
            inside = possible & (tokens >= first) & (tokens < first + count)
            at = torch.where(inside, tokens - first, count)
            chosen = torch.zeros(len(at), count + 1, dtype=torch.bool, device=at.device)
            chosen = chosen.scatter(1, at, True)[:, :count]
            return self.sets[sets, first : first + count] & (chosen | anything)

        return allowed

    def settle(
        self,
        canvas: Canvas,
        rows: Int[Tensor, " B"],
        action: Bool[Tensor, "B L"],
        shown: tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]],
    ) -> Bool[Tensor, "B L"]:
        """The part of an action after which a choice is still open.

        Positions that are revealed in one pass may belong to different choices. Of the choices that
        have the most confident accepted token, the one with the most accepted tokens stays, and
        what it does not have is not revealed.

        Args:
            canvas: of the rows.
            rows: slots.
            action: which positions the policies reveal.
            shown: proposals, and their confidence.
        """
        proposals, confidence = shown
        choices = self.choices[rows]
        agrees = (choices == ANY) | (choices == proposals[:, None])
        surest = confidence.masked_fill(~action, -1.0).argmax(1)
        at = surest[:, None, None].expand(-1, choices.shape[1], 1)
        possible = self.open_choices(canvas, rows) & agrees.gather(2, at)[..., 0]
        count = (agrees & action[:, None]).sum(-1).masked_fill(~possible, -1)
        best = count.argmax(1)
        return action & agrees[torch.arange(len(rows), device=rows.device), best]


def build_constraints(canvas: Canvas, limits: Mapping[int, Limits | None]) -> Constraints | None:
    """The constraints of the rows in flight, by slot; None where no row has any."""
    given = {slot: limit for slot, limit in limits.items() if limit is not None}
    if not given:
        return None
    slots, length, model = canvas.slots, canvas.length, canvas.model
    number: dict[tuple[int, ...] | None, int] = {None: 0}
    count = max(len(limit.choices) for limit in given.values())
    which = torch.zeros(slots, length, dtype=torch.long)
    choices = torch.full((slots, count, length), ANY)
    for slot, limit in given.items():
        own = [number.setdefault(ids, len(number)) for ids in limit.sets]
        which[slot, : len(own)] = torch.tensor(own)
        rows = torch.tensor(limit.choices)
        choices[slot, :, : rows.shape[1]] = rows[:1]  # rows with fewer choices repeat the first
        choices[slot, : len(rows), : rows.shape[1]] = rows
    sets = torch.ones(len(number), model.vocabulary, dtype=torch.bool)
    for ids, i in number.items():
        if ids is not None:
            sets[i] = False
            sets[i, list(ids)] = True
    return Constraints(*(x.to(model.device) for x in (sets, which, choices)))


def limits_of(model: Model, request: Request, extent: Extent) -> Limits | None:
    """What a row may say at the positions of its buffer; None where it may say anything."""
    if request.allowed is None and not request.options.choices:
        return None
    before = extent.given  # prompt tokens in a block-causal model's first block
    length = len(extent.buffer)
    sets = [None] * before + list(request.allowed or ())
    sets += [None] * (length - len(sets))
    choices: list[tuple[int, ...]] = [(ANY,) * length]
    if request.options.choices:
        behind = (ANY,) * (length - before - request.length)
        rows = choice_tokens(model, request)
        choices = [((ANY,) * before + row + behind) for row in rows]
    return Limits(tuple(sets), tuple(choices))


def choice_tokens(model: Model, request: Request) -> tuple[tuple[int, ...], ...]:
    """The buffers that a row may end with: its choices, each padded with the end-of-text token.

    Raises:
        UnmaskError: if a choice does not fit the buffer.
    """
    options, filled = request.options, request.holes is not None
    return encode_choices(ref(model), options.choices, request.length, filled)


# Every row of a call has the same choices, and each asks for them when it is checked, submitted and
# opened. The models are weak references, so that none stays in memory for what is kept here.
@lru_cache(maxsize=8)
def encode_choices(
    model_ref: ref[Model], choices: tuple[str, ...], length: int, filled: bool
) -> tuple[tuple[int, ...], ...]:
    """The tokens of choices, padded to `length`.

    Args:
        model_ref: whose tokens they are.
        choices: texts.
        length: L.
        filled: whether each choice has to fill the buffer, as in infilling.

    Raises:
        UnmaskError: if one of them does not fit.
    """
    model, found = model_ref(), []
    assert model is not None  # the caller holds it
    for text in choices:
        ids = encode_choice(model, text)
        if filled and len(ids) != length:
            raise UnmaskError(
                f"the choice {short_text(repr(text))} has {len(ids)} tokens and the prompt has "
                f"{length} masks; give choices that fill all of them"
            )
        if len(ids) > length:
            raise UnmaskError(
                f"the choice {short_text(repr(text))} has {len(ids)} tokens, and answers have "
                f"{length}; give a larger max_new_tokens"
            )
        found.append((*ids, *[model.eos_ids[0]] * (length - len(ids))))
    return tuple(found)


def encode_choice(model: Model, text: str) -> list[int]:
    """The tokens of a choice.

    Raises:
        UnmaskError: if it has none, or one that no answer holds.
    """
    ids = encode_prompt(model, text, what="choice")
    if not ids or model.never_set & set(ids) or model.end_set & set(ids):
        raise UnmaskError(
            f"the choice {short_text(repr(text))} holds no tokens, or one that ends a text or is "
            "never proposed; give plain text"
        )
    return ids


def longest_choice(model: Model, choices: Sequence[str]) -> int:
    """How many tokens the longest of some choices has."""
    return max(len(encode_choice(model, text)) for text in choices)


def allowed_ids(model: Model, allowed: Any) -> Any:
    """`Request.allowed` where tokens may be written as text: each string becomes its token's id.

    Raises:
        UnmaskError: if a string is not just one token.
    """
    if isinstance(allowed, str) or not isinstance(allowed, Sequence):
        return allowed  # a tensor, or something that the request refuses
    texts = {
        token
        for position in allowed
        if isinstance(position, list | tuple)
        for token in position
        if isinstance(token, str)
    }
    ids: dict[Any, Any] = {text: token_id(model, text) for text in sorted(texts)}
    return [
        [ids[token] if isinstance(token, str) else token for token in position]
        if isinstance(position, list | tuple)
        else position
        for position in allowed
    ]


def token_id(model: Model, text: str) -> int:
    """The token that a text is.

    Raises:
        UnmaskError: if it is none, or several.
    """
    ids = encode_prompt(model, text, what="allowed text")
    if len(ids) != 1:
        raise UnmaskError(
            f"allowed holds {short_text(repr(text))}, which is {len(ids)} tokens; give texts of "
            "one token, or token ids"
        )
    return ids[0]


def check_limits(model: Model, request: Request) -> None:
    """Refuses what a row may say, if the model cannot say it.

    Raises:
        UnmaskError: if so.
    """
    options = request.options
    if request.allowed is None and not options.choices:
        return
    name = "choices" if options.choices else "allowed"
    if request.allowed is not None and options.choices:
        raise UnmaskError("allowed and choices were both given; give one of them")
    if options.eos != "free":
        raise UnmaskError(
            f"{name} was given with eos {options.eos!r}, which says what may end a text; leave "
            "out eos"
        )
    if options.choices:
        choice_tokens(model, request)
        return
    allowed: tuple[tuple[int, ...] | None, ...] = request.allowed or ()
    if len(allowed) > request.length:
        raise UnmaskError(
            f"allowed has {len(allowed)} positions and the answer has {request.length}; give at "
            "most as many"
        )
    last, never = model.vocabulary - 1, model.never_set
    for place, ids in enumerate(allowed):
        if ids is None:
            continue
        if ids and not 0 <= ids[0] <= ids[-1] <= last:  # they are sorted
            raise UnmaskError(
                f"allowed has the token id {ids[0] if ids[0] < 0 else ids[-1]} at position "
                f"{place}; this model's ids are 0 to {last}"
            )
        if all(token in never for token in ids):
            raise UnmaskError(
                f"allowed has no token at position {place} that this model proposes; give at "
                "least one"
            )
