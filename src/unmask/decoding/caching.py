"""Which rows are forwarded whole and which from cached keys and values, and what those forward: the
approximation of Fast-dLLM (Wu et al. 2025), and the exact cache of block-causal models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from unmask.decoding.request import Request
from unmask.models.cache import BlockView, CacheView, KeyValues
from unmask.transfer import to_device


@dataclass
class CachedRow:
    """A row that is decoded with a cache.

    Attributes:
        request: with its cache options.
        age: forwards since the row was forwarded whole, that one included; 0 asks for a whole one.
        block: its current block.
    """

    request: Request
    age: int = 0
    block: int = 0

    @property
    def needs_refresh(self) -> bool:
        refresh = self.request.options.cache_refresh
        return self.age == 0 or (refresh is not None and self.age >= refresh)


@dataclass
class Caching:
    """The rows in flight that are decoded with a cache, on the host.

    Attributes:
        shift: the model predicts a position from the one before it, which is then forwarded too.
        store: keys and values, a slot for each row in flight.
        rows: by slot.
    """

    shift: bool
    store: KeyValues = field(default_factory=lambda: KeyValues(0, 0))
    rows: dict[int, CachedRow] = field(default_factory=dict)

    def open(self, slot: int, request: Request, slots: int, width: int) -> None:
        """Takes a new row in, on canvases of `width` positions."""
        self.store.grow(slots, width)
        self.rows[slot] = CachedRow(request)

    def close(self, slot: int) -> None:
        """Forgets a row that left."""
        self.rows.pop(slot, None)

    def move(self, slot: int, first: int) -> None:
        """After a step: where the row's first mask is now. A new block asks for a whole forward."""
        row = self.rows[slot]
        block = first // row.request.block_length
        if block != row.block:
            row.block, row.age = block, 0

    def view(self, slots: Sequence[int], cached: bool, device: torch.device) -> CacheView:
        """What a forward of these rows reads and writes."""
        at = to_device(slots, device)
        if not cached:
            return CacheView(self.store, at)
        queries = [self.queries(slot) for slot in slots]
        longest = max(map(len, queries))
        padded = [each + each[-1:] * (longest - len(each)) for each in queries]
        return CacheView(self.store, at, to_device(padded, device))

    def stored(self, slots: Sequence[int], cached: bool) -> None:
        """Counts a forward of these rows that ended: one that failed may have stored nothing."""
        for slot in slots:
            self.rows[slot].age = self.rows[slot].age + 1 if cached else 1

    def queries(self, slot: int) -> list[int]:
        """The positions that a row forwards in its current block."""
        row = self.rows[slot]
        request, start = row.request, row.block * row.request.block_length
        inside = list(request.buffer[start : start + request.block_length])
        ahead = range(min(inside), request.size)
        positions = set(inside if request.options.cache == "dual" else ahead)
        return sorted(positions | ({max(p - 1, 0) for p in inside} if self.shift else set()))

    def reached(self, slot: int) -> int:
        """How many buffer positions `queries` gives a proposal for."""
        queries, shift = set(self.queries(slot)), int(self.shift)
        return sum(max(p - shift, 0) in queries for p in self.rows[slot].request.buffer)


PREFILL = 512  # prompt positions that are forwarded at once


@dataclass
class BlockRow:
    """A row of a block-causal model.

    Attributes:
        prefix: the tokens of the prompt's full blocks.
        size: tokens of its canvas.
        block: the block that is decoded, counted from the first one behind the prefix.
        unstored: how many positions before it have keys and values that are not stored yet: those
            of a block that was finished in the last pass.
        filled: the keys and values of the prefix are stored.
    """

    prefix: tuple[int, ...]
    size: int
    block: int = 0
    unstored: int = 0
    filled: bool = False


@dataclass
class BlockCaching:
    """The rows in flight of a block-causal model, on the host. Finished blocks are never forwarded
    again, which changes nothing: what is behind them they never see.

    Attributes:
        size: b, positions in a block.
        causal: the context is causal (see `Model.causal_context`): all of a prompt is prefix.
        store: keys and values, a slot for each row in flight; it grows as blocks are opened.
        rows: by slot.
        holder: a slot that stores the keys and values of a prefix, by prefix.
        held: the prefix that a slot stores, also of a row that left.
    """

    size: int
    causal: bool = False
    store: KeyValues = field(default_factory=lambda: KeyValues(0, 0))
    rows: dict[int, BlockRow] = field(default_factory=dict)
    holder: dict[tuple[int, ...], int] = field(default_factory=dict)
    held: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def open(self, slot: int, request: Request, size: int) -> None:
        """Takes a new row in, with a canvas of `size` tokens."""
        full = len(request.prompt)
        if not self.causal:
            full = full // self.size * self.size
        row = self.rows[slot] = BlockRow(request.prompt[:full], size)
        row.filled = not full or self.held.get(slot) == row.prefix
        if self.held.get(slot) != row.prefix:
            self.forget(slot)

    def close(self, slot: int) -> None:
        """Forgets a row that left; its prefix stays stored until another row takes the slot."""
        self.rows.pop(slot, None)

    def forget(self, slot: int) -> None:
        """The slot's prefix counts as not stored."""
        prefix = self.held.pop(slot, None)
        if prefix is not None and self.holder.get(prefix) == slot:
            del self.holder[prefix]

    def discard(self, slot: int) -> None:
        """Forgets keys and values that may be no numbers."""
        self.forget(slot)
        self.store.clear(slot)

    def move(self, slot: int, first: int) -> None:
        """After a step: where the row's first mask is now, counted from the end of the prefix. If
        that is a new block, the one before it is finished."""
        row = self.rows[slot]
        if first // self.size != row.block:
            row.block, row.unstored = first // self.size, self.size

    def start(self, slot: int) -> int:
        """The canvas position at which the current block begins."""
        row = self.rows[slot]
        return len(row.prefix) + row.block * self.size

    def queries(self, slot: int) -> int:
        """How many positions the row forwards: its current block, and the one before it once."""
        return self.size + self.rows[slot].unstored

    def view(
        self, slots: Sequence[int], copies: Sequence[tuple[int, int]], device: torch.device
    ) -> BlockView:
        """What a forward of these rows' current blocks reads and writes. Rows that forward fewer
        positions than others repeat their first one.

        Args:
            slots: of the rows.
            copies: slots of rows with equal canvases, and the place of each one's equal in `slots`.
            device: of the model.
        """
        most = max(map(self.queries, slots))
        ends = [self.start(slot) + self.size for slot in slots]
        firsts = [end - self.queries(slot) for slot, end in zip(slots, ends, strict=True)]
        bounds = to_device([ends, firsts], device)[:, :, None]
        queries = (bounds[0] - most + torch.arange(most, device=device)).maximum(bounds[1])
        starts = [self.start(slot) for slot in slots]
        return self._view(slots, queries, max(ends), copies, starts)

    def stored(self, slots: Sequence[int]) -> None:
        """After that forward: everything before the current blocks is stored."""
        for slot in slots:
            self.rows[slot].unstored = 0

    def prefill_views(
        self, slots: Sequence[int], device: torch.device
    ) -> Iterator[tuple[list[int], BlockView, int]]:
        """The forwards that store the prefixes of some rows, part after part: slots, what is read
        and written, and how many positions the rows really have in it. A row's parts depend on its
        prefix alone."""
        sizes = {slot: len(self.rows[slot].prefix) for slot in slots}
        part = max(1, PREFILL // self.size) * self.size
        for begin in range(0, max(sizes.values()), part):
            rows = [slot for slot in slots if sizes[slot] > begin]
            ends = [min(sizes[slot], begin + part) for slot in rows]
            last = to_device(ends, device)[:, None] - 1
            places = torch.arange(begin, max(ends), device=device)
            queries = places.expand(len(rows), -1).minimum(last)
            # Nothing of a prefix is a block that is denoised.
            view = self._view(rows, queries, max(ends), (), [sizes[slot] for slot in rows])
            yield rows, view, sum(ends) - begin * len(rows)

    def share(self, slots: Sequence[int]) -> list[int]:
        """Of new rows, those whose prefix must be forwarded; the others take it from a slot that
        stores it."""
        leading: dict[tuple[int, ...], int] = {}
        for slot in slots:
            row = self.rows[slot]
            if not row.filled and row.prefix not in self.holder:
                leading.setdefault(row.prefix, slot)
        return list(leading.values())

    def fill(self, leading: Sequence[int], slots: Sequence[int]) -> None:
        """After the prefixes of the leading rows were forwarded: copies prefixes that another slot
        stores to new rows, so that all of them have theirs."""
        for slot in leading:
            prefix = self.rows[slot].prefix
            self.holder[prefix], self.held[slot] = slot, prefix
        for slot in slots:
            row = self.rows[slot]
            source = self.holder.get(row.prefix, slot)
            if not row.filled and source != slot:
                self.store.copy(source, slot, len(row.prefix))
                self.held[slot] = row.prefix
            row.filled = True

    def _view(
        self,
        slots: Sequence[int],
        queries: torch.Tensor,
        end: int,
        copies: Sequence[tuple[int, int]],
        starts: Sequence[int],
    ) -> BlockView:
        """A view of keys up to position `end`, for which room is made: a quarter more than there
        was, but no more than the rows in flight will ever need."""
        width = padded_keys(end)
        if width > self.store.width:
            most = max(padded_keys(row.size) for row in self.rows.values())
            grown = padded_keys(self.store.width * 5 // 4)
            self.store.grow(self.store.slots, max(width, min(grown, most)))
        where = to_device(starts, queries.device)[:, None] if self.causal else None
        return BlockView(self.store, tuple(slots), queries, self.size, width, tuple(copies), where)


def padded_keys(end: int) -> int:
    """How many keys a pass takes for positions up to `end`: a multiple of 16, for equal bits."""
    return -(-end // 16) * 16
