"""The heuristic samplers of paper §2. Each rule is decided row by row, and each reveals at least
one position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.policies.base import Needs, Observation, Policy, current_block
from unmask.rng import ACTION, RowGenerator


def rank_positions(score: Float[Tensor, "B L"], eligible: Bool[Tensor, "B L"]) -> Tensor:
    """Positions sorted by descending score, ineligible ones last; ties by position. int64 [B,
    L]."""
    return (
        score.masked_fill(~eligible, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    )


def top_positions(
    n: Tensor | int, ranked: Tensor, eligible: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """True at the first n (int, or int64 [B, 1]) of `ranked` positions that are eligible."""
    places = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    return torch.zeros_like(eligible).scatter(1, ranked, places < n) & eligible


def check_range(
    name: str, value: float | int, low: float | int, high: float | int = float("inf")
) -> None:
    """Refuses a parameter of a heuristic that is out of its range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnmaskError(f"{name} is {value!r}; give a number")
    if not low <= value <= high:
        accepted = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UnmaskError(f"{name} is {value:g}; give a value {accepted}")


@dataclass(frozen=True)
class Pace:
    """So many positions in every so many passes, of which the first take the remainder (LLaDA's
    `get_num_transfer_tokens`).

    Attributes:
        positions: at least `passes`.
        passes: at least 1.
    """

    positions: int
    passes: int

    def __post_init__(self) -> None:
        check_range("K of a heuristic", self.positions, 1)
        check_range("K's number of passes", self.passes, 1)
        if self.positions < self.passes:
            raise UnmaskError(
                f"K is {self.positions}/{self.passes}: {self.positions} positions in {self.passes} "
                "passes; give at least as many positions as passes"
            )


def positions_due(k: int | Pace, step: Int[Tensor, " B"]) -> Int[Tensor, "B 1"] | int:
    """How many positions each row reveals at its step."""
    if not isinstance(k, Pace):
        return k
    due = k.positions // k.passes + (step % k.passes < k.positions % k.passes).long()
    return due[:, None]


def check_k(name: str, k: int | Pace) -> None:
    """Refuses a number of positions a pass that is none; a `Pace` has checked itself."""
    if not isinstance(k, Pace):
        check_range(f"K of {name}", k, 1)


@dataclass(frozen=True)
class Random:
    """random-K: k positions, uniformly at random."""

    k: int | Pace = 1
    needs: ClassVar[Needs] = Needs(everywhere=False)

    def __post_init__(self) -> None:
        check_k("random", self.k)

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        score = generator.uniform(observation.step, observation.eligible.shape[1], ACTION)
        return top_positions(
            positions_due(self.k, observation.step),
            rank_positions(score, observation.eligible),
            observation.eligible,
        )


@dataclass(frozen=True)
class Confidence:
    """high-confidence-K ("low_confidence" remasking in LLaDA): the k largest confidences."""

    k: int | Pace = 1
    needs: ClassVar[Needs] = Needs(everywhere=False)

    def __post_init__(self) -> None:
        check_k("confidence", self.k)

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        return top_positions(
            positions_due(self.k, observation.step),
            rank_positions(observation.confidence[..., 0], observation.eligible),
            observation.eligible,
        )


@dataclass(frozen=True)
class Threshold:
    """Fast-dLLM's threshold λ: every confidence ≥ λ; if there is none, the largest (Wu et al.
    2025)."""

    threshold: float = 0.9
    needs: ClassVar[Needs] = Needs(everywhere=False)

    def __post_init__(self) -> None:
        check_range("λ of threshold", self.threshold, 0, 1)

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        c, eligible = observation.confidence[..., 0], observation.eligible
        return (eligible & (c >= self.threshold)) | top_positions(
            1, rank_positions(c, eligible), eligible
        )


@dataclass(frozen=True)
class Factor:
    """Fast-dLLM's factor f: with c sorted descending, the largest n with (n + 1)(1 − c_n) < f; at
    least one."""

    factor: float = 1.0
    needs: ClassVar[Needs] = Needs(everywhere=False)

    def __post_init__(self) -> None:
        check_range("f of factor", self.factor, 0)

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        c, eligible = observation.confidence[..., 0], observation.eligible
        ranked = rank_positions(c, eligible)
        n = torch.arange(1, c.shape[1] + 1, device=c.device)
        good = ((n + 1) * (1 - c.gather(1, ranked)) < self.factor) & eligible.gather(1, ranked)
        return top_positions((good * n).amax(1, keepdim=True).clamp(min=1), ranked, eligible)


@dataclass(frozen=True)
class Margin:
    """margin-K: the k largest differences between the top two probabilities (Kim et al. 2025)."""

    k: int | Pace = 1
    needs: ClassVar[Needs] = Needs(frozenset({"margin"}), everywhere=False)

    def __post_init__(self) -> None:
        check_k("margin", self.k)

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        return top_positions(
            positions_due(self.k, observation.step),
            rank_positions(observation.features["margin"], observation.eligible),
            observation.eligible,
        )


@dataclass(frozen=True)
class LowEntropy:
    """low-entropy-K (Dream's `alg` entropy): the k smallest entropies."""

    k: int | Pace = 1
    needs: ClassVar[Needs] = Needs(frozenset({"entropy"}), everywhere=False)

    def __post_init__(self) -> None:
        check_k("low-entropy", self.k)

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        return top_positions(
            positions_due(self.k, observation.step),
            rank_positions(-observation.features["entropy"], observation.eligible),
            observation.eligible,
        )


@dataclass(frozen=True)
class Entropy:
    """Entropy bound γ, nats: by ascending entropy, the longest prefix whose sum less its largest is
    ≤ γ (Ben-Hamu et al. 2025)."""

    bound: float = 0.1
    needs: ClassVar[Needs] = Needs(frozenset({"entropy"}), everywhere=False)

    def __post_init__(self) -> None:
        check_range("γ of entropy", self.bound, 0)

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        entropy, eligible = observation.features["entropy"], observation.eligible
        ranked = rank_positions(-entropy, eligible)
        ascending = entropy.gather(1, ranked).masked_fill(~eligible.gather(1, ranked), torch.inf)
        before = torch.cat([torch.zeros_like(ascending[:, :1]), ascending[:, :-1].cumsum(1)], 1)
        return top_positions(
            (before <= self.bound).sum(1, keepdim=True).clamp(min=1), ranked, eligible
        )


@dataclass(frozen=True)
class SemiAutoregressive:
    """A policy in blocks of its own, inside the decoder's: in full diffusion, a semi-AR expert to
    learn from (paper §3.3).

    Attributes:
        policy: decides among the eligible positions of the row's leftmost own block that still
            holds masks.
        block_length: BL ≥ 1 of these blocks.
    """

    policy: Policy
    block_length: int

    def __post_init__(self) -> None:
        check_range("block_length of a heuristic", self.block_length, 1)

    @property
    def needs(self) -> Needs:
        return self.policy.needs

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        within = observation.eligible & current_block(observation.masked, self.block_length)
        return self.policy.act(replace(observation, eligible=within), generator)


HEURISTICS = {
    "random": (Random, int),
    "confidence": (Confidence, int),
    "threshold": (Threshold, float),
    "factor": (Factor, float),
    "margin": (Margin, int),
    "low-entropy": (LowEntropy, int),
    "entropy": (Entropy, float),
}
