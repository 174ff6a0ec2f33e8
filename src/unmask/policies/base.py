"""What a policy sees, what it needs, and what it must do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.errors import UnmaskError, short_text
from unmask.rng import RowGenerator


@dataclass(frozen=True)
class Needs:
    """What a policy reads beside mask, time and the confidence at each position.

    Attributes:
        features: of "entropy", "margin" and "hidden" (`unmask.models.FEATURES`).
        top_k: how many probabilities at each position.
        everywhere: whether it reads positions that are not eligible too. Where it does not, the
            model's head runs on the eligible positions alone.
    """

    features: frozenset[str] = frozenset()
    top_k: int = 1
    everywhere: bool = True

    def __or__(self, other: Needs) -> Needs:
        """What satisfies both."""
        return Needs(
            self.features | other.features,
            max(self.top_k, other.top_k),
            self.everywhere or other.everywhere,
        )


@dataclass(frozen=True)
class Observation:
    """The state of B rows as a policy sees it (paper §3.2).

    Attributes:
        confidence: fp32 [B, L, k], at each position of the generation buffer the probability of the
            token that the model proposes, then the k − 1 largest of the other tokens (greedily
            these are the k largest, descending). [B, L] is taken as k = 1.
        masked: bool [B, L], True where nothing is revealed yet (m of the paper).
        eligible: bool [B, L], True where revealing is allowed: masked, and in the row's current
            block.
        step: int64 [B], forward passes this row has behind it.
        length: L of every row; or int64 [B], each row's own, where buffers of several lengths stand
            side by side (positions from a row's length on are padding). The time of the paper is
            step / length.
        features: fp32 [B, L] each, what the policy asked for in `needs`; "hidden" is [B, L, width
            of the frozen model].
        alpha: fp32 [B], the α each row's policy is to act for, where it is trained for many; None
            is the policy's own.
        eligible_counts: how many positions of each row are eligible, where the host knows it. It
            spares a wait for the device; it changes no result.
    """

    confidence: Float[Tensor, "B L k"] | Float[Tensor, "B L"]
    masked: Bool[Tensor, "B L"]
    eligible: Bool[Tensor, "B L"]
    step: Int[Tensor, " B"]
    length: int | Int[Tensor, " B"]
    features: Mapping[str, Tensor] = field(default_factory=dict)
    alpha: Float[Tensor, " B"] | None = None
    eligible_counts: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.confidence.ndim == 2:
            object.__setattr__(self, "confidence", self.confidence[..., None])

    def __getitem__(self, rows: Tensor | slice) -> Observation:
        """The same for some rows: a slice, or an index or bool tensor over B."""
        return self.map(lambda x: x[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> Observation:
        """Applies `function` to each tensor."""
        tensors: dict[str, Any] = {
            name: function(value) for name in TENSORS if (value := getattr(self, name)) is not None
        }
        length = self.length if isinstance(self.length, int) else function(self.length)
        features = {name: function(value) for name, value in self.features.items()}
        return Observation(**tensors, length=length, features=features)

    @staticmethod
    def cat(parts: Sequence[Observation]) -> Observation:
        """Concatenates along the rows; widths and features must agree."""
        first = parts[0]
        tensors: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in TENSORS
            if getattr(first, name) is not None
        }
        length: Any = first.length
        lengths = [part.length for part in parts]
        if any(isinstance(each, int) != isinstance(length, int) for each in lengths) or (
            isinstance(length, int) and set(lengths) != {length}
        ):
            raise UnmaskError("observations of different lengths L cannot be put together")
        if isinstance(length, Tensor):
            length = torch.cat([torch.as_tensor(part.length) for part in parts])
        features = {
            name: torch.cat([part.features[name] for part in parts]) for name in first.features
        }
        return Observation(**tensors, length=length, features=features)


TENSORS = ("confidence", "masked", "eligible", "step", "alpha")


def current_block(masked: Bool[Tensor, "B L"], block_length: int) -> Bool[Tensor, "B L"]:
    """Masked positions of each row's leftmost block that still holds masks (paper §2, semi-AR);
    the last block may be shorter."""
    block = torch.arange(masked.shape[1], device=masked.device) // block_length
    return in_current_block(masked, block.expand_as(masked))


def in_current_block(masked: Bool[Tensor, "B L"], block: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The same where `block` says which block each position is in."""
    return masked & (block == block.gather(1, masked.int().argmax(1, keepdim=True)))


@runtime_checkable
class Policy(Protocol):
    """Decides which positions to reveal.

    Attributes:
        needs: what it reads.
    """

    @property
    def needs(self) -> Needs: ...

    def act(
        self, observation: Observation, generator: RowGenerator
    ) -> Bool[Tensor, "B L"] | Int[Tensor, "B L"]:
        """Non-zero where a token is to be revealed: its place in the order, from 1, if the policy
        has one.

        The decoder ANDs it with `eligible`.
        """
        ...


PolicyLike = Policy | Callable[..., Any]


def is_function(policy: Any) -> bool:
    """Whether a policy is a plain function of the observation, rather than an object that acts."""
    acts = callable(getattr(policy, "act", None)) or isinstance(policy, type)
    return callable(policy) and not acts


def needs_of(policy: Any) -> Needs:
    """What a policy needs; a plain function without an attribute `needs` the confidence alone.

    Raises:
        UnmaskError: if it is not a policy, or asks for something that does not exist.
    """
    needs = getattr(policy, "needs", Needs() if is_function(policy) else None)
    acts = callable(getattr(policy, "act", None)) and not isinstance(policy, type)
    if not isinstance(needs, Needs) or not (acts or is_function(policy)):
        raise UnmaskError(
            f"policy is {short_text(repr(policy))}; give a spec such as threshold:0.9, a policy "
            "directory, a function of an observation, or an object with `needs` (an "
            "unmask.policies.Needs) and `act(observation, generator)`"
        )
    known = ("entropy", "margin", "hidden")
    if unknown := sorted(set(needs.features) - set(known)):
        raise UnmaskError(
            f"policy {policy!r} needs the feature {unknown[0]!r}; known are {', '.join(known)}"
        )
    if not isinstance(needs.top_k, int) or needs.top_k < 1:
        raise UnmaskError(f"policy {policy!r} needs the top {needs.top_k!r}; give at least 1")
    return needs


def decide(policy: Any, observation: Observation, generator: RowGenerator) -> Tensor:
    """What a policy, or a plain function of (observation) or (observation, generator), decides.

    Raises:
        UnmaskError: if it is no bool or integer tensor or array [B, L] on the right device.
    """
    if not is_function(policy):
        action = policy.act(observation, generator)
    elif takes_two(policy):
        action = policy(observation, generator)
    else:
        action = policy(observation)
    return check_action(action, observation.eligible, policy)


def takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function takes a second argument by its place. One with a default is a setting of
    its own, unless it is called generator."""
    if isinstance(function, torch.nn.Module):
        function = function.forward
    try:
        parameters = inspect.signature(function).bind(None, None).signature.parameters.values()
    except TypeError:
        return False
    except ValueError:  # some functions of compiled libraries do not say
        return False
    placed = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    second = placed[1] if len(placed) > 1 else placed[0]  # the one of *arguments
    return second.default is inspect.Parameter.empty or second.name == "generator"


def check_action(action: Any, eligible: Bool[Tensor, "B L"], policy: Any) -> Tensor:
    """What a policy decided, if it has the right shape.

    Raises:
        UnmaskError: if it is no bool or integer tensor or array [B, L] on the right device.
    """
    if isinstance(action, np.ndarray) and action.dtype.kind in "biu":
        action = torch.from_numpy(np.ascontiguousarray(action)).to(eligible.device)
    right = isinstance(action, Tensor) and not action.is_floating_point()
    if not right or action.shape != eligible.shape or action.device != eligible.device:
        found = (
            f"a tensor {list(action.shape)} of {action.dtype} on {action.device}"
            if isinstance(action, Tensor)
            else f"a {type(action).__name__}"
        )
        name = getattr(policy, "__name__", type(policy).__name__)
        raise UnmaskError(
            f"act of policy {name} returned {found}; return a bool or integer "
            f"tensor {list(eligible.shape)} on {eligible.device}"
        )
    assert isinstance(action, Tensor)
    return action
