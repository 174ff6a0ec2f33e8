"""Dream 7B (Ye et al. 2025), DiffuCoder, Dream-Coder: Qwen2 without causal mask, whose logits kept
the autoregressive shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM

from unmask.models.families.base import CHATML, Family, required, supported


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in ("Dream", "dream") or config.get("architectures") == [
        "DreamModel"
    ]


def family(config: Mapping[str, Any]) -> Family:
    required(
        config,
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
    )
    supported(
        config, use_sliding_window=(False, None), use_mrope=(False, None), hidden_act=("silu",)
    )
    stock = Qwen2Config.from_dict(stock_fields(config))
    stock.is_causal = False
    return Family(
        "Dream",
        Qwen2ForCausalLM,
        stock,
        shift=True,
        mask_id=config.get("mask_token_id"),
        chat_template=CHATML,
    )


def stock_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json that a stock configuration takes over: all but those that name
    classes and remote code."""
    return {
        name: value
        for name, value in config.items()
        if name not in ("architectures", "model_type", "auto_map", "transformers_version")
    }
