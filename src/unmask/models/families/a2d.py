"""A2D: small autoregressive models (Qwen2, Qwen3, Llama) that were trained on as masked diffusion
models; no shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from unmask.models.families.base import CHATML, Family, required, supported
from unmask.models.families.dream import stock_fields

CLASSES: dict[str, tuple[Any, Any]] = {
    "a2d-qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "a2d-qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "a2d-llama": (LlamaForCausalLM, LlamaConfig),
}


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in CLASSES


def family(config: Mapping[str, Any]) -> Family:
    required(
        config,
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
    )
    supported(config, use_sliding_window=(False, None), block_size=(None,))
    network, config_class = CLASSES[config["model_type"]]
    stock = config_class.from_dict(stock_fields(config))
    stock.is_causal = False
    return Family(
        "A2D",
        network,
        stock,
        mask_id=config.get("mask_token_id"),
        chat_template=CHATML,
        padding_ends=True,
    )
