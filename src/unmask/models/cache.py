"""Cached keys and values: a step forwards some positions only. In full attention the others stand
as they were at the last full forward, which is an approximation (`CacheView`); in block-causal
attention finished blocks never change again, so nothing is approximated (`BlockView`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from unmask.transfer import to_device


@dataclass
class KeyValues:
    """Keys and values of every layer, for as many canvases as are decoded side by side.

    Attributes:
        slots: how many canvases.
        width: S, positions of each.
        layers: keys and values [slots, heads, S, d] of each layer; made by the first forward.
    """

    slots: int
    width: int
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def grow(self, slots: int, width: int) -> None:
        """Makes room for more canvases, or longer ones; what is stored stays. Layer by layer, so
        that little is there twice; where one does not fit, all are as they were."""
        if slots <= self.slots and width <= self.width:
            return
        slots, width = max(slots, self.slots), max(width, self.width)

        def grown(old: Tensor) -> Tensor:
            new = old.new_zeros(slots, old.shape[1], width, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            return new

        try:
            for i, (keys, values) in enumerate(self.layers):
                self.layers[i] = (grown(keys), grown(values))
        except Exception:
            self.cut(self.slots, self.width)
            raise
        self.slots, self.width = slots, width

    def cut(self, slots: int, width: int) -> None:
        """Gives up what is beyond so many canvases and positions."""
        self.slots, self.width = slots, width
        self.layers = [(k[:slots, :, :width], v[:slots, :, :width]) for k, v in self.layers]

    def layer(self, number: int, keys: Float[Tensor, "B heads q d"]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer; zeros, made to fit `keys`, at its first use."""
        if number == len(self.layers):
            empty = keys.new_zeros(self.slots, keys.shape[1], self.width, keys.shape[3])
            self.layers.append((empty, torch.zeros_like(empty)))
        return self.layers[number]

    @torch.inference_mode()
    def copy(self, source: int, slot: int, positions: int) -> None:
        """Copies the first positions of a canvas to another one."""
        for pair in self.layers:
            for stored in pair:
                stored[slot, :, :positions] = stored[source, :, :positions]

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Forgets what is not a number: hidden positions count 0 in attention, and 0 times NaN is
        NaN."""
        for pair in self.layers:
            for stored in pair:
                stored[slot].zero_()


@dataclass(frozen=True)
class PaddedKeys:
    """Nothing is cached: each layer's keys and values are only padded, behind, before they are
    attended to. So queries need no padding where a kernel wants keys of a certain number.

    Attributes:
        padding: how many positions are put behind.
    """

    padding: int

    def update(
        self,
        keys: Float[Tensor, "B heads q d"],
        values: Float[Tensor, "B heads q d"],
        layer: int,
        **unused: object,  # transformers >= 5.24 also passes its own keywords
    ) -> tuple[Float[Tensor, "B heads S d"], Float[Tensor, "B heads S d"]]:
        """Keys and values with zeros behind."""
        behind = (0, 0, 0, self.padding)
        return pad(keys, behind), pad(values, behind)


@dataclass(frozen=True)
class CacheView:
    """What one forward pass reads and writes; stock `transformers` classes call `update` in each
    layer.

    Attributes:
        store: of all canvases.
        slot: int64 [B], the canvas of each row.
        queries: int64 [B, q], the positions that are forwarded; repetitions are harmless. None is
            all: then everything is refreshed.
    """

    store: KeyValues
    slot: Int[Tensor, " B"]
    queries: Int[Tensor, "B q"] | None = None

    def update(
        self,
        keys: Float[Tensor, "B heads q d"],
        values: Float[Tensor, "B heads q d"],
        layer: int,
        **unused: object,  # transformers >= 5.24 also passes its own keywords
    ) -> tuple[Float[Tensor, "B heads S d"], Float[Tensor, "B heads S d"]]:
        """Puts in the new keys and values; gives those of whole canvases."""
        pair = self.store.layer(layer, keys)
        if self.queries is None:
            for stored, new in zip(pair, (keys, values), strict=True):
                stored[self.slot, :, : new.shape[2]] = new
            return keys, values
        for stored, new in zip(pair, (keys, values), strict=True):
            stored[self.slot[:, None], :, self.queries] = new.transpose(1, 2)
        return pair[0][self.slot], pair[1][self.slot]

    def select(self, rows: Int[Tensor, " b"]) -> CacheView:
        """The same for some of its rows."""
        queries = None if self.queries is None else self.queries[rows]
        return CacheView(self.store, self.slot[rows], queries)

    def reached(self, positions: Int[Tensor, "B n"]) -> tuple[Tensor, Tensor]:
        """Whether the forward gives a hidden state at each position, and its place among the
        queries; bool and int64 [B, n]."""
        if self.queries is None:  # a whole forward reaches every position, in its own place
            return torch.ones_like(positions, dtype=torch.bool), positions
        place = positions.new_full((len(positions), self.store.width), -1)
        place.scatter_(
            1,
            self.queries,
            torch.arange(self.queries.shape[1], device=place.device).expand_as(self.queries),
        )
        found = place.gather(1, positions)
        return found >= 0, found.clamp(min=0)


@dataclass(frozen=True)
class BlockView:
    """What one forward pass of a block-causal model reads and writes: each row's queries are
    neighbours, and everything before their first block is stored already.

    Attributes:
        store: of all canvases.
        slots: the canvas of each row.
        queries: int64 [B, q], the positions that are forwarded, rising; a row that has fewer of its
            own repeats its first or its last one.
        size: b, positions in a block.
        width: how many positions keys are taken from; the longest row's, a multiple of 16.
        copies: other slots that store the same, and the row of each; for equal canvases.
        starts: int64 [B, 1], with a causal context: where each row's block begins. None counts
            blocks of `size` from the first position.
    """

    store: KeyValues
    slots: tuple[int, ...]
    queries: Int[Tensor, "B q"]
    size: int
    width: int
    copies: tuple[tuple[int, int], ...] = ()
    starts: Int[Tensor, "B 1"] | None = None

    def __post_init__(self) -> None:
        first, device = self.slots[0], self.queries.device
        near = self.slots == tuple(range(first, first + len(self.slots)))
        slot: Any = slice(first, first + len(self.slots))
        if not near:
            slot = to_device(self.slots, device)
        object.__setattr__(self, "_slot", slot)
        written = [*self.slots, *(slot for slot, _ in self.copies)]
        object.__setattr__(self, "_written", to_device(written, device)[:, None])
        rows = [*range(len(self.slots)), *(row for _, row in self.copies)]
        taken = to_device(rows, device) if self.copies else slice(None)
        object.__setattr__(self, "_taken", taken)
        object.__setattr__(self, "_at", self.queries[taken])

    _slot: Any = field(init=False, repr=False)  # of the rows, as an index: no copy if neighbours
    _written: Tensor = field(init=False, repr=False)
    _taken: Any = field(init=False, repr=False)
    _at: Tensor = field(init=False, repr=False)

    def update(
        self,
        keys: Float[Tensor, "B heads q d"],
        values: Float[Tensor, "B heads q d"],
        layer: int,
        **unused: object,  # transformers >= 5.24 also passes its own keywords
    ) -> tuple[Float[Tensor, "B heads S d"], Float[Tensor, "B heads S d"]]:
        """Puts in the new keys and values; gives those of the first `width` positions."""
        pair = self.store.layer(layer, keys)
        for stored, new in zip(pair, (keys, values), strict=True):
            stored[self._written, :, self._at] = new[self._taken].transpose(1, 2)
        return pair[0][self._slot, :, : self.width], pair[1][self._slot, :, : self.width]

    def mask(self) -> Bool[Tensor, "B 1 q S"]:
        """Which positions each query sees: those of its own block and of all before it; in a causal
        context itself and those before it."""
        if self.starts is None:
            ends = (self.queries // self.size + 1) * self.size
        else:
            block = self.queries >= self.starts
            ends = torch.where(block, self.starts + self.size, self.queries + 1)
        places = torch.arange(self.width, device=ends.device)
        return (places < ends[:, :, None])[:, None]

    def split(self, parts: int) -> list[BlockView]:
        """The same in groups of rows."""
        cuts = torch.arange(len(self.slots)).tensor_split(parts)
        found = []
        for rows in (cut.tolist() for cut in cuts):
            copies = tuple((slot, row - rows[0]) for slot, row in self.copies if row in set(rows))
            slots = self.slots[rows[0] : rows[-1] + 1]
            queries = self.queries[rows[0] : rows[-1] + 1]
            starts = None if self.starts is None else self.starts[rows[0] : rows[-1] + 1]
            found.append(
                BlockView(self.store, slots, queries, self.size, self.width, copies, starts)
            )
        return found

    def reached(self, positions: Int[Tensor, "B n"]) -> tuple[Tensor, Tensor]:
        """As `CacheView.reached`, for positions that are among the queries."""
        behind = self.queries[:, -1:] - positions
        place = self.queries.shape[1] - 1 - behind
        return torch.ones_like(positions, dtype=torch.bool), place
