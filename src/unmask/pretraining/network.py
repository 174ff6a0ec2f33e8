"""The network that is pre-trained: built with random weights, and written as a model directory."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from unmask.files import filling, read_json, write_json
from unmask.models.load import quiet_transformers
from unmask.pretraining.config import PretrainConfig
from unmask.tensors import system_errors

PERIODS = (2, 5, 10, 20, 50, 100, 200)


def new_model(
    config: PretrainConfig, tokenizer: Any, prompt_length: int, max_new_tokens: int
) -> Any:
    """A stock Llama (or Qwen2, for Dream's format) with bidirectional attention and tied
    embeddings, with random weights; `max_new_tokens` is what its config.json recommends, and
    `block_size` there says that the model is block-causal."""
    classes: tuple[Any, Any] = (
        (Qwen2ForCausalLM, Qwen2Config)
        if config.family == "dream"
        else (LlamaForCausalLM, LlamaConfig)
    )
    network, stock = classes
    longest = max(max_new_tokens, *(config.buffer_lengths or (0,)))
    settings = stock(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=max(256, prompt_length + longest),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    settings.is_causal = False
    settings.max_new_tokens = max_new_tokens
    if config.attention_block is not None:
        settings.block_size = config.attention_block
    with torch.random.fork_rng(devices=[]):  # the caller's generators stay as they are
        torch.default_generator.manual_seed(config.seed)
        model = network(settings)
    if config.number_waves:
        add_waves(model.get_input_embeddings().weight, tokenizer, config.number_waves)
    return model


def add_waves(embeddings: Tensor, tokenizer: Any, scale: float) -> None:
    """Adds cos and sin of 2π·n/T for every period T to the first dimensions of the embedding of
    each number n.

    Args:
        embeddings: [V, width], changed in place.
        tokenizer: its tokens of digits alone are the numbers.
        scale: of the waves; their standard deviation is 0.7 times as much.
    """
    vocabulary = tokenizer.get_vocab().items()
    numbers = {int(token): i for token, i in vocabulary if re.fullmatch("[0-9]+", token)}
    values = torch.tensor(sorted(numbers), dtype=torch.float32)
    rows = torch.tensor([numbers[int(value)] for value in values])
    angles = 2 * math.pi * values[:, None] / torch.tensor(PERIODS)
    waves = torch.cat((angles.cos(), angles.sin()), 1)
    with torch.no_grad():
        embeddings[rows, : waves.shape[1]] += scale * waves


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the model in bf16 as stock `transformers` files, or in Dream's format; the weights of
    `model` stay as they are. Each file is replaced whole or not at all."""
    with torch.random.fork_rng(devices=[]):
        bf16 = type(model)(model.config)
    bf16.load_state_dict(model.state_dict())
    # Without quiet_transformers a progress bar would be shown at every checkpoint.
    with filling(out) as part, quiet_transformers(), system_errors():
        bf16.to(torch.bfloat16).save_pretrained(part)
        if isinstance(model, Qwen2ForCausalLM):
            dream = {
                "architectures": ["DreamModel"],
                "model_type": "Dream",
                "mask_token_id": tokenizer.mask_token_id,
            }
            write_json(part / "config.json", read_json(part / "config.json") | dream)
        tokenizer.save_pretrained(part)
        # safetensors lets nobody but the owner read.
        shutil.copymode(part / "config.json", part / "model.safetensors")
