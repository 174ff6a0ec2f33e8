"""Models and policies with random weights to measure with."""

from __future__ import annotations

import random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from unmask.models import Model
from unmask.models.tokenizer import word_tokenizer
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork

LLADA = 126_464  # LLaDA's vocabulary


def random_llada(
    vocabulary: int = LLADA, *, width: int = 512, layers: int = 8, seed: int = 0
) -> Model:
    """LLaDA's layout (a Llama without causal mask, its own head, MLP of 3 widths) in bf16 with
    random weights.

    The gains (embedding 1, layers 0.1, head 0.3 at width 512) spread confidences from 0.07 to 1
    with median 0.5, so that policies that go by confidence take as many steps as with a trained
    model, and ties are rare.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    config.is_causal = False
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        network = LlamaForCausalLM(config).requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(default)
    gain = (512 / width) ** 0.5
    for name, weight in network.named_parameters():
        if weight.ndim == 2:
            weight.normal_(
                std=1.0 if "embed" in name else (0.3 if "lm_head" in name else 0.1) * gain
            )
    tokenizer = word_tokenizer(["a"])  # its four special tokens; the others have no text
    special = {"mask_id": tokenizer.mask_token_id, "eos_ids": (tokenizer.eos_token_id,)}
    never = tuple(
        i for i in (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    )
    return Model(
        network, tokenizer, **special, never_ids=tuple(sorted(never)), name="random LLaDA layout"
    )


def random_prompts(
    n: int, shortest: int, longest: int, vocabulary: int = LLADA, seed: int = 0
) -> list[list[int]]:
    """Token ids; lengths evenly spread from `shortest` to `longest` and shuffled."""
    rng = random.Random(seed)
    lengths = [shortest + round(i * (longest - shortest) / max(1, n - 1)) for i in range(n)]
    rng.shuffle(lengths)
    return [[rng.randrange(8, vocabulary) for _ in range(length)] for length in lengths]


def random_policy(
    width: int = 128, *, bias: float = -2.0, fallback: bool = True, seed: int = 0
) -> LearnedPolicy:
    """The paper's network (width 128, 300 k parameters) as it starts: it reveals each position with
    probability 0.12."""
    torch.manual_seed(seed)
    network = PolicyNetwork(NetworkConfig(width=width, mlp=4 * width, initial_bias=bias))
    return LearnedPolicy(network, fallback=fallback)
