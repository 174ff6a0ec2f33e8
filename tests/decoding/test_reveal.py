"""`reveal` decides over logits what the engine decides over the model's hidden states."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding.test_engine import learned, result_of
from tests.effort import cases
from unmask import UnmaskError
from unmask.decoding import DecodeOptions, Request
from unmask.decoding.reveal import model_of_logits, reveal
from unmask.models.head import Sampling, tiles
from unmask.policies import Needs, load_policy
from unmask.rng import RowGenerator, block_keys

SPECS = ["random:2", "confidence:3", "threshold:0.4", "factor:1", "margin:2", "entropy:0.8"]


@pytest.fixture(scope="module")
def policies():
    return [
        *map(load_policy, SPECS),
        load_policy("threshold:0.6@block_length=3"),
        learned(0),
        learned(1, context=True, inputs=3),
        learned(2, conditioned=True),
        learned(4, "plackett-luce", joint=True),
    ]


def random_request(rng, policies):
    length = rng.randint(8, 14)
    options = DecodeOptions(
        max_new_tokens=length,
        temperature=rng.choice([0.0, 0.0, 0.7]),
        top_p=rng.choice([1.0, 0.8]),
        top_k=rng.choice([0, 5]),
        eos=rng.choice(["free", "never", "last"]),
    )
    prompt = tuple(rng.randrange(4, 30) for _ in range(rng.choice([1, 3, 9, 20])))
    policy = rng.choice(policies)
    alpha = rng.choice([None, 0.5, 7.0]) if getattr(policy, "alpha", None) else None
    return Request(prompt, policy, options, rng.getrandbits(62), alpha)


def logits_of(model, prompt, block):
    """Logits of blocks [B, b] behind their prompts [B, P]."""
    tokens = torch.cat([prompt, block], 1)
    positions = torch.arange(prompt.shape[1], tokens.shape[1]).expand_as(block)
    return model.logits_at(tokens, torch.ones_like(tokens), positions).float()


def decode_with_reveal(model, request):
    """Tokens, reveal steps and NFE of one request in one block, from logits alone."""
    prompt = torch.tensor([request.prompt])
    block = torch.full((1, request.length), model.mask_id)
    masked, steps, nfe = block == model.mask_id, torch.full_like(block, -1), 0
    while True:
        step = reveal(
            request.policy,
            block,
            logits_of(model, prompt, block),
            masked,
            torch.tensor([nfe]),
            RowGenerator(torch.tensor([request.key])),
            mask_id=model.mask_id,
            never_ids=model.never_ids,
            eos_ids=model.eos_ids,
            alpha=None if request.alpha is None else torch.tensor([request.alpha]),
            sampling=request.sampling,
        )
        assert not (step.revealed & ~masked).any() and step.revealed.any()
        steps[step.revealed] = nfe
        block, masked, nfe = step.tokens, masked & ~step.revealed, nfe + 1
        if step.done:
            return block[0], steps[0], nfe


@settings(max_examples=cases(20, 100))
@given(seed=st.integers(0, 10**9))
def test_reveal_decides_what_the_engine_decides(tiny_model, policies, seed):
    request = random_request(random.Random(seed), policies)
    expected = result_of(tiny_model, request)
    tokens, steps, nfe = decode_with_reveal(tiny_model, request)
    assert torch.equal(tokens, expected.tokens)
    assert torch.equal(steps, expected.reveal_step)
    assert nfe == expected.nfe


@settings(max_examples=cases(12, 100))
@given(seed=st.integers(0, 10**9))
def test_rows_do_not_depend_on_their_batch(tiny_model, policies, seed):
    rng = random.Random(seed)
    policy, sampling = rng.choice(policies), rng.choice([Sampling(), Sampling(0.8)])
    torch.manual_seed(seed)
    rows, width = rng.randint(2, 6), rng.choice([4, 12])
    tokens = torch.randint(4, 30, (rows, width))
    masked = torch.rand(rows, width) < torch.rand(rows, 1)
    inputs = (tokens, torch.randn(rows, width, 51) * 3, masked, torch.randint(0, width, (rows,)))
    keys = torch.randint(-(2**62), 2**62, (rows,))
    terms = {"mask_id": 2, "sampling": sampling}
    before = [x.clone() for x in inputs]
    whole = reveal(policy, *inputs, RowGenerator(keys), **terms)
    assert all(map(torch.equal, before, inputs))  # nothing that was given is changed
    for i in range(rows):
        alone = reveal(
            policy, *(x[i : i + 1] for x in inputs), RowGenerator(keys[i : i + 1]), **terms
        )
        for name in ("tokens", "done", "revealed", "proposals", "confidence"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[i]), name


class Nothing:
    """A policy that never reveals anything."""

    needs = Needs(everywhere=False)

    def act(self, observation, generator):
        return torch.zeros_like(observation.eligible)


def call(policy, logits, masked, **terms):
    rows, width, _ = logits.shape
    tokens = torch.full((rows, width), 5).masked_fill(masked, 2)
    generator = RowGenerator(torch.arange(rows))
    return reveal(
        policy, tokens, logits, masked, torch.zeros(rows).long(), generator, mask_id=2, **terms
    )


def test_a_plain_function_decides_too():
    logits, masked = torch.randn(3, 4, 20), torch.rand(3, 4) < 0.7
    found = call(lambda o: o.eligible & (o.confidence[..., 0] > 2), logits, masked)
    same = call(Nothing(), logits, masked)
    assert torch.equal(found.tokens, same.tokens) and torch.equal(found.revealed, same.revealed)


def test_a_row_with_masks_always_reveals_one_and_a_full_row_never_any():
    logits = torch.zeros(3, 4, 20)
    logits[0, 2, 7], logits[1, 0, 9] = 3.0, 5.0
    masked = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    step = call(Nothing(), logits, masked)
    assert step.revealed.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert step.tokens.tolist() == [[2, 2, 7, 5], [5, 5, 5, 0], [5, 5, 5, 5]]
    assert step.done.tolist() == [False, True, True]


def test_logits_that_are_no_numbers_still_end():
    step = call(Nothing(), torch.full((1, 4, 20), torch.nan), torch.ones(1, 4).bool())
    assert step.revealed.sum() == 1


def test_the_mask_token_and_others_are_never_proposed():
    logits = torch.zeros(1, 3, 20)
    logits[0, :, 2], logits[0, :, 11], logits[0, :, 12], logits[0, :, 13] = 9.0, 8.0, 7.0, 6.0
    masked = torch.ones(1, 3).bool()
    first = call(load_policy("confidence:3"), logits, masked)
    assert first.tokens.tolist() == [[11, 11, 11]]
    never = call(load_policy("confidence:3"), logits, masked, never_ids=(11,))
    assert never.tokens.tolist() == [[12, 12, 12]]
    no_end = {"eos_ids": (11, 12), "sampling": Sampling(eos="never")}
    assert call(load_policy("confidence:3"), logits, masked, **no_end).tokens.tolist() == [[13] * 3]


@pytest.mark.parametrize("needs", [Needs(), Needs(frozenset({"hidden"}))])
def test_policies_that_read_hidden_states_are_refused(needs):
    policy = Nothing()
    policy.needs = needs
    logits, masked = torch.zeros(1, 4, 20), torch.ones(1, 4).bool()
    if not needs.features:
        assert call(policy, logits, masked).revealed.any()
        return
    with pytest.raises(UnmaskError, match="reads the model's hidden states, and only logits"):
        call(policy, logits, masked)


def test_bad_values_are_refused():
    logits, masked = torch.zeros(1, 4, 2), torch.ones(1, 4).bool()
    with pytest.raises(UnmaskError, match="mask_id is 2, and there are logits of 2 tokens"):
        call(load_policy("confidence"), logits, masked)
    with pytest.raises(UnmaskError, match="cfg_scale is guidance"):
        call(load_policy("confidence"), logits, masked, sampling=Sampling(cfg_scale=1.0))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_given_logits_are_treated_as_a_head_treats_hidden_states(temperature):
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 9, 16), torch.nn.Linear(16, 5000)  # three slices on a CPU
    given = model_of_logits(5000, 2, (7,), ())
    terms = {"needs": {"entropy", "margin"}, "k": 3, "generator": RowGenerator(torch.arange(2))}
    with torch.no_grad():
        logits = torch.cat([x.flatten(1) for _, x in tiles(head, hidden.flatten(0, 1), 2048)], 1)
        logits = logits.view(2, 9, 5000)
    before, sampling = logits.clone(), Sampling(temperature)
    expected = replace(given, head=head).proposal(hidden, sampling, **terms)
    found = given.proposal(logits, sampling, **terms)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.confidence, expected.confidence)
    for name, values in expected.features.items():
        assert torch.equal(found.features[name], values), name
    assert torch.equal(logits, before)


def test_blocks_of_a_row_have_keys_of_their_own():
    keys = torch.tensor([3, 3, 4])
    assert len(set(block_keys(keys, torch.tensor([0, 8, 0])).tolist())) == 3
