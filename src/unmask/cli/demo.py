"""`unmask demo`: the main job, end to end."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.errors import UnmaskError
from unmask.settings import at_least, check_settings
from unmask.training.config import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from unmask.evaluation import Point
    from unmask.models import Model
    from unmask.tasks import Example, Task

TaskName = Literal["chain", "sudoku", "word-problems"]
ALL_KINDS = (
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
ALPHAS = 5  # values of α at which a trained policy is compared
SHIPPED_ALPHAS = 3


@dataclass(frozen=True)
class Recipe:
    """What a task's demo takes. What is not here is that of `unmask train --alpha-range`.

    Attributes:
        training_task: whose problems the policies are trained on.
        blocks: train a semi-autoregressive policy too.
        rounds: of each training.
        round_prompts: prompts of a round; None is the usual number.
        prompts: held-out prompts of the comparison.
        heuristics: what the policies are compared with.
        shipped: a policy that ships with the package and is compared too.
    """

    training_task: str
    blocks: bool = True
    rounds: int = 100
    round_prompts: int | None = None
    prompts: int = 150
    heuristics: tuple[str, ...] = ALL_KINDS
    shipped: str | None = None


RECIPES: dict[str, Recipe] = {
    "chain": Recipe("chain"),
    "sudoku": Recipe("sudoku"),
    # A round takes ten times as long as one of chain, and its model knows the problems that it
    # learned from by heart.
    "word-problems": Recipe(
        "word-problems:unseen",
        blocks=False,
        rounds=40,
        round_prompts=16,
        prompts=100,
        heuristics=("threshold:0.9", "threshold:0.7", "threshold:0.5", "entropy:0.3", "entropy:1"),
        shipped="embedded/word-problems",
    ),
}


@dataclass(frozen=True)
class Config:
    """Train policies for a range of α on an embedded model, in full diffusion and
    semi-autoregressive, and compare them with the heuristics."""

    out: Path = Path("demo")
    """Directory for the policies, results and pareto.png; an earlier demo there is replaced."""
    task: TaskName = "chain"
    """Embedded model and task. With word-problems one policy is trained, for full diffusion, and
    the one that ships is compared too."""
    rounds: int | None = at_least(1, None)
    """Rounds of each training; left out, 100, and 40 for word-problems."""
    round_prompts: int | None = at_least(1, None)
    """Prompts of a training round; left out, 32, and 16 for word-problems."""
    alpha_range: tuple[float, float] | None = None
    """Smallest and largest α that the policies serve; left out, about L/1000 and L/3."""
    prompts: int | None = at_least(1, None)
    """Held-out prompts of the comparison; left out, 150, and 100 for word-problems."""
    seed: int = 0
    """Seed of the training."""

    def __post_init__(self) -> None:
        check_settings(self)
        if "@" in str(self.out) or f"{self.out}/".startswith(("embedded/", "hf:")):
            raise UnmaskError(
                f"output directory {self.out} cannot be the name of a policy; name one without an "
                "@ that does not begin with embedded or hf:"
            )


def choose_alpha_range(length: int) -> tuple[float, float]:
    """The range of α for buffers of L positions: about L/1000 to L/3.

    A further pass costs about α/L of the reward (r·speed^α), so from a thousandth to a third of it.
    Both ends are rounded: the lower one to 1, 2 or 5 times a power of ten, the upper one down to a
    multiple of 4.

    Args:
        length: L, at least 12.

    Examples:
        >>> from unmask.cli.demo import choose_alpha_range
        >>> choose_alpha_range(48)
        (0.05, 16.0)
        >>> choose_alpha_range(128)
        (0.1, 40.0)
    """
    round_values = [float(f"{digit}e{power}") for power in range(-3, 6) for digit in (1, 2, 5)]
    low = min(round_values, key=lambda value: abs(math.log(1000 * value / length)))
    return low, float(length // 12 * 4)


def training_settings(config: Config, length: int, block_length: int) -> dict[str, dict[str, Any]]:
    """The settings of all trainings, by the name of their directory.

    Args:
        config: of the demo.
        length: L.
        block_length: of the semi-autoregressive one.
    """
    recipe = RECIPES[config.task]
    low, high = config.alpha_range or choose_alpha_range(length)
    common: dict[str, Any] = {
        "model": f"embedded/{config.task}",
        "task": recipe.training_task,
        "seed": config.seed,
        "mixed_precision": True,
        "alpha_range": (low, high),
        "rounds": config.rounds or recipe.rounds,
    }
    if 0 < low < high and not low <= 1 <= high:
        common["alpha"] = math.sqrt(low * high)
    round_prompts = config.round_prompts or recipe.round_prompts
    if round_prompts is not None:
        common["prompts"] = round_prompts
    runs = {"full": common | {"out": config.out / "full"}}
    if recipe.blocks:
        runs["semi"] = common | {"out": config.out / "semi", "block_length": block_length}
    return runs


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
    """Runs `unmask train` once for each entry, side by side with an equal share of this process'
    threads, and prints their lines.

    Args:
        runs: the settings of each run, by name.

    Raises:
        UnmaskError: if a run fails.
    """
    import torch

    threads = str(max(1, torch.get_num_threads() // len(runs)))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONIOENCODING": "utf-8"}

    def follow(name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name:<5}│ {line}", end="", flush=True)

    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, settings in runs.items():
            processes[name] = subprocess.Popen(
                [sys.executable, "-m", "unmask.cli", "train", *command_arguments(settings)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
        followers = [threading.Thread(target=follow, args=item) for item in processes.items()]
        for follower in followers:
            follower.start()
        for follower in followers:
            follower.join()
        failed = [name for name, process in processes.items() if process.wait()]
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    if failed:
        raise UnmaskError(f"training of {', '.join(failed)} failed; its lines above say why")


def make_table(points: list[Point], length: int) -> Table:
    """Accuracy and NFE of every sampler, in both settings."""
    from rich.table import Table

    from unmask.evaluation.front import family

    out = Table(
        "sampler", "block length", "accuracy % [95 % interval]", "NFE", title="held-out prompts"
    )
    for p in sorted(points, key=lambda p: (-p.block_length, p.nfe)):
        setting = "full" if p.block_length == length else str(p.block_length)
        accuracy = (
            f"{100 * p.accuracy:.1f} [{100 * p.accuracy_low:.1f}, {100 * p.accuracy_high:.1f}]"
        )
        learned = "bold green" if family(p.sampler).startswith("policy") else None
        out.add_row(p.sampler, setting, accuracy, f"{p.nfe:.1f}", style=learned)
    return out


def policy_samplers(policy: str, alpha_range: tuple[float, float], count: int) -> list[str]:
    """A policy at so many values of α, log-spaced over a range."""
    low, high = alpha_range
    values = [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    return [f"{policy}@alpha={value:.3g}" for value in values]


def shipped_samplers(policy: str) -> list[str]:
    """A policy that ships with the package, at values of α of the range that it was trained for."""
    from unmask.policies import LearnedPolicy
    from unmask.policies.load import find_policy

    metadata = LearnedPolicy.from_pretrained(find_policy(policy)).metadata
    low, high = metadata["trained"]["alpha_range"]
    return policy_samplers(policy, (low, high), SHIPPED_ALPHAS)


def measure_policies(
    model: Model, task: Task, config: Config, runs: dict[str, dict[str, Any]], length: int
) -> list[Point]:
    """Accuracy and NFE of the trained policies and the heuristics on held-out prompts.

    Args:
        model: the frozen model.
        task: its task.
        config: of the demo.
        runs: the settings of each training.
        length: L.
    """
    from unmask.evaluation import evaluate

    recipe = RECIPES[config.task]
    points: list[Point] = []
    for settings in runs.values():
        block_length = settings.get("block_length", length)
        learned = policy_samplers(str(settings["out"] / "best"), settings["alpha_range"], ALPHAS)
        if recipe.shipped is not None and block_length == length:
            learned += shipped_samplers(recipe.shipped)
        points += evaluate(
            model,
            task,
            [*recipe.heuristics, *learned],
            block_lengths=[block_length],
            prompts=config.prompts or recipe.prompts,
            out=config.out / f"results-{block_length}",
        )
    return points


def choose_example(task: Task) -> Example:
    """A long problem of the test split, where the task says how long its problems are."""
    long = 0.8 * (task.max_prompt_tokens or 0)
    return next(e for e in task.examples("test", 50) if len(e.prompt.split()) >= long)


def show_example(
    model: Model, task: Task, policy: str, length: int, block_length: int, console: Console
) -> None:
    """One problem, answered pass by pass by a heuristic and by a policy."""
    from rich.text import Text

    from unmask.cli.show import generate_shown, print_indented
    from unmask.decoding import DecodeOptions

    example = choose_example(task)
    options = DecodeOptions(max_new_tokens=length, block_length=block_length)
    setting = "full diffusion" if block_length == length else f"block length {block_length}"
    console.print(Text(f"\n{example.prompt}", "bold"))
    for label, sampler in (("threshold heuristic", "threshold:0.7"), ("learned policy", policy)):
        console.print(Text(f"\n{label} ({sampler}), {setting}"))
        generation = generate_shown(model, [example.prompt], sampler, console, options=options)
        verdict = "right" if task.score(generation.text[0], example) else "wrong"
        for line in generation.text[0].split("\n"):
            print_indented(console, Text(" " * 6), Text(line))
        console.print(f"      [bold]{verdict}[/bold] after {int(generation.nfe[0])} forward passes")


def run(config: Config) -> None:
    from rich.console import Console

    from unmask.analysis import plot_pareto
    from unmask.files import new_directory, write_json
    from unmask.models import load_model
    from unmask.provenance import provenance
    from unmask.tasks import answer_length, load_task

    began = time.perf_counter()
    console = Console(width=max(130, Console().width))
    recipe, task, name = RECIPES[config.task], load_task(config.task), f"embedded/{config.task}"
    model = load_model(name)
    length = answer_length(model, task, None)
    runs = training_settings(config, length, task.block_length)
    for settings in runs.values():
        TrainConfig(**settings)  # checks them before an earlier demo is removed
    console.print(describe_demo(model, runs, length))

    marker = config.out / "demo.json"
    new_directory(config.out, overwrite=marker.exists())
    record = {"task": config.task, "seed": config.seed, **provenance()}
    record |= {key: runs["full"][key] for key in ("rounds", "alpha_range")}
    write_json(marker, record)
    train_in_parallel(runs)
    prompts = config.prompts or recipe.prompts
    console.print(
        f"trained in {time.perf_counter() - began:.0f} s; now evaluating on {prompts} held-out "
        "prompts"
    )

    points = measure_policies(model, task, config, runs, length)
    console.print(make_table(points, length))
    title = f"{name}: learned policies and heuristics, {prompts} prompts"
    figure = plot_pareto(points, length, title, config.out / "pareto.png")
    shown = recipe.shipped or str(runs["semi"]["out"] / "best")
    block_length = task.block_length if recipe.blocks else length
    show_example(model, task, shown, length, block_length, console)
    seconds = time.perf_counter() - began
    write_json(marker, record | {"seconds": round(seconds)})
    policies = " and ".join(f"{settings['out']}/best" for settings in runs.values())
    console.print(f"\nfigure {figure}; policies {policies}; {seconds / 60:.1f} minutes")


def describe_demo(model: Model, runs: dict[str, dict[str, Any]], length: int) -> str:
    """The model, and what is trained."""
    parameters = sum(p.numel() for p in model.network.parameters())
    low, high = runs["full"]["alpha_range"]
    blocks = [f"block length {s['block_length']}" for s in runs.values() if "block_length" in s]
    return (
        f"{model.name}: {parameters / 1e6:.2f} M parameters, L = {length}; training for "
        f"{' and '.join(['full diffusion', *blocks])}, α from {low:g} to {high:g}, "
        f"{runs['full']['rounds']} rounds"
    )
