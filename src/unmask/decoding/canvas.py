"""The canvases of the rows in flight: tokens, reveal steps and NFE, a slot each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.request import Request
from unmask.models.base import Model
from unmask.models.head import ids_on_device
from unmask.policies.base import in_current_block
from unmask.rng import mix
from unmask.transfer import to_device

HIDDEN, OUTSIDE = -1, -2  # reveal steps of masked positions, and of places behind a shorter buffer


@dataclass(frozen=True)
class Revealed:
    """What `Canvas.reveal` did to B rows.

    Attributes:
        buffer: int64 [B, L], the buffers after the step, before a text that ended is filled up.
        going: bool [B], which rows go on.
        moved: bool [B], which rows revealed something.
        first: int64 [B], the first position that is still masked; 0 if none is.
        eligible: int64 [B], how many positions are eligible in the next step.
    """

    buffer: Int[Tensor, "B L"]
    going: Bool[Tensor, " B"]
    moved: Bool[Tensor, " B"]
    first: Int[Tensor, " B"]
    eligible: Int[Tensor, " B"]


class Canvas:
    """State of the rows in flight. `reveal` and `end_text` are its only writers beside `open`, and
    they write at buffer positions only: so a prompt cannot change.

    Slots, width S and length L grow with the rows that come, up to `most` slots; memory is O(rows
    in flight · (S + L)). The engine makes a new canvas where no row is in flight.

    Attributes:
        tokens: int64 [slots, S].
        inside: bool [slots, S], False at padding.
        where: int64 [slots, L], the canvas position of each buffer position; places behind a
            shorter buffer repeat the first one.
        block: int64 [slots, L], the block of each buffer position.
        reveal_step: int64 [slots, L]; HIDDEN is masked, OUTSIDE is behind a shorter buffer.
        eligible: bool [slots, L], masked and in the row's current block.
        nfe, key, ticket, limit: int64 [slots]; passes so far, random key, ticket, most passes.
        alpha: fp32 [slots], α; NaN where the row has none.
        ends_early: bool [slots], whether the row stops at its end of text.
        requests: by slot, of the rows in flight.
        counts: by slot, how many positions are eligible (on the host).
        passes: by slot, passes so far (on the host).
    """

    def __init__(self, model: Model, most: int) -> None:
        self.model, self.device, self.most = model, model.device, most
        self.slots = self.width = self.length = 0
        self.requests: dict[int, Request] = {}
        self.counts: dict[int, int] = {}
        self.passes: dict[int, int] = {}
        self.mixed = False
        for name, kind in KINDS.items():
            shape = (0, 0) if name in (*WIDE, *LONG) else (0,)
            setattr(self, name, torch.zeros(shape, dtype=kind, device=self.device))

    tokens: Tensor
    inside: Tensor
    where: Tensor
    block: Tensor
    reveal_step: Tensor
    eligible: Tensor
    nfe: Tensor
    key: Tensor
    ticket: Tensor
    limit: Tensor
    alpha: Tensor
    ends_early: Tensor

    def open(self, rows: Sequence[tuple[int, int, Request]]) -> None:
        """Writes new rows: slot, ticket and request of each."""
        requests = [request for _, _, request in rows]
        slots = max(slot for slot, _, _ in rows) + 1
        width = max(padded_width(self.model, request.size) for request in requests)
        self._grow(slots, width, max(request.length for request in requests))
        for slot, _, request in rows:
            self.requests[slot], self.passes[slot] = request, 0
            self.counts[slot] = request.block_length
        self.mixed = any(r.length != self.length for r in self.requests.values())
        laid = [self._lay_out(request) for request in requests]
        tokens, inside, where, block, hidden = (
            to_device(column, self.device) for column in zip(*laid, strict=True)
        )
        at = to_device([slot for slot, _, _ in rows], self.device)
        self.tokens[at], self.inside[at], self.where[at] = tokens, inside > 0, where
        self.block[at], self.reveal_step[at] = block, hidden
        self.eligible[at] = in_current_block(hidden == HIDDEN, block)
        self.nfe.index_fill_(0, at, 0)  # a plain assignment would make the host wait
        self.key[at] = to_device([request.key for request in requests], self.device)
        self.ticket[at] = to_device([ticket for _, ticket, _ in rows], self.device)
        self.limit[at] = to_device([request.max_passes for request in requests], self.device)
        alphas = [float("nan") if r.acts_for is None else r.acts_for for r in requests]
        self.alpha[at] = to_device(alphas, self.device, torch.float32)
        early = [int(request.options.stop_at_eos) for request in requests]
        self.ends_early[at] = to_device(early, self.device) > 0

    def _lay_out(self, request: Request) -> tuple[list[int], ...]:
        """One row as lists: tokens, inside, where, block, reveal step."""
        model, length, own = self.model, request.length, request.block_length
        behind = request.size - len(request.prompt)
        padding = self.width - request.size
        tokens = [*request.prompt, *[model.mask_id] * behind, *[model.pad_id] * padding]
        inside = [1] * request.size + [0] * padding
        beyond = self.length - length
        where = [*request.buffer, *[request.buffer[0]] * beyond]
        block = [i // own for i in range(length)] + [-1] * beyond
        return tokens, inside, where, block, [HIDDEN] * length + [OUTSIDE] * beyond

    def close(self, slot: int) -> None:
        """Forgets a row that left."""
        for of_slot in (self.requests, self.counts, self.passes):
            of_slot.pop(slot, None)

    def masked(self, rows: Int[Tensor, " B"]) -> Bool[Tensor, "B L"]:
        """Where nothing is revealed yet."""
        return self.reveal_step[rows] == HIDDEN

    def unconditional(self, rows: Int[Tensor, " B"]) -> Int[Tensor, "B S"]:
        """The canvases with their prompts masked, for guidance."""
        given = self.inside[rows].scatter(1, self.where[rows], False)
        return self.tokens[rows].masked_fill(given, self.model.mask_id)

    def reveal(
        self,
        rows: Int[Tensor, " B"],
        action: Bool[Tensor, "B L"],
        proposals: Int[Tensor, "B L"],
        early: bool,
    ) -> Revealed:
        """Writes proposals where the action says so, and adds one NFE to each row.

        Args:
            rows: slots.
            action: which positions to reveal; those that are not eligible stay as they are.
            proposals: the token of each position.
            early: whether any of the rows stops at its end of text.
        """
        step, steps, where = self.nfe[rows], self.reveal_step[rows], self.where[rows]
        action = action & self.eligible[rows]
        buffer = torch.where(action, proposals, self.tokens[rows[:, None], where])
        left = (steps == HIDDEN) & ~action
        going = left.any(1) & (step + 1 < self.limit[rows])
        final = buffer
        if early:
            ended = self._ended(buffer, left) & self.ends_early[rows]
            final = torch.where(left & ended[:, None], self.model.eos_ids[0], buffer)
            going = going & ~ended
        if self.mixed:  # places behind a shorter buffer are written to too, with the first token
            final = torch.where(steps == OUTSIDE, final[:, :1], final)
        self.tokens[rows[:, None], where] = final
        self.reveal_step[rows] = torch.where(action, step[:, None], steps)
        self.nfe[rows] = step + 1
        first = left.int().argmax(1)
        block = self.block[rows]
        eligible = left & (block == block.gather(1, first[:, None]))
        self.eligible[rows] = eligible
        return Revealed(buffer, going, action.any(1), first, eligible.sum(1))

    def _ended(self, buffer: Int[Tensor, "B L"], left: Bool[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """Whether an end of text is revealed and everything before it is."""
        ends = ids_on_device(self.model.eos_ids, 0, 2**62, self.device)
        return (torch.isin(buffer, ends) & ~left & (left.cumsum(1) == 0)).any(1)

    def end_text(self, slots: Sequence[int]) -> None:
        """Fills what is still masked with the end-of-text token: the row's text has ended."""
        rows = to_device(slots, self.device)
        where, masked = self.where[rows], self.masked(rows)
        tokens = self.tokens[rows[:, None], where]
        final = torch.where(masked, self.model.eos_ids[0], tokens)
        if self.mixed:
            final = torch.where(self.reveal_step[rows] == OUTSIDE, final[:, :1], final)
        self.tokens[rows[:, None], where] = final

    def buffers(self, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Buffers and reveal steps of some rows, int64 [n, L] each, for good."""
        rows = to_device(slots, self.device)
        return self.tokens[rows[:, None], self.where[rows]], self.reveal_step[rows]

    def _grow(self, slots: int, width: int, length: int) -> None:
        """Makes room for so many slots, canvas positions and buffer positions."""
        if slots <= self.slots and width <= self.width and length <= self.length:
            return
        if slots > self.slots:  # twice as many, so that rows that come one by one cost little
            slots = max(slots, min(2 * self.slots, self.most))
        slots = max(slots, self.slots)
        width, length = max(width, self.width), max(length, self.length)
        for name in KINDS:
            old = getattr(self, name)
            shape = (
                (slots, width) if name in WIDE else (slots, length) if name in LONG else (slots,)
            )
            fill = {"tokens": self.model.pad_id, "reveal_step": OUTSIDE, "block": -1}.get(name, 0)
            setattr(self, name, grow_tensor(old, shape, fill))
        if length > self.length:  # what is behind the shorter buffers repeats their first place
            self.where[:, self.length :] = self.where[:, :1] if self.length else 0
        self.slots, self.width, self.length = slots, width, length


WIDE, LONG = ("tokens", "inside"), ("where", "block", "reveal_step", "eligible")
KINDS = {
    "tokens": torch.long,
    "inside": torch.bool,
    "where": torch.long,
    "block": torch.long,
    "reveal_step": torch.long,
    "eligible": torch.bool,
    "nfe": torch.long,
    "key": torch.long,
    "ticket": torch.long,
    "limit": torch.long,
    "alpha": torch.float32,
    "ends_early": torch.bool,
}


def grow_tensor(old: Tensor, shape: Sequence[int], fill: int = 0) -> Tensor:
    """A tensor of a larger shape that begins with the old one."""
    new = torch.full(tuple(shape), fill, dtype=old.dtype, device=old.device)
    new[tuple(slice(0, size) for size in old.shape)] = old
    return new


def padded_width(model: Model, size: int) -> int:
    """The width of a canvas for rows of up to `size` tokens: a multiple of 16, with a column of
    padding where the kernels need one to use a mask at all, and within what the model takes.

    Up to 192 tokens, CPUs' attention kernels then give a row the same bits in any batch.
    """
    width = -(-size // 16) * 16 if model.takes_mask else size // 16 * 16 + 16
    if model.max_positions is None:
        return width
    return max(size, min(width, model.max_positions))


def fingerprint(tokens: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
    """A 64-bit hash of each row's tokens. Equal rows hash equally; different rows collide with
    probability about 2⁻⁶⁰."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return mix(mix(tokens) * (2 * mix(places) + 1)).sum(1)
