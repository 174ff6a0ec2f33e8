"""Trains an unmasking policy with GRPO on a frozen model (paper §3.3)."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from unmask.decoding import Generation, Recorder, check_arguments, decode
from unmask.errors import UnmaskError
from unmask.evaluation import bootstrap
from unmask.files import (
    load_optimizer,
    new_directory,
    optimizer_tensors,
    provenance,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from unmask.models import Model, load_model
from unmask.policies import LearnedPolicy, Policy, PolicyNetwork, load_policy
from unmask.tasks import Example, Task, answer_length, load_task, prompt_tokens
from unmask.training.config import TrainConfig, resumed
from unmask.training.grpo import group_advantages
from unmask.training.rewards import REWARDS, Reward
from unmask.training.update import SILENT, Batch, decisions, learning_rate, signal_batch, update


def score(task: Task, generation: Generation, examples: list[Example]) -> Tensor:
    """Correctness r of each row, fp32 [N] on the device of the generation."""
    return torch.tensor(task.score_all(generation.text, examples), device=generation.nfe.device)


class Run:
    """One training run on one process: the frozen model, the policy being trained, and what is
    needed to go on."""

    def __init__(self, config: TrainConfig, reward: Reward | None = None) -> None:
        self.config = config
        self.reward = reward or REWARDS[config.reward]
        self.task = load_task(
            config.task, data_dir=config.data_dir, allow_code_execution=config.allow_code_execution
        )
        example = self.task.examples("train", 1)[0]
        self.model: Model = load_model(config.model, device=config.device)
        self.length = answer_length(self.model, self.task, config.max_new_tokens)
        block_length = self.length if config.block_length is None else config.block_length
        check_arguments(config.prompts, self.length, block_length, 0.0, config.batch_size)
        prompt_tokens(
            self.model, example
        )  # a model that does not know the task's words is told now
        self.accelerator = Accelerator(
            cpu=config.device == "cpu", log_with="tensorboard", project_dir=config.out
        )
        self.model = replace(self.model, network=self.model.network.to(self.accelerator.device))
        set_seed(config.seed)
        self.network = PolicyNetwork(config.network(self.model.hidden_size)).to(
            self.accelerator.device
        )
        if config.start is not None:
            started = load_policy(config.start, device=self.accelerator.device)
            if (
                not isinstance(started, LearnedPolicy)
                or started.network.config != self.network.config
            ):
                made = getattr(getattr(started, "network", None), "config", "a heuristic")
                raise UnmaskError(
                    f"the start {config.start} does not fit: it is {made}, and these settings make "
                    f"{self.network.config}"
                )
            self.network.load_state_dict(started.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.lr,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        self.round, self.best = 0, -math.inf

    def policy(self, metrics: dict[str, Any] | None = None) -> LearnedPolicy:
        """The policy as it is deployed: with fallback, at the evaluation temperature, and with what
        it was trained on."""
        metadata = {
            "trained": self.config.settings(),
            "length": self.length,
            "template": self.task.template,
            "metrics": metrics or {},
            **provenance(self.config.device),
        }
        alpha = self.config.alpha if self.config.alpha_range else None
        temperature = self.config.eval_temperature
        return LearnedPolicy(
            self.network, self.config.action, temperature, alpha=alpha, metadata=metadata
        )

    def decode(
        self,
        examples: list[Example],
        policy: Policy,
        seed: int,
        alpha: Tensor | None = None,
        observer: Policy | None = None,
    ) -> Generation:
        """Rollouts; with an `observer`, the policy that learns, their decisions are kept."""
        prompts = {e.prompt: prompt_tokens(self.model, e) for e in examples}
        return decode(
            self.model,
            [prompts[e.prompt] for e in examples],
            policy,
            max_new_tokens=self.length,
            block_length=self.config.block_length,
            batch_size=self.config.batch_size,
            seed=seed,
            alpha=alpha,
            recorder=Recorder(observer) if observer is not None else None,
        )

    def mean(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """Means over all processes of values that are summed over `count` items here."""
        totals = self.accelerator.reduce(
            torch.tensor([*sums.values(), count], dtype=torch.float64, device="cpu"),
            reduction="sum",
        )
        return {
            name: round(float(total / totals[-1]), 6)
            for name, total in zip(sums, totals, strict=False)
        }

    def train_round(self) -> dict[str, float]:
        """Rollouts, rewards and update of one round."""
        config, began, g = self.config, time.perf_counter(), self.config.rollouts
        rank = self.accelerator.process_index
        seed = config.seed * 1_000_003 + self.round
        imitate = bool(config.imitate) and self.round < config.imitation_rounds
        count = (
            max(1, config.prompts * g // len(config.imitate)) if imitate else config.prompts
        )  # as many rollouts in every round
        distinct = self.task.batch(
            count, config.seed, self.round, rank, self.accelerator.num_processes
        )
        acting = LearnedPolicy(self.network, config.action, fallback=config.fallback)
        alpha = self.alphas(len(distinct), seed * 1009 + rank + 1)

        if imitate:
            batch, rewards, correctness, nfe = self.imitation(distinct, alpha, seed, acting)
        else:
            examples, each = (
                [example for example in distinct for _ in range(g)],
                alpha.repeat_interleave(g),
            )
            generation = self.decode(examples, acting, seed, each, observer=acting)
            correctness, nfe = score(self.task, generation, examples), generation.nfe
            rewards = self.reward(correctness, nfe, self.length, each)
        experts, steering = (
            [],
            dict.fromkeys(
                ("expert_reward", "expert_accuracy", "expert_nfe") if config.experts else (), 0.0
            ),
        )
        for spec in () if imitate else config.experts:
            expert = self.decode(
                distinct,
                load_policy(spec, device=self.accelerator.device),
                seed,
                alpha,
                observer=acting,
            )
            right = score(self.task, expert, distinct)
            gained = self.reward(right, expert.nfe, self.length, alpha)
            experts.append((expert, gained))
            for name, values in zip(steering, (gained, right, expert.nfe), strict=True):
                steering[name] += float(values.float().mean()) / len(config.experts)
        if not imitate:
            batch = signal_batch(
                acting, generation, rewards, experts, g, config.dense, config.scaled
            )
        rolled = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.round)
        updated = update(acting, batch, self.optimizer, config, self.accelerator, seed, imitate)
        silent = (
            0.0
            if imitate
            else float(
                (group_advantages(rewards.view(-1, g)).abs().amax(1) <= SILENT).float().sum()
            )
            * g
        )
        sums = {
            "reward": float(rewards.sum()),
            "accuracy": float(correctness.sum()),
            "nfe": float(nfe.sum()),
            "silent": silent,
        }
        sums |= {name: value * len(rewards) for name, value in (updated | steering).items()}
        seconds = {
            "rollout_seconds": rolled - began,
            "update_seconds": time.perf_counter() - rolled,
        }
        sums |= {name: value * len(rewards) for name, value in seconds.items()}
        return self.mean(sums, len(rewards)) | {"lr": learning_rate(config, self.round)}

    def imitation(
        self, examples: list[Example], alpha: Tensor, seed: int, acting: LearnedPolicy
    ) -> tuple[Batch | None, Tensor, Tensor, Tensor]:
        """The decisions to imitate: for each prompt those of the heuristic whose mean reward over
        all prompts is largest at its α, where they led to a correct answer. And the rewards,
        correctness and NFE of the heuristics taken, [P] each."""
        done = [
            self.decode(
                examples, load_policy(spec, device=alpha.device), seed, alpha, observer=acting
            )
            for spec in self.config.imitate
        ]
        right = torch.stack([score(self.task, generation, examples) for generation in done])
        nfe = torch.stack([generation.nfe for generation in done])
        rows = right.flatten(), nfe.flatten(), self.length
        mean = torch.stack(
            [
                self.reward(*rows, torch.full_like(rows[0], a)).view_as(right).mean(1)
                for a in alpha.tolist()
            ],
            1,
        )
        best = mean.argmax(0)
        chosen = [(best == i) & (correct > 0.5) for i, correct in enumerate(right)]
        one = torch.ones(len(examples), device=alpha.device)
        parts = [
            decisions(acting, generation, one, kept, len(examples), True)
            for generation, kept in zip(done, chosen, strict=True)
        ]
        filled = [part for part in parts if part is not None]
        correctness, nfe = (values.gather(0, best[None])[0] for values in (right, nfe))
        return (
            Batch.cat(filled) if filled else None,
            self.reward(correctness, nfe, self.length, alpha),
            correctness,
            nfe,
        )

    def alphas(self, n: int, seed: int) -> Tensor:
        """α of n prompts, fp32 [n]: the run's at this round, or log-uniform in its range."""
        if self.config.alpha_range is None:
            alpha, start = self.config.alpha, self.config.alpha_start
            if start is not None:
                alpha *= (start / alpha) ** max(0.0, 1 - self.round / (self.config.rounds / 2))
            return torch.full((n,), alpha, device=self.accelerator.device)
        low, high = (math.log(alpha) for alpha in self.config.alpha_range)
        drawn = torch.rand(n, generator=torch.Generator().manual_seed(seed))
        return (low + (high - low) * drawn).exp().to(self.accelerator.device)

    def evaluate(self) -> dict[str, float]:
        """Accuracy, NFE and reward on validation prompts, each process taking its share.

        A policy for a range of α is measured at its ends and its middle, on the same prompts.
        """
        grid = self.alpha_grid(3)
        examples = self.task.examples("validation", self.config.eval_prompts)
        share = examples[self.accelerator.process_index :: self.accelerator.num_processes]
        sums = {"eval_reward": 0.0, "eval_accuracy": 0.0, "eval_nfe": 0.0}
        if share:
            rows, alpha = (
                share * len(grid),
                torch.tensor(grid, device=self.accelerator.device).repeat_interleave(len(share)),
            )
            generation = self.decode(rows, self.policy(), 0, alpha)
            correctness = score(self.task, generation, rows)
            rewards = self.reward(correctness, generation.nfe, self.length, alpha)
            sums = dict(
                zip(
                    sums,
                    (float(x.sum()) / len(grid) for x in (rewards, correctness, generation.nfe)),
                    strict=True,
                )
            )
        return self.mean(sums, len(share))

    def alpha_grid(self, n: int) -> list[float]:
        """n values of α, log-spaced over the run's range; the run's α alone if it has none."""
        if self.config.alpha_range is None:
            return [self.config.alpha]
        low, high = (math.log10(alpha) for alpha in self.config.alpha_range)
        return torch.logspace(low, high, n, dtype=torch.float64).tolist()

    def add_front(self, directory: Path) -> None:
        """Adds to a finished policy its front on validation prompts: over β, or over α where it
        serves a range (then also what a target NFE is looked up in). Does nothing if it is
        there."""
        policy = LearnedPolicy.from_pretrained(directory, device=self.accelerator.device)
        if "pareto" in policy.metadata:
            return
        if self.config.alpha_range is None:
            variants = [(f"@beta={beta:g}", {"beta": beta}) for beta in (0.5, 0.7, 1.0, 1.5, 2.0)]
            examples = self.task.examples("validation", self.config.eval_prompts)
        else:
            variants = [(f"@alpha={alpha:.3g}", {"alpha": alpha}) for alpha in self.alpha_grid(9)]
            examples = self.task.examples("validation", max(256, self.config.eval_prompts))
        front = []
        for name, changes in variants:
            generation = self.decode(examples, replace(policy, **changes), 0)
            correct = score(self.task, generation, examples).cpu().numpy()
            low, high = bootstrap(correct)
            accuracy = {
                "accuracy": float(correct.mean()),
                "accuracy_low": low,
                "accuracy_high": high,
            }
            front.append(
                {
                    "sampler": name,
                    **changes,
                    **accuracy,
                    "nfe": float(generation.nfe.double().mean()),
                    "prompts": len(examples),
                }
            )
        replace(policy, metadata={**policy.metadata, "pareto": front}).save_pretrained(directory)

    def save(self) -> None:
        """The checkpoint: one file, replaced whole, that holds all that changes from round to
        round."""
        tensors = {f"policy/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer, "optimizer")
        tensors |= {
            "round": torch.tensor(self.round),
            "best": torch.tensor(self.best, dtype=torch.float64),
        }
        write_tensors(self.config.out / "checkpoint.safetensors", tensors)

    def load(self) -> None:
        """Takes up the checkpoint in the run directory; without one (killed before the first) the
        run starts over."""
        path = self.config.out / "checkpoint.safetensors"
        if not path.exists():
            return
        tensors = read_tensors(path, self.accelerator.device)
        self.network.load_state_dict(
            {name[7:]: value for name, value in tensors.items() if name.startswith("policy/")}
        )
        load_optimizer(self.optimizer, tensors, "optimizer")
        self.round, self.best = int(tensors["round"]), float(tensors["best"])


def train(config: TrainConfig, reward: Reward | None = None) -> Path:
    """Trains a policy; also what `unmask train` runs.

    All that is random is drawn from (seed, round, process), and the checkpoint is one file that is
    replaced whole, so a run that is killed anywhere and resumed gives the same weights, bit for bit
    on the same machine.

    Args:
        config: the settings.
        reward: your own function of (correctness [N], NFE [N], L, α) instead of `config.reward`; to
            be given again when resuming.

    Returns:
        The run directory: `best` and `last` (policy directories), `metrics.jsonl`, `run.json`,
            `checkpoint.safetensors`.

    Raises:
        UnmaskError: for unusable settings or directories.

    Example:
        >>> train(TrainConfig(out=Path("runs/first"), alpha=3.0))
    """
    if config.resume is not None:
        config = resumed(config)
    run = Run(config, reward)
    main = run.accelerator.is_main_process
    metrics_file = config.out / "metrics.jsonl"
    history: list[dict[str, Any]] = []
    if config.resume is not None:
        run.load()
        if metrics_file.exists():
            history = [
                json.loads(line)
                for line in metrics_file.read_text().splitlines()
                if line.endswith("}")
            ]
            history = [entry for entry in history if entry["round"] <= run.round]
    elif main:
        new_directory(config.out)
    run.accelerator.wait_for_everyone()
    if (
        main and config.resume is None
    ):  # a resumed run keeps the command and commit that it was started with
        settings = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in config.settings().items()
        }
        write_json(
            config.out / "run.json",
            {"settings": settings, "provenance": provenance(config.device, run.model.dtype)},
        )
    if main:
        write_text(metrics_file, "".join(json.dumps(entry) + "\n" for entry in history))
    run.accelerator.init_trackers("tensorboard")
    with progress_bar(main) as bar:
        bar.add_task("", total=config.rounds, completed=run.round)
        while run.round < config.rounds:
            metrics = run.train_round()
            run.round += 1
            finished = run.round == config.rounds
            if run.round % config.eval_every == 0 or finished:
                metrics |= run.evaluate()
            entry = {"round": run.round, **metrics}
            run.accelerator.log(metrics, step=run.round)
            if main:
                with metrics_file.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                report(entry, config.rounds, bar)
            if metrics.get("eval_reward", -math.inf) > run.best:
                run.best = metrics["eval_reward"]
                if main:
                    run.policy(entry).save_pretrained(config.out / "best")
            if main and (run.round % config.save_every == 0 or finished):
                run.policy(entry).save_pretrained(config.out / "last")
                run.save()
    run.accelerator.end_training()
    for name in (
        ("best", "last") if main else ()
    ):  # the others need not wait: a barrier would time out with a large model
        run.add_front(config.out / name)
    return config.out


def progress_bar(shown: bool) -> Progress:
    """A bar with the latest round's metrics beside it; not drawn where the output is no
    terminal."""
    columns = (
        BarColumn(8),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, disable=not (shown and Console().is_terminal))


def report(entry: dict[str, Any], rounds: int, bar: Progress) -> None:
    """Moves the bar; prints one line for each round, on a terminal only for those with an
    evaluation."""
    line = f"reward {entry['reward']:.3f} accuracy {entry['accuracy']:.3f} NFE {entry['nfe']:4.1f}"
    line += f" entropy {entry['entropy']:4.1f} no signal {entry['silent']:.2f}"
    bar.update(bar.task_ids[0], completed=entry["round"], description=line)
    line = f"round {entry['round']:>4}/{rounds}  {line}  {entry['rollout_seconds'] + entry['update_seconds']:.1f} s"
    if "eval_reward" in entry:
        line += f"  | validation: reward {entry['eval_reward']:.3f} accuracy {entry['eval_accuracy']:.3f} NFE {entry['eval_nfe']:.1f}"
    if bar.disable:
        print(line, flush=True)
    elif "eval_reward" in entry:
        bar.console.print(line, highlight=False)
