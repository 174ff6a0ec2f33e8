"""`unmask evaluate`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from unmask.evaluation import evaluate
from unmask.models import load_model
from unmask.tasks import Split, load_task


@dataclass(frozen=True)
class Config:
    """Measure accuracy and NFE of samplers on held-out prompts."""

    samplers: tuple[str, ...] = ("confidence:1", "threshold:0.9", "threshold:0.7", "threshold:0.5")
    """Heuristics (random:K confidence:K threshold:λ factor:f margin:K entropy:γ) or policy directories (DIR@temperature=0.5,beta=0.8)."""
    out: Path = Path("runs/evaluate")
    """New directory for results.jsonl and summary.json."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one or a directory."""
    task: str = "chain"
    """Where prompts and their verifier come from."""
    block_lengths: tuple[int, ...] = ()
    """Block lengths to run every sampler at; leave out for full diffusion."""
    prompts: int = 256
    """Held-out prompts."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the samplers; each runs with each."""
    split: Split = "test"
    """Which prompts."""
    max_new_tokens: int | None = None
    """L, the generation buffer; leave out for the task's own."""
    batch_size: int = 128
    """Rows decoded side by side; changes the speed only."""
    device: str = "cpu"
    """Device of the model."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Weights and activations of the frozen model."""


def run(config: Config) -> None:
    task = load_task(config.task)
    evaluate(
        load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype)),
        task,
        config.samplers,
        block_lengths=config.block_lengths or (task.max_new_tokens if config.max_new_tokens is None else config.max_new_tokens,),
        prompts=config.prompts,
        seeds=config.seeds,
        split=config.split,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        out=config.out,
        progress=True,
    )
    print(f"written to {config.out}/results.jsonl and summary.json")
