"""From rollouts to decisions: advantages, the dense reward, experts' sets, memory."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.policies.test_policies import observation, perturbed
from unmask import LearnedPolicy, UnmaskError, load_policy
from unmask.decoding import Recorder, decode
from unmask.policies import Observation
from unmask.training.decisions import (
    collect_decisions,
    likelihood_to_go,
    make_source,
    signal_batch,
)
from unmask.training.pool import FixedAlpha


@given(seed=st.integers(0, 10**6), block_length=st.sampled_from([2, 6]))
def test_likelihood_to_go_equals_adding_it_up_backwards(tiny_model, seed, block_length):
    policy = LearnedPolicy(perturbed(seed), fallback=False)
    generation = decode(
        tiny_model,
        [[5], [6], [7]],
        policy,
        max_new_tokens=6,
        block_length=block_length,
        seed=seed,
        recorder=Recorder(),
    )
    whole, to_go = likelihood_to_go(generation)
    t = generation.transitions
    for row in range(3):
        total = 0.0
        for i in reversed((t.row == row).nonzero()[:, 0].tolist()):
            total += (
                sum(
                    math.log(c)
                    for c, u in zip(
                        t.observation.confidence[i, :, 0].tolist(),
                        t.action[i].tolist(),
                        strict=True,
                    )
                    if u
                )
                / 6
            )
            assert math.isclose(float(to_go[i]), total, abs_tol=1e-5)
        assert math.isclose(float(whole[row]), total, abs_tol=1e-5)


def test_a_confidence_of_0_counts_nothing_in_the_dense_reward(tiny_model):
    """With `eos` "last" every end of text has it."""
    policy = LearnedPolicy(perturbed(), fallback=False)
    generation = decode(tiny_model, [[5]], policy, max_new_tokens=6, recorder=Recorder())
    t = generation.transitions
    whole, _ = likelihood_to_go(generation)
    row, place = (int(x) for x in (t.action > 0).nonzero()[0])
    gone = math.log(float(t.observation.confidence[row, place, 0])) / 6
    t.observation.confidence[row, place, 0] = 0
    assert math.isclose(float(likelihood_to_go(generation)[0]), float(whole) - gone, abs_tol=1e-5)


def test_with_choices_only_what_was_revealed_counts_in_the_dense_reward(tiny_model):
    """A decision may name positions of another choice, which stay masked."""
    policy = LearnedPolicy(perturbed(), fallback=False)
    choices = ("7 then 3", "3 a 7", "a b", "b 7 7")
    found = decode(
        tiny_model, [[5]] * 8, policy, max_new_tokens=4, choices=choices, recorder=Recorder()
    )
    t = found.transitions
    shown = found.reveal_step[t.row] == t.passes[:, None]
    assert ((t.action > 0) & ~shown).any(), "the test sees no difference"
    gain = torch.where(shown, t.observation.confidence[..., 0], 1).log().sum(1) / 4
    expected = torch.stack([gain[t.row == row].sum() for row in range(8)])
    assert torch.allclose(likelihood_to_go(found)[0], expected, atol=1e-5)


def test_advantages_are_taken_over_policy_and_experts_together(tiny_model):
    policy = LearnedPolicy(perturbed(), fallback=False)
    rollouts = decode(
        tiny_model, [[5], [5], [6], [6]], policy, max_new_tokens=6, recorder=Recorder()
    )
    expert = decode(
        tiny_model,
        [[5], [6]],
        load_policy("entropy:0.5"),
        max_new_tokens=6,
        recorder=Recorder(policy),
    )
    rewards, gained = torch.tensor([1.0, 0.0, 0.5, 0.5]), torch.tensor([0.5, 0.5])
    batch = signal_batch(policy, rollouts, rewards, [(expert, gained)], 2, 0.0)
    assert batch is not None and not batch.observation.features
    first = (rollouts.transitions.row < 2).sum() + (expert.transitions.row == 0).sum()
    assert len(batch.advantage) == first, "the second group has no signal"
    assert set(batch.advantage.tolist()) == {0.5, -0.5, 0.0}
    assert torch.equal(batch.advantage[batch.steered], torch.zeros(int(batch.steered.sum())))
    scaled = signal_batch(policy, rollouts, rewards, [(expert, gained)], 2, 0.0, scaled=True)
    assert scaled is not None and torch.allclose(
        scaled.advantage, batch.advantage / (statistics.pstdev([1.0, 0.0, 0.5]) + 0.01)
    )
    assert math.isclose(batch.weight.sum(), 3 / 6, rel_tol=1e-5), (
        "three rollouts of six, each with weight one sixth"
    )


def test_dense_reward_prefers_the_rollout_that_commits_what_the_model_believes(tiny_model):
    policy = LearnedPolicy(perturbed(), fallback=False)
    rollouts = decode(tiny_model, [[5]] * 8, policy, max_new_tokens=6, seed=3, recorder=Recorder())
    batch = signal_batch(policy, rollouts, torch.zeros(8), [], 8, 1.0)
    whole, _ = likelihood_to_go(rollouts)
    first = torch.tensor([(rollouts.transitions.row == row).nonzero()[0, 0] for row in range(8)])
    assert torch.allclose(batch.advantage[first], whole - whole.mean(), atol=1e-5), (
        "the first decision answers for all"
    )
    assert signal_batch(policy, rollouts, torch.zeros(8), [], 8, 0.0) is None


def test_an_experts_set_becomes_the_order_of_falling_confidence(tiny_model):
    policy = LearnedPolicy(perturbed(), "plackett-luce", fallback=False)
    rollouts = decode(tiny_model, [[5], [5]], policy, max_new_tokens=6, recorder=Recorder())
    expert = decode(
        tiny_model,
        [[5]],
        load_policy("confidence:3"),
        max_new_tokens=6,
        recorder=Recorder(policy),
    )
    batch = signal_batch(
        policy, rollouts, torch.tensor([1.0, 0.0]), [(expert, torch.tensor([0.5]))], 2, 0.0
    )
    steered = batch.steered.nonzero()[:, 0]
    for row in steered.tolist():
        action, confidence = batch.action[row], batch.observation.confidence[row, :, 0]
        drawn = action.nonzero()[:, 0]
        assert sorted(action[drawn].tolist()) == [1, 2, 3]
        assert confidence[drawn[action[drawn].argsort()]].diff().le(0).all()


def test_an_experts_own_order_is_kept(tiny_model):
    policy = LearnedPolicy(perturbed(), "plackett-luce", fallback=False)
    rollouts = decode(tiny_model, [[5], [5]], policy, max_new_tokens=6, recorder=Recorder(policy))
    teacher = LearnedPolicy(perturbed(1, initial_bias=2.0), "plackett-luce")
    expert = decode(tiny_model, [[5]], teacher, max_new_tokens=6, seed=2, recorder=Recorder(policy))
    batch = signal_batch(
        policy, rollouts, torch.tensor([1.0, 0.0]), [(expert, torch.tensor([0.5]))], 2, 0.0
    )
    assert torch.equal(batch.action[batch.steered], expert.transitions.action)
    confidence = expert.transitions.observation.confidence[..., 0]
    drawn = expert.transitions.action.long()
    falling = confidence.masked_fill(drawn == 0, -1).argsort(1, descending=True).argsort(1) + 1
    assert (drawn != falling * (drawn > 0)).any(), "the test sees no difference"


def test_sources_may_have_recorded_more_probabilities_than_the_learner_reads(tiny_model):
    policy, prompts = LearnedPolicy(perturbed(), fallback=False), [[5], [6]]
    rollouts = decode(
        tiny_model, [[5], [5], [6], [6]], policy, max_new_tokens=6, recorder=Recorder(policy)
    )
    other = LearnedPolicy(perturbed(1, inputs=3))
    expert = decode(tiny_model, prompts, other, max_new_tokens=6, recorder=Recorder(policy))
    assert expert.transitions.observation.confidence.shape[-1] == 3
    rewards, gained = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.zeros(2)
    batch = signal_batch(policy, rollouts, rewards, [(expert, gained)], 2, 0.0)
    for steered, source in ((False, rollouts), (True, expert)):
        found = batch[(batch.steered == steered).nonzero()[:, 0]].observation
        seen = source.transitions.observation
        assert torch.equal(found.confidence, seen.confidence[..., :1]), steered
        assert torch.equal(found.masked, seen.masked)
    alone = collect_decisions(policy, make_source(expert, gained == 0, gained, True), 2)
    assert alone.observation.confidence.shape[-1] == 1


def test_a_teacher_with_an_alpha_stands_beside_one_without(tiny_model):
    teacher = LearnedPolicy(perturbed(conditioned=True), alpha=0.3)
    sources, kept = [], torch.ones(1, dtype=torch.bool)
    policy, told = LearnedPolicy(perturbed(), fallback=False), []
    for each in (FixedAlpha(teacher, 0.3), load_policy("confidence:3")):
        done = decode(tiny_model, [[5]], each, max_new_tokens=6, recorder=Recorder(policy))
        told.append(done.transitions.observation.alpha is not None)
        sources += make_source(done, kept, torch.ones(1), True)
    assert told == [True, False]
    for order in (sources, sources[::-1]):
        found = collect_decisions(policy, order, 2)
        assert found.observation.alpha is None and len(found) == sum(
            len(source.transitions.row) for source in sources
        )


def test_what_helps_where_decisions_do_not_fit_into_memory(monkeypatch):
    monkeypatch.setattr("unmask.decoding.recorder.LOOK", 1)
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: 0)
    seen, rows = observation(), torch.arange(3)
    hidden = Observation(
        seen.confidence, seen.masked, seen.eligible, seen.step, 10, {"hidden": torch.ones(3, 10, 4)}
    )
    for each, helps in ((seen, False), (hidden, True)):
        with pytest.raises(UnmaskError, match="fewer prompts or rollouts") as refused:
            Recorder().record(rows, each, each.eligible.short(), rows)
        assert ("--no-hidden" in str(refused.value)) is helps


def seeded_rollouts(model, policy, batch_size, recorder):
    prompts = [[5], [5], [6, 7], [6, 7], [8, 9, 10], [8, 9, 10]]
    return decode(
        model, prompts, policy, max_new_tokens=8, batch_size=batch_size, recorder=recorder
    )


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_order_of_decisions_does_not_depend_on_the_batch_size(tiny_model, batch_size):
    policy, rewards = LearnedPolicy(perturbed(), fallback=False), torch.arange(6.0)
    whole, part = (
        signal_batch(
            policy, seeded_rollouts(tiny_model, policy, size, Recorder()), rewards, [], 2, 0.0
        )
        for size in (6, batch_size)
    )
    for name in ("action", "advantage", "weight", "prompt"):
        assert torch.equal(getattr(whole, name), getattr(part, name)), name
    assert torch.equal(whole.observation.confidence, part.observation.confidence)
    assert torch.equal(whole.observation.step, part.observation.step)


def test_decisions_of_groups_without_signal_are_never_put_together(tiny_model):
    policy = LearnedPolicy(perturbed(), fallback=False)
    held, every = (seeded_rollouts(tiny_model, policy, 6, Recorder()) for _ in range(2))
    held.recorder.keep_rows(torch.tensor([False, False, True, True, False, False]))
    assert set(held.transitions.row.tolist()) == {2, 3}
    assert len(held.transitions.row) == int(held.nfe[2:4].sum())
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    few = signal_batch(policy, held, rewards, [], 2, 0.0)
    all_of_them = signal_batch(policy, every, rewards, [], 2, 0.0)
    assert few.prompt.unique().tolist() == [1]
    for name in ("action", "advantage", "weight", "prompt"):
        assert torch.equal(getattr(few, name), getattr(all_of_them, name)), name


def test_groups_without_signal_may_be_kept_for_their_entropy(tiny_model):
    policy = LearnedPolicy(perturbed(), fallback=False)
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.1, 0.1 + 1e-7])
    few, every = (
        signal_batch(policy, done, rewards, [], 2, 0.0, every=kept)
        for kept in (False, True)
        for done in [seeded_rollouts(tiny_model, policy, 6, Recorder())]
    )
    assert every.prompt.unique().tolist() == [0, 1, 2] and math.isclose(every.weight.sum(), 1)
    loud = every[(every.prompt == 1).nonzero()[:, 0]]
    assert torch.equal(loud.advantage, few.advantage) and torch.equal(loud.weight, few.weight)
    assert not every.advantage[every.prompt != 1].any()


def test_a_round_without_signal_has_no_decisions(tiny_model):
    policy = LearnedPolicy(perturbed(), fallback=False)
    silent = seeded_rollouts(tiny_model, policy, 6, Recorder())
    silent.recorder.keep_rows(torch.zeros(6, dtype=torch.bool))
    assert silent.transitions is None
    assert signal_batch(policy, silent, torch.ones(6), [], 2, 0.0) is None


class CountBytes(TorchDispatchMode):
    """Adds up the bytes of all results of operations that are no views."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), others=None):
        result = function(*arguments, **(others or {}))
        if (
            isinstance(result, torch.Tensor)
            and not function.is_view
            and "out" not in (others or {})
        ):
            self.bytes += result.nbytes
        return result


def test_decisions_are_copied_once(tiny_model):
    """Hidden states of every position are by far the largest part of a decision."""
    policy = LearnedPolicy(perturbed(hidden=32), fallback=False)
    rollouts = seeded_rollouts(tiny_model, policy, 6, Recorder())
    expert = decode(
        tiny_model,
        [[5], [6, 7], [8, 9, 10]],
        load_policy("threshold:0.5"),
        max_new_tokens=8,
        recorder=Recorder(policy),
    )
    for experts in ([], [(expert, torch.arange(3.0))]):
        with CountBytes() as count:
            batch = signal_batch(policy, rollouts, torch.arange(6.0), experts, 2, 0.0)
        assert count.bytes < 1.7 * batch.observation.features["hidden"].nbytes
