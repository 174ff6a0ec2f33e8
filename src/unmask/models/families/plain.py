"""Any stock causal class whose config.json says `"is_causal": false`: what `unmask pretrain`
writes. With a `block_size` its attention is block-causal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from unmask.models.families.base import Family, block_size


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("is_causal") is False


def family(config: Mapping[str, Any]) -> Family:
    if config.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(
            f"this version of transformers has no model_type {config.get('model_type')!r}"
        )
    fields = {
        key: value
        for key, value in config.items()
        if key not in ("architectures", "auto_map", "transformers_version", "model_type")
    }
    stock = AutoConfig.for_model(config["model_type"], **fields)
    return Family(
        "plain",
        AutoModelForCausalLM,
        stock,
        mask_id=config.get("mask_token_id"),
        probe=True,
        block_size=block_size(config, None),
    )
