"""`unmask evaluate`"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from unmask.decoding.options import DecodeOptions


@dataclass(frozen=True)
class Config:
    """Measure accuracy and NFE of samplers on held-out prompts."""

    samplers: tuple[str, ...] = ("confidence:1", "threshold:0.9", "threshold:0.7", "threshold:0.5")
    """Heuristics (random:K confidence:K threshold:λ factor:f margin:K low-entropy:K entropy:γ) or
    policy directories (DIR@temperature=0.5,beta=0.8)."""
    out: Path = Path("runs/evaluate")
    """New directory for results.jsonl and summary.json."""
    resume: bool = False
    """Go on with an interrupted evaluation of the same settings in `out`."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one, a directory or a Hub repository."""
    task: str | None = None
    """Where prompts and their verifier come from: chain, sudoku, word-problems, gsm8k, math,
    math500, humaneval, mbpp, kodcode, reasoning_gym:NAME, jsonl:FILE, or a mixture.
    Default: the task that the model was pre-trained on."""
    data_dir: str | None = None
    """Directory with the benchmarks' files, DIR/TASK/SPLIT.jsonl (or .parquet, .arrow); leave out
    to load them from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let programs that the model wrote run, in the sandbox (docs/security.md): humaneval, mbpp,
    kodcode."""
    block_lengths: tuple[int, ...] = ()
    """Block lengths to run every sampler at; leave out for the single --block-length, or full
    diffusion."""
    prompts: int = 256
    """Held-out prompts."""
    seeds: tuple[int, ...] = ()
    """Seeds of the samplers; each runs with each. Leave out for the single --seed. Above
    temperature 0 every seed is one sample of each prompt."""
    split: Literal["train", "validation", "test"] = "test"
    """Which prompts."""
    pass_k: tuple[int, ...] = ()
    """Report pass@k for these k, and the majority vote, over the seeds (sampling.json)."""
    traces: bool = False
    """Keep each position's reveal step and token, for `unmask analyze`."""
    batch_size: int = 128
    """Rows decoded side by side; changes the speed only. Pieces of four batches are shared among
    processes, so it stays the same with --resume."""
    device: str = "cpu"
    """Device of the model; under `accelerate launch`, cuda gives each process a GPU of its own."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weights and activations of the frozen model; auto is bfloat16, but float32 on a CPU without
    instructions for bfloat16."""
    decode: tyro.conf.OmitArgPrefixes[DecodeOptions] = field(default_factory=DecodeOptions)
    """How prompts are answered."""


def run(config: Config) -> None:
    from unmask.evaluation import evaluate, pass_at_k
    from unmask.evaluation.stores import held_settings
    from unmask.models import load_model
    from unmask.models.load import own_task
    from unmask.processes import Processes
    from unmask.tasks import load_task

    for k in config.pass_k:
        pass_at_k(len(config.seeds) or 1, 0, k)  # fail early where k needs more seeds
    processes = Processes.join(config.device)
    task = load_task(
        config.task or own_task(config.model),
        data_dir=config.data_dir,
        allow_code_execution=config.allow_code_execution,
    )
    dtype = config.dtype
    if dtype == "auto" and config.resume and config.out is not None:
        dtype = (held_settings(config.out) or {}).get("dtype", dtype)
    dtype = processes.common_dtype(dtype)
    model = load_model(config.model, device=processes.device, dtype=dtype)
    points = evaluate(
        model,
        task,
        config.samplers,
        block_lengths=config.block_lengths or None,
        prompts=config.prompts,
        seeds=config.seeds or None,
        split=config.split,
        batch_size=config.batch_size,
        traces=config.traces,
        out=config.out,
        resume=config.resume,
        progress=True,
        processes=processes,
        options=config.decode,
    )
    if not points:
        return  # not the first of several processes
    if config.pass_k:
        report_samples(config.out, config.pass_k)
    print(f"written to {config.out}/results.jsonl and summary.json")


def report_samples(out: Path, ks: Sequence[int]) -> None:
    """Writes and prints pass@k and the majority vote of the results in a directory."""
    from unmask.evaluation import read_records, sampling
    from unmask.files import write_json

    rows = sampling(read_records(out), ks)
    write_json(out / "sampling.json", rows)
    for row in rows:
        print(f"{row['sampler']:<48} BL {row['block_length']:>3}  {describe_samples(row, ks)}")


def describe_samples(row: Mapping[str, Any], ks: Sequence[int]) -> str:
    """pass@k and the majority vote of one sampler, in percent."""
    names = (*(f"pass@{k}" for k in ks), "majority")
    return "  ".join(f"{name} {100 * row[name]['mean']:.1f}" for name in names)
