"""SDAR (Cheng et al. 2025): Qwen3 with block-causal attention; its mixture of experts is in
`sdar_moe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM

from unmask.models.families.base import CHATML, Family, block_size, required, supported
from unmask.models.families.dream import stock_fields

# The authors' training code leaves these in config.json; to a stock class they mean nothing, or
# ask for a kernel.
OTHERS = (
    "attn_implementation",
    "debug",
    "ep_size",
    "fuse_cross_entropy",
    "micro_forward",
    "skip_checkpoint",
    "use_deepep",
    "block_size",
    "mask_token_id",
)
BLOCK = 4
MASK = "<|MASK|>"


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "sdar" or config.get("architectures") == ["SDARForCausalLM"]


def family(config: Mapping[str, Any]) -> Family:
    return qwen_family("SDAR", config, Qwen3ForCausalLM, Qwen3Config)


def qwen_family(
    name: str, config: Mapping[str, Any], network: Any, config_class: Any, *fields: str
) -> Family:
    """A block-causal family on a stock Qwen class.

    Raises:
        UnmaskError: for fields that are missing, or mean an architecture that the class has not.
    """
    required(
        config,
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        *fields,
    )
    supported(
        config,
        use_sliding_window=(False, None),
        rope_scaling=(None,),
        attention_bias=(False, None),
        hidden_act=("silu",),
    )
    kept = {key: value for key, value in stock_fields(config).items() if key not in OTHERS}
    stock = config_class.from_dict(kept)
    stock.is_causal = False
    return Family(
        name,
        network,
        stock,
        mask_id=config.get("mask_token_id"),
        mask_token=MASK,
        chat_template=CHATML,
        block_size=block_size(config, BLOCK),
    )
