"""Trains an unmasking policy with GRPO on a frozen model (paper §3.3)."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from unmask.decoding import Generation, check_arguments, decode, encode_prompt
from unmask.errors import UnmaskError
from unmask.files import (
    load_optimizer,
    new_directory,
    optimizer_tensors,
    provenance,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from unmask.models import Model, load_model
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork
from unmask.tasks import Example, Task, load_task
from unmask.training.grpo import group_advantages, grpo_loss
from unmask.training.rewards import multiplicative


@dataclass(frozen=True)
class TrainConfig:
    """Train an unmasking policy with GRPO on a frozen model."""

    out: Path = Path("runs/train")
    """Run directory: policies `best` and `last`, checkpoint, metrics.jsonl, TensorBoard files."""
    resume: Path | None = None
    """Go on with the run in this directory, with its own settings."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one or a directory."""
    task: str = "chain"
    """Where prompts and their verifier come from."""
    block_length: int | None = None
    """Block length; leave out for full diffusion."""
    max_new_tokens: int | None = None
    """L, the generation buffer; leave out for the task's own."""
    alpha: float = 1.0
    """α of the reward: larger is faster and less accurate."""
    rounds: int = 300
    """Rounds of rollouts and updates."""
    prompts: int = 16
    """Prompts a round (groups), on each process."""
    rollouts: int = 8
    """G, rollouts of each prompt."""
    epochs: int = 2
    """Optimisation epochs on each round's rollouts."""
    minibatches: int = 4
    """Optimiser steps in each epoch."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    warmup: int = 5
    """Rounds of linear warm-up; a cosine to zero follows."""
    epsilon: float = 0.2
    """ε of the clipped ratio."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    max_grad_norm: float = 0.2
    """The gradient's norm is clipped to this."""
    width: int = 64
    """Width of the policy network (the paper's is 128; beside models of a million parameters that costs as much as the model)."""
    initial_bias: float = -1.0
    """The policy's output starts here: −1 reveals each position with probability 0.27 (the paper's −2: 0.12, for longer buffers)."""
    transform: Literal["probability", "log-odds"] = "log-odds"
    """How the policy reads confidences; the paper's is probability."""
    eval_every: int = 10
    """Rounds between evaluations on validation prompts."""
    eval_prompts: int = 128
    """Validation prompts."""
    eval_temperature: float = 1.0
    """Policy temperature τ_π of evaluations, and the default of the saved policies."""
    save_every: int = 10
    """Rounds between checkpoints."""
    batch_size: int = 128
    """Rows decoded side by side."""
    micro_batch: int = 128
    """Decisions a backward pass takes at once."""
    mixed_precision: bool = False
    """Run the policy's updates under bf16 autocast (likelihoods stay fp32)."""
    seed: int = 0
    """Seed of weights, prompts and actions."""
    device: str = "cpu"
    """Device; under `accelerate launch` on GPUs, each process takes its own."""

    def __post_init__(self) -> None:
        whole = (
            "rounds",
            "prompts",
            "rollouts",
            "epochs",
            "minibatches",
            "eval_every",
            "eval_prompts",
            "save_every",
            "batch_size",
            "micro_batch",
        )
        for name in whole:
            if getattr(self, name) < (2 if name == "rollouts" else 1):
                raise UnmaskError(f"{name} is {getattr(self, name)}; give at least {2 if name == 'rollouts' else 1}")
        for name in ("alpha", "lr", "epsilon", "weight_decay", "warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UnmaskError(f"{name} is {getattr(self, name)}; give 0 or more")
        if not 0 <= self.seed < 2**32:
            raise UnmaskError(f"seed is {self.seed}; give 0 to {2**32 - 1}")
        self.network()  # refuses a width or transform that cannot be used
        if not math.isfinite(self.initial_bias):
            raise UnmaskError(f"initial_bias is {self.initial_bias}; give a finite number")
        for name in ("max_grad_norm", "eval_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise UnmaskError(f"{name} is {getattr(self, name)}; give a value above 0")

    def network(self) -> NetworkConfig:
        """The policy network's configuration."""
        return NetworkConfig(width=self.width, mlp=4 * self.width, initial_bias=self.initial_bias, transform=self.transform)

    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but where it is written."""
        return {name: value for name, value in asdict(self).items() if name not in ("out", "resume")}


def resumed(config: TrainConfig) -> TrainConfig:
    """The configuration of the run directory `config.resume`.

    Raises:
        UnmaskError: if it is not a run directory, or an option was given that differs from the run's.
    """
    assert config.resume is not None
    saved = read_json(config.resume / "run.json")
    try:
        loaded = TrainConfig(**saved["settings"], out=config.resume, resume=config.resume)
    except (TypeError, KeyError):
        raise UnmaskError(f"{config.resume}/run.json is not of this version's training runs; start a new run") from None
    given = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default}
    others = [name for name in given if name not in ("out", "resume") and given[name] != getattr(loaded, name)]
    if others:
        raise UnmaskError(f"{config.resume} is a run of another configuration ({', '.join(others)} differ); leave those options out")
    return loaded


@dataclass(frozen=True)
class Batch:
    """The decisions of a round that carry signal; T in all.

    Attributes:
        observation: T rows.
        action: bool [T, L].
        advantage: fp32 [T].
        weight: fp32 [T], 1 / (T_g · rollouts of the round in this process).
    """

    observation: Any
    action: Tensor
    advantage: Tensor
    weight: Tensor


def score(task: Task, generation: Generation, examples: list[Example]) -> Tensor:
    """Correctness r of each row, fp32 [N] on the device of the generation."""
    values = [task.score(text, example) for text, example in zip(generation.text, examples, strict=True)]
    return torch.tensor(values, device=generation.nfe.device)


def signal_batch(generation: Generation, rewards: Tensor, rollouts: int) -> Batch | None:
    """Advantages and weights of every decision in the groups whose rewards differ; None if there are none."""
    assert generation.transitions is not None
    advantages = group_advantages(rewards.view(-1, rollouts)).flatten()
    rows = generation.transitions.row
    kept = (advantages.view(-1, rollouts).abs().amax(1) > 1e-6).repeat_interleave(rollouts)[rows].nonzero()[:, 0]
    if not len(kept):
        return None
    rows = rows[kept]
    weight = 1 / (generation.nfe[rows] * len(rewards))
    return Batch(generation.transitions.observation[kept], generation.transitions.action[kept], advantages[rows], weight)


def update(
    policy: LearnedPolicy, batch: Batch | None, optimizer: torch.optim.Optimizer, config: TrainConfig, accelerator: Accelerator, seed: int
) -> dict[str, float]:
    """`config.epochs` passes over one round's decisions, each cut at random into `config.minibatches` optimiser steps."""
    parameters = list(policy.network.parameters())
    size = 0 if batch is None else len(batch.advantage)
    generator = torch.Generator().manual_seed(seed)
    # Kept on the device until the end: a float() in the loop would make a GPU wait for every micro-batch.
    totals = {name: torch.zeros((), device=accelerator.device) for name in ("entropy", "clipped", "grad_norm")}
    if not size and accelerator.num_processes == 1:
        return dict.fromkeys(totals, 0.0)  # no group has signal: no step at all, so that weight decay and momentum do not drift

    def evaluate(part: Tensor) -> tuple[Tensor, Tensor]:
        assert batch is not None
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.mixed_precision):
            distribution = policy.distribution(batch.observation[part])
        return distribution.log_prob(batch.action[part]), distribution.entropy()

    parts = torch.arange(size, device=accelerator.device).split(config.micro_batch) if size else ()
    with torch.no_grad():  # the policy that acted: nothing has been updated since
        old = torch.cat([evaluate(part)[0] for part in parts]) if size else torch.zeros(0)
    steps = config.epochs * config.minibatches
    for _ in range(config.epochs):
        order = torch.randperm(size, generator=generator).to(accelerator.device)
        for minibatch in order.tensor_split(config.minibatches):
            optimizer.zero_grad(set_to_none=False)
            for part in minibatch.split(config.micro_batch) if len(minibatch) else ():
                assert batch is not None
                log_prob, entropy = evaluate(part)
                weight = batch.weight[part] * config.minibatches
                grpo_loss(log_prob, old[part], batch.advantage[part], weight, config.epsilon).backward()
                outside = ((log_prob.detach() - old[part]).exp() - 1).abs() > config.epsilon
                totals["clipped"] += outside.sum() / (size * config.epochs)
                totals["entropy"] += entropy.detach().sum() / (size * config.epochs)
            if accelerator.num_processes > 1:
                flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
                mean: Any = accelerator.reduce(flat, reduction="mean")
                for p, grad in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
                    p.grad = grad.view_as(p).clone()
            totals["grad_norm"] += torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm) / steps
            optimizer.step()
    return {name: float(total) for name, total in totals.items()}


def learning_rate(config: TrainConfig, round_: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if round_ < config.warmup:
        return config.lr * (round_ + 1) / config.warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (round_ - config.warmup) / max(1, config.rounds - config.warmup)))


class Run:
    """One training run on one process: the frozen model, the policy being trained, and what is needed to go on."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.task = load_task(config.task)
        self.length = self.task.max_new_tokens if config.max_new_tokens is None else config.max_new_tokens
        block_length = self.length if config.block_length is None else config.block_length
        check_arguments(config.prompts, self.length, block_length, 0.0, config.batch_size)
        self.model: Model = load_model(config.model, device=config.device)
        encode_prompt(self.model, self.task.examples("train", 1)[0].prompt)  # a model that does not know the task's words is told now
        self.accelerator = Accelerator(cpu=config.device == "cpu", log_with="tensorboard", project_dir=config.out)
        self.model = replace(self.model, network=self.model.network.to(self.accelerator.device))
        set_seed(config.seed)
        self.network = PolicyNetwork(config.network()).to(self.accelerator.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay)
        self.round, self.best = 0, -math.inf

    def policy(self, metrics: dict[str, Any] | None = None) -> LearnedPolicy:
        """The policy as it is deployed: with fallback, at the evaluation temperature, and with what it was trained on."""
        metadata = {"trained": self.config.settings(), "length": self.length, "metrics": metrics or {}, **provenance(self.config.device)}
        return LearnedPolicy(self.network, temperature=self.config.eval_temperature, metadata=metadata)

    def decode(self, examples: list[Example], policy: LearnedPolicy, seed: int, record: bool = False) -> Generation:
        prompts = {e.prompt: encode_prompt(self.model, e.prompt) for e in examples}
        return decode(
            self.model,
            [prompts[e.prompt] for e in examples],
            policy,
            max_new_tokens=self.length,
            block_length=self.config.block_length,
            batch_size=self.config.batch_size,
            seed=seed,
            record=record,
        )

    def mean(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """Means over all processes of values that are summed over `count` items here."""
        totals = self.accelerator.reduce(torch.tensor([*sums.values(), count], dtype=torch.float64, device="cpu"), reduction="sum")
        return {name: round(float(total / totals[-1]), 6) for name, total in zip(sums, totals, strict=False)}

    def train_round(self) -> dict[str, float]:
        """Rollouts, rewards and update of one round."""
        config, began = self.config, time.perf_counter()
        rank = self.accelerator.process_index
        stream = self.task.stream("train", seed=(config.seed * 1_000_003 + self.round) * 1009 + rank + 1)
        examples = [example for _ in range(config.prompts) for example in [next(stream)] * config.rollouts]
        acting = LearnedPolicy(self.network, fallback=False)
        generation = self.decode(examples, acting, seed=config.seed * 1_000_003 + self.round, record=True)
        correctness = score(self.task, generation, examples)
        rewards = multiplicative(correctness, generation.nfe, self.length, config.alpha)
        batch = signal_batch(generation, rewards, config.rollouts)
        rolled = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.round)
        updated = update(acting, batch, self.optimizer, config, self.accelerator, seed=config.seed * 1_000_003 + self.round)
        groups = rewards.view(-1, config.rollouts)
        silent = float(((groups - groups.mean(1, keepdim=True)).abs().amax(1) <= 1e-6).float().sum()) * config.rollouts
        sums = {"reward": float(rewards.sum()), "accuracy": float(correctness.sum()), "nfe": float(generation.nfe.sum()), "silent": silent}
        sums |= {name: value * len(rewards) for name, value in updated.items()}
        seconds = {"rollout_seconds": rolled - began, "update_seconds": time.perf_counter() - rolled}
        sums |= {name: value * len(rewards) for name, value in seconds.items()}
        return self.mean(sums, len(rewards)) | {"lr": learning_rate(config, self.round)}

    def evaluate(self) -> dict[str, float]:
        """Accuracy, NFE and reward on validation prompts, each process taking its share."""
        examples = self.task.examples("validation", self.config.eval_prompts)
        share = examples[self.accelerator.process_index :: self.accelerator.num_processes]
        sums = {"eval_reward": 0.0, "eval_accuracy": 0.0, "eval_nfe": 0.0}
        if share:
            generation = self.decode(share, self.policy(), seed=0)
            correctness = score(self.task, generation, share)
            rewards = multiplicative(correctness, generation.nfe, self.length, self.config.alpha)
            sums = dict(zip(sums, (float(x.sum()) for x in (rewards, correctness, generation.nfe)), strict=True))
        return self.mean(sums, len(share))

    def save(self) -> None:
        """The checkpoint: one file, replaced whole, that holds all that changes from round to round."""
        tensors = {f"policy/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer, "optimizer")
        tensors |= {"round": torch.tensor(self.round), "best": torch.tensor(self.best, dtype=torch.float64)}
        write_tensors(self.config.out / "checkpoint.safetensors", tensors)

    def load(self) -> None:
        """Takes up the checkpoint in the run directory; without one (killed before the first) the run starts over."""
        path = self.config.out / "checkpoint.safetensors"
        if not path.exists():
            return
        tensors = read_tensors(path, self.accelerator.device)
        self.network.load_state_dict({name[7:]: value for name, value in tensors.items() if name.startswith("policy/")})
        load_optimizer(self.optimizer, tensors, "optimizer")
        self.round, self.best = int(tensors["round"]), float(tensors["best"])


def train(config: TrainConfig) -> Path:
    """Trains a policy; also what `unmask train` runs.

    All that is random is drawn from (seed, round, process), and the checkpoint is one file that is replaced whole, so a run that is
    killed anywhere and resumed gives the same weights, bit for bit on the same machine.

    Returns:
        The run directory: `best` and `last` (policy directories), `metrics.jsonl`, `run.json`, `checkpoint.safetensors`.

    Raises:
        UnmaskError: for unusable settings or directories.

    Example:
        >>> train(TrainConfig(out=Path("runs/first"), alpha=3.0))
    """
    if config.resume is not None:
        config = resumed(config)
    run = Run(config)
    main = run.accelerator.is_main_process
    metrics_file = config.out / "metrics.jsonl"
    history: list[dict[str, Any]] = []
    if config.resume is not None:
        run.load()
        if metrics_file.exists():
            history = [json.loads(line) for line in metrics_file.read_text().splitlines() if line.endswith("}")]
            history = [entry for entry in history if entry["round"] <= run.round]
    elif main:
        new_directory(config.out)
    run.accelerator.wait_for_everyone()
    if main and config.resume is None:  # a resumed run keeps the command and commit that it was started with
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in config.settings().items()}
        write_json(config.out / "run.json", {"settings": settings, "provenance": provenance(config.device, run.model.dtype)})
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
    return config.out


def progress_bar(shown: bool) -> Progress:
    """A bar with the latest round's metrics beside it; not drawn where the output is no terminal."""
    columns = (BarColumn(8), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, disable=not (shown and Console().is_terminal))


def report(entry: dict[str, Any], rounds: int, bar: Progress) -> None:
    """Moves the bar; prints one line for each round, on a terminal only for those with an evaluation."""
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
