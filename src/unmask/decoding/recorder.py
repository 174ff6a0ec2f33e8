"""Keeps the decisions of a decode, for training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.generation import Transitions
from unmask.memory import check_memory
from unmask.policies.base import TENSORS, Needs, Observation, Policy, needs_of

LOOK = 2**26  # bytes: so much more is kept before somebody looks whether there is room


@dataclass
class Recorder:
    """Keeps every decision: what was seen and what was revealed.

    Attributes:
        observer: what this policy reads, or what such needs name, is recorded too, although another
            one decides; used when an expert's rollout trains it. None records what the deciding
            policy reads.
    """

    observer: Policy | Needs | None = None
    _parts: list[tuple[Tensor, Observation, Tensor, Tensor]] = field(default_factory=list)
    _kept: int = 0  # bytes
    _looked: int = 0  # what they were when somebody looked

    @property
    def needs(self) -> Needs:
        """Observations are recorded at all positions, whatever the policy that decides reads."""
        if isinstance(self.observer, Needs):
            return self.observer
        return needs_of(self.observer) if self.observer is not None else Needs()

    def record(
        self,
        rows: Int[Tensor, " B"],
        observation: Observation,
        action: Int[Tensor, "B L"],
        passes: Int[Tensor, " B"],
    ) -> None:
        """Keeps one step of some rows, which have so many passes behind them.

        How many passes rows take is known only when they are done. So the room is looked at again
        whenever 64 MiB more are kept: putting them together (`transitions`) takes as much again as
        is kept.

        Raises:
            UnmaskError: if there is too little.
        """
        self._parts.append((rows, observation, action, passes))
        self._kept += observation_bytes(observation) + action.nbytes + 2 * rows.nbytes
        if self._kept - self._looked >= LOOK:
            self._looked = self._kept
            advice = "give fewer prompts or rollouts, or a smaller max_new_tokens or max_passes"
            if "hidden" in observation.features:
                advice += ", or train without hidden states (--no-hidden, hidden=False)"
            check_memory(
                self._kept,
                "putting together the decisions that were recorded so far",
                advice,
                rows.device,
            )

    def number_rows(self, numbers: Int[Tensor, " N"]) -> None:
        """Replaces the engine's tickets by numbers of the caller's, one for each ticket."""
        self._parts = [(numbers[rows], seen, a, p) for rows, seen, a, p in self._parts]

    def keep_rows(self, kept: Bool[Tensor, " N"]) -> None:
        """Forgets the decisions of all rows but those that `kept` says, by number. So what is not
        wanted is never put together."""
        if bool(kept.all()):
            return
        chosen = [(kept[part[0]], part) for part in self._parts]
        self._parts = [
            (rows[own], seen[own], action[own], passes[own])
            for own, (rows, seen, action, passes) in chosen
            if own.any()
        ]

    def transitions(self) -> Transitions | None:
        """The decisions in the order taken; None if there are none. The recorder is empty then."""
        parts, self._parts, self._kept, self._looked = self._parts, [], 0, 0
        if not parts:
            return None
        rows, observations, actions, passes = zip(*parts, strict=True)
        observed = Observation.cat(observations)
        return Transitions(torch.cat(rows), observed, torch.cat(actions), torch.cat(passes))


def observation_bytes(observation: Observation) -> int:
    """What the tensors of an observation take."""
    found = [getattr(observation, name) for name in (*TENSORS, "length")]
    tensors = [x for x in (*found, *observation.features.values()) if isinstance(x, Tensor)]
    return sum(tensor.nbytes for tensor in tensors)
