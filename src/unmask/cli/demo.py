"""`unmask demo`: the main job, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from unmask.analysis import plot_pareto
from unmask.cli.show import generate_shown
from unmask.decoding import DecodeOptions, check_arguments
from unmask.errors import UnmaskError
from unmask.evaluation import Point, evaluate
from unmask.files import new_directory, provenance, write_json
from unmask.models import load_model
from unmask.tasks import answer_length, load_task
from unmask.training import TrainConfig

HEURISTICS = (
    "confidence:1",
    "confidence:4",
    "threshold:0.9",
    "threshold:0.7",
    "threshold:0.6",
    "threshold:0.5",
    "threshold:0.4",
    "factor:1",
    "entropy:0.5",
    "entropy:1",
    "margin:4",
    "random:4",
)


@dataclass(frozen=True)
class Config:
    """Train two policies on an embedded model (full diffusion and semi-autoregressive) and compare
    them with the heuristics."""

    out: Path = Path("demo")
    """Directory for the policies, results and pareto.png; an earlier demo there is replaced."""
    task: str = "chain"
    """Embedded model and task: chain or sudoku."""
    rounds: int = 140
    """Rounds for the full-diffusion policy, the first 8 of which imitate a semi-autoregressive
    heuristic (the warm start); the semi-autoregressive policy, whose rounds are longer, gets two
    thirds."""
    alpha_full: float = 3.0
    """α of the full-diffusion policy."""
    alpha_semi: float = 0.5
    """α at which the semi-autoregressive policy's training ends; it starts at 3, or at this if it
    is larger."""
    prompts: int = 150
    """Held-out prompts of the comparison."""
    seed: int = 0
    """Seed of the training."""


def train_in_parallel(runs: dict[str, list[str]]) -> None:
    """Runs `unmask train` once for each entry, side by side with an equal share of the cores, and
    prints their lines.

    Raises:
        UnmaskError: if a run fails.
    """
    threads = str(max(1, (os.cpu_count() or 1) // len(runs)))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}

    def follow(name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name:<5}│ {line}", end="", flush=True)

    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "unmask.cli", "train", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, arguments in runs.items()
    }
    followers = [threading.Thread(target=follow, args=item) for item in processes.items()]
    try:
        for follower in followers:
            follower.start()
        for follower in followers:
            follower.join()
        failed = [name for name, process in processes.items() if process.wait()]
    finally:
        for process in processes.values():
            process.kill()
    if failed:
        raise UnmaskError(f"training of {', '.join(failed)} failed; its lines above say why")


def table(points: list[Point], length: int) -> Table:
    """Accuracy and NFE of every sampler, in both settings."""
    out = Table(
        "sampler", "block length", "accuracy % [95 % interval]", "NFE", title="held-out prompts"
    )
    for p in sorted(points, key=lambda p: (-p.block_length, p.nfe)):
        setting = "full" if p.block_length == length else str(p.block_length)
        accuracy = (
            f"{100 * p.accuracy:.1f} [{100 * p.accuracy_low:.1f}, {100 * p.accuracy_high:.1f}]"
        )
        learned = "bold green" if "/" in p.sampler else None
        out.add_row(p.sampler, setting, accuracy, f"{p.nfe:.1f}", style=learned)
    return out


def run(config: Config) -> None:
    began = time.perf_counter()
    console = Console(width=max(130, Console().width))
    task = load_task(config.task)
    name = f"embedded/{config.task}"
    model = load_model(name)
    length = answer_length(model, task, None)
    parameters = sum(p.numel() for p in model.network.parameters())
    console.print(
        f"{name}: {parameters / 1e6:.2f} M parameters, L = {length}, block length "
        f"{task.block_length} or {length} (full diffusion)"
    )

    TrainConfig(
        alpha=config.alpha_full, rounds=config.rounds, seed=config.seed
    )  # refused before an earlier demo is removed
    TrainConfig(alpha=config.alpha_semi, alpha_start=max(3.0, config.alpha_semi))
    check_arguments(config.prompts, length, length, 0.0, 1)
    new_directory(config.out, overwrite=(config.out / "demo.json").exists())
    write_json(
        config.out / "demo.json",
        {"task": config.task, "rounds": config.rounds, "seed": config.seed, **provenance()},
    )
    common = [
        "--model",
        name,
        "--task",
        config.task,
        "--seed",
        str(config.seed),
        "--mixed-precision",
    ]
    train_in_parallel(
        {
            "full": [
                *(
                    *common,
                    "--rounds",
                    str(config.rounds),
                    "--alpha",
                    str(config.alpha_full),
                    "--out",
                    str(config.out / "full"),
                ),
                *(
                    "--imitate",
                    f"entropy:0.3@block_length={task.block_length}",
                    "--imitation-rounds",
                    str(min(8, config.rounds)),
                ),
            ],
            "semi": [
                *(
                    *common,
                    "--rounds",
                    str((2 * config.rounds + 2) // 3),
                    "--alpha",
                    str(config.alpha_semi),
                ),
                *("--block-length", str(task.block_length), "--out", str(config.out / "semi")),
                *(
                    "--alpha-start",
                    str(max(3.0, config.alpha_semi)),
                    "--dense",
                    "2",
                    "--eval-temperature",
                    "0.5",
                ),
            ],
        }
    )
    console.print(
        f"trained in {time.perf_counter() - began:.0f} s; now evaluating on {config.prompts} "
        "held-out prompts"
    )

    torch.set_num_threads(os.cpu_count() or 1)
    policies = {
        length: config.out / "full" / "best",
        task.block_length: config.out / "semi" / "best",
    }
    points: list[Point] = []
    for block_length, policy in policies.items():
        learned = [f"{policy}@beta={beta}" for beta in (1.0, 0.7, 1.5)]
        points += evaluate(
            model,
            task,
            [*HEURISTICS, *learned],
            block_lengths=[block_length],
            prompts=config.prompts,
            out=config.out / f"results-{block_length}",
        )
    console.print(table(points, length))
    figure = plot_pareto(
        points,
        length,
        f"{name}: learned policies and heuristics, {config.prompts} prompts",
        config.out / "pareto.png",
    )

    example = next(
        e
        for e in task.examples("test", 50)
        if len(e.prompt.split()) >= 0.8 * (task.max_prompt_tokens or 0)
    )
    for label, sampler in (
        ("threshold heuristic", "threshold:0.7"),
        ("learned policy", str(policies[task.block_length])),
    ):
        console.print(
            f"\n[bold]{example.prompt}[/bold]  {label} ({sampler}), block length "
            f"{task.block_length}"
        )
        options = DecodeOptions(max_new_tokens=length, block_length=task.block_length)
        generation = generate_shown(model, [example.prompt], sampler, console, options=options)
        verdict = "right" if task.score(generation.text[0], example) else "wrong"
        console.print(
            f"      {generation.text[0]}  [bold]{verdict}[/bold] after {int(generation.nfe[0])} "
            "forward passes"
        )
    seconds = time.perf_counter() - began
    write_json(
        config.out / "demo.json",
        {**json.loads((config.out / "demo.json").read_text()), "seconds": round(seconds)},
    )
    console.print(
        f"\nfigure {figure}; policies {config.out}/full/best and {config.out}/semi/best; "
        f"{seconds / 60:.1f} minutes"
    )
