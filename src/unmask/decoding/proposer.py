"""The latest proposal of every row in flight, and the one place where rows meet in a forward
pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.caching import BlockCaching, Caching
from unmask.decoding.canvas import Canvas, grow_tensor, padded_width
from unmask.decoding.constraints import Constraints, Limits, build_constraints, limits_of
from unmask.decoding.generation import Cost
from unmask.decoding.request import Request
from unmask.models.base import Model, Proposal
from unmask.models.cache import BlockView, CacheView, KeyValues
from unmask.models.head import Sampling, TokenMask
from unmask.policies.base import Needs
from unmask.rng import RowGenerator
from unmask.transfer import to_device


@dataclass(frozen=True)
class Group:
    """Rows that share a forward pass.

    Attributes:
        forwarded: slots of the rows that are forwarded.
        followers: slots whose canvas equals a forwarded one, and its place in `forwarded`.
        view: what is read and written of a cache; None without one.
    """

    forwarded: list[int]
    followers: list[tuple[int, int]]
    view: CacheView | BlockView | None = None

    @property
    def cached(self) -> bool:
        """Whether only some of the positions that policies see are forwarded."""
        return isinstance(self.view, CacheView) and self.view.queries is not None


class Proposer:
    """Keeps a proposal for each row in flight and renews those of canvases that changed.

    `_groups` is the only place where rows are put together, `_forward` the only one that runs the
    model and counts what it cost.

    Attributes:
        cost: of all forward passes so far.
        tokens: int64 [slots, seen], the proposed tokens of the positions that policies see: all L,
            or the current block of a block-causal model.
        confidence: fp32 [slots, seen, k].
        features: fp32 [slots, seen] each, and "hidden" [slots, seen, width].
        finite: bool [slots], whether the last proposal's confidences are numbers.
    """

    def __init__(self, model: Model, canvas: Canvas, needs: Needs) -> None:
        self.model, self.canvas, self.least = model, canvas, needs
        self.caching = Caching(model.shift)
        size = model.attention_block
        self.blocks = None if size is None else BlockCaching(size, model.causal_context)
        self.cost = Cost()
        device = model.device
        self.tokens = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.confidence = torch.zeros(0, 0, 1, device=device)
        self.finite = torch.zeros(0, dtype=torch.bool, device=device)
        self.everywhere = torch.zeros(0, dtype=torch.bool, device=device)
        self.features: dict[str, Tensor] = {}
        self.needs: dict[int, Needs] = {}
        self.sampling: dict[int, Sampling] = {}
        self.widths: dict[int, int] = {}
        self.alike: dict[Any, list[int]] = {}  # of rows that may become equal: the slots in flight
        self.alike_of: dict[int, Any] = {}
        self.limits: dict[int, Limits | None] = {}
        self.constraints: Constraints | None = None
        self.marks: dict[int, Any] = {}  # rows with equal marks have equal canvases

    def open(self, rows: Sequence[tuple[int, int, Request]]) -> None:
        """Takes new rows in: slot, ticket and request of each. The canvas holds them already."""
        for slot, ticket, request in rows:
            self.limits[slot] = limits_of(self.model, request, self.canvas.extents[slot])
            self.needs[slot] = request.needs | self.least
            self.sampling[slot] = request.sampling
            size = self.canvas.extents[slot].size
            self.widths[slot] = padded_width(self.model, size)
            if self.blocks is not None:
                self.blocks.open(slot, request, size)
            self.marks[slot] = ticket
            if request.options.cache is not None:
                self.caching.open(slot, request, self.canvas.slots, self.canvas.width)
            elif request.sampling.temperature == 0:
                kind = kind_of(request, self.needs[slot])
                self.alike_of[slot] = kind
                self.alike.setdefault(kind, []).append(slot)
                self.marks[slot] = ("new", kind)
        self.store.grow(self.canvas.slots, self.canvas.width if self.blocks is None else 0)
        self._grow()
        self.constraints = build_constraints(self.canvas, self.limits)
        at = to_device([slot for slot, _, _ in rows], self.model.device)
        flags = [int(self.needs[slot].everywhere) for slot, _, _ in rows]
        self.everywhere[at] = to_device(flags, self.model.device) > 0

    @property
    def store(self) -> KeyValues:
        """Keys and values of the rows in flight."""
        return self.caching.store if self.blocks is None else self.blocks.store

    def close(self, slot: int) -> None:
        """Forgets a row that left."""
        kind = self.alike_of.pop(slot, None)
        if kind is not None:
            self.alike[kind].remove(slot)
            if not self.alike[kind]:
                del self.alike[kind]
        for of_slot in (self.needs, self.sampling, self.widths, self.marks, self.limits):
            of_slot.pop(slot, None)
        self.caching.close(slot)
        if self.blocks is not None:
            self.blocks.close(slot)

    def discard(self, slot: int) -> None:
        """Forgets what a row whose logits are no numbers left in the store."""
        if self.blocks is not None:
            self.blocks.discard(slot)

    def move(self, slot: int, first: int) -> None:
        """After a step: where a row's first mask is now, in its buffer."""
        if self.blocks is not None:
            self.blocks.move(slot, first)
        elif slot in self.caching.rows:
            self.caching.move(slot, first)

    @property
    def shares(self) -> bool:
        """Whether rows in flight may have equal canvases."""
        return len(self.alike) < len(self.alike_of)

    def mark(self, slots: Sequence[int], prints: Sequence[int] | None) -> None:
        """After a step: a hash of each row's buffer, if rows may be equal; else they count as
        different."""
        for i, slot in enumerate(slots):
            kind = self.alike_of.get(slot)
            if kind is None or prints is None:
                self.marks[slot] = object()
            else:
                self.marks[slot] = (kind, prints[i])

    def refresh(self, stale: Sequence[int]) -> None:
        """Renews the proposals of rows whose canvas changed."""
        if self.blocks is not None:
            self._prefill(self.blocks, stale)
        for group in self._groups(stale):
            self._forward(group)

    def _prefill(self, blocks: BlockCaching, stale: Sequence[int]) -> None:
        """Stores keys and values of the full blocks of new rows' prompts, equal ones once. This
        proposes nothing, so it is no NFE; `Cost` counts it."""
        new = [slot for slot in stale if not blocks.rows[slot].filled]
        if not new:
            return
        sizes = {slot: len(blocks.rows[slot].prefix) for slot in new}
        leading = sorted(blocks.share(new), key=lambda slot: (-sizes[slot], slot))
        for part in group_by_width(leading, sizes):
            for slots, view, positions in blocks.prefill_views(part, self.model.device):
                rows = to_device(slots, self.model.device)
                tokens, inside = self.canvas.tokens[rows], self.canvas.inside[rows]
                self.model.hidden_at(tokens, inside, view.queries[:, -1:], view)
                run = view.queries.numel()
                self.cost += Cost(1, len(slots), run, run - positions)
        blocks.fill(leading, new)

    def _groups(self, stale: Sequence[int]) -> Iterator[Group]:
        """The rows to forward together: of like width, equal canvases once, cached ones apart."""
        blocks, device = self.blocks, self.model.device
        if blocks is not None:
            widths = {slot: blocks.queries(slot) for slot in stale}
            order = sorted(stale, key=lambda slot: (-widths[slot], slot))
            for part in group_by_width(order, widths):
                forwarded, followers = self._pair(part)
                yield Group(forwarded, followers, blocks.view(forwarded, followers, device))
                blocks.stored(part)
            return
        ranked = sorted(stale, key=lambda slot: -self.widths[slot])
        cached = [slot for slot in ranked if slot in self.caching.rows]
        for part in group_by_width([s for s in ranked if s not in self.caching.rows], self.widths):
            yield Group(*self._pair(part))
        rows = self.caching.rows
        whole = [slot for slot in cached if rows[slot].needs_refresh]
        rest = [slot for slot in cached if not rows[slot].needs_refresh]
        for part, of_stored in ((whole, False), (rest, True)):
            if part:
                yield Group(part, [], self.caching.view(part, of_stored, device))
                self.caching.stored(part, of_stored)

    def _pair(self, part: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Of rows, those to forward; and the slots of those whose canvas equals a forwarded one,
        with its place among them."""
        place: dict[Any, int] = {}
        forwarded, followers = [], []
        for slot in part:
            at = place.setdefault(self.marks[slot], len(place))
            if at < len(forwarded):
                followers.append((slot, at))
            else:
                forwarded.append(slot)
        return forwarded, followers

    def _forward(self, group: Group) -> None:
        """One pass of the backbone; then the head, once for each way of sampling among the rows."""
        canvas, model, slots = self.canvas, self.model, group.forwarded
        rows = to_device(slots, model.device)
        width = self._width(group)
        guided = {i: n for n, i in enumerate(self._guided(slots), len(slots))}
        tokens, inside = canvas.tokens[rows, :width], canvas.inside[rows, :width]
        where = canvas.look(rows, canvas.where[rows])
        if guided:
            at = to_device(list(guided), model.device)
            tokens = torch.cat([tokens, canvas.unconditional(rows[at])[:, :width]])
            inside, where = torch.cat([inside, inside[at]]), torch.cat([where, where[at]])
        hidden = model.hidden_at(tokens, inside, where, group.view)
        self._count(group, width, len(guided))
        parts: dict[Sampling, list[int]] = {}
        for i, slot in enumerate(slots):
            parts.setdefault(self.sampling[slot], []).append(i)
        for sampling, members in parts.items():
            whole = len(members) == len(slots)
            at = slice(0, len(slots)) if whole else to_device(members, model.device)
            without = None
            if sampling.cfg_scale:
                places = [guided[i] for i in members]
                without = hidden[to_device(places, model.device)]
            own = [slots[i] for i in members]
            proposal = self._propose(group, own, rows[at], hidden[at], sampling, without)
            self._keep(group, members, rows[at], proposal)

    def _guided(self, slots: Sequence[int]) -> list[int]:
        """The places of the rows that are forwarded without their prompt too."""
        return [i for i, slot in enumerate(slots) if self.sampling[slot].cfg_scale]

    def _width(self, group: Group) -> int:
        """How many positions of their canvases a group's rows are forwarded with: as many as the
        longest has, where the model pads keys by itself."""
        if self.blocks is not None:
            return self.canvas.width
        if group.view is not None:
            return self.caching.store.width
        if self.model.takes_mask:
            return max(self.canvas.requests[slot].size for slot in group.forwarded)
        return max(self.widths[slot] for slot in group.forwarded)

    def _propose(
        self,
        group: Group,
        slots: list[int],
        rows: Int[Tensor, " B"],
        hidden: Tensor,
        sampling: Sampling,
        without: Tensor | None,
    ) -> Proposal:
        """The head on the hidden states of rows that sample alike."""
        needs = Needs(everywhere=False)
        for slot in slots:
            needs = needs | self.needs[slot]
        needed, count = self._needed(group, slots, rows)
        proposal = self.model.proposal(
            hidden,
            sampling,
            without=without,
            needs=needs.features,
            k=needs.top_k,
            needed=needed,
            count=count,
            generator=RowGenerator(self.canvas.keys(rows)) if sampling.temperature > 0 else None,
            allowed=self._allowed(slots, rows),
        )
        if group.cached and needed is not None:  # what was not reached stays as it was
            old = {name: self.features[name][rows] for name in proposal.features}
            confidence = self.confidence[rows][..., : needs.top_k]
            proposal = proposal.where(needed, Proposal(self.tokens[rows], confidence, old))
        return proposal

    def _allowed(
        self, slots: Sequence[int], rows: Int[Tensor, " B"]
    ) -> Callable[[Tensor, Tensor], TokenMask] | None:
        """Which tokens may stand at which seen positions of rows; None where that is all tokens."""
        constraints = self.constraints
        if constraints is None or all(self.limits[slot] is None for slot in slots):
            return None
        possible, starts = constraints.open_choices(self.canvas, rows), self.canvas.start[rows]
        return lambda row, place: constraints.mask_tokens(
            rows[row], starts[row] + place, possible[row]
        )

    def _needed(
        self, group: Group, slots: list[int], rows: Int[Tensor, " B"]
    ) -> tuple[Bool[Tensor, "B L"] | None, int | None]:
        """Where proposals are needed, and how many; None is everywhere."""
        canvas = self.canvas
        everywhere = [self.needs[slot].everywhere for slot in slots]
        padded = canvas.mixed and canvas.window is None
        if all(everywhere) and not group.cached and not padded:
            return None, None
        needed = canvas.look(rows, canvas.eligible[rows])
        if any(everywhere):
            inside = canvas.reveal_step[rows] != -2 if padded else torch.ones_like(needed)
            if group.cached and isinstance(group.view, CacheView):
                sources = (canvas.where[rows] - int(self.model.shift)).clamp(min=0)
                places = {slot: i for i, slot in enumerate(group.forwarded)}
                view = group.view.select(to_device([places[s] for s in slots], rows.device))
                inside = inside & view.reached(sources)[0]
            needed = needed | (inside & self.everywhere[rows][:, None])
        counts = [
            canvas.counts[slot]
            if not every
            else self.caching.reached(slot)
            if group.cached
            else canvas.window or canvas.requests[slot].length
            for slot, every in zip(slots, everywhere, strict=True)
        ]
        return needed, sum(counts)

    def _keep(
        self, group: Group, members: list[int], rows: Int[Tensor, " B"], proposal: Proposal
    ) -> None:
        """Stores a proposal of some forwarded rows, for them and for their followers."""
        finite = proposal.confidence.isfinite().all(-1).all(-1)
        places = {i: place for place, i in enumerate(members)}
        followers = [(slot, places[i]) for slot, i in group.followers if i in places]
        self._store(rows, proposal, finite)
        if followers:
            device = rows.device
            to = to_device([slot for slot, _ in followers], device)
            of = to_device([place for _, place in followers], device)
            features = {name: values[of] for name, values in proposal.features.items()}
            copied = Proposal(proposal.tokens[of], proposal.confidence[of], features)
            self._store(to, copied, finite[of])

    def _store(
        self, rows: Int[Tensor, " B"], proposal: Proposal, finite: Bool[Tensor, " B"]
    ) -> None:
        self.tokens[rows], self.finite[rows] = proposal.tokens, finite
        k = proposal.confidence.shape[-1]
        if k == self.confidence.shape[-1]:
            self.confidence[rows] = proposal.confidence
        else:
            self.confidence[rows, :, :k] = proposal.confidence
        for name, values in proposal.features.items():
            stored = self.features.get(name)
            if stored is None:
                shape = (self.canvas.slots, self.canvas.seen, *values.shape[2:])
                stored = self.features[name] = values.new_zeros(shape)
            stored[rows] = values

    def _count(self, group: Group, width: int, guided: int) -> None:
        """Adds one forward pass to the cost."""
        slots, view = group.forwarded, group.view
        rows = len(slots) + guided
        if self.blocks is not None and isinstance(view, BlockView):
            run = view.queries.numel()
            self.cost += Cost(1, rows, run, run - sum(map(self.blocks.queries, slots)))
            return
        if view is not None and view.queries is not None:
            self.cost += Cost(1, rows, view.queries.numel(), 0)
            return
        sizes = sum(self.canvas.requests[slot].size for slot in slots)
        twice = [slot for slot in slots if self.sampling[slot].cfg_scale]
        sizes += sum(self.canvas.requests[slot].size for slot in twice)
        self.cost += Cost(1, rows, rows * width, rows * width - sizes)

    def _grow(self) -> None:
        """Makes room for what the canvas holds, and for as many probabilities as are needed."""
        slots, length = self.canvas.slots, self.canvas.seen
        k = max(needs.top_k for needs in self.needs.values())
        k = max(k, self.confidence.shape[-1])
        if self.confidence.shape != (slots, length, k):
            self.tokens = grow_tensor(self.tokens, (slots, length))
            self.confidence = grow_tensor(self.confidence, (slots, length, k))
            self.finite = grow_tensor(self.finite, (slots,))
            self.everywhere = grow_tensor(self.everywhere, (slots,))
            self.features = {
                name: grow_tensor(old, (slots, length, *old.shape[2:]))
                for name, old in self.features.items()
            }


def kind_of(request: Request, needs: Needs) -> tuple[Any, ...]:
    """What rows have in common that may share a forward pass whenever their canvases are equal: the
    same canvas at first, the same head, and the same positions and features that are needed."""
    head = (request.sampling, needs.top_k, frozenset(needs.features), needs.everywhere)
    limits = (request.allowed, request.options.choices)
    return (request.prompt, request.holes, request.length, request.block_length, *limits, *head)


SPARED, ENOUGH = 128, 512  # positions


def group_by_width(rows: Sequence[int], widths: Any) -> list[list[int]]:
    """Rows, by falling width, in parts to forward apart.

    A new part begins where that saves at least `SPARED` padded positions and the current part
    already holds at least `ENOUGH`; below that, an extra forward pass costs more than the padding.

    Args:
        rows: slots, by falling width.
        widths: the width of each slot.
    """
    parts: list[list[int]] = []
    for i, row in enumerate(rows):
        widest = widths[parts[-1][0]] if parts else 0
        spared = (widest - widths[row]) * (len(rows) - i)
        narrower = i > 0 and widths[row] < widths[rows[i - 1]]  # equal rows stay together
        if i == 0 or (narrower and spared >= SPARED and widest * len(parts[-1]) >= ENOUGH):
            parts.append([])
        parts[-1].append(row)
    return parts
