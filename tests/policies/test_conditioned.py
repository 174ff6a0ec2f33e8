"""One policy for a range of α, inputs that are not shown, and rows that do not depend on others."""

import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch

from tests.policies.test_policies import generator, observation, perturbed
from unmask import LearnedPolicy, UnmaskError, load_policy
from unmask.decoding import decode
from unmask.policies import NetworkConfig, PolicyNetwork


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
    # The numbers that the message offers can be given.
    entries = [{**e, "nfe": e["nfe"] + 0.0371} for e in policy.metadata["pareto"]]
    odd = replace(policy, metadata={"pareto": entries})
    with pytest.raises(UnmaskError, match=r"calibrated for 4.04 to 20.03") as refused:
        odd.alpha_for(3.0)
    low, _, high = str(refused.value).split()[-3:]
    assert odd.alpha_for(float(low)) > odd.alpha_for(float(high))
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
            lambda: LearnedPolicy(perturbed(conditioned=True)).alpha_for(5),
            "not calibrated yet, .* or give alpha",
        ),
        (
            lambda: LearnedPolicy(perturbed(hidden=8)).logits(observation()),
            "hidden states of width 8 but was given none",
        ),
        (lambda: NetworkConfig(hidden=-1), "give the model's width"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UnmaskError, match=message):
        make()


def test_an_alpha_beyond_those_of_training_is_warned_of(tmp_path):
    front = {"pareto": [{"alpha": 10.0, "nfe": 3.0}, {"alpha": 0.3, "nfe": 5.0}]}
    LearnedPolicy(perturbed(conditioned=True), alpha=1.0, metadata=front).save_pretrained(tmp_path)
    for alpha in ("0.29", "12"):
        with pytest.warns(UserWarning, match=rf"α {alpha}; .*trained for 0\.3 to 10, and"):
            load_policy(f"{tmp_path}@alpha={alpha}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for setting in ("alpha=0.3", "alpha=10", "nfe=5", "beta=0.5"):
            load_policy(f"{tmp_path}@{setting}")


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
