"""Cached keys and values: a step forwards some positions only, and the others stand as they were at
the last full forward."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad


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
        """Makes room for more canvases, or longer ones; what is stored stays."""
        if slots <= self.slots and width <= self.width:
            return
        self.slots, self.width = max(slots, self.slots), max(width, self.width)
        for i, pair in enumerate(self.layers):
            grown = []
            for old in pair:
                new = old.new_zeros(self.slots, old.shape[1], self.width, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old
                grown.append(new)
            self.layers[i] = (grown[0], grown[1])


@dataclass(frozen=True)
class PaddedKeys:
    """Nothing is cached: each layer's keys and values are only padded, behind, before they are
    attended to. So queries need no padding where a kernel wants keys of a certain number.

    Attributes:
        padding: how many positions are put behind.
    """

    padding: int

    def update(
        self, keys: Float[Tensor, "B heads q d"], values: Float[Tensor, "B heads q d"], layer: int
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
        self, keys: Float[Tensor, "B heads q d"], values: Float[Tensor, "B heads q d"], layer: int
    ) -> tuple[Float[Tensor, "B heads S d"], Float[Tensor, "B heads S d"]]:
        """Puts in the new keys and values; gives those of whole canvases."""
        layers = self.store.layers
        if layer == len(layers):
            empty = keys.new_zeros(self.store.slots, keys.shape[1], self.store.width, keys.shape[3])
            layers.append((empty, torch.zeros_like(empty)))
        if self.queries is None:
            for stored, new in zip(layers[layer], (keys, values), strict=True):
                stored[self.slot, :, : new.shape[2]] = new
            return keys, values
        for stored, new in zip(layers[layer], (keys, values), strict=True):
            stored[self.slot[:, None], :, self.queries] = new.transpose(1, 2)
        whole = layers[layer][0][self.slot], layers[layer][1][self.slot]
        return whole

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
