"""A pool of teachers to imitate, and which of them is the best one for each α."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.policies import LearnedPolicy, Needs, Observation, Policy
from unmask.rng import RowGenerator
from unmask.tasks import Example
from unmask.training.session import Session

PROBES = 128  # training problems on which the teachers are compared
PROBE_SEED = 977
COMPARISON = "the comparison of the teachers"


@dataclass(frozen=True)
class FixedAlpha:
    """A policy for a range of α that acts for its own α, whatever the observation says.

    Without it a teacher would act for the α that its pupil is to learn.

    Attributes:
        policy: a conditioned policy whose `alpha` is set.
        alpha: the α that it acts for.
    """

    policy: LearnedPolicy
    alpha: float

    @property
    def needs(self) -> Needs:
        """What the policy reads."""
        return self.policy.needs

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        """The policy's action for its α."""
        alpha = torch.full_like(observation.step, self.alpha, dtype=torch.float32)
        return self.policy.act(replace(observation, alpha=alpha), generator)


def fix_alpha(policy: Policy) -> Policy:
    """The policy; one that is conditioned and has an α of its own acts for that one alone."""
    if isinstance(policy, LearnedPolicy) and policy.alpha is not None:
        return FixedAlpha(policy, policy.alpha)
    return policy


@dataclass(frozen=True)
class Pool:
    """Teachers, and what each of them reaches on the same training problems.

    Attributes:
        teachers: K policies.
        examples: the P problems.
        correctness: fp32 [K, P].
        nfe: int64 [K, P].
    """

    teachers: tuple[Policy, ...]
    examples: list[Example]
    correctness: Float[Tensor, "K P"]
    nfe: Int[Tensor, "K P"]

    def choose(self, session: Session, alpha: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
        """For each α the teacher whose mean reward is largest at it; the first of equal ones.

        Raises:
            UnmaskError: if the reward's numbers cannot be used.
        """
        if len(self.teachers) == 1:
            return torch.zeros_like(alpha, dtype=torch.long)
        count, problems = self.correctness.shape
        flat, flat_nfe = self.correctness.flatten(), self.nfe.flatten()
        rows = self.examples * count
        means = [
            session.reward_rows(flat, flat_nfe, torch.full_like(flat, a), rows, COMPARISON)
            .view(count, problems)
            .mean(1)
            for a in alpha.tolist()
        ]
        return torch.stack(means, 1).argmax(0)


def probe_teachers(session: Session, teachers: tuple[Policy, ...]) -> Pool:
    """Every teacher on the same training problems. A single teacher has no rival and is not tried.

    Every process tries all of them, so that all choose alike; a run that is resumed finds the same.

    Raises:
        UnmaskError: if the verifier's numbers cannot be used.
    """
    if len(teachers) == 1:
        return Pool(teachers, [], torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.long))
    examples = session.task.batch(PROBES, PROBE_SEED + session.config.decode.seed, 0)
    rows: list[tuple[Tensor, Tensor]] = []
    for teacher in teachers:
        generation = session.decode(examples, teacher, session.config.decode.seed)
        correctness = session.score(generation, examples, COMPARISON)
        rows.append((correctness, generation.nfe))
    correctness, nfe = (torch.stack(column) for column in zip(*rows, strict=True))
    return Pool(teachers, examples, correctness, nfe)
