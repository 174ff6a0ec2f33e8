"""From decisions to weights: which steps are taken, and numbers that are not finite."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.policies.test_policies import perturbed
from unmask import LearnedPolicy, TrainConfig, UnmaskError
from unmask.decoding import Recorder, decode
from unmask.policies import Bernoulli
from unmask.processes import Processes
from unmask.training.decisions import signal_batch
from unmask.training.phases import Grpo, Imitation, Round
from unmask.training.update import Anchor, check_update, update

ALONE = Processes(0, 1, torch.device("cpu"))


class CountedSteps(torch.optim.SGD):
    """An optimiser that counts its steps."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=1e-3, weight_decay=0.1)
        self.steps = 0

    def step(self, *arguments, **others):
        self.steps += 1
        return super().step(*arguments, **others)


def run_update(model, decisions=None, processes=ALONE, phase=None, policy=None, **settings):
    """Updates a policy on some decisions of the tiny model; how many steps it took, and so on."""
    config = TrainConfig(rollouts=2, **settings)
    policy = policy or LearnedPolicy(perturbed(), fallback=False)
    if decisions is not None:
        rollouts = decode(model, [[5], [5]], policy, max_new_tokens=6, recorder=Recorder())
        every = signal_batch(policy, rollouts, torch.tensor([1.0, 0.0]), [], 2, 0.0)
        decisions = every[torch.arange(min(decisions, len(every)))]
    optimizer = CountedSteps(policy.network.parameters())
    phase = phase or Grpo(config, range(10))
    updated = update(policy, decisions, optimizer, phase, config.optim, processes, 0)
    return optimizer.steps, updated, policy, decisions


def test_minibatches_without_decisions_take_no_step(tiny_model):
    for decisions, minibatches, steps in ((2, 5, 2), (1, 3, 1), (4, 4, 4), (None, 4, 0)):
        taken, updated, _, _ = run_update(tiny_model, decisions, minibatches=minibatches, epochs=3)
        assert taken == 3 * steps
        assert (updated.metrics["grad_norm"] > 0) is (steps > 0)


@pytest.mark.parametrize(("other", "steps"), [(0, 0), (1, 1), (3, 3)])
def test_no_process_steps_where_none_has_decisions(tiny_model, monkeypatch, other, steps):
    """This process has none, the other one has `other`, with an entropy of 3 nats each, a quarter
    of them clipped. Means are over decisions: this process counts nothing in them."""

    def all_reduce(tensor):
        if tensor.dtype == torch.long:
            tensor += (torch.arange(len(tensor)) < other).long()
        if tensor.dtype == torch.double:
            tensor += 2 * other * torch.tensor([3, 0.25, 1])

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    before = perturbed().state_dict()
    pair = Processes(0, 2, torch.device("cpu"))
    taken, updated, policy, _ = run_update(tiny_model, None, pair, minibatches=4, epochs=2)
    assert taken == 2 * steps
    expected = (3, 0.25) if other else (0, 0)
    assert (updated.metrics["entropy"], updated.metrics["clipped"]) == expected
    if not steps:
        after = policy.network.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("bonus", "has_gradient"), [(0.0, False), (0.1, True)])
def test_the_entropy_has_a_graph_only_where_the_objective_asks_for_it(
    tiny_model, monkeypatch, bonus, has_gradient
):
    seen, original = [], Bernoulli.entropy

    def entropy(self, action=None):
        value = original(self, action)
        seen.append(value.requires_grad)
        return value

    monkeypatch.setattr(Bernoulli, "entropy", entropy)
    run_update(tiny_model, 6, entropy_bonus=bonus, minibatches=1)
    assert seen == [has_gradient, has_gradient], "one micro-batch in each of two epochs"


def test_an_anchor_holds_the_policy_near(tiny_model):
    """The larger its weight, the nearer; the anchor itself stays as it was."""
    distances = []
    for weight in (None, 1.0, 100.0):
        torch.manual_seed(0)
        config = TrainConfig(rollouts=2, minibatches=2, epochs=6)
        first = LearnedPolicy(perturbed(), fallback=False)
        policy = LearnedPolicy(copy.deepcopy(first.network), fallback=False)
        before = copy.deepcopy(first.network.state_dict())
        rollouts = decode(tiny_model, [[5], [5]], policy, max_new_tokens=6, recorder=Recorder())
        every = signal_batch(policy, rollouts, torch.tensor([1.0, 0.0]), [], 2, 0.0)
        optimizer = torch.optim.SGD(policy.network.parameters(), lr=1e-2)
        anchor = None if weight is None else Anchor(first, weight)
        phase = Grpo(config, range(10))
        update(policy, every, optimizer, phase, config.optim, ALONE, 0, anchor)
        seen = every.observation
        apart = policy.distribution(seen).kl_from(first.distribution(seen))
        distances.append(apart.mean().item())
        assert all(torch.equal(first.network.state_dict()[k], v) for k, v in before.items())
    assert distances[0] > distances[1] > distances[2] > 0


def test_likelihoods_before_the_update_are_reported(tiny_model):
    """Of every decision, under the policy that acted; in both kinds of phases."""
    for phase in (None, Imitation(TrainConfig(), range(3), ())):
        policy = LearnedPolicy(perturbed(), fallback=False)
        _, updated, policy, decisions = run_update(
            tiny_model, 6, phase=phase, policy=policy, minibatches=1
        )
        old = LearnedPolicy(perturbed(), fallback=False)
        expected = old.distribution(decisions.observation).log_prob(decisions.action)
        assert torch.allclose(updated.log_prob, expected, atol=1e-5)


def test_likelihoods_know_the_fallback_of_rollouts_but_not_of_teachers(tiny_model):
    for phase in (None, Imitation(TrainConfig(), range(3), ())):
        policy = LearnedPolicy(perturbed(initial_bias=-3.0))
        _, updated, _, decisions = run_update(
            tiny_model, 6, phase=phase, policy=policy, minibatches=1, epochs=1, lr=0.0
        )
        assert (decisions.action.sum(1) == 1).any()
        for fallback in (False, True):
            old = LearnedPolicy(perturbed(initial_bias=-3.0), fallback=fallback)
            expected = old.distribution(decisions.observation).log_prob(decisions.action)
            same = torch.allclose(updated.log_prob, expected, atol=1e-5)
            assert same is (fallback is (phase is None))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("advantage", "an advantage is nan"),
        ("weight", "a decision's weight is nan"),
        ("confidence", "a decision's log-likelihood is nan"),
    ],
)
def test_what_is_not_finite_is_named_with_prompt_and_round(tiny_model, what, says):
    policy = LearnedPolicy(perturbed(), fallback=False)
    config = TrainConfig(rollouts=2, minibatches=2)
    rollouts = decode(
        tiny_model, [[5], [5], [6], [6]], policy, max_new_tokens=6, recorder=Recorder()
    )
    decisions = signal_batch(policy, rollouts, torch.tensor([1.0, 0.0, 0.0, 1.0]), [], 2, 0.0)
    row = int((decisions.prompt == 1).nonzero()[0, 0])
    if what == "confidence":
        decisions.observation.confidence[row] = float("nan")
    else:
        broken = getattr(decisions, what).clone()
        broken[row] = float("nan")
        decisions = replace(decisions, **{what: broken})
    optimizer = torch.optim.AdamW(policy.network.parameters())
    phase = Grpo(config, range(10))
    updated = update(policy, decisions, optimizer, phase, config.optim, ALONE, 0)
    zeros = torch.zeros(4)
    done = Round(decisions, ("first", "second"), zeros, zeros, zeros.long(), 0, 0.0)
    with pytest.raises(UnmaskError, match=f"{says} for the prompt 'second' in round 7"):
        check_update(updated, done, policy.network, "round 7")


def test_weights_that_diverged_are_named(tiny_model):
    _, updated, policy, _ = run_update(tiny_model, None)
    with torch.no_grad():
        policy.network.head.bias[0] = float("inf")
    done = Round(None, (), torch.zeros(1), torch.zeros(1), torch.zeros(1).long(), 0, 0.0)
    with pytest.raises(UnmaskError, match=r"weight head\.bias is not finite .*round 2"):
        check_update(updated, done, policy.network, "round 2")
