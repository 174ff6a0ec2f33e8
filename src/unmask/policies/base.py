"""What a policy sees, and what it must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.rng import RowGenerator


@dataclass(frozen=True)
class Observation:
    """The state of B rows as a policy sees it (paper §3.2).

    Attributes:
        confidence: fp32 [B, L, k], the k largest probabilities at each position of the generation
            buffer; [B, L] is taken as k = 1.
        masked: bool [B, L], True where nothing is revealed yet (m of the paper).
        eligible: bool [B, L], True where revealing is allowed: masked, and in the row's current
            block.
        step: int64 [B], forward passes this row has behind it.
        length: L; the time of the paper is step / L.
        features: fp32 [B, L] each, what the policy asked for in `needs`; "hidden" is [B, L, width
            of the frozen model].
        alpha: fp32 [B], the α each row's policy is to act for, where it is trained for many; None
            is the policy's own.
    """

    confidence: Float[Tensor, "B L k"] | Float[Tensor, "B L"]
    masked: Bool[Tensor, "B L"]
    eligible: Bool[Tensor, "B L"]
    step: Int[Tensor, " B"]
    length: int
    features: Mapping[str, Tensor] = field(default_factory=dict)
    alpha: Float[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        if self.confidence.ndim == 2:
            object.__setattr__(self, "confidence", self.confidence[..., None])

    def __getitem__(self, rows: Tensor | slice) -> Observation:
        """The same for some rows: a slice, or an index or bool tensor over B."""
        return self.map(lambda x: x[rows])

    def map(self, function) -> Observation:
        """Applies `function` to each tensor."""
        tensors = {
            name: function(value) for name in TENSORS if (value := getattr(self, name)) is not None
        }
        return Observation(
            **tensors,
            length=self.length,
            features={name: function(x) for name, x in self.features.items()},
        )

    @staticmethod
    def cat(parts: list[Observation]) -> Observation:
        """Concatenates along the rows; L and the features must agree."""
        tensors = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in TENSORS
            if getattr(parts[0], name) is not None
        }
        features = {
            name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features
        }
        return Observation(**tensors, length=parts[0].length, features=features)


TENSORS = ("confidence", "masked", "eligible", "step", "alpha")


def current_block(masked: Bool[Tensor, "B L"], block_length: int) -> Bool[Tensor, "B L"]:
    """Masked positions of each row's leftmost block that still holds masks (paper §2, semi-AR); the
    last block may be shorter."""
    block = torch.arange(masked.shape[1], device=masked.device) // block_length
    current = block[masked.int().argmax(1)]
    return masked & (block == current[:, None])


@runtime_checkable
class Policy(Protocol):
    """Decides which positions to reveal.

    Attributes:
        needs: features beside the confidence, of `unmask.models.FEATURES`. A policy that reads more
            than the largest probability at each position says how many in an attribute `inputs`.
            One that reads nothing of positions that are not eligible says so in an attribute
            `local` = True: the model's head then runs on the eligible positions alone.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    def act(
        self, observation: Observation, generator: RowGenerator
    ) -> Bool[Tensor, "B L"] | Int[Tensor, "B L"]:
        """Non-zero where a token is to be revealed: its place in the order, from 1, if the policy
        has one.

        The decoder ANDs it with `eligible`.
        """
        ...
