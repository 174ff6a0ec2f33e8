"""Policies by spec and from directories, with models and lengths of other origin."""

import pytest

import unmask
from tests.reference.decode import RULES, decode_row
from unmask import UnmaskError


def test_a_policy_runs_with_another_length_block_length_and_model(tmp_path, tiny_model):
    policy = unmask.LearnedPolicy(
        unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    )
    chain = unmask.load_model("embedded/chain")
    for model in (tiny_model, chain):
        for length, block_length in ((5, 5), (20, 7), (48, 16)):
            generation = unmask.generate(
                model, ["7 a +5 ="], policy, max_new_tokens=length, block_length=block_length
            )
            assert (generation.reveal_step >= 0).all() and int(generation.nfe[0]) <= length


@pytest.mark.parametrize("setting", ["time", "modulation"])
def test_unknown_network_settings_are_refused(setting):
    with pytest.raises(UnmaskError, match=f"{setting} of the policy network is 'x'"):
        unmask.policies.NetworkConfig(**{setting: "x"})


@pytest.mark.parametrize(
    ("remasking", "steps", "spec"),
    [
        ("low_confidence", 8, "confidence:6"),
        ("maskgit_plus", 48, "confidence:1"),
        ("topk_margin", 24, "margin:2"),
        ("random", 1, "random:48"),
        ("entropy", 16, "low-entropy:3"),
        ("low_confidence", 36, "confidence:48/36"),
        ("random", 47, "random:48/47"),
    ],
)
def test_lladas_and_dreams_steps_are_the_policy_they_mean(remasking, steps, spec):
    assert unmask.policies.steps_spec(steps, 48, remasking) == spec


def transfer_counts(masks, steps):
    """LLaDA's `get_num_transfer_tokens` in words: equal shares, the remainder to the first."""
    return [masks // steps + (i < masks % steps) for i in range(steps)]


@pytest.mark.parametrize("remasking", ["low_confidence", "random", "topk_margin", "entropy"])
@pytest.mark.parametrize(("length", "block", "steps"), [(10, 10, 7), (12, 6, 8), (15, 5, 9)])
def test_steps_that_do_not_divide_are_spread_as_llada_does(
    tiny_model, remasking, length, block, steps
):
    spec = unmask.policies.steps_spec(steps, length, remasking, block)
    assert "/" in spec
    found = unmask.generate(
        tiny_model, [[5, 6], [9]], spec, max_new_tokens=length, block_length=block
    )
    expected = transfer_counts(block, steps * block // length) * (length // block)
    for row in found.reveal_step.tolist():
        assert [row.count(step) for step in range(steps)] == expected


def test_low_entropy_reveals_where_the_entropy_is_smallest(tiny_model):
    found = unmask.generate(tiny_model, [[5, 6, 7]], "low-entropy:2", max_new_tokens=8)
    tokens, nfe, steps = decode_row(tiny_model, [5, 6, 7], RULES["low-entropy"](2), 8, 8)
    assert found.tokens[0].tolist() == tokens
    assert (int(found.nfe[0]), found.reveal_step[0].tolist()) == (nfe, steps)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: unmask.load_policy("confidence:3/5"), "3 positions in 5 passes"),
        (lambda: unmask.load_policy("confidence:3/0"), "number of passes is 0"),
        (lambda: unmask.load_policy("confidence:/2"), "give a whole number"),
        (lambda: unmask.load_policy("threshold:1/2"), "give a number"),
        (lambda: unmask.policies.steps_spec(9, 8), "at most the answers' length 8"),
        (lambda: unmask.policies.steps_spec(5, 12, "random", 6), "that the blocks share equally"),
        (lambda: unmask.policies.steps_spec(5, 12, "random", 5), "blocks that divide 12"),
        # 24 positions a pass would be 3 passes, not 2, in blocks of 16.
        (
            lambda: unmask.policies.steps_spec(2, 48, block_length=16),
            "that the blocks share equally",
        ),
        (
            lambda: unmask.policies.steps_spec(8, 48, block_length=16),
            "that the blocks share equally",
        ),
    ],
)
def test_paces_that_cannot_be_are_refused(make, says):
    with pytest.raises(UnmaskError, match=says):
        make()
