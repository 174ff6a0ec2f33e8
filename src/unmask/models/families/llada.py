"""LLaDA 8B (Nie et al. 2025) and LLaDA 1.5: an OLMo-style file of a Llama without causal mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from unmask.errors import UnmaskError
from unmask.models.families.base import Family, default_rope, required, supported

RENAMES = {
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.blocks\.": "model.layers.",
    r"\.attn_norm\.": ".input_layernorm.",
    r"\.ff_norm\.": ".post_attention_layernorm.",
    r"\.q_proj\.": ".self_attn.q_proj.",
    r"\.k_proj\.": ".self_attn.k_proj.",
    r"\.v_proj\.": ".self_attn.v_proj.",
    r"\.attn_out\.": ".self_attn.o_proj.",
    r"\.ff_proj\.": ".mlp.gate_proj.",
    r"\.up_proj\.": ".mlp.up_proj.",
    r"\.ff_out\.": ".mlp.down_proj.",
}

CHAT = (
    "{{ '<|startoftext|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | "
    "trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% "
    "endif %}"
)


def matches(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "llada" or config.get("architectures") == ["LLaDAModelLM"]


def family(config: Mapping[str, Any]) -> Family:
    """Raises UnmaskError for the variants that the format can express but no released checkpoint
    uses."""
    supported(
        config,
        block_type=("llama",),
        activation_type=("silu",),
        layer_norm_type=("rms",),
        rope=(True,),
        alibi=(False,),
        attention_layer_norm=(False,),
        scale_logits=(False,),
        input_emb_norm=(False,),
        bias_for_layer_norm=(False, None),
        clip_qkv=(None,),
        multi_query_attention=(None, False),
        block_group_size=(1,),
    )
    width, layers, heads = required(config, "d_model", "n_layers", "n_heads")
    vocabulary, mask_id, eos_id = required(
        config, "embedding_size", "mask_token_id", "eos_token_id"
    )
    biases = bool(config.get("include_bias", False))
    qkv_biases = (
        biases if config.get("include_qkv_bias") is None else bool(config["include_qkv_bias"])
    )
    common = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_kv_heads") or heads,
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "rope_parameters": default_rope(config, 10_000.0),
        "max_position_embeddings": config.get("max_sequence_length", 4096),
        "tie_word_embeddings": bool(config.get("weight_tying", True)),
        "eos_token_id": eos_id,
        "pad_token_id": config.get("pad_token_id", eos_id),
        "bos_token_id": None,
    }
    if qkv_biases == biases:
        network, stock = (
            LlamaForCausalLM,
            LlamaConfig(**common, attention_bias=biases, mlp_bias=biases),
        )
    elif qkv_biases:  # biases on q, k and v alone: what Qwen2 has
        network, stock = Qwen2ForCausalLM, Qwen2Config(**common)
    else:
        raise UnmaskError(
            "this llada checkpoint has include_bias without include_qkv_bias, which no stock class "
            "has; it cannot be loaded"
        )
    stock.is_causal = False
    return Family("LLaDA", network, stock, renames=RENAMES, mask_id=mask_id, chat_template=CHAT)
