"""What a run consists of and does not change: settings, task, frozen model, processes, reward."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.decoding import Generation, Recorder, decode
from unmask.decoding.canvas import padded_width
from unmask.decoding.constraints import check_limits
from unmask.decoding.footprint import check_decode, footprint_of
from unmask.decoding.options import DecodeOptions
from unmask.decoding.request import Request, check_request
from unmask.errors import UnmaskError
from unmask.evaluation.plan import with_own_length
from unmask.models import Model
from unmask.models.load import load_model, own_task
from unmask.policies import LearnedPolicy, NetworkConfig, Policy, PolicyNetwork, load_policy
from unmask.processes import Processes
from unmask.settings import change_settings, flat_settings
from unmask.tasks import Example, Split, Task, load_task, prompt_tokens
from unmask.tasks.sources import DatasetSource, Source
from unmask.training.alpha import alpha_grid
from unmask.training.config import TrainConfig
from unmask.training.finite import check_finite
from unmask.training.rewards import REWARDS, Reward

LENGTHS = 64  # prompts that stand for a round or an evaluation, before the first round


@dataclass(frozen=True)
class Session:
    """A training run as one of its processes sees it.

    Attributes:
        config: the settings.
        task: where prompts and their verifier come from.
        model: the frozen model, on this process' device.
        length: L.
        processes: the group that shares the run.
        reward: of (correctness [N], NFE [N], L, α).
    """

    config: TrainConfig
    task: Task
    model: Model
    length: int
    processes: Processes
    reward: Reward

    @cached_property
    def options(self) -> DecodeOptions:
        """How rollouts and evaluations are decoded."""
        return with_own_length(self.model, self.task, self.config.decode)

    def round_seed(self, number: int) -> int:
        """The seed of a round's rollouts and minibatches."""
        return self.config.decode.seed * 1_000_003 + number

    def decode(
        self,
        examples: Sequence[Example],
        policy: Policy,
        seed: int,
        alpha: Tensor | None = None,
        recorder: Recorder | None = None,
    ) -> Generation:
        """Answers to examples.

        Args:
            examples: N problems.
            policy: decides.
            seed: of everything random.
            alpha: fp32 [N], of each row's reward. The policy is told if the run is for a range of
                α, or if it is one for a range itself and has no α of its own.
            recorder: keeps the decisions.
        """
        if self.config.rewards.alpha_range is None and not lacks_alpha(policy):
            alpha = None
        asked = [(e.prompt, e.system, e.prefill) for e in examples]
        ids = {
            key: prompt_tokens(self.model, e)
            for key, e in dict(zip(asked, examples, strict=True)).items()
        }
        return decode(
            self.model,
            [ids[key] for key in asked],
            policy,
            replace(self.options, seed=seed),
            batch_size=self.config.run.batch_size,
            alpha=alpha,
            recorder=recorder,
        )

    def judge(
        self, generation: Generation, examples: Sequence[Example], moment: str
    ) -> tuple[Float[Tensor, " N"], int]:
        """Correctness r of each row, on the device of the generation, and how many verdicts a limit
        on time decided.

        Raises:
            UnmaskError: if the task's verifier gives something else than a number from 0 to 1.
        """
        verdicts = self.task.verdicts(generation.text, list(examples))
        correct = [verdict.correct for verdict in verdicts]
        correctness = torch.tensor(correct, device=generation.nfe.device, dtype=torch.float32)
        check_finite("the correctness", correctness, [e.prompt for e in examples], moment)
        return correctness, sum(verdict.timed_out for verdict in verdicts)

    def score(
        self, generation: Generation, examples: Sequence[Example], moment: str
    ) -> Float[Tensor, " N"]:
        """The correctness that `judge` gives."""
        return self.judge(generation, examples, moment)[0]

    def reward_rows(
        self,
        correctness: Float[Tensor, " N"],
        nfe: Tensor,
        alpha: Float[Tensor, " N"],
        examples: Sequence[Example],
        moment: str,
    ) -> Float[Tensor, " N"]:
        """The reward of each row.

        Raises:
            UnmaskError: if a custom reward gives something else than N finite numbers.
        """
        rewards = self.reward(correctness, nfe, self.length, alpha)
        if not isinstance(rewards, Tensor) or rewards.shape != correctness.shape:
            found = list(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
            raise UnmaskError(
                f"the reward function gave {found}; let it return a tensor of "
                f"{len(correctness)} numbers, one for each row"
            )
        check_finite("the reward", rewards, [e.prompt for e in examples], moment)
        return rewards.float()


def prepare_session(
    config: TrainConfig, processes: Processes, reward: Reward | None, task: Task | None = None
) -> Session:
    """Loads the frozen model and, unless one is given, the task, and checks everything that can be
    checked before the first round. The settings of the session are those that suit this model.

    Raises:
        UnmaskError: if a name, file or setting cannot be used, the model does not know the task's
            words, or the task has no validation examples.
    """
    if config.run.resume is None:
        check_effects(config, reward)
    if task is None:
        if config.data.task is None:
            given, own = config.given, own_task(config.data.model)
            config = change_settings(config, {"task": own}).with_given(given)
        task = load_task(
            str(config.data.task),
            data_dir=config.data.data_dir,
            allow_code_execution=config.data.allow_code_execution,
        )
    example = task.examples("train", 1)[0]
    task.examples("validation", 1)
    dtype = processes.common_dtype(config.data.dtype)
    model = load_model(config.data.model, device=str(processes.device), dtype=dtype)
    # Before `in_blocks`, which it would undo.
    config = change_settings(config, {"dtype": dtype}).with_given(config.given)
    if model.attention_block is not None:
        config = config.in_blocks()
    length = with_own_length(model, task, config.decode).max_new_tokens or 0
    session = Session(
        config, task, model, length, processes, reward or REWARDS[config.rewards.reward]
    )
    if model.attention_block is not None and config.rewards.dense:
        raise UnmaskError(
            "the dense reward counts what is masked in the whole answer, and a policy of a "
            "block-causal model sees one block; leave out dense"
        )
    if config.optim.kl_penalty:
        check_anchor(config)
    prompt_tokens(model, example)
    return session


def check_effects(config: TrainConfig, reward: Reward | None) -> None:
    """Refuses options that were given and would change nothing beside the others. One that has its
    default counts as not given, since whoever gives a group of settings gives all of it.

    Raises:
        UnmaskError: naming the option, and the one that it needs or that takes its effect away.
    """
    teachers = config.given & {"imitate", "experts"}  # which may be told α
    rewarded = reward is not None or config.rewards.reward != "accuracy" or bool(teachers)
    imitates, begins = bool(config.imitation.imitate), config.policy.start is None
    effects = {
        "imitation_rounds": (imitates, "without imitate"),
        "imitation_lr": (imitates, "without imitate"),
        "kl_rounds": (config.optim.kl_penalty > 0, "without kl_penalty"),
        "initial_bias": (begins, "with start, which says all weights"),
        "initial_slope": (begins, "with start, which says all weights"),
        "alpha": (rewarded, "with reward accuracy"),
        "alpha_start": (rewarded, "with reward accuracy"),
        "alpha_range": (rewarded, "with reward accuracy"),
    }
    has, default = flat_settings(config), flat_settings(TrainConfig())
    for name, (counts, words) in effects.items():
        if not counts and name in config.given and has[name] != default[name]:
            raise UnmaskError(f"{name} was given and has no effect {words}; leave {name} out")


def check_anchor(config: TrainConfig) -> None:
    """Refuses a KL penalty that has nothing to stay near to, or no closed form.

    Raises:
        UnmaskError: saying what to change.
    """
    if not config.imitation.imitate and config.policy.start is None:
        raise UnmaskError(
            "kl_penalty holds a policy near what it imitated or started with; give imitate or "
            "start, or leave kl_penalty out"
        )
    if config.policy.action != "bernoulli":
        raise UnmaskError(
            f"kl_penalty is for independent reveals, and action is {config.policy.action}; leave "
            "one of them out"
        )


def lacks_alpha(policy: Policy) -> bool:
    """Whether a policy is one for a range of α and has to be told which."""
    learned = isinstance(policy, LearnedPolicy)
    return learned and policy.network.config.conditioned and policy.alpha is None


def network_config(config: TrainConfig, hidden: int) -> NetworkConfig:
    """The policy network's configuration, for a frozen model with hidden states of width
    `hidden`."""
    policy = config.policy
    return NetworkConfig(
        width=policy.width,
        mlp=4 * policy.width,
        inputs=policy.inputs,
        initial_bias=policy.initial_bias,
        initial_slope=policy.initial_slope,
        transform=policy.transform,
        context=policy.context,
        joint=policy.joint,
        hidden=hidden if policy.hidden else 0,
        conditioned=config.rewards.alpha_range is not None,
    )


def new_network(session: Session, start: str | None) -> PolicyNetwork:
    """A policy network: random weights of the run's seed, or those of the policy `start`. The
    caller's random generators are left as they were.

    Raises:
        UnmaskError: if the policy `start` has a network of another shape, or other actions.
    """
    config, device = session.config, session.processes.device
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reset the generators of all GPUs.
        torch.default_generator.manual_seed(config.decode.seed)
        network = PolicyNetwork(network_config(config, session.model.hidden_size)).to(device)
    if start is not None:
        with torch.random.fork_rng(devices=[]):
            policy = load_policy(start, device=device)
        differ = "it is no learned policy"
        if isinstance(policy, LearnedPolicy):
            differ = shape_differences(policy.network.config, network.config)
            if policy.action != config.policy.action:
                differ = f"its action is {policy.action}, here {config.policy.action}"
        if differ or not isinstance(policy, LearnedPolicy):
            raise UnmaskError(f"the start {start} does not fit: {differ}; train with its settings")
        network.load_state_dict(policy.network.state_dict())
    return network


def shape_differences(start: NetworkConfig, network: NetworkConfig) -> str:
    """How a network differs from another in shape; empty if its weights fit. Where untrained
    weights begin does not count."""
    has, wanted = asdict(start), asdict(network)
    names = [name for name in has if not name.startswith("initial_") and has[name] != wanted[name]]
    options = {"conditioned": "use of alpha_range"}
    return ", ".join(
        f"its {options.get(name, name)} is {has[name]}, here {wanted[name]}" for name in names
    )


def check_room(session: Session, network: PolicyNetwork) -> None:
    """Refuses rollouts and evaluations that cannot work with this model, or cannot fit into memory,
    before the first round.

    Raises:
        UnmaskError: as `check_request`, or naming how many answers of which length take how much.
    """
    config = session.config
    rollout, measured = config.rollout, config.evaluation.eval_prompts
    answers = rollout.prompts * (rollout.rollouts + len(rollout.experts))
    prompts = sample_prompts(session, "train", rollout.prompts)
    check_answers(session, network, prompts, answers, recorded=True)
    answers = -(-measured // session.processes.world) * len(alpha_grid(config.rewards, 3))
    prompts = sample_prompts(session, "validation", measured)
    check_answers(session, network, prompts, answers, recorded=False)


def check_answers(
    session: Session,
    network: PolicyNetwork,
    prompts: Sequence[list[int]],
    answers: int,
    *,
    recorded: bool,
) -> None:
    """`check_room` for the answers of a round or an evaluation.

    How many passes a rollout takes is not known yet: it is counted with the one decision that it
    has at least, and the recorder looks again while they are recorded.

    Args:
        session: the run.
        network: of the policy.
        prompts: tokens of those that stand for all, the longest first.
        answers: N.
        recorded: whether it is a round, whose decisions are recorded.
    """
    config, model = session.config, session.model
    policy = LearnedPolicy(network, config.policy.action)
    request = Request(tuple(prompts[0]), policy, session.options, alpha=1.0)
    check_request(model, request)
    check_limits(model, request)
    footprint = footprint_of(model, request, Recorder(policy).needs)
    fewer = "prompts or rollouts" if recorded else "eval_prompts"
    own = [padded_width(model, len(prompt) + session.length) for prompt in prompts]
    check_decode(
        model,
        footprint,
        config.run.batch_size,
        answers,
        recorded,
        f"give a smaller batch_size or max_new_tokens, or fewer {fewer}",
        own * -(-answers // len(own)),
    )


def sample_prompts(session: Session, split: Split, count: int) -> list[list[int]]:
    """The tokens of prompts that stand for `count` ones of a split, the longest first.

    They are evenly spaced among those that can be had at once, ranked by their characters: all
    training rows of data sets, the first `count` rows of another split, a few problems of
    generators. So the longest row, which is in some round of an epoch, counts once, and the others
    of its round are of usual lengths.
    """
    task, few = session.task, min(count, LENGTHS)
    rows, trains = stored_rows(task.source, split), split == "train"
    with warnings.catch_warnings():  # where there are fewer, the evaluation says it
        warnings.simplefilter("ignore")
        examples = task.examples(split, count if rows and not trains else few)
    ranked = sorted([*examples, *rows * trains], key=lambda each: -len(each.prompt))
    chosen = [ranked[i * len(ranked) // few] for i in range(few)]
    return sorted((prompt_tokens(session.model, each) for each in chosen), key=len, reverse=True)


def stored_rows(source: Source, split: Split) -> list[Example]:
    """The rows of a split in a task's data sets; generators have none."""
    if isinstance(source, DatasetSource):
        return list(source.rows(split))
    return [row for task in getattr(source, "tasks", ()) for row in stored_rows(task.source, split)]
