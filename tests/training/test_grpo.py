"""The loss against its slow re-statement, its gradient, and the mixture of expert steering."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import grpo as reference
from unmask.policies import Bernoulli, PlackettLuce
from unmask.training.grpo import group_advantages, grpo_loss, steered_log_prob


@given(seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.05, 0.2, 0.5]))
def test_loss_equals_the_slow_objective(seed, epsilon):
    rng = random.Random(seed)
    length, flat = 4, []
    groups = [[{"reward": rng.random(), "steps": []} for _ in range(3)] for _ in range(2)]
    for group in groups:
        for rollout in group:
            for _ in range(rng.randint(1, 5)):
                logits = [rng.gauss(0, 1) for _ in range(length)]
                old = [b + rng.gauss(0, 0.4) for b in logits]
                eligible = [rng.random() < 0.7 for _ in range(length)]
                action = [e and rng.random() < 0.5 for e in eligible]
                rollout["steps"].append((logits, old, eligible, action))
    advantages = group_advantages(
        torch.tensor([[r["reward"] for r in group] for group in groups])
    ).flatten()
    rollouts = [rollout for group in groups for rollout in group]
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        flat += [
            (*step, advantage, 1 / (len(rollout["steps"]) * len(rollouts)))
            for step in rollout["steps"]
        ]
    logits, old, eligible, action, advantage, weight = (
        torch.tensor(column) for column in zip(*flat, strict=True)
    )
    new_log_prob = Bernoulli(logits, eligible).log_prob(action)
    loss = grpo_loss(
        new_log_prob, Bernoulli(old, eligible).log_prob(action), advantage, weight, epsilon
    )
    assert abs(-float(loss) - reference.objective(groups, epsilon)) < 1e-5


def test_loss_gradient_matches_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    eligible, action = torch.rand(6, 3) < 0.8, torch.rand(6, 3) < 0.5
    old = Bernoulli(logits.detach() + 0.1 * torch.randn(6, 3), eligible).log_prob(action)
    advantage, weight = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64)

    def loss(b):
        return grpo_loss(Bernoulli(b, eligible).log_prob(action), old, advantage, weight, 0.3)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_clip_stops_the_gradient_only_where_the_objective_would_gain():
    for ratio, advantage, moves in (
        (1.5, 1.0, False),
        (1.5, -1.0, True),
        (0.5, 1.0, True),
        (0.5, -1.0, False),
        (1.1, 1.0, True),
    ):
        log_prob = torch.tensor([ratio]).log().requires_grad_()
        grpo_loss(
            log_prob, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), 0.2
        ).backward()
        assert bool(log_prob.grad.abs().sum() > 0) is moves


@pytest.mark.parametrize("kind", [Bernoulli, PlackettLuce])
def test_gradients_of_likelihood_entropy_and_loss_match_finite_differences(kind):
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    eligible = torch.ones(6, 4, dtype=torch.bool)
    eligible[:, 2] = False
    action = (
        kind(logits.detach().float(), eligible)
        .sample(torch.rand(6, kind(logits, eligible).numbers))
        .short()
    )
    old = kind(logits.detach() + 0.1 * torch.randn(6, 4), eligible).log_prob(action)
    steered, advantage, weight = (
        torch.arange(6) % 2 == 0,
        torch.randn(6, dtype=torch.float64),
        torch.rand(6, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(lambda b: kind(b, eligible).log_prob(action), (logits,))
    assert torch.autograd.gradcheck(lambda b: kind(b, eligible).entropy(action), (logits,))

    def loss(b):
        new = steered_log_prob(kind(b, eligible).log_prob(action), steered, 8, 2)
        return grpo_loss(new, steered_log_prob(old, steered, 8, 2), advantage, weight, 0.3)

    assert torch.autograd.gradcheck(loss, (logits,))


@given(p=st.floats(1e-6, 1.0), g=st.integers(2, 16), e=st.integers(1, 4))
def test_the_mixture_is_what_the_paper_says(p, g, e):
    log_prob = torch.tensor([math.log(p)] * 2)
    own, expert = steered_log_prob(log_prob, torch.tensor([False, True]), g, e).exp().tolist()
    assert math.isclose(own, p, rel_tol=1e-4)
    assert math.isclose(expert, g / (g + e) * p + 1 / (g + e), rel_tol=1e-4)


def test_the_mixture_ratio_stays_near_one_where_the_policy_would_never_do_what_the_expert_did():
    """Without the mixture this ratio would be e^5."""
    steered = torch.tensor([True])
    new, old = (steered_log_prob(torch.tensor([x]), steered, 8, 1) for x in (-15.0, -20.0))
    assert 1 <= float((new - old).exp()) < 1.001
