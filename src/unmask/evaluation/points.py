"""Points: what a sampler achieves, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWN_AT_ONCE = 1 << 16  # prompts drawn by the bootstrap before they are averaged


@dataclass(frozen=True)
class Point:
    """One sampler at one block length, over all prompts and seeds.

    Attributes:
        sampler: its spec.
        block_length: BL.
        prompts: how many prompts.
        seeds: how many seeds.
        accuracy: mean correctness, 0 to 1, with its 95 % interval.
        nfe: mean forward passes a prompt, with its 95 % interval.
        tokens_per_forward: revealed tokens before the end of the text, for each forward pass; None
            in results that do not say.
        seconds: of decoding, a prompt, on the machine of the results; None likewise.
        timed_out: how many verdicts a time limit decided; on a less busy machine these answers
            might have been found right.

    Examples:
        >>> model, task = unmask.load_model("embedded/chain"), unmask.load_task("chain")
        >>> (point,) = unmask.evaluate(model, task, ["confidence:24"], prompts=4)
        >>> point.sampler, point.block_length, point.prompts, point.nfe
        ('confidence:24', 48, 4, 2.0)
    """

    sampler: str
    block_length: int
    prompts: int
    seeds: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe: float
    nfe_low: float
    nfe_high: float
    tokens_per_forward: float | None = None
    seconds: float | None = None
    timed_out: int = 0


def bootstrap(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of values [prompts], by resampling prompts with a
    fixed seed.

    Resamples are drawn a few at a time, so that memory does not grow with resamples × prompts.
    """
    random, n = np.random.default_rng(0), len(values)
    at_once = max(1, DRAWN_AT_ONCE // n)
    means = [
        values[random.integers(0, n, (min(at_once, resamples - start), n))].mean(1)
        for start in range(0, resamples, at_once)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def summarise(records: Iterable[Mapping[str, Any]]) -> list[Point]:
    """One `Point` for each sampler and block length, in the order of the records.

    The prompt is the unit: a prompt's results are averaged over seeds first, so more seeds do not
    fake more prompts.
    """
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["sampler"], record["block_length"]), []).append(record)
    return [summarise_one(*cell, group) for cell, group in groups.items()]


def summarise_one(sampler: str, block_length: int, group: Sequence[Mapping[str, Any]]) -> Point:
    """The point of the records of one sampler at one block length."""
    of_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for record in group:
        of_prompt.setdefault(record["prompt"], []).append(record)
    correct = np.array([np.mean([r["correct"] for r in rs]) for rs in of_prompt.values()])
    nfe = np.array([np.mean([r["nfe"] for r in rs]) for rs in of_prompt.values()])
    accuracy_low, accuracy_high = bootstrap(correct)
    nfe_low, nfe_high = bootstrap(nfe)
    tokens = [record["answer_tokens"] for record in group if "answer_tokens" in record]
    rate = None
    passes = sum(record["nfe"] for record in group)
    if len(tokens) == len(group) and passes:
        rate = sum(tokens) / passes
    return Point(
        sampler=sampler,
        block_length=block_length,
        prompts=len(of_prompt),
        seeds=len({record["seed"] for record in group}),
        accuracy=float(correct.mean()),
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        nfe=float(nfe.mean()),
        nfe_low=nfe_low,
        nfe_high=nfe_high,
        tokens_per_forward=rate,
        timed_out=sum(record.get("timed_out", False) for record in group),
    )


def describe(point: Point) -> str:
    """A point as one line of text."""
    low, high = 100 * point.accuracy_low, 100 * point.accuracy_high
    accuracy = f"{100 * point.accuracy:5.1f} % [{low:.1f}, {high:.1f}]"
    return (
        f"{point.sampler:<48} BL {point.block_length:>3}  accuracy {accuracy}  NFE {point.nfe:5.1f}"
    )
