"""The rest of the paper's method, and one policy for a range of α: probabilities by enumeration,
rewards by hand, short trainings."""

import itertools
import json
import math
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import plackett_luce as reference
from tests.test_policies import generator, observation, perturbed
from tests.test_training import tiny
from unmask import LearnedPolicy, TrainConfig, UnmaskError, load_policy, train
from unmask.decoding import Recorder, decode
from unmask.files import read_tensors
from unmask.policies import Bernoulli, NetworkConfig, PlackettLuce, PolicyNetwork
from unmask.rng import RowGenerator
from unmask.training.grpo import grpo_loss, steered_log_prob
from unmask.training.rewards import REWARDS
from unmask.training.update import likelihood_to_go, signal_batch


def ranks(order, length):
    """An ordered draw as the action that the code uses."""
    return [order.index(i) + 1 if i in order else 0 for i in range(length)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_plackett_luce_probabilities_sum_to_one_and_sampling_matches(n):
    torch.manual_seed(n)
    length = n + 1
    logits, eligible = torch.randn(1, length), torch.ones(1, length, dtype=torch.bool)
    eligible[0, n // 2] = False
    orders = reference.orders(eligible[0].nonzero()[:, 0].tolist())
    expected = [
        reference.probability(logits[0].tolist(), eligible[0].nonzero()[:, 0].tolist(), order)
        for order in orders
    ]
    actions = torch.tensor([ranks(order, length) for order in orders])
    distribution = PlackettLuce(
        logits.expand(len(actions), length), eligible.expand(len(actions), length)
    )
    p = distribution.log_prob(actions).exp()
    assert math.isclose(p.sum(), 1, abs_tol=1e-5)
    assert torch.allclose(p, torch.tensor(expected), atol=1e-6)
    assert math.isclose(
        (p * distribution.entropy(actions)).sum(), -(p * p.log()).sum(), abs_tol=1e-4
    )
    draws = 40_000
    many = PlackettLuce(logits.expand(draws, length), eligible.expand(draws, length))
    drawn = many.sample(RowGenerator(torch.arange(draws)).uniform(0, many.numbers, 0))
    code = (drawn * (length + 1) ** torch.arange(length)).sum(1)
    frequency = torch.stack(
        [
            (code == c).float().mean()
            for c in (actions * (length + 1) ** torch.arange(length)).sum(1)
        ]
    )
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / draws).sqrt() + 1e-3).all()


def test_plackett_luce_always_reveals_and_beta_reveals_more():
    logits, eligible = torch.full((5000, 6), -1.0), torch.ones(5000, 6, dtype=torch.bool)
    distribution = PlackettLuce(logits, eligible)
    uniform = RowGenerator(torch.arange(5000)).uniform(3, distribution.numbers, 0)
    few, some, many = (
        distribution.sample(uniform, beta).count_nonzero(1).float() for beta in (1e-6, 1.0, 1e6)
    )
    assert (few == 1).all() and (many == 6).all() and 1.5 < some.mean() < 5.5


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


def test_rewards():
    r, n = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([5, 1, 10])
    assert torch.allclose(REWARDS["additive"](r, n, 10, 2.0), torch.tensor([0.0, -0.2, -1.5]))
    assert torch.equal(REWARDS["accuracy"](r, n, 10, 2.0), r)
    per_row = REWARDS["multiplicative"](r, n, 10, torch.tensor([0.0, 1.0, 1.0]))
    assert torch.allclose(per_row, torch.tensor([1.0, 0.0, 0.05]))


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


METHODS = {
    "steered": {"experts": ("threshold:0.5", "confidence:2")},
    "ordered": {"action": "plackett-luce", "experts": ("threshold:0.5",)},
    "warm": {
        "imitate": ("entropy:1", "threshold:0.1"),
        "imitation_rounds": 2,
        "fallback": True,
        "entropy_bonus": 0.01,
    },
    "annealed": {"alpha_start": 10.0},
    "every α": {"alpha_range": (0.1, 10.0), "dense": 0.1},
    "richer inputs": {"inputs": 3, "hidden": True, "reward": "additive"},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_and_resumes_bit_for_bit(
    tmp_path, tiny_dir, any_digit, monkeypatch, name
):
    import unmask.training.trainer as trainer

    changes = {"rounds": 4} | METHODS[name]
    train(tiny(tmp_path / "whole", tiny_dir, **changes))
    original = trainer.Run.train_round

    class Killed(BaseException):
        pass

    def dies(run):
        if run.round == 3:
            raise Killed
        return original(run)

    monkeypatch.setattr(trainer.Run, "train_round", dies)
    with pytest.raises(Killed):
        train(tiny(tmp_path / "cut", tiny_dir, **changes))
    monkeypatch.setattr(trainer.Run, "train_round", original)
    train(TrainConfig(resume=tmp_path / "cut"))
    a, b = (read_tensors(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "cut"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    metrics = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    assert any(entry["grad_norm"] > 0 for entry in metrics)
    assert ("expert_accuracy" in metrics[-1]) is bool(changes.get("experts"))
    saved = json.loads((tmp_path / "whole" / "last" / "config.json").read_text())
    assert len(saved["metadata"]["pareto"]) == (9 if "alpha_range" in changes else 5)
    assert "## Accuracy against NFE" in (tmp_path / "whole" / "last" / "README.md").read_text()


def test_imitation_learns_the_experts_decisions(tmp_path, tiny_dir, any_digit):
    changes = {
        "rounds": 30,
        "imitate": ("confidence:3",),
        "imitation_rounds": 30,
        "prompts": 8,
        "eval_every": 30,
        "initial_bias": -2.0,
    }
    train(tiny(tmp_path / "run", tiny_dir, block_length=6, lr=1e-2, **changes))
    metrics = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert metrics[0]["nfe"] == 2, "the expert's"
    assert metrics[-1]["eval_nfe"] < 3.2, "a policy that starts at a bias of −2 needs about five"


def test_your_own_reward(tmp_path, tiny_dir):
    train(
        tiny(tmp_path / "run", tiny_dir, rounds=1),
        reward=lambda correctness, nfe, length, alpha: nfe.float(),
    )
    entry = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert entry["reward"] == entry["nfe"]


def conditioned(**changes):
    policy = LearnedPolicy(perturbed(conditioned=True), alpha=1.0)
    front = [
        {
            "sampler": "",
            "alpha": a,
            "nfe": n,
            "accuracy": 1.0,
            "accuracy_low": 1.0,
            "accuracy_high": 1.0,
        }
        for a, n in ((0.1, 20.0), (1.0, 10.0), (10.0, 4.0), (5.0, 3.9))
    ]
    return replace(policy, metadata={"pareto": front}, **changes)


def test_a_conditioned_policy_is_told_alpha_by_row_or_as_a_setting(tmp_path):
    policy, o = conditioned(), observation()
    told = replace(o, alpha=torch.tensor([0.1, 1.0, 10.0]))
    logits = policy.logits(told)
    for row, alpha in enumerate((0.1, 1.0, 10.0)):
        assert torch.allclose(replace(policy, alpha=alpha).logits(o)[row], logits[row], atol=1e-5)
    assert not torch.allclose(logits, policy.logits(o))
    policy.save_pretrained(tmp_path / "p")
    loaded = load_policy(f"{tmp_path}/p@alpha=10")
    assert torch.equal(loaded.logits(o), replace(policy, alpha=10.0).logits(o))


def test_rows_of_a_conditioned_policy_do_not_depend_on_their_mates():
    policy, o = conditioned(), replace(observation(), alpha=torch.tensor([0.1, 1.0, 10.0]))
    whole = policy.logits(o)
    for row in range(3):
        assert torch.equal(policy.logits(o[row : row + 1]), whole[row : row + 1])


def test_target_nfe_is_looked_up_between_the_entries_of_the_front(tmp_path):
    policy = conditioned()
    assert math.isclose(policy.alpha_for(10), 1.0, rel_tol=1e-6)
    assert math.isclose(policy.alpha_for(15), math.sqrt(0.1), rel_tol=1e-6)
    values = [policy.alpha_for(n) for n in (4.0, 5.0, 8.0, 12.0, 19.0, 20.0)]
    assert values == sorted(values, reverse=True)
    for nfe in (3.0, 21.0):
        with pytest.raises(UnmaskError, match="calibrated for 4"):
            policy.alpha_for(nfe)
    policy.save_pretrained(tmp_path / "p")
    assert math.isclose(load_policy(f"{tmp_path}/p@nfe=10").alpha, 1.0, rel_tol=1e-6)


@pytest.mark.parametrize("zero", [("time",), ("mask",), ("time", "mask")])
def test_zeroed_inputs_are_not_seen(zero):
    policy, o = LearnedPolicy(perturbed(), zero=zero), observation()
    changed = replace(o, step=(o.step + 3) % 10, masked=~o.masked)
    same = torch.equal(policy.logits(o), policy.logits(changed))
    assert same is (zero == ("time", "mask"))
    if "time" in zero:
        assert torch.equal(policy.logits(o), policy.logits(replace(o, step=(o.step + 3) % 10)))
    if "mask" in zero:
        assert torch.equal(policy.logits(o), policy.logits(replace(o, masked=~o.masked)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedPolicy(PolicyNetwork(), alpha=1.0), "trained for one α"),
        (lambda: LearnedPolicy(PolicyNetwork(), action="greedy"), "bernoulli or plackett-luce"),
        (lambda: LearnedPolicy(PolicyNetwork(), zero=("confidence",)), "time or mask"),
        (lambda: conditioned(alpha=-1.0), "above 0"),
        (lambda: conditioned(alpha=None).logits(observation()), "say which"),
        (lambda: LearnedPolicy(PolicyNetwork()).alpha_for(5), "not trained for a range"),
        (
            lambda: LearnedPolicy(perturbed(hidden=8)).logits(observation()),
            "hidden states of width 8 but was given none",
        ),
        (lambda: NetworkConfig(hidden=-1), "give the model's width"),
        (lambda: TrainConfig(alpha_range=(3.0, 1.0)), "the smaller first"),
        (lambda: TrainConfig(alpha_range=(2.0, 3.0)), "default α"),
        (lambda: TrainConfig(alpha_start=3.0, alpha=0.0), "both above 0"),
        (lambda: TrainConfig(alpha_start=3.0, alpha_range=(0.1, 3.0)), "give one of them"),
        (lambda: TrainConfig(reward="speed"), "multiplicative, additive, accuracy"),
        (lambda: TrainConfig(experts=("nobody",)), "nobody"),
        (lambda: TrainConfig(imitate=("threshold:2",)), "λ"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UnmaskError, match=message):
        make()


@pytest.mark.parametrize(
    ("actions", "needs"), [("bernoulli", set()), ("plackett-luce", {"hidden"})]
)
def test_a_row_decodes_the_same_in_any_batch(tiny_model, actions, needs):
    policy = LearnedPolicy(perturbed(inputs=2, hidden=32 if needs else 0), actions)
    prompts = [[5], [6, 7], [8, 9, 10], [11]]
    whole = decode(tiny_model, prompts, policy, max_new_tokens=8, block_length=3)
    for size, order in itertools.product((1, 3), ([0, 1, 2, 3], [3, 1, 0, 2])):
        part = decode(
            tiny_model,
            [prompts[i] for i in order],
            policy,
            max_new_tokens=8,
            block_length=3,
            batch_size=size,
        )
        assert torch.equal(part.tokens, whole.tokens[order]) and torch.equal(
            part.reveal_step, whole.reveal_step[order]
        )


def test_generator_is_used(tiny_model):
    """Ordered actions differ between rows with different keys."""
    o = observation(batch=3)
    action = LearnedPolicy(perturbed(), "plackett-luce").act(o, generator())
    assert (action > 0).any(1).all() and not (action > 0)[~o.eligible].any()


def test_a_run_may_start_from_a_policy_of_the_same_shape_only(tmp_path, tiny_dir, any_digit):
    train(tiny(tmp_path / "first", tiny_dir, rounds=2))
    train(
        tiny(
            tmp_path / "second", tiny_dir, rounds=1, lr=0.0, start=str(tmp_path / "first" / "last")
        )
    )
    a, b = (
        read_tensors(tmp_path / run / "last" / "model.safetensors") for run in ("first", "second")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    for changes in ({"width": 32}, {"start": "threshold:0.9"}):
        with pytest.raises(UnmaskError, match="does not fit"):
            train(
                tiny(
                    tmp_path / "third",
                    tiny_dir,
                    rounds=1,
                    **({"start": str(tmp_path / "first" / "last")} | changes),
                )
            )
        assert not (tmp_path / "third").exists()


def test_alpha_moves_from_its_start_to_its_end_on_a_log_scale(tmp_path, tiny_dir):
    seen = []

    def reward(correctness, nfe, length, alpha):
        seen.append(float(alpha[0]))
        return correctness

    train(
        tiny(tmp_path / "run", tiny_dir, rounds=4, eval_every=4, alpha=1.0, alpha_start=16.0),
        reward=reward,
    )
    assert seen == pytest.approx([16, 4, 1, 1, 1]), "four rounds and an evaluation"
