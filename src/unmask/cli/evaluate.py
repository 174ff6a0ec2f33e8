"""`unmask evaluate`"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from unmask.evaluation import evaluate, pass_at_k, read_records, sampling
from unmask.files import write_json
from unmask.models import load_model
from unmask.tasks import Split, answer_length, load_task


@dataclass(frozen=True)
class Config:
    """Measure accuracy and NFE of samplers on held-out prompts."""

    samplers: tuple[str, ...] = ("confidence:1", "threshold:0.9", "threshold:0.7", "threshold:0.5")
    """Heuristics (random:K confidence:K threshold:λ factor:f margin:K entropy:γ) or policy
    directories (DIR@temperature=0.5,beta=0.8)."""
    out: Path = Path("runs/evaluate")
    """New directory for results.jsonl and summary.json."""
    resume: bool = False
    """Go on with an interrupted evaluation of the same settings in `out`."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one or a directory."""
    task: str = "chain"
    """Where prompts and their verifier come from: chain, sudoku, gsm8k, math, math500, humaneval,
    mbpp, kodcode, reasoning_gym:NAME, jsonl:FILE, or a mixture."""
    data_dir: str | None = None
    """Directory with the benchmarks' files, DIR/TASK/SPLIT.jsonl (or .parquet, .arrow); leave out
    to load them from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let programs that the model wrote run, in the sandbox (docs/security.md): humaneval, mbpp,
    kodcode."""
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
    temperature: float = 0.0
    """τ of the frozen model; 0 is greedy. Above 0 every seed is one sample of each prompt."""
    pass_k: tuple[int, ...] = ()
    """Report pass@k for these k, and the majority vote, over the seeds (sampling.json)."""
    traces: bool = False
    """Keep each position's reveal step and token, for `unmask analyze`."""
    cache: Literal["prefix", "dual"] | None = None
    """Cache keys and values within each block: faster, and an approximation."""
    batch_size: int = 128
    """Rows decoded side by side; changes the speed only."""
    device: str = "cpu"
    """Device of the model."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Weights and activations of the frozen model."""


def own_device(device: str) -> str:
    """The device; under `accelerate launch` on GPUs each process' own."""
    return (
        f"cuda:{os.environ['LOCAL_RANK']}"
        if device == "cuda" and "LOCAL_RANK" in os.environ
        else device
    )


def run(config: Config) -> None:
    for k in config.pass_k:
        pass_at_k(len(config.seeds), 0, k)  # a k that cannot be estimated is told now
    task = load_task(
        config.task, data_dir=config.data_dir, allow_code_execution=config.allow_code_execution
    )
    model = load_model(
        config.model, device=own_device(config.device), dtype=getattr(torch, config.dtype)
    )
    points = evaluate(
        model,
        task,
        config.samplers,
        block_lengths=config.block_lengths or (answer_length(model, task, config.max_new_tokens),),
        prompts=config.prompts,
        seeds=config.seeds,
        split=config.split,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        traces=config.traces,
        cache=config.cache,
        out=config.out,
        resume=config.resume,
        progress=True,
    )
    if not points:
        return  # not the first of several processes
    if config.pass_k:
        rows = sampling(read_records(config.out), config.pass_k)
        write_json(config.out / "sampling.json", rows)
        for row in rows:
            values = [
                f"{name} {100 * row[name]['mean']:.1f}"
                for name in (*(f"pass@{k}" for k in config.pass_k), "majority")
            ]
            print(f"{row['sampler']:<48} BL {row['block_length']:>3}  {'  '.join(values)}")
    print(f"written to {config.out}/results.jsonl and summary.json")
