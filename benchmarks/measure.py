"""Interleaved timing, the ideal, and where the decoder's time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from unmask.decoding import Generation, decode
from unmask.models import Model
from unmask.policies import Policy


def clock() -> float:
    """Seconds. With one thread the process' CPU time, which other work on a shared machine disturbs
    least; else the wall clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@dataclass
class Stopwatch:
    """Total seconds in calls of a function."""

    seconds: float = 0.0

    def of(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began = clock()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds += clock() - began


@dataclass(frozen=True)
class RowStep:
    """One row of one forward pass: its tokens without padding, and which positions needed a
    proposal."""

    tokens: Tensor
    needed: Tensor


class Watched(Model):
    """A model that times its backbone and its head, and keeps what was forwarded if `forwards` is a
    list (of calls in which all rows sample alike)."""

    def __init__(self, model: Model, forwards: list[RowStep] | None = None) -> None:
        for field in fields(Model):
            object.__setattr__(self, field.name, getattr(model, field.name))
        own: dict[str, Any] = {"forwards": forwards, "rows": []}
        own |= {"backbone": Stopwatch(), "heading": Stopwatch()}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def hidden_at(self, tokens: Tensor, inside: Tensor, positions: Tensor, *view: Any) -> Tensor:
        if self.forwards is not None:  # type: ignore[attr-defined]
            sizes = inside.sum(1).tolist()
            rows = [(tokens[i, :size].clone(), positions[i]) for i, size in enumerate(sizes)]
            object.__setattr__(self, "rows", rows)
        watch: Stopwatch = self.backbone  # type: ignore[attr-defined]
        return watch.of(super().hidden_at, tokens, inside, positions, *view)

    def proposal(self, hidden: Tensor, *arguments: Any, **options: Any) -> Any:
        if self.forwards is not None:  # type: ignore[attr-defined]
            needed = options.get("needed")
            for i, (tokens, positions) in enumerate(self.rows):  # type: ignore[attr-defined]
                own = positions if needed is None else positions[needed[i]]
                self.forwards.append(RowStep(tokens, own))  # type: ignore[attr-defined]
        return self.heading.of(super().proposal, hidden, *arguments, **options)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class WatchedPolicy:
    """A policy that times its decisions."""

    policy: Policy
    watch: Stopwatch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def act(self, observation: Any, generator: Any) -> Tensor:
        return self.watch.of(self.policy.act, observation, generator)


def forwards_of(
    model: Model, prompts: Sequence[Sequence[int]], policy: Policy, **options: Any
) -> tuple[list[RowStep], Generation]:
    """The row-steps that a decode needs."""
    forwards: list[RowStep] = []
    return forwards, decode(Watched(model, forwards), prompts, policy, **options)


@torch.inference_mode()
def ideal(model: Model, forwards: Sequence[RowStep], batch_size: int) -> dict[str, float]:
    """Seconds of the backbone and of one head product over the needed positions, for these
    row-steps in full batches, longest rows first.

    Nothing is done with the logits. Batches have no more padding than their longest row demands.
    """
    backbone, head = Stopwatch(), Stopwatch()
    ordered = sorted(forwards, key=lambda forward: -len(forward.tokens))
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        width = len(batch[0].tokens)
        tokens = torch.full((len(batch), width), model.pad_id)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, forward in enumerate(batch):
            tokens[row, : len(forward.tokens)] = forward.tokens
            mask[row, : len(forward.tokens)] = 1
        network = model.network.base_model
        hidden = backbone.of(
            lambda t, m, f: f(input_ids=t, attention_mask=m, use_cache=False).last_hidden_state,
            tokens,
            mask,
            network,
        )
        rows = torch.cat(
            [torch.full_like(forward.needed, row) for row, forward in enumerate(batch)]
        )
        where = torch.cat([forward.needed for forward in batch]) - int(model.shift)
        head.of(model.to_logits, hidden[rows, where.clamp(min=0)])
    return {
        "total": backbone.seconds + head.seconds,
        "backbone": backbone.seconds,
        "head": head.seconds,
    }


def ours(
    model: Model, prompts: Sequence[Sequence[int]], policy: Policy, **options: Any
) -> dict[str, float]:
    """Seconds of our decoder, and of its parts."""
    watched, acting = Watched(model), Stopwatch()
    began = clock()
    decode(watched, prompts, WatchedPolicy(policy, acting), **options)
    total = clock() - began
    backbone, head = watched.backbone.seconds, watched.heading.seconds  # type: ignore[attr-defined]
    parts = {"backbone": backbone, "head": head, "policy": acting.seconds}
    return {"total": total, **parts, "bookkeeping": total - sum(parts.values())}


def timed(function: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a call."""
    began = clock()
    function()
    return {"total": clock() - began}


def interleaved(
    contenders: dict[str, Callable[[], dict[str, float]]], repeats: dict[str, int]
) -> dict[str, list[dict[str, float]]]:
    """Each contender's timings, taken in turn, so that other work hits all alike; those with fewer
    repeats drop out early."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for turn in range(max(repeats.values())):
        for name, contender in contenders.items():
            if turn < repeats[name]:
                results[name].append(contender())
    return results


def median(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(above: Sequence[dict[str, float]], below: Sequence[dict[str, float]]) -> dict[str, float]:
    """Ratios of the turns that both took."""
    return median([a["total"] / b["total"] for a, b in zip(above, below, strict=False)])
