"""Several samples a prompt: pass@k and majority vote (paper Fig. 19)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import comb
from typing import Any

import numpy as np

from unmask.errors import UnmaskError
from unmask.evaluation.points import bootstrap


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate, from n samples of which c are right, that one of k is right: 1 − C(n −
    c, k) / C(n, k) (Chen et al. 2021).

    Raises:
        UnmaskError: unless 1 ≤ k ≤ n and 0 ≤ correct ≤ n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise UnmaskError(
            f"pass@{k} from {n} samples with {correct} right cannot be estimated; give 1 ≤ k ≤ "
            "samples"
        )
    return 1 - comb(n - correct, k) / comb(n, k)


def majority(answers: Sequence[str], correct: Sequence[float]) -> float:
    """Correctness of the answer that most samples give; the mean over those that tie for most."""
    votes = Counter(answers)
    most = max(votes.values())
    value = dict(zip(answers, correct, strict=True))
    winners = [value[answer] for answer, count in votes.items() if count == most]
    return float(np.mean(winners))


def sampling(records: Iterable[dict[str, Any]], ks: Sequence[int]) -> list[dict[str, Any]]:
    """For each sampler and block length pass@k and the majority vote over its seeds, with 95 %
    bootstrap intervals over prompts.

    Args:
        records: lines of `results.jsonl`; `correct` ≥ 0.5 is right.
        ks: of pass@k, at most the number of seeds.

    Raises:
        UnmaskError: if a k cannot be estimated.
    """
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        groups.setdefault((record["sampler"], record["block_length"]), {}).setdefault(
            record["prompt"], []
        ).append(record)
    rows = []
    for (sampler, block_length), prompts in groups.items():
        measures = {
            f"pass@{k}": [
                pass_at_k(len(rs), sum(r["correct"] >= 0.5 for r in rs), k)
                for rs in prompts.values()
            ]
            for k in ks
        }
        measures["majority"] = [
            majority([str(r.get("answer")) for r in rs], [r["correct"] for r in rs])
            for rs in prompts.values()
        ]
        row: dict[str, Any] = {
            "sampler": sampler,
            "block_length": block_length,
            "samples": min(map(len, prompts.values())),
        }
        row["nfe"] = float(np.mean([r["nfe"] for rs in prompts.values() for r in rs]))
        for name, values in measures.items():
            low, high = bootstrap(np.array(values))
            row[name] = {"mean": float(np.mean(values)), "low": low, "high": high}
        rows.append(row)
    return rows
