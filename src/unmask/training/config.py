"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from unmask.errors import UnmaskError
from unmask.files import read_json
from unmask.policies import NetworkConfig, load_policy
from unmask.training.rewards import REWARDS


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
    """Where prompts and their verifier come from: chain, sudoku, gsm8k, math, mbpp, kodcode,
    reasoning_gym:NAME, jsonl:FILE, or a mixture (gsm8k:2+math:1)."""
    data_dir: str | None = None
    """Directory with the benchmarks' files, DIR/TASK/SPLIT.jsonl (or .parquet, .arrow); leave out
    to load them from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let programs that the model wrote run, in the sandbox (docs/security.md): humaneval, mbpp,
    kodcode."""
    block_length: int | None = None
    """Block length; leave out for full diffusion."""
    max_new_tokens: int | None = None
    """L, the generation buffer; leave out for the task's own."""
    alpha: float = 1.0
    """α of the reward: larger is faster and less accurate."""
    alpha_start: float | None = None
    """α of the first round; over the first half of the rounds it moves to `alpha` (log scale):
    first speed, then accuracy."""
    alpha_range: tuple[float, float] | None = None
    """Train one policy for every α from LOW to HIGH: each prompt draws one, log-uniformly, and the
    policy is told. Default: `alpha`."""
    reward: str = "multiplicative"
    """Reward of a rollout: multiplicative, r·speed^α (the method); additive, r − α·n/L (ablation);
    accuracy, r alone."""
    dense: float = 0.0
    """Weight of the frozen model's own mean log-probability of the tokens it commits, added to the
    reward step by step."""
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
    experts: tuple[str, ...] = ()
    """Heuristics that steer (threshold:0.9, or threshold:0.9@block_length=16 in blocks of its own):
    each adds one rollout to every group (paper's expert steering)."""
    start: str | None = None
    """Begin with the weights of this trained policy (directory or Hub repository), whose network
    must be of the same shape."""
    imitate: tuple[str, ...] = ()
    """Warm start: first learn the decisions of this heuristic where it answers correctly; of
    several, of the one whose mean reward at the prompt's α is best."""
    imitation_rounds: int = 8
    """Rounds of `rounds` that the warm start takes."""
    imitation_lr: float = 1e-3
    """Learning rate of the warm start."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    warmup: int = 5
    """Rounds of linear warm-up; a cosine to zero follows."""
    epsilon: float = 0.2
    """ε of the clipped ratio."""
    scaled: bool = False
    """Divide advantages by the standard deviation of their group's rewards: every prompt and α then
    pulls alike (not the paper's)."""
    entropy_bonus: float = 0.0
    """Weight of the action's entropy (nats a decision) in the objective."""
    fallback: bool = False
    """In rollouts too, an all-zero draw reveals the best position, as when the policy is used; the
    paper lets it cost a pass."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    max_grad_norm: float = 0.2
    """The gradient's norm is clipped to this."""
    action: Literal["bernoulli", "plackett-luce"] = "bernoulli"
    """Distribution of actions: independent reveals, or positions drawn in order until STOP
    (DPLS)."""
    inputs: int = 1
    """k: the policy reads the k largest probabilities at each position."""
    context: bool = True
    """The policy reads at each position also the smallest confidence before it and behind it, among
    those that may be revealed."""
    joint: bool = False
    """The policy reads at each position also the product of the confidences that are larger, among
    those that may be revealed."""
    hidden: bool = False
    """The policy reads the frozen model's hidden states too."""
    width: int = 64
    """Width of the policy network (the paper's is 128; beside models of a million parameters that
    costs as much as the model)."""
    initial_bias: float = -1.0
    """The policy's output starts here: −1 reveals each position with probability 0.27 (the paper's
    −2: 0.12, for longer buffers)."""
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
        if self.alpha_range is not None:
            low, high = self.alpha_range
            if not 0 < low < high < math.inf:
                raise UnmaskError(
                    f"alpha_range is {low:g} to {high:g}; give two values above 0, the smaller "
                    "first"
                )
            if not low <= self.alpha <= high:
                raise UnmaskError(
                    f"alpha is {self.alpha:g}; with alpha_range it is the default α, so give "
                    f"{low:g} to {high:g}"
                )
        if self.alpha_start is not None:
            if self.alpha_range is not None:
                raise UnmaskError("alpha_start and alpha_range were both given; give one of them")
            if not (0 < self.alpha_start < math.inf and self.alpha > 0):
                raise UnmaskError(
                    f"alpha_start is {self.alpha_start:g} and alpha {self.alpha:g}; give both "
                    "above 0"
                )
        if self.reward not in REWARDS:
            raise UnmaskError(
                f"reward {self.reward!r} is not known; use one of {', '.join(REWARDS)}"
            )
        for name in ("experts", "imitate"):
            if isinstance(getattr(self, name), str):
                raise UnmaskError(
                    f"{name} is {getattr(self, name)!r}, a string; give a tuple of heuristics, "
                    f"({getattr(self, name)!r},)"
                )
        for spec in (*self.experts, *self.imitate):
            load_policy(spec)  # an unknown one is told now
        whole = (
            "imitation_rounds",
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
                raise UnmaskError(
                    f"{name} is {getattr(self, name)}; give at least "
                    f"{2 if name == 'rollouts' else 1}"
                )
        for name in (
            "alpha",
            "dense",
            "lr",
            "imitation_lr",
            "epsilon",
            "entropy_bonus",
            "weight_decay",
            "warmup",
        ):
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

    def network(self, hidden: int = 1) -> NetworkConfig:
        """The policy network's configuration, for a frozen model with hidden states of width
        `hidden`."""
        return NetworkConfig(
            width=self.width,
            mlp=4 * self.width,
            inputs=self.inputs,
            initial_bias=self.initial_bias,
            transform=self.transform,
            context=self.context,
            joint=self.joint,
            hidden=hidden if self.hidden else 0,
            conditioned=self.alpha_range is not None,
        )

    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but where it is written."""
        saved = {
            name: value for name, value in asdict(self).items() if name not in ("out", "resume")
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in saved.items()
        }


def resumed(config: TrainConfig) -> TrainConfig:
    """The configuration of the run directory `config.resume`.

    Raises:
        UnmaskError: if it is not a run directory, or an option was given that differs from the
            run's.
    """
    assert config.resume is not None
    saved = read_json(config.resume / "run.json")
    try:
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in saved["settings"].items()
        }
        if not isinstance(
            settings.get("imitate", ()), tuple
        ):  # of runs from when it was one heuristic or None
            settings["imitate"] = (settings["imitate"],) if settings["imitate"] else ()
        loaded = TrainConfig(**settings, out=config.resume, resume=config.resume)
    except (TypeError, KeyError, AttributeError):
        raise UnmaskError(
            f"{config.resume}/run.json is not of this version's training runs; start a new run"
        ) from None
    given = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if getattr(config, f.name) != f.default
    }
    others = [
        name
        for name in given
        if name not in ("out", "resume") and given[name] != getattr(loaded, name)
    ]
    if others:
        raise UnmaskError(
            f"{config.resume} is a run of another configuration ({', '.join(others)} differ); "
            "leave those options out"
        )
    return loaded
