"""Writes the embedded models of the chain task as checkpoints of LLaDA's and Dream's formats, in
two shards each:

    python experiments/real_formats.py DIRECTORY

gives DIRECTORY/llada (embedded/chain) and DIRECTORY/dream (embedded/chain-dream: Qwen2 with Dream's
shift, another width, other data). `experiments/two-families.sh` then does with them on a CPU what a
user with a GPU does with LLaDA-8B and Dream-7B.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from unmask.models.load import EMBEDDED

NAMES = {
    "model.embed_tokens.": "model.transformer.wte.",
    "model.norm.": "model.transformer.ln_f.",
    "model.layers.": "model.transformer.blocks.",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "post_attention_layernorm": "ff_norm",
    "input_layernorm": "attn_norm",
}


def llada_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def write_llada(source: Path, out: Path) -> None:
    """A Llama directory under LLaDA's names; biases and untied heads do not occur in the embedded
    models."""
    config = json.loads((source / "config.json").read_text())
    weights = {
        llada_name(name): tensor for name, tensor in load_file(source / "model.safetensors").items()
    }
    out.mkdir(parents=True)
    tokenizer = json.loads((source / "tokenizer_config.json").read_text())
    mask_id = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"][
        tokenizer.pop("mask_token")
    ]  # LLaDA names it in config.json only
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=1))
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(source / name, out / name)
    llada = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": config["hidden_size"],
        "embedding_size": config["vocab_size"],
        "eos_token_id": config["eos_token_id"],
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "mask_token_id": mask_id,
        "max_sequence_length": config["max_position_embeddings"],
        "mlp_hidden_size": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "n_layers": config["num_hidden_layers"],
        "pad_token_id": config["pad_token_id"],
        "rms_norm_eps": config["rms_norm_eps"],
        "rope": True,
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "scale_logits": False,
        "vocab_size": config["vocab_size"],
        "weight_tying": config["tie_word_embeddings"],
    }
    (out / "config.json").write_text(json.dumps(llada, indent=1))
    write_shards(weights, out)


def write_dream(source: Path, out: Path) -> None:
    """A directory of `unmask pretrain --family dream` is of Dream's format already; published
    checkpoints come in shards."""
    out.mkdir(parents=True)
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ):
        shutil.copy(source / name, out / name)
    write_shards(load_file(source / "model.safetensors"), out)


def write_shards(weights: dict[str, Tensor], out: Path) -> None:
    """Two safetensors files and their index."""
    names = sorted(weights)
    halves = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, part in halves.items():
        save_file(
            {name: weights[name].contiguous() for name in part},
            out / file,
            metadata={"format": "pt"},
        )
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": {name: file for file, part in halves.items() for name in part},
    }
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    write_llada(EMBEDDED / "chain", Path(sys.argv[1]) / "llada")
    write_dream(EMBEDDED / "chain-dream", Path(sys.argv[1]) / "dream")
