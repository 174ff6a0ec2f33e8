"""Which rows are in flight, which wait, and which need a new proposal: lists on the host."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Schedule:
    """Gives waiting rows the free slots, in the order of submission; it never looks at results.

    Attributes:
        slots: how many rows may be in flight.
        waiting: tickets of rows that wait.
        active: slots of the rows in flight.
        stale: those of them whose canvas changed since their last proposal.
        tickets: the ticket of each slot in use.
        slot_of: the slot of each ticket in flight.
        free: slots that were used and are free; unused ones have never been given out.
    """

    slots: int
    waiting: OrderedDict[int, None] = field(default_factory=OrderedDict)
    active: list[int] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    tickets: dict[int, int] = field(default_factory=dict)
    slot_of: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)

    def submit(self, ticket: int) -> None:
        """Puts a row behind the waiting ones."""
        self.waiting[ticket] = None

    def admit(self) -> list[tuple[int, int]]:
        """Lets waiting rows in while there is room.

        Returns:
            Slot and ticket of each.
        """
        admitted = []
        while self.waiting and len(self.active) < self.slots:
            slot = self.free.pop() if self.free else len(self.active)
            ticket, _ = self.waiting.popitem(last=False)
            self.tickets[slot], self.slot_of[ticket] = ticket, slot
            self.active.append(slot)
            self.stale.append(slot)
            admitted.append((slot, ticket))
        return admitted

    def advance(self, going: Sequence[int], moved: Sequence[int]) -> list[int]:
        """After a step: rows that do not go on leave, and those that revealed something are stale.

        Args:
            going: for each active row whether it goes on.
            moved: for each whether its canvas changed.

        Returns:
            The slots that became free.
        """
        rows = list(zip(self.active, going, moved, strict=True))
        self.active = [slot for slot, goes, _ in rows if goes]
        self.stale = [slot for slot, goes, changed in rows if goes and changed]
        left = [slot for slot, goes, _ in rows if not goes]
        for slot in left:
            del self.slot_of[self.tickets.pop(slot)]
        self.free += reversed(left)
        return left

    def cancel(self, ticket: int) -> int | None:
        """Takes a row out, whether it waits or is in flight.

        Returns:
            The slot that became free; None if the row had none.

        Raises:
            KeyError: if no such row is waiting or in flight.
        """
        if ticket in self.waiting:
            del self.waiting[ticket]
            return None
        slot = self.slot_of.pop(ticket)
        del self.tickets[slot]
        self.active.remove(slot)
        if slot in self.stale:
            self.stale.remove(slot)
        self.free.append(slot)
        return slot
