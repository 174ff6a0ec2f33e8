"""Points: what a sampler achieves, with intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


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


def bootstrap(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of values [prompts], by resampling prompts with a
    fixed seed."""
    picks = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def summarise(records: Iterable[dict[str, Any]]) -> list[Point]:
    """One `Point` for each sampler and block length, in the order of the records.

    The prompt is the unit: a prompt's results are averaged over seeds first, so more seeds do not
        fake more prompts.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["sampler"], record["block_length"]), []).append(record)
    points = []
    for (sampler, block_length), group in groups.items():
        of_prompt: dict[str, list[dict[str, Any]]] = {}
        for record in group:
            of_prompt.setdefault(record["prompt"], []).append(record)
        correct = np.array([np.mean([r["correct"] for r in rs]) for rs in of_prompt.values()])
        nfe = np.array([np.mean([r["nfe"] for r in rs]) for rs in of_prompt.values()])
        seeds = len({record["seed"] for record in group})
        accuracy, cost = (
            (float(correct.mean()), *bootstrap(correct)),
            (float(nfe.mean()), *bootstrap(nfe)),
        )
        tokens = [record["answer_tokens"] for record in group if "answer_tokens" in record]
        rate = (
            sum(tokens) / sum(record["nfe"] for record in group)
            if len(tokens) == len(group)
            else None
        )
        points.append(Point(sampler, block_length, len(of_prompt), seeds, *accuracy, *cost, rate))
    return points


def describe(point: Point) -> str:
    """A point as one line of text."""
    accuracy = f"{100 * point.accuracy:5.1f} % [{100 * point.accuracy_low:.1f}, {100 * point.accuracy_high:.1f}]"
    return (
        f"{point.sampler:<48} BL {point.block_length:>3}  accuracy {accuracy}  NFE {point.nfe:5.1f}"
    )
