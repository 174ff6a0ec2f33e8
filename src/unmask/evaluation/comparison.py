"""Whether two samplers differ on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.errors import UnmaskError


@dataclass(frozen=True)
class Difference:
    """How far a second sampler is above a first on the same prompts.

    Attributes:
        block_length: BL.
        prompts: how many.
        accuracy: mean difference of correctness, second minus first, with its 95 % interval.
        p_accuracy: two-sided p-value that there is none.
        nfe: mean difference of NFE, likewise.
    """

    block_length: int
    prompts: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    p_accuracy: float
    nfe: float
    nfe_low: float
    nfe_high: float
    p_nfe: float


def compare(
    first: Iterable[Mapping[str, Any]],
    second: Iterable[Mapping[str, Any]],
    *,
    resamples: int = 10_000,
) -> list[Difference]:
    """Two samplers on the same prompts by the paired bootstrap, at each block length that both were
    run at.

    A prompt's results are averaged over seeds, then prompts are resampled. p is twice the share of
    resamples on the other side of zero; one is added to both counts, so that it is never 0. Nor is
    it below the least p of a sign test of the n prompts that differ, 2^(1 − n), as resamples of a
    few prompts are too much alike.

    Args:
        first: lines of `results.jsonl` of one sampler.
        second: of the other.
        resamples: how many.

    Raises:
        UnmaskError: if they share no block length, or their prompts differ.
    """
    of_first, of_second = average_by_prompt(first), average_by_prompt(second)
    shared = [block_length for block_length in of_first if block_length in of_second]
    if not shared:
        raise UnmaskError(
            f"the samplers share no block length ({sorted(of_first)} and {sorted(of_second)}); "
            "evaluate both at one"
        )
    found = []
    for block_length in shared:
        a, b = of_first[block_length], of_second[block_length]
        if set(a) != set(b):
            raise UnmaskError(
                f"the samplers were run on different prompts ({len(a)} and {len(b)}, "
                f"{len(set(a) & set(b))} in both)"
            )
        differences = np.array([np.subtract(b[prompt], a[prompt]) for prompt in a])
        found.append(Difference(block_length, len(a), *paired_bootstrap(differences, resamples)))
    return found


def paired_bootstrap(differences: np.ndarray, resamples: int) -> list[float]:
    """For each of several measures its mean difference, the ends of its 95 % interval, and p.

    Args:
        differences: float [prompts, measures], second sampler minus first.
        resamples: how many.
    """
    n = len(differences)
    random = np.random.default_rng(0)
    means = np.array([differences[random.integers(0, n, n)].mean(0) for _ in range(resamples)])
    values: list[float] = []
    for mean, column in zip(differences.T, means.T, strict=True):
        low, high = np.percentile(column, [2.5, 97.5])
        tail = min((column <= 0).sum(), (column >= 0).sum())
        least = 2.0 ** (1 - np.count_nonzero(mean))
        p = min(1.0, max(least, 2 * (tail + 1) / (resamples + 1)))
        values += [float(mean.mean()), float(low), float(high), float(p)]
    return values


def average_by_prompt(
    records: Iterable[Mapping[str, Any]],
) -> dict[int, dict[str, tuple[float, float]]]:
    """Mean correctness and NFE of each prompt over seeds, by block length."""
    groups: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        groups.setdefault(record["block_length"], {}).setdefault(record["prompt"], []).append(
            (record["correct"], record["nfe"])
        )
    return {
        bl: {prompt: tuple(np.mean(rows, 0)) for prompt, rows in prompts.items()}
        for bl, prompts in groups.items()
    }
