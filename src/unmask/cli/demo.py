"""`unmask demo`: the main job, end to end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import UnmaskError
from unmask.settings import at_least, check_settings
from unmask.training.config import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from unmask.evaluation import Point
    from unmask.models import Model
    from unmask.tasks import Task

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
    prompts: int = at_least(1, 150)
    """Held-out prompts of the comparison."""
    seed: int = 0
    """Seed of the training."""

    def __post_init__(self) -> None:
        check_settings(self)


def training_settings(config: Config, block_length: int) -> dict[str, dict[str, Any]]:
    """The settings of both trainings, by the name of their directory.

    Args:
        config: of the demo.
        block_length: of the semi-autoregressive one.
    """
    common = {
        "model": f"embedded/{config.task}",
        "task": config.task,
        "seed": config.seed,
        "mixed_precision": True,
    }
    full = {
        "rounds": config.rounds,
        "alpha": config.alpha_full,
        "imitate": (f"entropy:0.3@block_length={block_length}",),
        "imitation_rounds": min(8, config.rounds),
    }
    semi = {
        "rounds": (2 * config.rounds + 2) // 3,
        "alpha": config.alpha_semi,
        "alpha_start": max(3.0, config.alpha_semi),
        "block_length": block_length,
        "dense": 2.0,
        "eval_temperature": 0.5,
    }
    return {
        "full": common | full | {"out": config.out / "full"},
        "semi": common | semi | {"out": config.out / "semi"},
    }


def command_arguments(settings: dict[str, Any]) -> list[str]:
    """Settings as options of `unmask train`."""
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def train_in_parallel(runs: dict[str, dict[str, Any]]) -> None:
    """Runs `unmask train` once for each entry, side by side with an equal share of the cores, and
    prints their lines.

    Args:
        runs: the settings of each run, by name.

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
            [sys.executable, "-m", "unmask.cli", "train", *command_arguments(settings)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, settings in runs.items()
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


def make_table(points: list[Point], length: int) -> Table:
    """Accuracy and NFE of every sampler, in both settings."""
    from rich.table import Table

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


def measure_policies(
    model: Model, task: Task, config: Config, policies: dict[int, Path]
) -> list[Point]:
    """Accuracy and NFE of the trained policies and the heuristics on held-out prompts.

    Args:
        model: the frozen model.
        task: its task.
        config: of the demo.
        policies: the directory of the policy for each block length.
    """
    from unmask.evaluation import evaluate

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
    return points


def show_example(model: Model, task: Task, policy: Path, length: int, console: Console) -> None:
    """One long problem, answered by a heuristic and by the semi-autoregressive policy."""
    from unmask.cli.show import generate_shown
    from unmask.decoding import DecodeOptions

    long = 0.8 * (task.max_prompt_tokens or 0)
    example = next(e for e in task.examples("test", 50) if len(e.prompt.split()) >= long)
    options = DecodeOptions(max_new_tokens=length, block_length=task.block_length)
    for label, sampler in (
        ("threshold heuristic", "threshold:0.7"),
        ("learned policy", str(policy)),
    ):
        console.print(
            f"\n[bold]{example.prompt}[/bold]  {label} ({sampler}), block length "
            f"{task.block_length}"
        )
        generation = generate_shown(model, [example.prompt], sampler, console, options=options)
        verdict = "right" if task.score(generation.text[0], example) else "wrong"
        console.print(
            f"      {generation.text[0]}  [bold]{verdict}[/bold] after {int(generation.nfe[0])} "
            "forward passes"
        )


def run(config: Config) -> None:
    import torch
    from rich.console import Console

    from unmask.analysis import plot_pareto
    from unmask.files import new_directory, provenance, write_json
    from unmask.models import load_model
    from unmask.tasks import answer_length, load_task

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

    runs = training_settings(config, task.block_length)
    for settings in runs.values():
        TrainConfig(**settings)  # checks them before an earlier demo is removed
    marker = config.out / "demo.json"
    new_directory(config.out, overwrite=marker.exists())
    record = {"task": config.task, "rounds": config.rounds, "seed": config.seed, **provenance()}
    write_json(marker, record)
    train_in_parallel(runs)
    console.print(
        f"trained in {time.perf_counter() - began:.0f} s; now evaluating on {config.prompts} "
        "held-out prompts"
    )

    torch.set_num_threads(os.cpu_count() or 1)
    policies = {
        length: config.out / "full" / "best",
        task.block_length: config.out / "semi" / "best",
    }
    points = measure_policies(model, task, config, policies)
    console.print(make_table(points, length))
    title = f"{name}: learned policies and heuristics, {config.prompts} prompts"
    figure = plot_pareto(points, length, title, config.out / "pareto.png")
    show_example(model, task, policies[task.block_length], length, console)
    seconds = time.perf_counter() - began
    write_json(marker, record | {"seconds": round(seconds)})
    console.print(
        f"\nfigure {figure}; policies {config.out}/full/best and {config.out}/semi/best; "
        f"{seconds / 60:.1f} minutes"
    )
