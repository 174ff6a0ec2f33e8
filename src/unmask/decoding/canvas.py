"""The canvases of the rows in flight: tokens, reveal steps and NFE, a slot each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from unmask.decoding.request import Extent, Request, extent_of
from unmask.models.base import Model
from unmask.models.head import ids_on_device
from unmask.policies.base import in_current_block
from unmask.rng import block_keys, mix
from unmask.transfer import to_device

# Reveal steps of masked positions, of places behind a shorter buffer, and of prompt tokens in a
# block that is decoded.
HIDDEN, OUTSIDE, GIVEN = -1, -2, -3


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

    The buffer of a block-causal model's row consists of whole blocks; policies see one of them at a
    time (see `Extent`).

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
        start: int64 [slots], the buffer place where the current block of a block-causal model
            begins; 0 in full attention.
        begun: int64 [slots], passes before that block.
        requests: by slot, of the rows in flight.
        extents: by slot, which positions are decided.
        window: how many positions policies see, and proposals are made for: b of a block-causal
            model; None is all L.
        counts: by slot, how many positions are eligible (on the host).
        passes: by slot, passes so far (on the host).
    """

    def __init__(self, model: Model, most: int) -> None:
        self.model, self.device, self.most = model, model.device, most
        self.slots = self.width = self.length = 0
        self.window = model.attention_block
        self.requests: dict[int, Request] = {}
        self.extents: dict[int, Extent] = {}
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
    start: Tensor
    begun: Tensor
    alpha: Tensor
    ends_early: Tensor

    def open(self, rows: Sequence[tuple[int, int, Request]]) -> None:
        """Writes new rows: slot, ticket and request of each."""
        requests = [request for _, _, request in rows]
        slots = max(slot for slot, _, _ in rows) + 1
        extents = [extent_of(self.model, request) for request in requests]
        width = max(padded_width(self.model, extent.size) for extent in extents)
        self._grow(slots, width, max(len(extent.buffer) for extent in extents))
        for (slot, _, request), extent in zip(rows, extents, strict=True):
            self.requests[slot], self.extents[slot], self.passes[slot] = request, extent, 0
            self.counts[slot] = extent.block_length - extent.given
        self.mixed = any(len(e.buffer) != self.length for e in self.extents.values())
        laid = [self._lay_out(*pair) for pair in zip(requests, extents, strict=True)]
        tokens, inside, where, block, hidden = (
            to_device(column, self.device) for column in zip(*laid, strict=True)
        )
        at = to_device([slot for slot, _, _ in rows], self.device)
        self.tokens[at], self.inside[at], self.where[at] = tokens, inside > 0, where
        self.block[at], self.reveal_step[at] = block, hidden
        self.eligible[at] = in_current_block(hidden == HIDDEN, block)
        for counted in (self.nfe, self.start, self.begun):
            counted.index_fill_(0, at, 0)  # a plain assignment would make the host wait
        self.key[at] = to_device([request.key for request in requests], self.device)
        self.ticket[at] = to_device([ticket for _, ticket, _ in rows], self.device)
        self.limit[at] = to_device([extent.most for extent in extents], self.device)
        alphas = [float("nan") if r.acts_for is None else r.acts_for for r in requests]
        self.alpha[at] = to_device(alphas, self.device, torch.float32)
        early = [int(request.options.stop_at_eos) for request in requests]
        self.ends_early[at] = to_device(early, self.device) > 0

    def _lay_out(self, request: Request, extent: Extent) -> tuple[list[int], ...]:
        """One row as lists: tokens, inside, where, block, reveal step."""
        model, length, given = self.model, len(extent.buffer), extent.given
        behind = extent.size - len(request.prompt)
        padding = self.width - extent.size
        tokens = [*request.prompt, *[model.mask_id] * behind, *[model.pad_id] * padding]
        inside = [1] * extent.size + [0] * padding
        beyond = self.length - length
        where = [*extent.buffer, *[extent.buffer[0]] * beyond]
        block = [i // extent.block_length for i in range(length)] + [-1] * beyond
        steps = [GIVEN] * given + [HIDDEN] * (length - given) + [OUTSIDE] * beyond
        return tokens, inside, where, block, steps

    def close(self, slot: int) -> None:
        """Forgets a row that left."""
        for of_slot in (self.requests, self.extents, self.counts, self.passes):
            of_slot.pop(slot, None)

    @property
    def seen(self) -> int:
        """How many positions of a row policies see: the window, or L of the longest row."""
        return self.length if self.window is None else self.window

    def look(self, rows: Int[Tensor, " B"], values: Shaped[Tensor, "B L"]) -> Tensor:
        """Values of the buffers at the positions that policies see, [B, seen]."""
        return values if self.window is None else values.gather(1, self._places(rows))

    def spread(self, rows: Int[Tensor, " B"], values: Shaped[Tensor, "B seen"]) -> Tensor:
        """The other way: values at the seen positions as values of the buffers, 0 elsewhere."""
        if self.window is None:
            return values
        whole = values.new_zeros(len(rows), self.length)
        return whole.scatter(1, self._places(rows), values)

    def _places(self, rows: Int[Tensor, " B"]) -> Int[Tensor, "B seen"]:
        """The buffer places of the seen positions."""
        return self.start[rows][:, None] + torch.arange(self.seen, device=self.device)

    def keys(self, rows: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """What the random numbers of a row's current block depend on."""
        if self.window is None:
            return self.key[rows]
        first = self.where[rows].gather(1, self.start[rows][:, None])[:, 0]
        return block_keys(self.key[rows], first // self.window)

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
        block = self.block[rows]
        action = action & self.eligible[rows]
        buffer = torch.where(action, proposals, self.tokens[rows[:, None], where])
        left = (steps == HIDDEN) & ~action
        going = left.any(1) & (step + 1 < self.limit[rows])
        final = buffer
        if early or self.window is not None:
            ended = self._ended(rows, buffer, left) & self.ends_early[rows]
            if self.window is not None:
                ended = ended | self._closed(rows, buffer, left)
            final = torch.where(left & ended[:, None], self.model.eos_ids[0], buffer)
            going = going & ~ended
        if self.mixed:  # places behind a shorter buffer are written to too, with the first token
            final = torch.where(steps == OUTSIDE, final[:, :1], final)
        self.tokens[rows[:, None], where] = final
        self.reveal_step[rows] = torch.where(action, step[:, None], steps)
        self.nfe[rows] = step + 1
        first = left.int().argmax(1)
        eligible = left & (block == block.gather(1, first[:, None]))
        self.eligible[rows] = eligible
        if self.window is not None:
            start = first // self.window * self.window
            moved_on = start != self.start[rows]
            self.begun[rows] = torch.where(moved_on, step + 1, self.begun[rows])
            self.start[rows] = start
        return Revealed(buffer, going, action.any(1), first, eligible.sum(1))

    def _ends(self, rows: Int[Tensor, " B"], buffer: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Where an end of text is; the prompt's own, in a block that is decoded, is none."""
        ends = torch.isin(buffer, ids_on_device(self.model.eos_ids, 0, 2**62, self.device))
        return ends if self.window is None else ends & (self.reveal_step[rows] >= HIDDEN)

    def _ended(
        self, rows: Int[Tensor, " B"], buffer: Int[Tensor, "B L"], left: Bool[Tensor, "B L"]
    ) -> Bool[Tensor, " B"]:
        """Whether an end of text is revealed and everything before it is."""
        return (self._ends(rows, buffer) & ~left & (left.cumsum(1) == 0)).any(1)

    def _closed(
        self, rows: Int[Tensor, " B"], buffer: Int[Tensor, "B L"], left: Bool[Tensor, "B L"]
    ) -> Bool[Tensor, " B"]:
        """Whether the current block of a block-causal model is finished and holds an end of text:
        no block is opened behind that."""
        ended = self.look(rows, self._ends(rows, buffer))
        return ended.any(1) & ~self.look(rows, left).any(1)

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
        tokens, steps = self.tokens[rows[:, None], self.where[rows]], self.reveal_step[rows]
        return self.answers(slots, tokens, 0), self.answers(slots, steps, 0)

    def answers(self, slots: Sequence[int], values: Shaped[Tensor, "B L"], fill: int) -> Tensor:
        """Values of buffers, without the prompt tokens at their beginning and, behind each answer,
        `fill` up to the longest: [B, longest answer]."""
        if self.window is None:
            return values
        given = [self.extents[slot].given for slot in slots]
        lengths = [self.requests[slot].length for slot in slots]
        bounds = to_device([given, lengths], self.device)[:, :, None]
        longest = max(request.length for request in self.requests.values())
        place = torch.arange(longest, device=self.device)
        own = values.gather(1, (bounds[0] + place).clamp(max=self.length - 1))
        return own.masked_fill(place >= bounds[1], fill)

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
    "start": torch.long,
    "begun": torch.long,
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
