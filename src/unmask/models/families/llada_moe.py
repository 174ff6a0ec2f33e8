"""LLaDA-MoE 7B-A1B: field by field a Qwen3-MoE without causal mask (norms on the heads of q and k,
softmax routing, no shared expert)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from unmask.models.families.base import Family, default_rope, required, supported

CHAT = (
    "{% for message in messages %}{% set role = 'HUMAN' if message['role'] == 'user' else "
    "message['role'] | upper %}"
    "{{ '<role>' + role + '</role>' + message['content'] + '<|role_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)


def matches(config: Mapping[str, Any]) -> bool:
    names = ("LLaDAMoEModelLM", "LLaDAMoEModel")
    return config.get("model_type") in ("llada_moe", "lladamoe") or any(
        name in names for name in config.get("architectures") or ()
    )


def family(config: Mapping[str, Any]) -> Family:
    """Raises UnmaskError for a field whose value Qwen3-MoE has no counterpart of."""
    supported(
        config,
        qk_layernorm=(True,),
        partial_rotary_factor=(1, 1.0, None),
        shared_expert_intermediate_size=(None, 0),
        moe_router_score_function=("softmax", None),
        moe_router_enable_expert_bias=(False, None),
        routed_scaling_factor=(1, 1.0, None),
        attention_bias=(False,),
        hidden_act=("silu",),
        use_sliding_window=(False, None),
    )
    width, layers, heads, vocabulary = required(
        config, "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
    )
    experts, chosen, expert_width = required(
        config, "num_experts", "num_experts_per_tok", "expert_intermediate_size"
    )
    frequency = config.get("moe_layer_freq")
    routed = frequency if isinstance(frequency, list) else [1] * layers
    stock = Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=config.get("dense_intermediate_size")
        or config.get("intermediate_size")
        or 4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        rms_norm_eps=config.get("rms_norm_eps", 1e-5),
        rope_parameters=default_rope(config, 50_000.0),
        max_position_embeddings=config.get("max_position_embeddings", 8192),
        num_experts=experts,
        num_experts_per_tok=chosen,
        moe_intermediate_size=expert_width,
        norm_topk_prob=bool(config.get("norm_topk_prob")),
        decoder_sparse_step=1,
        mlp_only_layers=[i for i, on in enumerate(routed) if not on],
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=False,
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=config.get("pad_token_id"),
        bos_token_id=None,
    )
    stock.head_dim = config.get("head_dim") or width // heads
    stock.is_causal = False
    if width % 8 or expert_width % 8:
        # The kernel for all experts at once wants rows of whole 16 bytes, which bf16 has not then.
        stock._experts_implementation = "eager"
    return Family(
        "LLaDA-MoE",
        Qwen3MoeForCausalLM,
        stock,
        mask_id=config.get("mask_token_id"),
        chat_template=CHAT,
    )
