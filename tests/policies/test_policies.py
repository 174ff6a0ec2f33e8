"""Heuristics, the Bernoulli action, the network, and policies on disk."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.decode import RULES
from unmask import LearnedPolicy, UnmaskError, load_policy
from unmask.policies import Bernoulli, NetworkConfig, Observation, PolicyNetwork
from unmask.policies.network import joint_ahead, rotary_turns, rotate, smallest_beside
from unmask.rng import RowGenerator, row_keys


def observation(seed=0, batch=3, length=10):
    generator = torch.Generator().manual_seed(seed)
    p = (
        torch.rand(batch, length, 6, generator=generator)
        .pow(4)
        .softmax(-1)
        .sort(-1, descending=True)
        .values
    )
    p = torch.where(
        torch.rand(batch, length, 1, generator=generator) < 0.5, p, (p * 40).softmax(-1)
    )
    masked = torch.rand(batch, length, generator=generator) < 0.7
    eligible = masked & (torch.rand(batch, length, generator=generator) < 0.8)
    eligible[:, 0] = masked[:, 0] = True
    features = {"margin": p[..., 0] - p[..., 1], "entropy": -(p * p.log()).nan_to_num().sum(-1)}
    step = torch.randint(0, length, (batch,), generator=generator)
    return Observation(p[..., :1], masked, eligible, step, length, features)


def generator(batch=3):
    return RowGenerator(torch.arange(batch))


def perturbed(seed=0, **config):
    torch.manual_seed(seed)
    network = PolicyNetwork(NetworkConfig(width=16, heads=2, mlp=32, **config))
    torch.nn.init.normal_(network.modulation.weight, std=0.3)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return network


@given(
    rule=st.sampled_from(sorted(RULES)),
    seed=st.integers(0, 10**6),
    value=st.floats(0, 1),
    length=st.integers(1, 12),
)
def test_heuristics_follow_their_rule_in_every_row(rule, seed, value, length):
    value = {
        "confidence": 1 + int(5 * value),
        "margin": 1 + int(5 * value),
        "low-entropy": 1 + int(5 * value),
        "factor": 3 * value,
        "entropy": 3 * value,
    }.get(rule, value)
    o = observation(seed, length=length)
    action = load_policy(f"{rule}:{value}").act(o, generator())
    choose = RULES[rule](value)
    for row in range(3):
        eligible = o.eligible[row].nonzero()[:, 0].tolist()
        features = (
            o.confidence[row, :, 0].tolist(),
            o.features["margin"][row].tolist(),
            o.features["entropy"][row].tolist(),
        )
        assert sorted(choose(*features, eligible, 0)) == action[row].nonzero()[:, 0].tolist()


def test_the_fallback_is_decided_per_row():
    confidence = torch.tensor([[0.95, 0.99, 0.2], [0.1, 0.2, 0.3]])
    everything = torch.ones(2, 3, dtype=torch.bool)
    o = Observation(confidence, everything, everything, torch.zeros(2, dtype=torch.long), 3)
    action = load_policy("threshold:0.9").act(o, generator(2))
    assert action.tolist() == [[True, True, False], [False, False, True]]


def test_random_is_uniform_over_the_eligible():
    eligible = torch.tensor([[True, False, True, True, False]]).expand(6000, 5)
    o = Observation(torch.rand(6000, 5), eligible, eligible, torch.zeros(6000, dtype=torch.long), 5)
    action = load_policy("random:2").act(o, generator(6000))
    assert (action.sum(1) == 2).all() and not action[:, [1, 4]].any()
    assert torch.allclose(action.float().mean(0)[[0, 2, 3]], torch.tensor(2 / 3), atol=0.03)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_bernoulli_probabilities_sum_to_one_and_sampling_matches(n):
    torch.manual_seed(n)
    logits, eligible = torch.randn(1, n), torch.ones(1, n, dtype=torch.bool)
    eligible[0, n // 2] = n == 1
    actions = torch.tensor(
        [
            a
            for a in itertools.product([False, True], repeat=n)
            if not (torch.tensor(a) & ~eligible[0]).any()
        ]
    )
    distribution = Bernoulli(logits.expand(len(actions), n), eligible.expand(len(actions), n))
    p = distribution.log_prob(actions).exp()
    assert math.isclose(p.sum(), 1, abs_tol=1e-5)
    assert math.isclose(distribution.entropy()[0], -(p * p.log()).sum(), abs_tol=1e-4)
    many = Bernoulli(logits.expand(20_000, n), eligible.expand(20_000, n))
    drawn = many.sample(RowGenerator(torch.arange(20_000)).uniform(0, n, 0))
    frequency = torch.stack([(drawn == a).all(1).float().mean() for a in actions])
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-3).all()


@given(seed=st.integers(0, 10**6))
def test_kl_is_that_of_independent_draws(seed):
    """Against torch's own, position by position, which is infinite at extreme logits."""
    generator = torch.Generator().manual_seed(seed)
    own, other = 4 * torch.randn(2, 3, 5, generator=generator)
    eligible = torch.rand(3, 5, generator=generator) < 0.7
    found = Bernoulli(own, eligible).kl_from(Bernoulli(other, eligible))
    law = torch.distributions.Bernoulli
    each = torch.distributions.kl_divergence(law(logits=other.double()), law(logits=own.double()))
    assert torch.allclose(found.double(), (each * eligible).sum(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(Bernoulli(own, eligible).kl_from(Bernoulli(own, eligible)), torch.zeros(3))
    assert Bernoulli(30 * own, eligible).kl_from(Bernoulli(30 * other, eligible)).isfinite().all()


@pytest.mark.parametrize("eligible", [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]])
def test_with_the_fallback_probabilities_are_those_of_what_is_revealed(eligible):
    """An empty draw reveals the best position, so it adds to that one's probability."""
    torch.manual_seed(sum(eligible))
    logits, eligible = torch.randn(1, 4) - 1, torch.tensor([eligible]) > 0
    behaviours = [
        a
        for a in torch.tensor(list(itertools.product([False, True], repeat=4)))
        if a.any() and not (a & ~eligible[0]).any()
    ]
    actions = torch.stack(behaviours)
    n = len(actions)
    plain, behaviour = (
        Bernoulli(logits.expand(n, 4), eligible.expand(n, 4), fallback=fallback)
        for fallback in (False, True)
    )
    p = behaviour.log_prob(actions).exp()
    assert math.isclose(p.sum(), 1, abs_tol=1e-5)
    assert math.isclose(behaviour.entropy()[0], -(p * p.log()).sum(), abs_tol=1e-4)
    alone = (actions == behaviour.best).all(1)
    assert alone.sum() == 1
    nothing = plain.log_prob(torch.zeros(n, 4, dtype=torch.bool)).exp()
    assert torch.allclose(p - plain.log_prob(actions).exp(), nothing * alone, atol=1e-6)


def test_an_empty_draw_reveals_the_position_whose_likelihood_it_adds_to():
    policy, o = LearnedPolicy(perturbed(initial_bias=-3.0)), observation(batch=1)
    many = o[torch.zeros(4000, dtype=torch.long)]
    acted = policy.act(many, generator(4000))
    distribution = policy.distribution(many)
    only = (acted == distribution.best).all(1).float().mean()
    p = distribution.log_prob(distribution.best)[0].exp()
    assert 0.2 < p < 0.98 and abs(only - p) < 5 * (p * (1 - p) / 4000).sqrt()


def test_beta_scales_reveal_probabilities_and_is_capped():
    logits, eligible = (
        torch.tensor([[0.0, 3.0]]).expand(20_000, 2),
        torch.ones(20_000, 2, dtype=torch.bool),
    )
    drawn = Bernoulli(logits, eligible).sample(
        RowGenerator(torch.arange(20_000)).uniform(0, 2, 0), scale=1.5
    )
    assert torch.allclose(drawn.float().mean(0), torch.tensor([0.75, 1.0]), atol=0.02)


def test_network_starts_near_the_bias_with_the_papers_size():
    policy = LearnedPolicy(PolicyNetwork())
    assert 280_000 < sum(p.numel() for p in policy.network.parameters()) < 350_000
    s = policy.logits(observation()).sigmoid()
    assert ((s - 0.119).abs() < 0.06).all()


def test_identity_modulators_at_initialisation():
    network = PolicyNetwork(NetworkConfig(width=16, heads=2, mlp=32))
    o = observation()
    early = network(o)
    late = network(Observation(o.confidence, ~o.masked, o.eligible, o.step + 3, o.length))
    assert torch.allclose(early, late, atol=1e-6), (
        "mask and time act through the modulators only, which start as identities"
    )
    network = perturbed()
    assert not torch.allclose(
        network(o),
        network(Observation(o.confidence, ~o.masked, o.eligible, o.step, o.length)),
        atol=1e-3,
    )
    assert not torch.allclose(
        network(o),
        network(Observation(o.confidence, o.masked, o.eligible, o.step + 1, o.length)),
        atol=1e-3,
    )


def test_network_sees_positions_and_the_whole_buffer():
    network, o = perturbed(), observation()
    changed = o.confidence.clone()
    changed[:, -1] = 1 - changed[:, -1]
    other = Observation(changed, o.masked, o.eligible, o.step, o.length)
    assert ((network(o) - network(other))[:, 0].abs() > 1e-6).all()
    flipped = o.map(lambda x: x.flip(1) if x.ndim > 1 else x)
    assert not torch.allclose(network(flipped).flip(1), network(o), atol=1e-4)


def test_rotary_scores_depend_on_distance_only():
    angles = rotary_turns(12, 8, torch.device("cpu"))
    q, k = torch.randn(1, 1, 1, 8).expand(1, 1, 12, 8), torch.randn(1, 1, 1, 8).expand(1, 1, 12, 8)
    scores = (rotate(q, angles) @ rotate(k, angles).transpose(-1, -2))[0, 0]
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)


def test_logits_of_a_row_do_not_depend_on_its_mates():
    network, o = perturbed(), observation(batch=9)
    together = network(o)
    for row in range(9):
        assert torch.equal(network(o[row : row + 1])[0], together[row])


@pytest.mark.parametrize(
    "config",
    [{}, {"context": True, "joint": True}, {"conditioned": True}, {"modulation": "linear"}],
)
def test_logits_at_eligible_positions_alone_are_the_same(config):
    o = observation(batch=9, length=48)
    eligible = o.eligible & (
        torch.arange(48) < torch.arange(0, 54, 6)[:, None] + 3
    )  # 1 to 48 of them
    o = replace(
        o,
        eligible=eligible,
        alpha=torch.linspace(0.3, 10, 9) if config.get("conditioned") else None,
    )
    network = perturbed(**config)
    everywhere, most = network(o), int(eligible.sum(1).amax())
    for bound in (most, 48):
        assert torch.allclose(network(o, bound)[eligible], everywhere[eligible], atol=1e-5)
    for row in range(
        9
    ):  # in multiples of 16 the bits do not depend on the bound, nor on the row's mates
        alone = -(-int(eligible[row].sum()) // 16) * 16
        assert torch.equal(
            network(o[row : row + 1], alone)[0][eligible[row]], network(o, 48)[row][eligible[row]]
        )


def test_gradients_do_not_depend_on_how_threads_take_turns():
    o = observation(batch=128, length=48)
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkConfig(width=64, mlp=256))
    weights = torch.rand(128, 48)
    found = []
    try:
        torch.set_num_threads(2)
        for _ in range(20):
            network.zero_grad()
            (network(o, 48) * weights).sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


def test_confidence_may_come_without_its_last_axis():
    o = observation()
    flat = Observation(o.confidence[..., 0], o.masked, o.eligible, o.step, o.length)
    network = perturbed()
    assert torch.equal(network(flat), network(o))


def test_log_odds_keep_confidences_near_one_apart():
    o = observation()
    near, nearer = (
        Observation(torch.full_like(o.confidence, c), o.masked, o.eligible, o.step, o.length)
        for c in (0.99, 0.999)
    )
    apart = []
    for transform in ("probability", "log-odds"):
        network = perturbed(transform=transform)
        apart.append((network(near) - network(nearer)).abs().mean().item())
    assert apart[1] > 3 * apart[0]
    for c in (0.0, 1.0):
        extreme = Observation(
            torch.full_like(o.confidence, c), o.masked, o.eligible, o.step, o.length
        )
        assert perturbed(transform="log-odds")(extreme).isfinite().all()
    with pytest.raises(UnmaskError, match="use probability or log-odds"):
        NetworkConfig(transform="logit")


def test_an_untrained_policy_may_follow_confidence_alone_whatever_the_seed():
    levels = torch.tensor([0.01, 0.5, 0.9, 0.999])
    all_true = torch.ones(1, 16, dtype=torch.bool)
    chances = []
    for seed in range(20):
        torch.manual_seed(seed)
        c = torch.rand(1, 16, 1)
        c[0, : len(levels), 0] = levels
        features = {"hidden": 3 * torch.randn(1, 16, 8)}
        o = Observation(
            c, all_true, all_true, torch.zeros(1, dtype=torch.long), 16, features=features
        )
        shape = NetworkConfig(
            width=64,
            mlp=256,
            initial_bias=0.0,
            initial_slope=1.0,
            transform="log-odds",
            context=True,
            joint=True,
            hidden=8,
        )
        logits = PolicyNetwork(shape)(o)[0].detach()
        certain = (c[0, :, 0] - 0.5).abs() > 0.01
        assert ((logits > 0) == (c[0, :, 0] > 0.5))[certain].all(), "no other input has a say"
        chances.append(logits[: len(levels)].sigmoid())
    mean, spread = torch.stack(chances).mean(0), torch.stack(chances).std(0)
    assert (mean.diff() > 0).all()
    assert spread.max() < 0.07, "seeds begin alike"
    with pytest.raises(UnmaskError, match="initial_slope of the policy network is inf"):
        NetworkConfig(initial_slope=float("inf"))


def test_policies_saved_before_there_was_a_transform_read_probabilities(tmp_path):
    policy = LearnedPolicy(perturbed())
    policy.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["network"].pop("transform") == "probability"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_policy(tmp_path).logits(observation()), policy.logits(observation()))


def test_fallback_reveals_the_largest_logit_of_each_empty_row():
    network = perturbed()
    torch.nn.init.constant_(network.head.bias, -40.0)
    o = observation(batch=3)
    action = LearnedPolicy(network).act(o, generator())
    best = network(o).masked_fill(~o.eligible, -torch.inf).argmax(1)
    assert torch.equal(action, torch.nn.functional.one_hot(best, 10).bool())
    assert not LearnedPolicy(network, fallback=False).act(o, generator()).any()


def test_save_and_load_give_the_same_policy(tmp_path):
    policy = LearnedPolicy(
        perturbed(), temperature=0.5, beta=0.8, metadata={"trained": {"alpha": 1.0}}
    )
    policy.save_pretrained(tmp_path / "p")
    again = load_policy(tmp_path / "p")
    assert torch.equal(again.logits(observation()), policy.logits(observation()))
    assert (again.temperature, again.beta, again.fallback, dict(again.metadata)) == (
        0.5,
        0.8,
        True,
        {"trained": {"alpha": 1.0}},
    )
    changed = load_policy(f"{tmp_path / 'p'}@temperature=1,beta=0.25")
    assert (changed.temperature, changed.beta) == (1.0, 0.25)
    assert sorted(f.name for f in (tmp_path / "p").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_damaged_policy_directories_are_refused(tmp_path):
    LearnedPolicy(perturbed()).save_pretrained(tmp_path / "p")
    weights = (tmp_path / "p" / "model.safetensors").read_bytes()
    (tmp_path / "p" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UnmaskError, match="damaged or truncated"):
        load_policy(tmp_path / "p")
    (tmp_path / "p" / "model.safetensors").unlink()
    with pytest.raises(UnmaskError, match="does not exist"):
        load_policy(tmp_path / "p")
    LearnedPolicy(PolicyNetwork(NetworkConfig(width=32, heads=2, mlp=32))).save_pretrained(
        tmp_path / "q"
    )
    LearnedPolicy(perturbed()).save_pretrained(tmp_path / "r")
    (tmp_path / "q" / "model.safetensors").replace(tmp_path / "r" / "model.safetensors")
    with pytest.raises(UnmaskError, match="do not fit"):
        load_policy(tmp_path / "r")
    with pytest.raises(UnmaskError, match="top 3 probabilities"):
        LearnedPolicy(perturbed(inputs=3)).logits(observation())
    for settings in ("temperature=0", "beta=-1", "gamma=1", "beta=x"):
        with pytest.raises(UnmaskError):
            load_policy(f"{tmp_path / 'p'}@{settings}")


@pytest.mark.parametrize(
    "spec",
    [
        "threshold:1.1",
        "threshold:-0.1",
        "threshold:nan",
        "confidence:0",
        "random:0",
        "margin:-2",
        "entropy:-1",
        "factor:-1",
        "random:x",
        "threshold:0.9@block_length=0",
        "threshold:0.9@block_length=x",
        "threshold:0.9@beta=2",
    ],
)
def test_bad_heuristics_are_refused(spec):
    with pytest.raises(UnmaskError, match="give"):
        load_policy(spec)


def test_row_generator_is_uniform_and_keyed_by_row():
    keys = torch.tensor(row_keys([[i] for i in range(500)], 0))
    u = RowGenerator(keys).uniform(torch.arange(500), 200, 0)
    assert u.min() >= 0 and u.max() < 1
    histogram = torch.histc(u, 20, 0, 1)
    assert ((histogram - 5000).abs() < 5 * 5000**0.5).all()
    assert u.unique().numel() > 0.99 * u.numel() - 700  # 24 bits: some coincidences are expected
    correlation = torch.corrcoef(torch.stack([u[:-1].flatten(), u[1:].flatten()]))[0, 1]
    assert abs(correlation) < 0.02
    subset = RowGenerator(keys[[7, 3]]).uniform(torch.tensor([7, 3]), 200, 0)
    assert torch.equal(subset, u[[7, 3]])
    assert not torch.equal(RowGenerator(keys).uniform(0, 5, 1), RowGenerator(keys).uniform(0, 5, 0))
    assert len(set(row_keys([[1, 2]] * 50 + [[2, 1]] * 50, 0) + row_keys([[1, 2]], 1))) == 101


def test_context_is_the_smallest_confidence_on_either_side_and_joint_the_product_of_larger_ones():
    o = observation(batch=4)
    c, eligible = o.confidence[..., 0], o.eligible
    found = smallest_beside(c, eligible)
    for row in range(4):
        for k in range(10):
            before = [float(c[row, j]) for j in range(k) if eligible[row, j]]
            behind = [float(c[row, j]) for j in range(k + 1, 10) if eligible[row, j]]
            assert found[row, k].tolist() == [min(before, default=1.0), min(behind, default=1.0)]
    ahead = joint_ahead(c, eligible)
    for row in range(4):
        for k in eligible[row].nonzero()[:, 0].tolist():
            larger = [
                j for j in range(10) if eligible[row, j] and (-c[row, j], j) < (-c[row, k], k)
            ]
            assert abs(float(ahead[row, k]) - math.prod(float(c[row, j]) for j in larger)) < 1e-5
    network = perturbed(context=True)
    flipped = Observation(o.confidence.flip(1), o.masked.flip(1), o.eligible.flip(1), o.step, 10)
    assert not torch.allclose(network(o), network(flipped).flip(1))
