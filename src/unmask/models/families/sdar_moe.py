"""SDAR-MoE (Cheng et al. 2025): Qwen3-MoE with block-causal attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from unmask.models.families.base import Family, supported
from unmask.models.families.sdar import qwen_family


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "sdar_moe" or config.get("architectures") == [
        "SDARMoeForCausalLM"
    ]


def family(config: Mapping[str, Any]) -> Family:
    supported(config, shared_expert_intermediate_size=(None, 0))
    fields = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
    return qwen_family("SDAR-MoE", config, Qwen3MoeForCausalLM, Qwen3MoeConfig, *fields)
