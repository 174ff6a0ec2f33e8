"""Which rows are forwarded whole and which from cached keys and values, and what those forward (Wu
et al. 2025, Fast-dLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from unmask.decoding.request import Request
from unmask.models.cache import CacheView, KeyValues
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
        """What a forward of these rows reads and writes; counts it."""
        for slot in slots:
            self.rows[slot].age = self.rows[slot].age + 1 if cached else 1
        at = to_device(slots, device)
        if not cached:
            return CacheView(self.store, at)
        queries = [self.queries(slot) for slot in slots]
        longest = max(map(len, queries))
        padded = [each + each[-1:] * (longest - len(each)) for each in queries]
        return CacheView(self.store, at, to_device(padded, device))

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
