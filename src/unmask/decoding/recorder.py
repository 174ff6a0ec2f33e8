"""Keeps the decisions of a decode, for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.generation import Transitions
from unmask.policies.base import Needs, Observation, Policy, needs_of


@dataclass
class Recorder:
    """Keeps every decision: what was seen and what was revealed.

    Attributes:
        observer: what this policy reads is recorded too, although another one decides; used when an
            expert's rollout trains it. None records what the deciding policy reads.
    """

    observer: Policy | None = None
    _parts: list[tuple[Tensor, Observation, Tensor]] = field(default_factory=list)

    @property
    def needs(self) -> Needs:
        """Observations are recorded at all positions, whatever the policy that decides reads."""
        return needs_of(self.observer) if self.observer is not None else Needs()

    def record(
        self, rows: Int[Tensor, " B"], observation: Observation, action: Int[Tensor, "B L"]
    ) -> None:
        """Keeps one step of some rows."""
        self._parts.append((rows, observation, action))

    def transitions(
        self, order: Int[Tensor, " N"] | None = None, kept: Bool[Tensor, " N"] | None = None
    ) -> Transitions | None:
        """What was recorded, in the order taken; None if nothing was. The recorder is empty then.

        Args:
            order: the number that each recorded row gets; None keeps the engine's tickets.
            kept: which rows (by ticket) are wanted; None is all. The others are never copied.
        """
        parts, self._parts = self._parts, []
        found: list[Any] = []
        for rows, observation, action in parts:
            if kept is not None:
                chosen = kept[rows]
                rows, observation, action = rows[chosen], observation[chosen], action[chosen]
            found.append((rows if order is None else order[rows], observation, action))
        if not found:
            return None
        rows, observations, actions = zip(*found, strict=True)
        return Transitions(torch.cat(rows), Observation.cat(observations), torch.cat(actions))
