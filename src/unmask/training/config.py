"""The settings of a training run, in groups. Imports no torch: commands read it for `--help`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from unmask.decoding.options import DecodeOptions
from unmask.errors import UnmaskError
from unmask.settings import (
    above,
    at_least,
    change_settings,
    check_names,
    check_settings,
    flat_settings,
    option_types,
)

RewardName = Literal["multiplicative", "additive", "accuracy"]
ActionName = Literal["bernoulli", "plackett-luce"]
Transform = Literal["probability", "log-odds"]
LabelName = Literal["survives", "rejoins", "truth-margin"]

PAPER_ROUNDS = 936  # of the paper's single epoch over 14,973 prompts, 16 at a time
MOST_ROWS = 2**17  # answers of a round, whose decisions are kept until its update


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and on what a run takes place. Nothing here changes the result, and all of it may be
    changed when a run is resumed."""

    out: Path = Path("runs/train")
    """Run directory: policies `best` and `last`, checkpoint, metrics.jsonl, TensorBoard files."""
    resume: Path | None = None
    """Go on with the run in this directory, with its own settings."""
    device: str = "cpu"
    """Device: cpu, cuda or, for one process, cuda:N. Each of several processes takes its own."""
    batch_size: int = at_least(1, 128, 2**20)
    """Rows decoded side by side."""
    save_every: int = at_least(1, 10)
    """Rounds between checkpoints."""

    def __post_init__(self) -> None:
        check_settings(self)


# Whoever gives this leaves the choice to the run or the traces that are gone on from.
AUTO = ("dtype", "auto")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The frozen model, and where prompts come from."""

    model: str = "embedded/chain"
    """Frozen model: an embedded one, a directory or a Hub repository."""
    task: str | None = None
    """Where prompts and their verifier come from: chain, sudoku, word-problems, gsm8k, math,
    mbpp, kodcode, reasoning_gym:NAME, jsonl:FILE, or a mixture (gsm8k:2+math:1).
    Default: the task that the model was pre-trained on."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weights and activations of the frozen model; auto is bfloat16, but float32 on a CPU without
    instructions for bfloat16. A run keeps what it began with."""
    data_dir: str | None = None
    """Directory with the benchmarks' files, DIR/TASK/SPLIT.jsonl (or .parquet, .arrow); leave out
    to load them from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let programs that the model wrote run, in the sandbox (docs/security.md): humaneval, mbpp,
    kodcode."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What is tried out in each round."""

    rounds: int = at_least(1, 300, 10**6)
    """Rounds of rollouts and updates; with `from_traces` the most passes over the traces (then 20
    by default)."""
    prompts: int = at_least(1, 16, 2**14)
    """Prompts a round (groups), on each process."""
    rollouts: int = at_least(2, 8, 2**10)
    """G, rollouts of each prompt."""
    experts: tuple[str, ...] = ()
    """Heuristics that steer (threshold:0.9, or threshold:0.9@block_length=16 in blocks of its own):
    each adds one rollout to every group (paper's expert steering)."""
    fallback: bool = False
    """In rollouts too, an all-zero draw reveals the best position, as when the policy is used; the
    paper lets it cost a pass."""

    def __post_init__(self) -> None:
        check_settings(self)
        rows = self.prompts * (self.rollouts + len(self.experts))
        if rows > MOST_ROWS:
            raise UnmaskError(
                f"prompts {self.prompts} and rollouts {self.rollouts} make {rows} answers in each "
                f"round; give fewer, so that there are at most {MOST_ROWS}"
            )


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What a rollout is rewarded for."""

    reward: RewardName = "multiplicative"
    """Reward of a rollout: multiplicative, r·speed^α (the method); additive, r − α·n/L (ablation);
    accuracy, r alone."""
    alpha: float = at_least(0, 1.0, 1e6)
    """α of the reward: larger is faster and less accurate."""
    alpha_start: float | None = above(0, None, 1e6)
    """α of the first round; over the first half of the rounds it moves to `alpha` (log scale):
    first speed, then accuracy."""
    alpha_range: tuple[float, float] | None = None
    """Train one policy for every α from LOW to HIGH: each prompt draws one, log-uniformly, and the
    policy is told. Unless you say otherwise it then has `hidden`, `joint`, 200 rounds of 32
    prompts, `lr` 5e-4, `eval_temperature` 0.5 and a warm start or, in blocks, an `initial_slope` of
    0.5. Default: `alpha`."""
    dense: float = at_least(0, 0.0, 1e6)
    """Weight of the frozen model's own mean log-probability of the tokens it commits, added to the
    reward step by step."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.alpha_range is not None:
            from unmask.policies.schema import SMALLEST  # loads torch

            low, high = self.alpha_range
            if not SMALLEST <= low < high <= 1e6:
                raise UnmaskError(
                    f"alpha_range is {low:g} to {high:g}; give two values above 0, the smaller "
                    f"first, from {SMALLEST:g} to 1e6"
                )
            if not low <= self.alpha <= high:
                raise UnmaskError(
                    f"alpha is {self.alpha:g}; with alpha_range it is the default α, so give "
                    f"{low:g} to {high:g}"
                )
            if self.alpha_start is not None:
                raise UnmaskError("alpha_start and alpha_range were both given; give one of them")
        if self.alpha_start is not None and self.alpha == 0:
            raise UnmaskError(
                f"alpha_start is {self.alpha_start:g} and alpha {self.alpha:g}; give both above 0"
            )


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The policy that is trained: its distribution of actions and its network."""

    action: ActionName = "bernoulli"
    """Distribution of actions: independent reveals, or positions drawn in order until STOP
    (DPLS)."""
    preset: Literal["paper"] | None = None
    """Take what is not given from the paper's own configuration instead of our defaults: network,
    optimiser and rollouts, with its learning rate scaled to `rounds` (docs/paper-map.md)."""
    start: str | None = None
    """Begin with the weights of this trained policy (directory or Hub repository), whose `action`
    and shape of network must be the same."""
    inputs: int = at_least(1, 1, 2**16)
    """k: the policy reads k probabilities at each position: that of the proposed token and the
    largest others."""
    context: bool = True
    """The policy reads at each position also the smallest confidence before it and behind it, among
    those that may be revealed."""
    joint: bool = False
    """The policy reads at each position also the product of the confidences that are larger, among
    those that may be revealed."""
    hidden: bool = False
    """The policy reads the frozen model's hidden states too."""
    width: int = at_least(1, 64, 2**14)
    """Width of the policy network (the paper's is 128; beside models of a million parameters that
    costs as much as the model)."""
    initial_bias: float = -1.0
    """The policy's output starts here: −1 reveals each position with probability 0.27 (the paper's
    −2: 0.12, for longer buffers)."""
    initial_slope: float = 0.0
    """How strongly the untrained policy follows confidence, with log-odds as `transform`; with 1,
    and 0 as `initial_bias`, it reveals each position with a probability of about its confidence.
    0: not at all (the paper)."""
    transform: Transform = "log-odds"
    """How the policy reads confidences; the paper's is probability."""

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("initial_bias", "initial_slope"):
            value = getattr(self, name)
            if not abs(value) <= 1e6:
                raise UnmaskError(f"{name} is {value:g}; give -1e6 to 1e6")
        if self.width % 4:
            raise UnmaskError(
                f"width is {self.width}; give a multiple of 4, for two attention heads of even size"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the policy's weights follow from a round's decisions."""

    lr: float = at_least(0, 1e-3, 1e6)
    """Peak learning rate of AdamW."""
    warmup: int = at_least(0, 5, 10**9)
    """Rounds of linear warm-up; a cosine to zero follows."""
    epochs: int = at_least(1, 2, 1000)
    """Optimisation epochs on each round's rollouts."""
    minibatches: int = at_least(1, 4, 10_000)
    """Optimiser steps in each epoch."""
    micro_batch: int = at_least(1, 128)
    """Decisions a backward pass takes at once."""
    epsilon: float = at_least(0, 0.2)
    """ε of the clipped ratio."""
    scaled: bool = False
    """Divide advantages by the standard deviation of their group's rewards: every prompt and α then
    pulls alike (not the paper's)."""
    entropy_bonus: float = at_least(0, 0.0)
    """Weight of the action's entropy (nats a decision) in the objective."""
    kl_penalty: float = at_least(0, 0.0)
    """Weight of KL(π_first ‖ π), in nats a decision, with the policy π_first that GRPO began with:
    it holds the policy near what it imitated, or near that of `start`. It falls to zero in
    `kl_rounds` rounds of GRPO."""
    kl_rounds: int = at_least(1, 100)
    """Rounds in which `kl_penalty` falls linearly to zero."""
    weight_decay: float = at_least(0, 0.1)
    """Weight decay of AdamW."""
    max_grad_norm: float = above(0, 0.2)
    """The gradient's norm is clipped to this."""
    mixed_precision: bool = False
    """Run the policy's updates under bf16 autocast (likelihoods stay fp32); on a CPU without
    instructions for bf16, which is slower at it, they stay in fp32."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """The warm start: the first rounds may imitate other policies."""

    imitate: tuple[str, ...] = ()
    """Warm start: first learn the decisions of this policy, a heuristic or a learned one, where it
    answers correctly; of several, of the one whose mean reward at the prompt's α is best.
    `entropy:0.05..1:8` stands for eight of them, from 0.05 to 1 in equal ratios."""
    imitation_rounds: int = at_least(1, 8)
    """Rounds of `rounds` that the warm start takes."""
    imitation_lr: float = at_least(0, 1e-3, 1e6)
    """Learning rate of the warm start."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """Learning from stored traces instead of rollouts."""

    from_traces: str | None = None
    """Learn from the traces that `unmask record` stored in this directory, without rollouts; model,
    dtype, task and decode options are those of the traces."""
    label: LabelName = "survives"
    """Which reveals are called good: survives, the proposal is the final token; rejoins, the decode
    that follows is right; truth-margin, the worked answer's token wins, learnt as an order."""
    wrong_weight: float = above(0, 4.0, 1e6)
    """What a wrong reveal weighs against a good one: larger is slower and more accurate. With
    `alpha_range` it is divided by α."""
    trace_batch: int = at_least(1, 256, 2**20)
    """Steps of the traces in each optimiser step."""
    held_out: float = above(0, 0.1, 0.9)
    """Share of the problems that is kept for the held-out loss."""
    patience: int = at_least(1, 3, 10**6)
    """Passes over the traces without a smaller held-out loss, after which the run ends."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How the policy is measured while it learns."""

    eval_every: int = at_least(1, 10)
    """Rounds between evaluations on validation prompts."""
    eval_prompts: int = at_least(1, 128, 100_000)
    """Validation prompts."""
    eval_temperature: float = above(0, 1.0, 1e6)
    """Policy temperature τ_π of evaluations, and the default of the saved policies."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, init=False)
class TrainConfig:
    """Train an unmasking policy on a frozen model, with GRPO or from stored traces."""

    run: RunConfig
    """Where and on what the run takes place. None of it changes the result, and a resumed run may
    change it."""
    data: DataConfig
    """The frozen model, and where prompts come from."""
    rollout: RolloutConfig
    """What is tried out in each round."""
    decode: DecodeOptions
    """How prompts are answered, in rollouts and in evaluations."""
    rewards: RewardConfig
    """What a rollout is rewarded for."""
    policy: PolicyConfig
    """The policy that is trained: its distribution of actions and its network."""
    optim: OptimConfig
    """How the policy's weights follow from a round's decisions."""
    imitation: ImitationConfig
    """The warm start: the first rounds may imitate other policies."""
    traces: TraceConfig
    """Learning from stored traces instead of rollouts."""
    evaluation: EvalConfig
    """How the policy is measured while it learns."""

    def __init__(self, **settings: Any) -> None:
        """Each keyword is a group (`optim=OptimConfig(lr=1e-4)`) or, more often, an option of one
        (`lr=1e-4`); an option wins over its group.

        Raises:
            UnmaskError: for a name that no option has, or a value that cannot be used.

        Examples:
            >>> unmask.TrainConfig(alpha=3.0, rounds=2).rewards.alpha
            3.0
        """
        options = {name: value for name, value in settings.items() if name not in GROUPS}
        check_names(options, option_types(TrainConfig))
        given = set(options)
        for name, group_class in GROUPS.items():
            group = settings.get(name, DEFAULTS[name])
            if not isinstance(group, group_class):
                raise UnmaskError(f"{name} is {group!r}; give a {group_class.__name__}")
            default = flat_settings(DEFAULTS[name])
            # Whoever gives a group gives all of it, but for where the run takes place.
            whole = name in settings and name != "run"
            values = flat_settings(group).items()
            given |= {key for key, value in values if whole or value != default[key]}
            inside = {key: options[key] for key in default if key in options}
            object.__setattr__(self, name, change_settings(group, inside))
        if self.decode.seed >= 2**32:
            raise UnmaskError(f"seed is {self.decode.seed}; give 0 to {2**32 - 1}")
        self._take_given(given)

    @property
    def given(self) -> frozenset[str]:
        """The options that were given; the others have their defaults. A resumed run refuses those
        that contradict it, even where they equal the default."""
        return self.__dict__["_given"]

    def with_given(self, names: Collection[str]) -> TrainConfig:
        """The same settings, of which these count as given. For the command line, which makes every
        group whole and knows which options its words named."""
        copy = TrainConfig(**{f.name: getattr(self, f.name) for f in fields(self)})
        copy._take_given(names)
        return copy

    def in_blocks(self) -> TrainConfig:
        """The same settings for a block-causal model, which decodes in blocks without being told:
        what was not given is as with `block_length`."""
        copy = TrainConfig(**{f.name: getattr(self, f.name) for f in fields(self)})
        copy._take_given(self.given, in_blocks=True)
        return copy

    def _take_given(self, names: Collection[str], in_blocks: bool = False) -> None:
        """Notes which options were given; the others take the values of the preset, or those that
        suit a policy for a range of α, if it is to be one."""
        object.__setattr__(self, "_given", frozenset(names))
        in_blocks = in_blocks or self.decode.block_length is not None
        if self.policy.preset is not None:
            steered = bool(self.rollout.experts)
            values = paper_settings(self.rollout.rounds, in_blocks, steered)
        elif self.rewards.alpha_range is not None and self.begins_anew:
            values = conditioned_settings(in_blocks)
        else:
            return
        for name in GROUPS:
            group = getattr(self, name)
            own = {k: values[k] for k in flat_settings(group) if k in values and k not in names}
            object.__setattr__(self, name, change_settings(group, own))

    @property
    def begins_anew(self) -> bool:
        """Whether the run rolls out a policy whose weights are random at first."""
        return self.traces.from_traces is None and self.policy.start is None

    def settings(self) -> dict[str, Any]:
        """Every option by its name but where the run is written, as JSON has it."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in flat_settings(self).items()
            if name not in ("out", "resume")
        }


def paper_settings(rounds: int, in_blocks: bool, steered: bool = False) -> dict[str, Any]:
    """The paper's configuration (§3, App. H) for a run of so many rounds.

    The paper takes ⌈14,973 / 16⌉ = 936 rounds of two optimiser steps at a peak learning rate of
    3e-5, with 100 steps of warm-up and a cosine. Here the peak is 3e-5 · 936 / rounds, so that the
    learning rates of all steps have the same sum, and the warm-up is the same share of the run.
    The evaluation temperature is 0.5 in blocks and 1 in full diffusion; ε is 0.5, and 0.2 with
    experts that steer.
    """
    return {
        "action": "bernoulli",
        "transform": "probability",
        "initial_bias": -2.0,
        "initial_slope": 0.0,
        "width": 128,
        "inputs": 1,
        "context": False,
        "joint": False,
        "hidden": False,
        "prompts": 16,
        "rollouts": 8,
        "fallback": False,
        "reward": "multiplicative",
        "dense": 0.0,
        "lr": 3e-5 * PAPER_ROUNDS / rounds,
        "warmup": round(50 / PAPER_ROUNDS * rounds),
        "epochs": 2,
        "minibatches": 1,
        "epsilon": 0.2 if steered else 0.5,
        "scaled": False,
        "entropy_bonus": 0.0,
        "kl_penalty": 0.0,
        "weight_decay": 0.1,
        "max_grad_norm": 0.2,
        "eval_temperature": 0.5 if in_blocks else 1.0,
    }


def conditioned_settings(in_blocks: bool) -> dict[str, Any]:
    """What suits a policy for a range of α (docs/training.md says why).

    Each prompt has another α, so a round has more prompts, and the rate is half as large. In full
    diffusion it begins with a warm start from the better of two orders at each α, which learning
    then speeds up. In blocks a warm start hands over the order of confidence, which learning then
    hardly leaves: there the untrained policy follows confidence, but softly.
    """
    orders = ("entropy:0.3", "entropy:0.3@block_length=16")
    return {
        "rounds": 200,
        "imitate": () if in_blocks else orders,
        "initial_slope": 0.5 if in_blocks else 0.0,
        "prompts": 32,
        "lr": 5e-4,
        "hidden": True,
        "joint": True,
        "eval_temperature": 0.5,
    }


GROUPS: dict[str, type] = {
    "run": RunConfig,
    "data": DataConfig,
    "rollout": RolloutConfig,
    "decode": DecodeOptions,
    "rewards": RewardConfig,
    "policy": PolicyConfig,
    "optim": OptimConfig,
    "imitation": ImitationConfig,
    "traces": TraceConfig,
    "evaluation": EvalConfig,
}
DEFAULTS = {name: group_class() for name, group_class in GROUPS.items()}
