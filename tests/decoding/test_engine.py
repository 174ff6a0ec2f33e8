"""The engine: requests that come and go, each with options, policy and length of its own."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from tests.effort import cases
from tests.gpu.waits import Waits
from tests.typechecks import check_types
from unmask import UnmaskError
from unmask.decoding import DecodeOptions, Engine, Recorder, Request, canvas, decode, proposer
from unmask.policies import LearnedPolicy, Needs, NetworkConfig, PolicyNetwork, load_policy

SPECS = ["random:2", "confidence:1", "confidence:3", "threshold:0.4", "margin:2", "entropy:0.8"]


def learned(seed, action="bernoulli", **network):
    torch.manual_seed(seed)
    policy = PolicyNetwork(NetworkConfig(width=16, heads=2, mlp=32, **network))
    torch.nn.init.normal_(policy.modulation.weight, std=0.3)
    torch.nn.init.normal_(policy.head.weight, std=0.5)
    return LearnedPolicy(policy, action, alpha=2.0 if policy.config.conditioned else None)


@pytest.fixture(scope="module")
def policies(tiny_model):
    hidden = tiny_model.hidden_size
    return [
        *map(load_policy, SPECS),
        load_policy("threshold:0.6@block_length=3"),
        learned(0),
        learned(1, context=True, inputs=3),
        learned(2, conditioned=True),
        learned(3, hidden=hidden),
        learned(4, "plackett-luce", joint=True),
    ]


def random_request(rng, policies):
    """A request with random options; some are often at their default, so that rows share more."""
    length = rng.randint(1, 12)
    options = {
        "max_new_tokens": length,
        "block_length": rng.choice([None, rng.randint(1, length)]),
        "temperature": rng.choice([0.0, 0.0, 0.7]),
        "top_p": rng.choice([1.0, 1.0, 0.8]),
        "top_k": rng.choice([0, 0, 5]),
        "eos": rng.choice(["free", "free", "never", "last"]),
        "stop_at_eos": rng.random() < 0.3,
        "stop": rng.choice([(), (), (";",), ("# 1", "+5")]),
        "max_passes": rng.choice([None, None, rng.randint(1, length)]),
    }
    kind = rng.random()
    if kind < 0.2:
        options["cfg_scale"] = 0.8
    elif kind < 0.4:
        options |= {"cache": rng.choice(["prefix", "dual"]), "cache_refresh": rng.choice([None, 2])}
    prompt = tuple(rng.randrange(4, 30) for _ in range(rng.choice([1, 3, 3, 9, 20, 33])))
    policy = rng.choice(policies)
    alpha = rng.choice([None, 0.5, 7.0]) if getattr(policy, "alpha", None) else None
    return Request(prompt, policy, DecodeOptions(**options), rng.getrandbits(62), alpha)


def result_of(model, request):
    """What a request gives alone."""
    engine = Engine(model, 1)
    engine.submit(request)
    while (step := engine.step()) is not None:
        if step.results:
            return step.results[0]
    raise AssertionError("the row never finished")


def same_result(a, b):
    tokens = torch.equal(a.tokens, b.tokens) and torch.equal(a.reveal_step, b.reveal_step)
    return tokens and a.nfe == b.nfe


@settings(max_examples=cases(25, 250))
@given(seed=st.integers(0, 10**9))
def test_each_row_is_what_it_is_alone_whatever_comes_and_goes_beside_it(tiny_model, policies, seed):
    check_types(seed % 3 == 0)
    rng = random.Random(seed)
    requests = [random_request(rng, policies) for _ in range(rng.randint(2, 9))]
    requests += [rng.choice(requests) for _ in range(rng.randint(0, 4))]  # equal rows, as in groups
    for _ in range(rng.randint(0, 3)):  # the same canvas with another policy, or other blocks
        twin, other = rng.choice(requests), rng.choice(policies)
        blocks = rng.randint(1, twin.length)
        options = replace(twin.options, block_length=rng.choice([None, blocks]))
        alpha = 3.0 if getattr(other, "alpha", None) else None
        requests.append(replace(twin, policy=other, options=options, alpha=alpha))
    rng.shuffle(requests)
    engine, found, cancelled = Engine(tiny_model, rng.randint(1, 5)), {}, set()
    tickets: dict[int, Request] = {}
    waiting = list(requests)
    while waiting or not engine.idle:
        for _ in range(rng.randint(0, 3) if waiting else 0):
            if waiting:
                request = waiting.pop()
                tickets[engine.submit(request)] = request
        open_tickets = sorted(set(tickets) - set(found) - cancelled)
        if open_tickets and rng.random() < 0.1:
            ticket = rng.choice(open_tickets)
            engine.cancel(ticket)
            cancelled.add(ticket)
        step = engine.step()
        for result in step.results if step is not None else ():
            found[result.ticket] = result
    assert set(found) == set(tickets) - cancelled
    alone = {r: result_of(tiny_model, r) for r in {tickets[ticket] for ticket in found}}
    for ticket, result in found.items():
        assert same_result(result, alone[tickets[ticket]]), tickets[ticket]


def test_a_cancelled_row_frees_its_slot_at_the_next_step(tiny_model):
    engine = Engine(tiny_model, 2)
    options, policy = DecodeOptions(max_new_tokens=6), load_policy("confidence:1")
    for i in range(4):
        engine.submit(Request((5, 6 + i), policy, options))
    assert engine.step().rows.tolist() == [0, 1]
    engine.cancel(0)
    engine.cancel(3)
    assert engine.step().rows.tolist() == [1, 2]
    done = []
    while not engine.idle:
        done += [result.ticket for result in engine.step().results]
    assert done == [1, 2]
    for ticket in (0, 1, 17):
        with pytest.raises(UnmaskError, match="neither waiting nor in flight"):
            engine.cancel(ticket)
    assert engine.step() is None


def test_memory_is_that_of_the_rows_in_flight(tiny_model):
    engine = Engine(tiny_model, 3)
    options, policy = DecodeOptions(max_new_tokens=4), learned(3, hidden=tiny_model.hidden_size)
    for i in range(40):
        engine.submit(Request((5, 6 + i % 20), policy, options))
    while not engine.idle:
        engine.step()
        tensors = [*vars(engine.canvas).values(), *vars(engine.proposer).values()]
        tensors += engine.proposer.features.values()
        assert all(len(x) <= 3 for x in tensors if isinstance(x, torch.Tensor))
        held = (engine.canvas.requests, engine.canvas.counts, engine.proposer.marks)
        assert all(len(x) <= 3 for x in held)
    assert not engine.waiting and not engine.canvas.requests and not engine.proposer.alike_of


def test_rows_of_other_lengths_and_policies_share_forward_passes(tiny_model):
    engine = Engine(tiny_model)
    for length, spec in ((4, "confidence:1"), (6, "margin:1"), (5, "entropy:0.0")):
        policy = load_policy(spec)
        engine.submit(Request((5, 6, 7), policy, DecodeOptions(max_new_tokens=length)))
    while not engine.idle:
        engine.step()
    assert engine.cost.model_calls == 6


@pytest.mark.parametrize("spec", [*SPECS, "learned", "conditioned", "hidden"])
@pytest.mark.parametrize("options", [{}, {"block_length": 4}, {"temperature": 0.8, "top_p": 0.9}])
def test_the_host_waits_once_in_a_step(tiny_model, spec, options):
    kinds = {
        "learned": lambda: learned(0),
        "conditioned": lambda: learned(2, conditioned=True),
        "hidden": lambda: learned(3, hidden=tiny_model.hidden_size),
    }
    policy = kinds.get(spec, lambda: load_policy(spec))()
    engine = Engine(tiny_model)
    chosen = DecodeOptions(max_new_tokens=12, stop_at_eos=True, **options)
    for i in range(4):
        engine.submit(Request((5, 6, 7 + i % 2), policy, chosen, i))
    steps = 0
    while not engine.idle and steps < 4:  # the first step lets the rows in
        with Waits() as waits:
            engine.step()
        assert waits.found == ["tolist"]
        steps += 1
    assert steps


def test_logits_that_are_no_numbers_stop_the_decode(tiny_dir):
    model = unmask.load_model(tiny_dir, dtype=torch.float32)
    model.network.lm_head.weight.data[9] = float("nan")
    for spec in ("threshold:0.9", "margin:1", "entropy:0.5"):
        with pytest.raises(UnmaskError, match=r"prompt '.*': .* not finite .* in pass 1"):
            decode(model, [[5, 6]], load_policy(spec), max_new_tokens=4)
    with pytest.raises(UnmaskError, match="not finite"):
        decode(model, [[5, 6]], learned(0), max_new_tokens=4)


@pytest.mark.parametrize("eos", ["free", "never", "last"])
def test_a_broken_model_is_found_whatever_becomes_of_ends(tiny_dir, eos):
    model = unmask.load_model(tiny_dir, dtype=torch.float32)
    model.network.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UnmaskError, match="not finite"):
        decode(model, [[5, 6]], load_policy("threshold:0.9"), max_new_tokens=4, eos=eos)


def test_a_row_that_breaks_leaves_alone(tiny_dir):
    """Token 9 has an embedding that is no number, so only the row that holds it breaks."""
    model = unmask.load_model(tiny_dir, dtype=torch.float32)
    whole = unmask.load_model(tiny_dir, dtype=torch.float32)
    embedding = model.network.get_input_embeddings()
    model.network.lm_head.weight = torch.nn.Parameter(embedding.weight.data.clone())
    whole.network.lm_head.weight = model.network.lm_head.weight
    embedding.weight.data[9] = float("nan")
    model, whole = (replace(m, never_ids=(*m.never_ids, 9)) for m in (model, whole))
    policy, options = load_policy("confidence:1"), DecodeOptions(max_new_tokens=5)
    prompts = [(5, 6), (5, 9), (5, 6), (7, 8)]
    engine, found = Engine(model, 3), {}
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, policy, options, i))
    while not engine.idle:
        found |= {result.ticket: result for result in engine.step().results}
    assert "not finite" in found[1].error and "pass 1" in found[1].error
    for ticket in (0, 2, 3):
        alone = result_of(whole, Request(prompts[ticket], policy, options, ticket))
        assert not found[ticket].error and same_result(found[ticket], alone)


def test_rows_for_which_there_is_no_memory_are_dropped_and_others_go_on(tiny_model, monkeypatch):
    from unmask.decoding.canvas import Canvas

    engine, policy = Engine(tiny_model, 4), load_policy("confidence:1")
    first = engine.submit(Request((5, 6), policy, DecodeOptions(max_new_tokens=4)))
    engine.step()
    late = engine.submit(Request((5, 6), policy, DecodeOptions(max_new_tokens=40)))
    grow = Canvas._grow

    def fail(canvas, slots, width, length):
        if length > 4:
            raise MemoryError
        grow(canvas, slots, width, length)

    monkeypatch.setattr(Canvas, "_grow", fail)
    with pytest.raises(MemoryError):
        engine.step()
    with pytest.raises(UnmaskError, match="neither waiting nor in flight"):
        engine.cancel(late)
    done = []
    while not engine.idle:
        done += engine.step().results
    assert [(result.ticket, result.nfe) for result in done] == [(first, 4)]


@pytest.mark.parametrize("cache", [None, "dual"])
@pytest.mark.parametrize("part", ["canvas", "proposer", "constraints", "store"])
def test_rows_in_flight_keep_what_they_had_where_growing_fails_midway(
    tiny_model, monkeypatch, part, cache
):
    options = DecodeOptions(max_new_tokens=8, block_length=4, cache=cache)
    row = Request((5, 6), load_policy("confidence:1"), options)
    other = replace(row, options=DecodeOptions(max_new_tokens=32, block_length=4, cache=cache))
    if part == "store" and cache is None:
        return
    alone, engine = result_of(tiny_model, row), Engine(tiny_model, 4)
    engine.submit(row)
    engine.step()
    engine.submit(other)
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == {"canvas": 4, "proposer": 2, "store": 3}.get(part, 1):
            raise MemoryError
        return original(*arguments)

    owner, name = {
        "canvas": (canvas, "grow_tensor"),
        "proposer": (proposer, "grow_tensor"),
        "constraints": (proposer, "build_constraints"),
        "store": (torch.Tensor, "new_zeros"),  # the second layer's keys
    }[part]
    original = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(MemoryError):
            engine.step()
    done = []
    while not engine.idle:
        done += engine.step().results
    assert len(done) == 1 and same_result(done[0], alone)


def test_a_policy_that_cannot_decide_for_the_model_is_refused_at_once(tiny_model):
    told = replace(learned(2, conditioned=True), alpha=None)
    for policy, says in ((told, "one for every α"), (learned(3, hidden=7), "of width 7")):
        with pytest.raises(UnmaskError, match=says):
            unmask.stream(tiny_model, [[5, 6]], policy, max_new_tokens=4)
        with pytest.raises(UnmaskError, match=says):
            Engine(tiny_model).submit(Request((5, 6), policy, DecodeOptions(max_new_tokens=4)))
    mates = Engine(tiny_model)
    for alpha in (1.0, 9.0):
        mates.submit(Request((5, 6), told, DecodeOptions(max_new_tokens=4), alpha=alpha))
    assert mates.step() is not None


def test_a_long_row_leaves_nothing_behind_and_slots_grow_in_bounds(tiny_model):
    engine, policy = Engine(tiny_model, 6), load_policy("confidence:9")
    engine.submit(Request((5,) * 90, policy, DecodeOptions(max_new_tokens=50)))
    while not engine.idle:
        engine.step()
    sizes = set()
    for _ in range(8):
        engine.submit(Request((5, 6), policy, DecodeOptions(max_new_tokens=18)))
        engine.step()
        sizes.add((engine.canvas.slots, engine.canvas.length))
    assert all(length == 18 for _, length in sizes)
    assert {slots for slots, _ in sizes} <= {1, 2, 4, 6}


def test_what_is_recorded_can_be_trained_on(tiny_model):
    policy = learned(0)
    generation = decode(tiny_model, [[5, 6]] * 3, policy, max_new_tokens=6, recorder=Recorder())
    transitions = generation.transitions
    policy.network.requires_grad_(True)
    policy.logits(transitions.observation).sum().backward()
    assert policy.network.head.weight.grad is not None
    generation.nfe.add_(1)
    generation.tokens.add_(1)


class Odd:
    """A policy of a user, with a mistake."""

    needs = Needs()

    def __init__(self, act):
        self.act = lambda observation, generator: act(observation)


@pytest.mark.parametrize(
    "act",
    [
        lambda o: o.eligible[:, :2],
        lambda o: o.eligible.float().numpy(),
        lambda o: o.eligible.float(),
        lambda o: None,
    ],
)
def test_a_policy_that_returns_no_action_is_told_so(tiny_model, act):
    with pytest.raises(UnmaskError, match="act of policy Odd returned"):
        decode(tiny_model, [[5, 6]], Odd(act), max_new_tokens=4)


def test_what_a_policy_needs_must_exist(tiny_model):
    odd = Odd(lambda o: o.eligible)
    odd.needs = Needs(frozenset({"logits"}))
    with pytest.raises(UnmaskError, match="needs the feature 'logits'"):
        decode(tiny_model, [[5, 6]], odd, max_new_tokens=4)
    odd.needs = Needs(top_k=10_000)
    with pytest.raises(UnmaskError, match="this model has 59 tokens"):
        decode(tiny_model, [[5, 6]], odd, max_new_tokens=4)
