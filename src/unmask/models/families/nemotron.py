"""Nemotron-Labs-Diffusion (NVIDIA 2026): Ministral 3 that denoises a block in full attention,
behind a context that it reads causally."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Ministral3Config, Ministral3ForCausalLM

from unmask.errors import UnmaskError
from unmask.models.families.base import CHATML, Family, block_size, required, supported
from unmask.models.families.dream import stock_fields

RENAMES = {r"^encoder\.": "model.", r"^diffusion_head\.": "lm_head."}
# What the authors' training code leaves in config.json.
OTHERS = ("ar_", "dlm_", "dp_", "block_size", "mask_token_id")
BLOCK, MASK_ID = 32, 100
POSITIONS = 2**14  # of the pre-training, from which on queries are scaled


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "nemotron_labs_diffusion" or config.get("architectures") == [
        "NemotronLabsDiffusionModel"
    ]


def family(config: Mapping[str, Any]) -> Family:
    """Raises UnmaskError for fields that are missing, or mean an architecture that the stock class
    has not."""
    required(
        config,
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    supported(
        config,
        sliding_window=(None,),
        attention_bias=(False, None),
        mlp_bias=(False, None),
        hidden_act=("silu",),
        rope_scaling=(None,),  # it stands in rope_parameters
    )
    kept = {k: v for k, v in stock_fields(config).items() if not k.startswith(OTHERS)}
    stock = Ministral3Config.from_dict(kept | {"rope_parameters": rotary(config)})
    stock.is_causal = False
    return Family(
        "Nemotron-Labs-Diffusion",
        Ministral3ForCausalLM,
        stock,
        renames=RENAMES,
        mask_id=config.get("mask_token_id"),
        mask_default=MASK_ID,
        chat_template=CHATML,
        block_size=block_size(config, BLOCK),
        causal_context=True,
    )


def rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary positions that config.json gives, with what the stock class scales queries at far
    positions by: 1 + β log(1 + ⌊position / original⌋). A β of 0 does not.

    Raises:
        UnmaskError: if one of these is no number, or out of range.
    """
    given = {k: v for k, v in (config.get("rope_parameters") or {}).items() if v is not None}
    scaling = {"llama_4_scaling_beta": 0.0, "original_max_position_embeddings": POSITIONS}
    found = {"rope_type": "default", "rope_theta": 1e6} | scaling | given
    for name, least in zip(scaling, (0, 1), strict=True):
        value = found[name]
        if not isinstance(value, int | float) or not least <= value <= 2**31:
            raise UnmaskError(
                f"config.json has {name} {value!r} in rope_parameters; copy it from its source"
            )
    return found
