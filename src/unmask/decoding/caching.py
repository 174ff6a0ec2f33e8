"""Which rows are forwarded whole and which from cached keys and values, and what those forward (Wu
et al. 2025, Fast-dLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from unmask.errors import UnmaskError
from unmask.models import Model
from unmask.models.cache import CacheView, KeyValues


@dataclass
class Caching:
    """The state of the rows that are being decoded, on the host.

    Attributes:
        kind: "prefix" forwards the current block and all behind it, "dual" the block alone.
        refresh: a row is forwarded whole again after so many forwards; None: only when it enters a
            block.
        block_length: BL.
        shift: the model predicts a position from the one before it, which is then forwarded too.
        where: the buffer's positions of each row.
        sizes: tokens of each row.
        store: keys and values, a slot for each row side by side.
        slot: of each row that is being decoded.
        age: forwards since the row was forwarded whole, that one included; 0 asks for a whole one.
        block: the row's current block.
    """

    kind: str
    refresh: int | None
    block_length: int
    shift: bool
    where: Sequence[Sequence[int]]
    sizes: Sequence[int]
    store: KeyValues
    slot: dict[int, int] = field(default_factory=dict)
    age: dict[int, int] = field(default_factory=dict)
    block: dict[int, int] = field(default_factory=dict)

    def enter(self, rows: Sequence[int]) -> None:
        """Gives new rows a slot each."""
        free = iter(set(range(self.store.slots)) - set(self.slot.values()))
        for row in rows:
            self.slot[row], self.age[row], self.block[row] = next(free), 0, 0

    def move(self, row: int, block: int, goes_on: bool) -> None:
        """After a step: the row's block now; one that does not go on gives up its slot."""
        if not goes_on:
            del self.slot[row]
        elif block != self.block[row]:
            self.block[row], self.age[row] = block, 0

    def parts(self, rows: Sequence[int]) -> list[tuple[list[int], bool]]:
        """The rows to forward whole, and those to forward from the cache (True)."""
        whole = [
            row
            for row in rows
            if self.age[row] == 0 or (self.refresh is not None and self.age[row] >= self.refresh)
        ]
        return [(whole, False), ([row for row in rows if row not in set(whole)], True)]

    def view(self, rows: Sequence[int], cached: bool, device: torch.device) -> CacheView:
        """What a forward of these rows reads and writes; counts it."""
        for row in rows:
            self.age[row] = self.age[row] + 1 if cached else 1
        queries = [self.queries(row) for row in rows] if cached else []
        longest = max(map(len, queries), default=0)
        padded = [each + each[-1:] * (longest - len(each)) for each in queries]
        slots = torch.tensor([self.slot[row] for row in rows], device=device)
        return CacheView(self.store, slots, torch.tensor(padded, device=device) if cached else None)

    def queries(self, row: int) -> list[int]:
        """The positions that a row forwards in its current block."""
        start = self.block[row] * self.block_length
        inside = self.where[row][start : start + self.block_length]
        positions = set(inside) if self.kind == "dual" else set(range(min(inside), self.sizes[row]))
        return sorted(positions | ({max(p - 1, 0) for p in inside} if self.shift else set()))


def check_cache(model: Model, kind: str | None, refresh: int | None, cfg_scale: float) -> None:
    """One clear sentence for what cannot be cached."""
    if kind is None and refresh is not None:
        raise UnmaskError("cache_refresh was given without cache; give both, or neither")
    if kind is None:
        return
    if kind not in ("prefix", "dual"):
        raise UnmaskError(f"cache is {kind!r}; give prefix or dual, or leave it out")
    if refresh is not None and refresh < 1:
        raise UnmaskError(f"cache_refresh is {refresh}; give at least 1")
    if cfg_scale:
        raise UnmaskError(
            "cache and cfg_scale were both given; guidance forwards a canvas that is not cached, "
            "so give one"
        )
    if not model.full_attention:
        raise UnmaskError(
            f"cache needs full attention by the sdpa kernel; {model.name} has another, so leave it "
            "out"
        )
