"""In which order samplers reveal, from the traces of `unmask evaluate --traces` (paper Figs. 5, 7,
21–33)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from unmask.errors import UnmaskError
from unmask.evaluation.stores import read_records


@dataclass(frozen=True)
class Trace:
    """All decoded prompts of one sampler at one block length; N rows in the order of the file.

    Attributes:
        sampler: its spec.
        block_length: BL.
        prompts: N prompts.
        reveal_step: int [N, L], the step that revealed each position, from 0; −1 never.
        tokens: N lists of L tokens.
        correct: float [N].
        nfe: float [N], forward passes; a pass that reveals nothing of the L positions counts too.
        answer_tokens: int [N], revealed tokens before the end of the text; L where results of an
            older version do not say it.
    """

    sampler: str
    block_length: int
    prompts: list[str]
    reveal_step: np.ndarray
    tokens: list[list[str]]
    correct: np.ndarray
    nfe: np.ndarray
    answer_tokens: np.ndarray


def read_traces(directory: str | Path) -> list[Trace]:
    """The traces of a directory that `unmask evaluate --traces` wrote, one for each sampler and
    block length.

    Raises:
        UnmaskError: if there is no results.jsonl, it is damaged, or it holds no traces.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in read_records(directory):
        groups.setdefault((record["sampler"], record["block_length"]), []).append(record)
    if not groups or any(
        "reveal_step" not in record for records in groups.values() for record in records
    ):
        raise UnmaskError(f"{directory} holds no traces; run `unmask evaluate` with --traces")
    records = [record for group in groups.values() for record in group]
    length = len(records[0]["reveal_step"])
    for record in records:
        if not len(record["reveal_step"]) == len(record.get("tokens", ())) == length:
            raise UnmaskError(
                f"{directory} holds traces of different lengths (one has {length} steps); copy its "
                "results.jsonl again, or evaluate again"
            )
    return [
        Trace(
            sampler,
            block_length,
            [r["prompt"] for r in records],
            np.array([r["reveal_step"] for r in records]),
            [r["tokens"] for r in records],
            np.array([r["correct"] for r in records]),
            np.array([r["nfe"] for r in records]),
            np.array([int(r.get("answer_tokens", length)) for r in records]),
        )
        for (sampler, block_length), records in groups.items()
    ]


def mean_reveal_time(reveal_step: np.ndarray) -> np.ndarray:
    """When each position is revealed, as a share of the row's own passes: float [L], 0 in the first
    pass, 1 in the last (Fig. 7).

    Rows done in one pass count as 0. Rows in which a position is never revealed are left out there;
    nan if all are.
    """
    last = np.maximum(reveal_step.max(1, keepdims=True), 1)
    revealed = reveal_step >= 0
    total = np.where(revealed, reveal_step / last, 0.0).sum(0)
    return total / np.where(revealed.any(0), revealed.sum(0), np.nan)


def blocks(length: int, block_length: int) -> list[slice]:
    """The blocks of a buffer; the last may be shorter."""
    return [
        slice(start, min(start + block_length, length)) for start in range(0, length, block_length)
    ]


def nfe_per_block(reveal_step: np.ndarray, block_length: int) -> np.ndarray:
    """How many different passes revealed something in each block, on average: float [blocks] (Fig.
    5)."""
    parts = [reveal_step[:, block] for block in blocks(reveal_step.shape[1], block_length)]
    return np.array([np.mean([len(set(row[row >= 0])) for row in part]) for part in parts])


def text_nfe(reveal_step: np.ndarray, answer_tokens: np.ndarray) -> float:
    """Passes until the last token before the end of the text is revealed, at least one, on average.
    What NFE is above that went into the end of the text alone: who knew it from the start would
    save so much. Positions that a limit of passes left masked count nothing."""
    ends = zip(reveal_step, answer_tokens, strict=True)
    return float(np.mean([row[row >= 0][:n].max(initial=0) + 1 for row, n in ends]))


def adjacent_share(reveal_step: np.ndarray) -> float:
    """Share of neighbouring pairs of positions that the same pass revealed (Figs. 23, 24); nan if
    there are no pairs of revealed positions."""
    both = (reveal_step[:, 1:] >= 0) & (reveal_step[:, :-1] >= 0)
    if not both.any():
        return math.nan
    return float((reveal_step[:, 1:] == reveal_step[:, :-1])[both].mean())


def order_correlation(a: np.ndarray, b: np.ndarray, block_length: int) -> np.ndarray:
    """Spearman's correlation of two samplers' reveal steps in each block, averaged over rows: float
    [blocks] (Figs. 21, 22).

    Positions that one of the two never revealed are left out, and so are rows in which one sampler
    revealed all others of a block in a single pass, which have no order there; nan if none is left.
    """
    means = []
    for block in blocks(a.shape[1], block_length):
        values = []
        for x, y in zip(a[:, block], b[:, block], strict=True):
            both = (x >= 0) & (y >= 0)
            if len(set(x[both])) > 1 and len(set(y[both])) > 1:
                values.append(float(np.asarray(spearmanr(x[both], y[both]))[0]))
        means.append(float(np.mean(values)) if values else float("nan"))
    return np.array(means)


def analyse(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Every measure of this module for each trace, and its order's correlation with each other
    trace on the same prompts, as JSON: what is not defined (nan) is None.

    Blocks are cut at the smallest block length among the traces, so that all can be compared; where
    all are full diffusion, at a third of the buffer.

    Raises:
        UnmaskError: if two traces have the same sampler and block length.
    """
    names = [trace_name(trace) for trace in traces]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UnmaskError(
            f"{twice[0]} is there twice; give results in which a sampler has one trace at a block "
            "length"
        )
    length = traces[0].reveal_step.shape[1]
    smaller = [t.block_length for t in traces if t.block_length < length]
    cut = min(smaller) if smaller else max(1, length // 3)
    return [analyse_one(trace, traces, cut) for trace in traces]


def trace_name(trace: Trace) -> str:
    """What a trace is called beside others."""
    return f"{trace.sampler} BL {trace.block_length}"


def analyse_one(trace: Trace, traces: Sequence[Trace], block_length: int) -> dict[str, Any]:
    """The measures of one trace, in blocks of `block_length`, beside all others."""
    correlations = {
        trace_name(other): finite_list(
            order_correlation(trace.reveal_step, other.reveal_step, block_length)
        )
        for other in traces
        if other is not trace and other.prompts == trace.prompts
    }
    (together,) = finite_list(np.array([adjacent_share(trace.reveal_step)]))
    return {
        "sampler": trace.sampler,
        "block_length": trace.block_length,
        "prompts": len(trace.prompts),
        "accuracy": float(trace.correct.mean()),
        "nfe": float(trace.nfe.mean()),
        "text_nfe": text_nfe(trace.reveal_step, trace.answer_tokens),
        "mean_reveal_time": finite_list(mean_reveal_time(trace.reveal_step)),
        "measured_block_length": block_length,
        "nfe_per_block": finite_list(nfe_per_block(trace.reveal_step, block_length)),
        "adjacent_share": together,
        "order_correlation": correlations,
    }


def finite_list(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, which has no nan: None where one is not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]
