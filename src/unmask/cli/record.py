"""`unmask record`"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from unmask.decoding.options import DecodeOptions
from unmask.errors import count_of


@dataclass(frozen=True)
class Config:
    """Decode training problems and store every step, for `unmask train --from-traces`."""

    samplers: tuple[str, ...] = ("threshold:0.9", "entropy:0.1")
    """Heuristics (random:K confidence:K threshold:λ factor:f margin:K low-entropy:K entropy:γ) or
    policy directories (DIR@temperature=0.5,beta=0.8)."""
    out: Path = Path("runs/traces")
    """New directory for the traces."""
    resume: bool = False
    """Go on with an interrupted recording of the same settings in `out`."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one, a directory or a Hub repository."""
    task: str | None = None
    """Where prompts and their verifier come from: chain, sudoku, word-problems, gsm8k, math,
    mbpp, kodcode, reasoning_gym:NAME, jsonl:FILE, or a mixture.
    Default: the task that the model was pre-trained on."""
    data_dir: str | None = None
    """Directory with the benchmarks' files, DIR/TASK/SPLIT.jsonl (or .parquet, .arrow); leave out
    to load them from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let programs that the model wrote run, in the sandbox (docs/security.md): mbpp, kodcode."""
    prompts: int = 1000
    """Training problems; each sampler decodes all of them with each seed."""
    seeds: tuple[int, ...] = ()
    """Seeds of the samplers; leave out for the single --seed."""
    inputs: int = 1
    """k, how many probabilities to keep at each position."""
    hidden: bool = False
    """Keep the frozen model's hidden states too (as bf16; they take most of the space)."""
    truth: bool = False
    """Put the worked answer's tokens on the canvas, in the order in which the sampler reveals, and
    keep the margins by which they win (label truth-margin). One more forward pass a step."""
    judge: float = 0.0
    """Share of the steps of right answers in which one more reveal is tried and decoded on to a
    verdict (label rejoins). Full diffusion only."""
    batch_size: int = 128
    """Rows decoded side by side; a shard holds four batches."""
    device: str = "cpu"
    """Device of the model; under `accelerate launch`, cuda gives each process a GPU of its own."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weights and activations of the frozen model; auto is bfloat16, but float32 on a CPU without
    instructions for bfloat16."""
    decode: tyro.conf.OmitArgPrefixes[DecodeOptions] = field(default_factory=DecodeOptions)
    """How prompts are answered."""


def run(config: Config) -> None:
    from dataclasses import replace

    from unmask.evaluation.plan import EvalPlan, load_samplers, with_own_length
    from unmask.evaluation.runs import choose_block_lengths, choose_seeds
    from unmask.models import load_model
    from unmask.models.load import own_task
    from unmask.processes import Processes
    from unmask.tasks import load_task
    from unmask.training.record import Recording, record_traces
    from unmask.training.traces import MANIFEST, read_manifest

    processes = Processes.join(config.device)
    task = load_task(
        config.task or own_task(config.model),
        data_dir=config.data_dir,
        allow_code_execution=config.allow_code_execution,
    )
    dtype = config.dtype
    if dtype == "auto" and config.resume and (config.out / MANIFEST).exists():
        dtype = read_manifest(config.out)["settings"].get("dtype", dtype)
    dtype = processes.common_dtype(dtype)
    model = load_model(config.model, device=processes.device, dtype=dtype)
    decode = with_own_length(model, task, config.decode)
    plan = EvalPlan(
        samplers=load_samplers(config.samplers, model.device),
        block_lengths=choose_block_lengths(model, None, decode),
        seeds=choose_seeds(config.seeds or None, decode),
        prompts=config.prompts,
        split="train",
        decode=replace(decode, block_length=None, seed=0),
        batch_size=config.batch_size,
    )
    recording = Recording(plan, config.inputs, config.hidden, config.truth, config.judge)
    manifest = record_traces(
        model,
        task,
        recording,
        config.out,
        resume=config.resume,
        processes=processes,
        progress=True,
    )
    if manifest is not None:
        shards = manifest.get("shards", [])
        steps, forwards = (sum(entry[name] for entry in shards) for name in ("steps", "forwards"))
        rows = count_of(forwards, "row")
        print(f"{count_of(steps, 'step')} written to {config.out} ({rows} forwarded)")
