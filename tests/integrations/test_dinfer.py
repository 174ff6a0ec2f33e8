"""The decoder for dInfer, in a loop like dInfer's: a block is decoded by several passes before the
loop looks whether masks are left, and tokens are in an array of its own."""

from dataclasses import replace

import pytest
import torch

from tests.decoding.test_engine import learned
from tests.integrations.engines import BLOCK, MASK, block_logits, block_network
from tests.reference.blocks import by_rule, decode_blocks
from tests.reference.decode import RULES
from unmask import UnmaskError, generate
from unmask.integrations.dinfer import UnmaskDecoder
from unmask.policies import Needs

NEVER = (0, 1, 7)


class Tokens:
    """An array of tokens that is read and written by index, as dInfer's."""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, index):
        return self.data[index]

    def __setitem__(self, index, values):
        self.data[index] = values


def decode_blockwise(decoder, logits, prompts, length, block, unroll):
    """Generated tokens [N, L]; `logits(tokens)` are those of whole canvases [N, S, V]."""
    prompts = torch.tensor(prompts)
    x = Tokens(torch.cat([prompts, torch.full((len(prompts), length), decoder.mask_id)], 1))
    width = x.data.shape[1]
    starts = range(prompts.shape[1] // block * block, width, block)
    for number, start in enumerate(starts):
        end = min(start + block, width)
        decoder.block_init(x[:, start:end], number)
        while (x[:, start:end] == decoder.mask_id).any():
            for _ in range(unroll):
                decoder.decode(logits(x.data)[:, start:end], start, end, x)
    return x.data[:, prompts.shape[1] :].tolist()


@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("spec", ["confidence:1", "threshold:0.3", "entropy:0.8"])
def test_tokens_are_those_of_a_slow_loop(spec, unroll):
    name, _, value = spec.partition(":")
    choose = by_rule(RULES[name](float(value) if "." in value else int(value)))
    network = block_network()
    prompts = [[5, 9, 6], [6, 9, 12], [8, 30, 17]]
    one = block_logits(network)
    expected = [decode_blocks(one, prompt, 9, BLOCK, MASK, NEVER, choose)[0] for prompt in prompts]

    def logits(canvases):
        return torch.stack([one(row) for row in canvases.tolist()])

    decoder = UnmaskDecoder(spec, MASK, 2, never_ids=NEVER)
    assert decode_blockwise(decoder, logits, prompts, 9, BLOCK, unroll) == expected


def test_a_model_of_full_attention_gives_what_generate_gives(tiny_model):
    model, prompts = tiny_model, [[5, 9, 6], [6, 9, 12]]

    def logits(canvases):
        return model.logits(canvases, torch.ones_like(canvases))

    for spec in ("confidence:2", "threshold:0.4"):
        expected = generate(model, prompts, spec, max_new_tokens=9, block_length=3)
        decoder = UnmaskDecoder(spec, model.mask_id, model.eos_ids[0], never_ids=model.never_ids)
        tokens = decode_blockwise(decoder, logits, prompts, 9, 3, 1)
        assert tokens == expected.tokens.tolist()


def test_draws_depend_on_seed_row_and_block(tmp_path):
    learned(3).save_pretrained(tmp_path)
    logits = torch.zeros(2, BLOCK, 4000)

    def decode(seed):
        decoder = UnmaskDecoder(str(tmp_path), MASK, 2, temperature=1.0, seed=seed)
        return decode_blockwise(
            decoder, lambda x: logits[:, :1].expand(2, x.shape[1], -1), [[5] * 4] * 2, 8, BLOCK, 1
        )

    first = decode(1)
    assert decode(1) == first != decode(2)
    blocks = [tuple(row[i : i + BLOCK]) for row in first for i in (0, BLOCK)]
    assert len(set(blocks)) == 4


def test_a_policy_is_told_how_many_passes_a_row_had_masks_in():
    seen = []

    class Watch:
        needs = Needs()

        def act(self, observation, generator):
            seen.append(observation.step.tolist())
            return observation.eligible & (torch.arange(BLOCK) == observation.step[:, None])

    decoder = UnmaskDecoder("confidence", MASK, 2)
    decoder.decoder = replace(decoder.decoder, policy=Watch())
    x = torch.full((2, 2 * BLOCK), MASK)
    x[1, 1:BLOCK] = 5
    for block in range(2):
        start = block * BLOCK
        decoder.block_init(x[:, start : start + BLOCK], block)
        for _ in range(BLOCK + 2):
            decoder.decode(torch.zeros(2, BLOCK, 40), start, start + BLOCK, x)
    assert seen == [[0, 0], [1, 1], [2, 1], [3, 1], [0, 0], [1, 1], [2, 2], [3, 3]]


def test_policies_that_read_hidden_states_are_refused(tmp_path):
    learned(0, hidden=24).save_pretrained(tmp_path)
    with pytest.raises(UnmaskError, match="reads the model's hidden states"):
        UnmaskDecoder(str(tmp_path), MASK, 2)
