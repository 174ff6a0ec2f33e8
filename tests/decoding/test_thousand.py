"""No optimisation changes a result: random small models, prompts and policies against the slow
reference, 240 of them, and a thousand in a thorough run."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.effort import cases
from tests.reference.decode import RULES, decode_row
from tests.typechecks import check_types
from unmask.decoding import decode
from unmask.models import Model
from unmask.models.tokenizer import word_tokenizer
from unmask.policies import load_policy

SPECS = [
    "confidence:1",
    "confidence:3",
    "threshold:0.2",
    "threshold:0.6",
    "factor:1.5",
    "margin:2",
    "entropy:0.8",
]


def small_model(vocabulary, layers, heads, shift):
    """A stock class as LLaDA (no shift) and Dream (shift) use it; its weights are drawn anew for
    each case."""
    stock, make = (Qwen2Config, Qwen2ForCausalLM) if shift else (LlamaConfig, LlamaForCausalLM)
    config = stock(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    config.is_causal = False
    tokenizer = word_tokenizer(["a"])
    special = {
        "mask_id": tokenizer.mask_token_id,
        "eos_ids": (tokenizer.eos_token_id,),
        "never_ids": (0, 2, 3, vocabulary - 1),
    }
    return Model(
        make(config).eval().requires_grad_(False), tokenizer, **special, name="small", shift=shift
    )


# Vocabularies of one tile of the head that is no multiple of its groups, of one whole tile, and of
# two.
@pytest.mark.parametrize(
    ("vocabulary", "layers", "heads", "shift"),
    [(37, 2, 2, False), (64, 1, 1, True), (61, 1, 2, True), (2100, 1, 2, False)],
)
def test_random_models_decode_as_the_reference(vocabulary, layers, heads, shift):
    model = small_model(vocabulary, layers, heads, shift)
    for seed in range(cases(60, 250)):
        check_types(seed < 10)
        rng = random.Random(f"{seed}/{vocabulary}")
        torch.manual_seed(rng.randrange(10**6))
        for weight in model.network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=rng.choice([0.3, 0.5]))
        length = rng.randint(1, 7)
        options = {
            "max_new_tokens": length,
            "block_length": rng.randint(1, length),
            "batch_size": rng.randint(1, 4),
        }
        prompts = [
            [rng.randrange(4, vocabulary - 1) for _ in range(rng.randint(3, 9))] for _ in range(2)
        ]
        prompts.insert(rng.randint(0, 2), rng.choice(prompts))
        spec = rng.choice(SPECS)
        name, value = spec.split(":")
        choose = RULES[name](int(value) if name in ("confidence", "margin") else float(value))
        generation = decode(model, prompts, load_policy(spec), **options)
        for row in {tuple(prompt): row for row, prompt in enumerate(prompts)}.values():
            tokens, nfe, revealed = decode_row(
                model, prompts[row], choose, length, options["block_length"]
            )
            ours = (
                generation.tokens[row].tolist(),
                int(generation.nfe[row]),
                generation.reveal_step[row].tolist(),
            )
            assert ours == (tokens, nfe, revealed), (seed, spec, options, row)
        twin = next(row for row, prompt in enumerate(prompts) if prompts.count(prompt) > 1)
        twins = [row for row, prompt in enumerate(prompts) if prompt == prompts[twin]]
        assert all(torch.equal(generation.tokens[row], generation.tokens[twin]) for row in twins)
