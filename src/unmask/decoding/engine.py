"""The engine: alternates the frozen model's proposals and the policies' decisions, for many
requests side by side, until nothing is masked."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.canvas import OUTSIDE, Canvas, Revealed, fingerprint, padded_width
from unmask.decoding.constraints import check_limits
from unmask.decoding.footprint import (
    ADVICE,
    decode_bytes,
    describe_sizes,
    footprint_of,
    held_bytes,
    join_footprints,
)
from unmask.decoding.generation import Cost, Result, Step, answer_of, find_row_stop
from unmask.decoding.proposer import Proposer
from unmask.decoding.recorder import Recorder
from unmask.decoding.request import Request, check_request
from unmask.decoding.schedule import Schedule
from unmask.errors import UnmaskError, count_of
from unmask.memory import check_memory
from unmask.models.base import Model, check_model
from unmask.policies.base import Needs, Observation, PolicyLike, decide
from unmask.rng import RowGenerator
from unmask.transfer import to_device


@dataclass(frozen=True)
class Actors:
    """Rows in flight that one policy decides for, with buffers of one length.

    Attributes:
        policy: decides.
        length: L; b of a block-causal model, as a policy sees one block at a time.
        places: their places among the active rows.
        rows: int64 [b], their slots on the device.
        at: int64 [b], `places` on the device; None where they are all active rows in order.
    """

    policy: PolicyLike
    length: int
    places: list[int]
    rows: Int[Tensor, " b"]
    at: Int[Tensor, " b"] | None


class Engine:
    """Decodes requests that come and go, each with its own length, policy and options.

    A row's result depends on the model and its own `Request` only. A finished row leaves at once,
    and a waiting one takes its slot. Every pass of a row counts as one NFE, also where rows with
    equal canvases share a forward pass, or a row that revealed nothing keeps its proposals.

    Args:
        model: the frozen model.
        slots: how many rows may be in flight; it changes the speed, never a result.
        recorder: keeps every decision, for training.

    Examples:
        >>> from unmask.decoding import DecodeOptions, Engine, Request
        >>> model, policy = unmask.load_model("embedded/chain"), unmask.load_policy("confidence:24")
        >>> prompt = tuple(model.tokenizer("7 a +5 =")["input_ids"])
        >>> engine = Engine(model, slots=8)
        >>> ticket = engine.submit(Request(prompt, policy, DecodeOptions(max_new_tokens=48)))
        >>> while not engine.idle:
        ...     step = engine.step()
        >>> step.results[0].nfe
        2
    """

    def __init__(self, model: Model, slots: int = 64, recorder: Recorder | None = None) -> None:
        if not isinstance(slots, int) or isinstance(slots, bool) or not 1 <= slots < 2**31:
            raise UnmaskError(
                f"batch_size is {slots!r}; give a whole number, at least 1, at most {2**31 - 1}"
            )
        check_model(model)
        self.model, self.recorder = model, recorder
        self.schedule = Schedule(slots)
        self.least = recorder.needs if recorder else Needs(everywhere=False)
        self.waiting: dict[int, Request] = {}
        self.fitting = 0.0  # bytes that there was room for when somebody looked
        self._start_afresh(Cost())
        self.submitted = 0
        self._members: tuple[Tensor, list[Actors]] | None = None  # of the rows in flight

    def _start_afresh(self, cost: Cost) -> None:
        """A canvas and proposals for no rows yet, so that a long row leaves nothing behind."""
        self.canvas = Canvas(self.model, self.schedule.slots)
        self.proposer = Proposer(self.model, self.canvas, self.least)
        self.proposer.cost = cost
        self.schedule.free.clear()
        waiting = self.waiting.values()
        self.footprint = join_footprints(
            [footprint_of(self.model, request, self.least) for request in waiting]
        )

    @property
    def idle(self) -> bool:
        """Whether no row waits or is in flight."""
        return not self.schedule.waiting and not self.schedule.active

    @property
    def room(self) -> int:
        """How many more rows could be in flight."""
        schedule = self.schedule
        return max(0, schedule.slots - len(schedule.active) - len(schedule.waiting))

    @property
    def cost(self) -> Cost:
        """What was really run so far."""
        return self.proposer.cost

    def submit(self, request: Request) -> int:
        """Puts a request behind the waiting ones.

        Returns:
            Its ticket: a number, from 0, in the order of submission.

        Raises:
            UnmaskError: if this model cannot answer it, or the rows that may then be in flight
                would take more memory than there is.
        """
        check_request(self.model, request)
        check_limits(self.model, request)
        self._check_memory(request)
        ticket, self.submitted = self.submitted, self.submitted + 1
        self.waiting[ticket] = request
        self.schedule.submit(ticket)
        return ticket

    def _check_memory(self, request: Request) -> None:
        """Refuses a request beside which the rows in flight would not fit. What is free is looked
        up where the engine was idle, or more may be taken than fitted at the last look.

        Raises:
            UnmaskError: as `submit`.
        """
        idle, slots = self.idle, self.schedule.slots
        footprint = self.footprint | footprint_of(self.model, request, self.least)
        known = 0.0 if idle or footprint != self.footprint else self.fitting
        if known == math.inf:
            return
        others = (*self.canvas.requests.values(), *self.waiting.values())
        widths = [padded_width(self.model, each.size) for each in (*others, request)]
        rows = min(len(widths), slots)
        wanted = decode_bytes(self.model, footprint, rows, widths)
        if wanted <= known:
            return
        canvases = f"canvases of {describe_sizes(footprint, widths)}"
        what = f"decoding {count_of(rows, 'row')} side by side, with {canvases},"
        held = held_bytes(self.canvas, self.proposer)
        free = check_memory(max(0, wanted - held), what, ADVICE, self.model.device)
        every = decode_bytes(self.model, footprint, slots) - held  # as long as the longest
        self.fitting = math.inf if free is None or every <= free else wanted
        self.footprint = footprint

    def cancel(self, ticket: int) -> None:
        """Takes a request out, whether it waits or is in flight; it gives no result.

        Raises:
            UnmaskError: if no request with this ticket waits or is in flight.
        """
        try:
            slot = self.schedule.cancel(ticket)
        except KeyError:
            raise UnmaskError(
                f"ticket {ticket!r} is neither waiting nor in flight; it is done, cancelled or "
                "unknown"
            ) from None
        if slot is None:
            del self.waiting[ticket]
        else:
            self._close([slot])

    @torch.no_grad()
    def step(self) -> Step | None:
        """One pass for every row in flight, after waiting rows took the free slots.

        Returns:
            What it did; None if there is nothing to do.

        A row whose logits are not finite (NaN or infinite) leaves with a `Result.error`.

        Raises:
            UnmaskError: if a policy returns no valid action.
        """
        self._admit()
        if not self.schedule.active:
            return None
        rows, actors = self._in_flight()
        self.proposer.refresh(self.schedule.stale)
        # A row whose confidences are no numbers reveals nothing and is retired.
        finite = self.proposer.finite[rows]
        action = self._decide(rows, actors) & finite[:, None]
        proposals = self.proposer.tokens[rows]
        early = any(self.canvas.requests[s].options.stop_at_eos for s in self.schedule.active)
        action, proposals = self.canvas.spread(rows, action), self.canvas.spread(rows, proposals)
        confidence = self.canvas.spread(rows, self.proposer.confidence[rows][..., 0])
        if self.proposer.constraints is not None:
            shown = (proposals, confidence)
            action = self.proposer.constraints.settle(self.canvas, rows, action, shown)
        revealed = self.canvas.reveal(rows, action, proposals, early)
        revealed = replace(revealed, going=revealed.going & finite)
        going, moved, broken = self._look(rows, revealed, finite)
        shown = (revealed.buffer, action, proposals, confidence)
        return self._advance(rows, shown, ~revealed.going, (going, moved, broken))

    def _admit(self) -> None:
        """Lets waiting rows take the free slots.

        Where there is no room for them in memory, they are dropped and the others go on, in the
        tensors that they had.
        """
        if not self.schedule.active and self.schedule.waiting:
            self._start_afresh(self.proposer.cost)
        admitted = self.schedule.admit()
        if not admitted:
            return
        opened = [(slot, ticket, self.waiting.pop(ticket)) for slot, ticket in admitted]
        self._members = None
        growing, store = (self.canvas, self.proposer), self.proposer.store
        before, room = [dict(vars(each)) for each in growing], (store.slots, store.width)
        try:
            self.canvas.open(opened)
            self.proposer.open(opened)
        except Exception:
            for each, kept in zip(growing, before, strict=True):
                vars(each).update(kept)
            store.cut(*room)
            for slot, ticket, _ in opened:
                self.schedule.cancel(ticket)
                self.canvas.close(slot)
                self.proposer.close(slot)
            raise

    def _close(self, slots: Sequence[int]) -> None:
        """Forgets rows that left."""
        for slot in slots:
            self.canvas.close(slot)
            self.proposer.close(slot)
        self._members = None

    def _in_flight(self) -> tuple[Tensor, list[Actors]]:
        """The slots of the active rows, and who decides for which; made anew when rows change."""
        if self._members is None:
            active, device = self.schedule.active, self.model.device
            rows = to_device(active, device)
            found: dict[tuple[int, int, bool], list[int]] = {}
            for place, slot in enumerate(active):
                request = self.canvas.requests[slot]
                told, length = request.acts_for is not None, self.canvas.window or request.length
                found.setdefault((id(request.policy), length, told), []).append(place)
            actors = []
            for (_, length, _), places in found.items():
                policy = self.canvas.requests[active[places[0]]].policy
                at = None if len(places) == len(active) else to_device(places, device)
                own = rows if at is None else rows[at]
                actors.append(Actors(policy, length, places, own, at))
            self._members = rows, actors
        return self._members

    def _decide(self, rows: Int[Tensor, " B"], actors: Sequence[Actors]) -> Bool[Tensor, "B L"]:
        """The actions of all active rows, each policy asked once for each length."""
        actions = []
        for actor in actors:
            seen = self._observe(actor)
            generator = RowGenerator(self.canvas.keys(actor.rows))
            decided = decide(actor.policy, seen, generator)
            if self.recorder is not None:
                tickets, passes = self.canvas.ticket[actor.rows], self.canvas.nfe[actor.rows]
                self.recorder.record(tickets, seen, (decided * seen.eligible).short(), passes)
            actions.append((decided > 0) & seen.eligible)
        if len(actors) == 1 and actors[0].length == self.canvas.seen:
            return actions[0]
        whole = torch.zeros(len(rows), self.canvas.seen, dtype=torch.bool, device=rows.device)
        for actor, action in zip(actors, actions, strict=True):
            whole[slice(None) if actor.at is None else actor.at, : actor.length] = action
        return whole

    def _observe(self, actor: Actors) -> Observation:
        """What a policy sees of its rows."""
        canvas, proposer, rows, length = self.canvas, self.proposer, actor.rows, actor.length
        slots = [self.schedule.active[place] for place in actor.places]
        needs = proposer.needs[slots[0]]
        told = canvas.requests[slots[0]].acts_for is not None
        return Observation(
            proposer.confidence[rows][:, :length, : needs.top_k],
            canvas.look(rows, canvas.masked(rows))[:, :length],
            canvas.look(rows, canvas.eligible[rows])[:, :length],
            canvas.nfe[rows] - canvas.begun[rows],
            length,
            {name: proposer.features[name][rows][:, :length] for name in needs.features},
            canvas.alpha[rows] if told else None,
            tuple(canvas.counts[slot] for slot in slots),
        )

    def _look(
        self, rows: Int[Tensor, " B"], revealed: Revealed, finite: Bool[Tensor, " B"]
    ) -> tuple[list[int], list[int], list[int]]:
        """The one time in a step that the host waits: who goes on, whose canvas changed, how many
        positions are eligible now, hashes of canvases that may be equal, and the buffers of rows
        that a string may stop.

        Returns:
            For each row whether it goes on, whether its canvas changed, and whether it is finite.
        """
        canvas, proposer, active = self.canvas, self.proposer, self.schedule.active
        columns = [revealed.going, revealed.moved, revealed.first, revealed.eligible, finite]
        if proposer.shares:
            columns.append(fingerprint(revealed.buffer))
        stopping = [i for i, s in enumerate(active) if canvas.requests[s].options.stop]
        report = torch.stack([column.long() for column in columns])
        if stopping:
            chosen = revealed.buffer[to_device(stopping, rows.device)]
            report = torch.cat([report.flatten(), chosen.flatten()])
        numbers = report.flatten().tolist()
        count = len(active)
        going, moved, first, eligible, sound, *prints = (
            numbers[i * count : (i + 1) * count] for i in range(len(columns))
        )
        for slot, place, number in zip(active, first, eligible, strict=True):
            canvas.counts[slot] = number
            canvas.passes[slot] += 1
            proposer.move(slot, place)
        proposer.mark(active, prints[0] if prints else None)
        length, buffers = canvas.length, numbers[len(columns) * count :]
        ended = []
        for i, place in enumerate(stopping):
            buffer = buffers[i * length : (i + 1) * length]
            if sound[place] and self._stops(active[place], buffer):
                going[place] = 0
                ended.append(active[place])
        if ended:
            canvas.end_text(ended)
        return going, moved, sound

    def _describe_failure(self, slot: int) -> str:
        """Why a row whose confidences are no numbers could not be finished."""
        return (
            f"the model's logits are not finite (NaN or infinite) in pass "
            f"{self.canvas.passes[slot]}; load it with dtype bfloat16 or float32 (now "
            f"{self.model.dtype}), or check its weights"
        )

    def _stops(self, slot: int, buffer: Sequence[int]) -> bool:
        """Whether the text that can no longer change holds one of the row's stop strings."""
        request, given = self.canvas.requests[slot], self.canvas.extents[slot].given
        buffer = buffer[given : given + request.length]
        masks = (i for i, token in enumerate(buffer) if token == self.model.mask_id)
        prefix = answer_of(self.model, buffer[: next(masks, len(buffer))])
        return find_row_stop(self.model, request, prefix) is not None

    def _advance(
        self,
        rows: Int[Tensor, " B"],
        shown: tuple[Tensor, Tensor, Tensor, Tensor],
        finished: Bool[Tensor, " B"],
        seen: tuple[list[int], list[int], list[int]],
    ) -> Step:
        """Lets finished rows leave, after what `_look` has seen; what the step did.

        Args:
            rows: slots.
            shown: buffers, actions, proposals and confidences, [B, L] each.
            finished: which rows do not go on, as far as the device knows.
            seen: what `_look` returned.
        """
        canvas, (going, moved, sound) = self.canvas, seen
        rows_sound = zip(self.schedule.active, sound, strict=True)
        broken = {slot for slot, whole in rows_sound if not whole}
        done = [slot for slot, goes in zip(self.schedule.active, going, strict=True) if not goes]
        if any(canvas.requests[slot].options.stop for slot in done):
            finished = to_device([1 - goes for goes in going], rows.device) > 0
        buffer, *decided = shown
        if canvas.mixed:
            end = self.model.eos_ids[0]
            buffer = buffer.masked_fill(canvas.reveal_step[rows] == OUTSIDE, end)
        active = self.schedule.active
        buffer = canvas.answers(active, buffer, self.model.eos_ids[0])
        action, proposals, confidence = (canvas.answers(active, x, 0) for x in decided)
        results = self._results(done, broken)
        tickets = canvas.ticket[rows]
        self.schedule.advance(going, moved)
        for slot in broken:
            self.proposer.discard(slot)
        if done:
            self._close(done)
        return Step(tickets, buffer, action, proposals, confidence, finished, results)

    def _results(self, slots: Sequence[int], broken: Set[int]) -> tuple[Result, ...]:
        """The rows that are done, taken out of the canvas; `broken` ones with an error."""
        if not slots:
            return ()
        tokens, steps = self.canvas.buffers(slots)
        found = []
        for i, slot in enumerate(slots):
            request, ticket = self.canvas.requests[slot], self.schedule.tickets[slot]
            length, passes = request.length, self.canvas.passes[slot]
            error = self._describe_failure(slot) if slot in broken else ""
            own = (tokens[i, :length], steps[i, :length])
            found.append(Result(ticket, request, *own, passes, error))
        return tuple(found)
