"""A policy that was trained in blocks decides in them where nobody gives a block length."""

import torch

import unmask
from unmask.decoding.request import trained_blocks
from unmask.policies.network import NetworkConfig, PolicyNetwork
from unmask.scoring import encode_pair, exact_likelihood
from unmask.serving.catalog import build_catalog, describe_model, plan_text
from unmask.serving.limits import Limits
from unmask.serving.protocol import CompletionBody

PROMPT = "7 a +5 b *3 ="


def trained(block_length):
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkConfig(width=16, mlp=16, initial_slope=0.5))
    return unmask.LearnedPolicy(network, metadata={"trained": {"block_length": block_length}})


def test_generate_takes_the_block_length_of_training():
    model = unmask.load_model("embedded/chain")

    def steps(policy, **settings):
        found = unmask.generate(model, [PROMPT], policy, max_new_tokens=48, **settings)
        return found.reveal_step[0].tolist()

    own, whole = steps(trained(16)), steps(trained(16), block_length=48)
    assert max(own[:16]) < min(own[16:32]) and max(own[16:32]) < min(own[32:])
    assert own == steps(trained(None), block_length=16)
    assert whole == steps(trained(None)) != own
    assert steps(trained(16), block_length=4) == steps(trained(None), block_length=4) != own
    assert steps(trained(64)) == whole  # longer than the answer


def test_blocks_that_are_no_number_and_blocks_of_the_model_itself_change_nothing():
    model = unmask.load_model("embedded/chain-blocks")
    assert trained_blocks(model, trained(4)) is None
    full = unmask.load_model("embedded/chain")
    for given in ("16", 0, -1, True, 1.5, None):
        assert trained_blocks(full, trained(given)) is None
    assert trained_blocks(full, unmask.LearnedPolicy(trained(4).network)) is None
    assert trained_blocks(full, unmask.load_policy("confidence:1")) is None


def test_the_server_does_and_says_so(tmp_path):
    trained(16).save_pretrained(tmp_path / "p")
    catalog = build_catalog(
        ["m=embedded/chain"], [f"p={tmp_path / 'p'}"], unmask.DecodeOptions(), Limits()
    )
    for extensions, length, found in (({}, 48, 16), ({}, 8, 8), ({"block_length": 4}, 48, 4)):
        body = CompletionBody(model="m", prompt=PROMPT, max_tokens=length, unmask=extensions)
        assert plan_text(catalog, body).requests[0].block_length == found
    body = CompletionBody(model="m", prompt=PROMPT, unmask={"policy": "confidence:1"})
    assert plan_text(catalog, body).requests[0].options.block_length is None
    described = describe_model(catalog, catalog.models["m"])["unmask"]["policies"][0]
    assert described["block_length"] == 16
    catalog.close()


def test_so_does_the_likelihood_in_its_order():
    model = unmask.load_model("embedded/chain")
    text = [encode_pair(model, PROMPT, "a then 7 +5 gives 2 . b then 2 *3 gives 6 . # 6")]
    own, whole, given = (
        exact_likelihood(model, text, trained(blocks), block_length=length)[0].log_likelihood
        for blocks, length in ((4, None), (None, None), (None, 4))
    )
    assert own == given != whole


def test_infilling_does_not_use_a_length_of_answers():
    model = unmask.load_model("embedded/chain")
    prompt = PROMPT + " <mask>" * 12
    plain, given = (
        unmask.infill(model, [prompt], trained(8), **settings).reveal_step[0].tolist()
        for settings in ({}, {"max_new_tokens": 4})
    )
    assert given == plain
