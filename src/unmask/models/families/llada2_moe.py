"""LLaDA2.0 and 2.1 (mini, flash): a mixture of experts with block-causal attention that is, after
renaming, GLM-4-MoE (sigmoid router in groups, shared experts, rotary positions on half a head)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

from unmask.models.families.base import Family, block_size, default_rope, required, supported
from unmask.models.families.llada_moe import CHAT

BLOCK, MASK_ID, END_ID = 32, 156_895, 156_892  # what config.json is silent about, as published
MASK = "<|mask|>"
RENAMES = {
    r"word_embeddings\.": "embed_tokens.",
    r"\.attention\.dense\.": ".self_attn.o_proj.",
    r"\.attention\.query_layernorm\.": ".self_attn.q_norm.",
    r"\.attention\.key_layernorm\.": ".self_attn.k_norm.",
    r"\.mlp\.gate\.expert_bias$": ".mlp.gate.e_score_correction_bias",
}


class LLaDA2MoeOnGlm4(Glm4MoeForCausalLM):
    """The stock class under a name of its own, by which `transformers` finds how to convert the
    checkpoint: one matrix there holds the rows of q, k and v, in this order."""


def register_conversion() -> None:
    """Tells `transformers` how weights of the published format become those of the class."""
    qkv = WeightConverter(
        source_patterns="attention.query_key_value.weight",
        target_patterns=[f"self_attn.{part}_proj.weight" for part in "qkv"],
        operations=[Split(dim=0)],
    )
    renames = [WeightRenaming(old, new) for old, new in RENAMES.items()]
    experts = get_checkpoint_conversion_mapping("glm4_moe") or []
    register_checkpoint_conversion_mapping(
        LLaDA2MoeOnGlm4.__name__, [*renames, qkv, *experts], overwrite=True
    )


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "llada2_moe" or config.get("architectures") == [
        "LLaDA2MoeModelLM"
    ]


def family(config: Mapping[str, Any]) -> Family:
    """Raises UnmaskError for a field whose value GLM-4-MoE has no counterpart of."""
    supported(
        config,
        use_qkv_bias=(False, None),
        use_bias=(False, None),
        use_qk_norm=(True, None),
        norm_topk_prob=(True, None),
        score_function=("sigmoid", None),
        moe_router_enable_expert_bias=(True, None),
        hidden_act=("silu",),
        use_sliding_window=(False, None),
    )
    stock = stock_config(config)
    stock.is_causal = False
    register_conversion()
    return Family(
        "LLaDA2",
        LLaDA2MoeOnGlm4,
        stock,
        mask_id=config.get("mask_token_id"),
        mask_token=MASK,
        mask_default=MASK_ID,
        chat_template=CHAT,
        block_size=block_size(config, BLOCK),
        turn_ends=False,
    )


def stock_config(config: Mapping[str, Any]) -> Glm4MoeConfig:
    """The configuration of the stock class that computes the same function."""
    width, layers, heads, vocabulary, dense = required(
        config,
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "intermediate_size",
    )
    experts, shared, chosen, expert_width = required(
        config, "num_experts", "num_shared_experts", "num_experts_per_tok", "moe_intermediate_size"
    )
    groups, best = required(config, "n_group", "topk_group")
    end = config.get("eos_token_id")
    rotary = config.get("rope_parameters") or {}
    fields: dict[str, Any] = {  # the stock class takes them, though its types do not say so
        "head_dim": config.get("head_dim") or width // heads,
        "num_nextn_predict_layers": 0,
    }
    return Glm4MoeConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=dense,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_parameters=default_rope(config, 600_000.0)
        | {
            "partial_rotary_factor": config.get(
                "partial_rotary_factor", rotary.get("partial_rotary_factor", 0.5)
            ),
        },
        max_position_embeddings=config.get("max_position_embeddings", 32_768),
        moe_intermediate_size=expert_width,
        n_routed_experts=experts,
        n_shared_experts=shared,
        num_experts_per_tok=chosen,
        n_group=groups,
        topk_group=best,
        first_k_dense_replace=config.get("first_k_dense_replace", 1),
        routed_scaling_factor=config.get("routed_scaling_factor", 1.0),
        norm_topk_prob=chosen > 1,  # the authors divide by the sum of several only
        use_qk_norm=True,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        eos_token_id=END_ID if end is None and vocabulary > END_ID else end,
        pad_token_id=config.get("pad_token_id"),
        bos_token_id=None,
        **fields,
    )
