"""Phases: the ways to learn that a run goes through, round by round.

A phase collects a round's decisions, says what their loss is, and sets the learning rate. To add
one, write a class with the members of `Phase` and put it into `load_phases`; nothing else asks
which phase it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding import Generation, Recorder
from unmask.decoding.request import Request, check_request
from unmask.policies import LearnedPolicy, Policy, load_policy
from unmask.policies.load import expand_grid
from unmask.processes import Processes
from unmask.tasks import Example
from unmask.training.alpha import draw_alpha
from unmask.training.config import TrainConfig
from unmask.training.decisions import (
    Decisions,
    collect_decisions,
    groups_with_signal,
    make_source,
    signal_batch,
    stack_groups,
)
from unmask.training.grpo import grpo_loss, steered_log_prob
from unmask.training.pool import FixedAlpha, Pool, fix_alpha, probe_teachers
from unmask.training.session import Session

EXPERT_SEED = 500_000_000  # between the seeds of a round's policies


@dataclass(frozen=True)
class Round:
    """What one round of one process brought in.

    Attributes:
        decisions: what to learn from; None if there is nothing.
        prompts: the round's prompts, P; `Decisions.prompt` counts them.
        reward: fp32 [R], of the rollouts that count: the policy's own, or the imitated ones.
        correctness: fp32 [R].
        nfe: int64 [R].
        silent: how many of the R are in groups without signal: from their rewards nothing is
            learned.
        seconds: that it took.
        late: how many verdicts on the R a limit on time decided.
        experts: mean reward, accuracy and NFE of the experts that steered.
    """

    decisions: Decisions | None
    prompts: tuple[str, ...]
    reward: Float[Tensor, " R"]
    correctness: Float[Tensor, " R"]
    nfe: Int[Tensor, " R"]
    silent: int
    seconds: float
    late: int = 0
    experts: Mapping[str, float] = field(default_factory=dict)

    def metrics(self, processes: Processes, of_process: Mapping[str, float]) -> dict[str, float]:
        """Means over the rollouts of all processes.

        Args:
            processes: the group, every process of which calls this.
            of_process: what each process has one of, such as the seconds of its update; their
                mean over the processes is added.
        """
        sums = {
            "reward": float(self.reward.sum()),
            "accuracy": float(self.correctness.sum()),
            "nfe": float(self.nfe.sum()),
            "silent": float(self.silent),
            "timed_out": float(self.late),
        }
        of_process = {**of_process, **self.experts, "rollout_seconds": self.seconds}
        return processes.means(sums, len(self.reward)) | processes.means(of_process, 1)


@runtime_checkable
class Phase(Protocol):
    """One way to learn.

    Attributes:
        rounds: the rounds of the run that it takes, numbered from 0.
        others: policies that act in it beside the one that is trained.
        compares: whether `loss` needs the likelihoods under the policy that acted.
    """

    @property
    def rounds(self) -> range: ...

    @property
    def others(self) -> tuple[Policy, ...]: ...

    compares: ClassVar[bool]

    def collect(self, session: Session, policy: LearnedPolicy, number: int) -> Round:
        """Decodes this process' part of round `number` and scores it."""
        ...

    def loss(
        self, log_prob: Float[Tensor, " T"], old: Float[Tensor, " T"], batch: Decisions
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """The loss of T decisions, and how many of them the objective's clip reaches.

        Args:
            log_prob: log π(u_t|s_t), with gradient.
            old: the same of the policy that acted, without.
            batch: the decisions; their weights make the sum over a minibatch a mean.
        """
        ...

    def learning_rate(self, number: int) -> float:
        """Of round `number`."""
        ...


@dataclass(frozen=True)
class Grpo:
    """Group-relative policy optimisation (paper §3.3): the policy's own rollouts, and those of the
    experts that steer it.

    Attributes:
        config: the run's settings.
        rounds: of the run.
        experts: the policies that steer; E of them.
    """

    config: TrainConfig
    rounds: range
    experts: tuple[Policy, ...] = ()
    compares: ClassVar[bool] = True

    @property
    def others(self) -> tuple[Policy, ...]:
        return self.experts

    def collect(self, session: Session, policy: LearnedPolicy, number: int) -> Round:
        began, g = time.perf_counter(), self.config.rollout.rollouts
        examples = draw_examples(session, self.config.rollout.prompts, number)
        alpha = draw_round_alpha(session, len(examples), number)
        each, alpha_each = [e for e in examples for _ in range(g)], alpha.repeat_interleave(g)
        own = roll_out(session, policy, policy, each, alpha_each, number)
        steering = [
            roll_out(session, expert, policy, examples, alpha, number, i)
            for i, expert in enumerate(self.experts, 1)
        ]
        dense, reward = self.config.rewards.dense, own.reward
        every = self.config.optim.entropy_bonus > 0 or self.kl_weight(number) > 0
        loud = groups_with_signal(stack_groups(reward, [x.reward for x in steering], g), dense)
        kept = loud | every
        decisions = signal_batch(
            policy,
            own.release(kept.repeat_interleave(g)),
            reward,
            [(x.release(kept), x.reward) for x in steering],
            g,
            dense,
            self.config.optim.scaled,
            every,
        )
        silent = (~loud).sum() * g
        return Round(
            decisions,
            tuple(example.prompt for example in examples),
            reward,
            own.correctness,
            own.generation.nfe,
            int(silent),
            time.perf_counter() - began,
            own.late,
            mean_of_experts(steering),
        )

    def loss(
        self, log_prob: Float[Tensor, " T"], old: Float[Tensor, " T"], batch: Decisions
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """−Σ_t w_t min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t) with ρ_t = π(u_t|s_t) /
        π_old(u_t|s_t)."""
        epsilon = self.config.optim.epsilon
        if self.experts:
            log_prob, old = (
                steered_log_prob(x, batch.steered, self.config.rollout.rollouts, len(self.experts))
                for x in (log_prob, old)
            )
        clipped = (((log_prob.detach() - old).exp() - 1).abs() > epsilon).sum()
        return grpo_loss(log_prob, old, batch.advantage, batch.weight, epsilon), clipped

    def kl_weight(self, number: int) -> float:
        """Weight of the KL penalty in a round: `kl_penalty` in the first one of this phase, from
        which it falls linearly to zero."""
        optim, done = self.config.optim, number - self.rounds.start
        return optim.kl_penalty * max(0.0, 1 - done / optim.kl_rounds)

    def learning_rate(self, number: int) -> float:
        """Linear warm-up, then a cosine to zero at the end of the run."""
        optim, number = self.config.optim, number - self.rounds.start
        if number < optim.warmup:
            return optim.lr * (number + 1) / optim.warmup
        done = (number - optim.warmup) / max(1, len(self.rounds) - optim.warmup)
        return optim.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Imitation:
    """The warm start: the decisions of teachers, where they led to a correct answer. A teacher is a
    heuristic or a learned policy.

    Attributes:
        config: the run's settings.
        rounds: of the run.
        teachers: whom to imitate. Of several, the one that is best for a prompt's α.
        compared: the teachers with what they reach; found in the first round that is collected.
    """

    config: TrainConfig
    rounds: range
    teachers: tuple[Policy, ...]
    compared: list[Pool] = field(default_factory=list)
    compares: ClassVar[bool] = False

    @property
    def others(self) -> tuple[Policy, ...]:
        return self.teachers

    def collect(self, session: Session, policy: LearnedPolicy, number: int) -> Round:
        began, rollout = time.perf_counter(), self.config.rollout
        if not self.compared:
            self.compared.append(probe_teachers(session, self.teachers))
        count = rollout.prompts * rollout.rollouts  # as many rollouts as in every other round
        examples = draw_examples(session, count, number)
        alpha = draw_round_alpha(session, count, number)
        chosen = self.compared[0].choose(session, alpha)
        reward, correctness = torch.zeros_like(alpha), torch.zeros_like(alpha)
        nfe, late, sources = torch.zeros_like(chosen), 0, []
        for i in chosen.unique().tolist():
            at = (chosen == i).nonzero()[:, 0]
            own = [examples[row] for row in at.tolist()]
            done = roll_out(session, self.teachers[i], policy, own, alpha[at], number)
            reward[at], correctness[at], nfe[at] = (
                done.reward,
                done.correctness,
                done.generation.nfe,
            )
            kept, late = done.correctness > 0.5, late + done.late
            sources += make_source(done.release(kept), kept, torch.ones_like(done.reward), True)
        return Round(
            collect_decisions(policy, sources, count),
            tuple(example.prompt for example in examples),
            reward,
            correctness,
            nfe,
            silent=0,
            seconds=time.perf_counter() - began,
            late=late,
        )

    def loss(
        self, log_prob: Float[Tensor, " T"], old: Float[Tensor, " T"], batch: Decisions
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """−Σ_t w_t log π(u_t|s_t)."""
        return -(batch.weight * log_prob).sum(), torch.zeros_like(batch.prompt[0])

    def learning_rate(self, number: int) -> float:
        """Constant."""
        return self.config.imitation.imitation_lr


def load_phases(config: TrainConfig, device: torch.device, done: int = 0) -> tuple[Phase, ...]:
    """The phases of a run in their order; loads the policies that they need after the `done` rounds
    that are over.

    Raises:
        UnmaskError: for a policy that is not known, or a value that it cannot take.
    """
    total, start = config.rollout.rounds, 0
    phases: list[Phase] = []
    if config.imitation.imitate:
        start = min(config.imitation.imitation_rounds, total)
        given = config.imitation.imitate if done < start else ()
        specs = [x for spec in given for x in expand_grid(spec)]
        teachers = tuple(fix_alpha(load_policy(spec, device=device)) for spec in specs)
        phases.append(Imitation(config, range(start), teachers))
    experts = tuple(fix_alpha(load_policy(x, device=device)) for x in config.rollout.experts)
    return (*phases, Grpo(config, range(start, total), experts))


def describe_imitation(phase: Phase, done: int, total: int) -> str:
    """Which rounds of a run imitate, in words; empty if the phase is another or is over."""
    if not isinstance(phase, Imitation) or done >= phase.rounds.stop:
        return ""
    last, teachers = phase.rounds.stop, " or ".join(phase.config.imitation.imitate)
    words = (
        f"rounds 1 to {last} imitate {teachers}; their reward, accuracy and NFE are the teacher's"
    )
    if last < total:
        return words
    return f"{words}; no round is left for GRPO, for which more rounds are needed"


def check_phases(session: Session, phases: tuple[Phase, ...]) -> None:
    """Refuses teachers and experts that cannot decide for this model.

    Raises:
        UnmaskError: as `check_request`.
    """
    told = session.config.rewards.alpha or None  # nobody can act for α = 0
    for policy in (other for phase in phases for other in phase.others):
        inner = policy.policy if isinstance(policy, FixedAlpha) else policy
        check_request(session.model, Request((0,), inner, session.options, alpha=told))


def phase_of_round(phases: tuple[Phase, ...], number: int) -> Phase:
    """The phase that round `number` belongs to."""
    return next(phase for phase in phases if number in phase.rounds)


def draw_examples(session: Session, count: int, number: int) -> list[Example]:
    """This process' training problems of round `number`."""
    processes = session.processes
    seed = session.config.decode.seed
    return session.task.batch(count, seed, number, processes.rank, processes.world)


def draw_round_alpha(session: Session, count: int, number: int) -> Float[Tensor, " P"]:
    """α of each problem of round `number`."""
    config = session.config
    seed = session.round_seed(number) * 1009 + session.processes.rank + 1
    alpha = draw_alpha(config.rewards, count, number / config.rollout.rounds, seed)
    return alpha.to(session.processes.device)


@dataclass(frozen=True)
class Rollouts:
    """Scored rollouts whose decisions are held back until it is known which are wanted.

    Attributes:
        generation: N rows; its recorder holds the decisions.
        reward: fp32 [N].
        correctness: fp32 [N].
        late: how many verdicts a limit on time decided.
    """

    generation: Generation
    reward: Float[Tensor, " N"]
    correctness: Float[Tensor, " N"]
    late: int

    def release(self, kept: Bool[Tensor, " N"]) -> Generation:
        """The generation with the decisions of the rows `kept` only."""
        if self.generation.recorder is not None:
            self.generation.recorder.keep_rows(kept)
        return self.generation


def roll_out(
    session: Session,
    policy: Policy,
    learner: LearnedPolicy,
    examples: list[Example],
    alpha: Float[Tensor, " N"],
    number: int,
    expert: int = 0,
) -> Rollouts:
    """Rollouts of `policy` in round `number`; what `learner` reads is kept with each decision.

    Of the policies that answer the same prompts, each expert is counted from 1, so that it draws
    random numbers of its own.
    """
    moment, recorder = f"round {number + 1}", Recorder(learner)
    seed = session.round_seed(number) + expert * EXPERT_SEED
    generation = session.decode(examples, policy, seed, alpha, recorder)
    correctness, late = session.judge(generation, examples, moment)
    reward = session.reward_rows(correctness, generation.nfe, alpha, examples, moment)
    return Rollouts(generation, reward, correctness, late)


def mean_of_experts(steering: list[Rollouts]) -> dict[str, float]:
    """Mean reward, accuracy and NFE over all experts' rollouts; nothing if there are no experts."""
    if not steering:
        return {}
    columns = {
        "expert_reward": [x.reward for x in steering],
        "expert_accuracy": [x.correctness for x in steering],
        "expert_nfe": [x.generation.nfe.float() for x in steering],
    }
    return {name: float(torch.stack(column).mean()) for name, column in columns.items()}
