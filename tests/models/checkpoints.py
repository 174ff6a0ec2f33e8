"""Tiny random checkpoints in exactly the formats in which the families are published."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SPECIAL = {
    "llada": [
        "<|startoftext|>",
        "<|endoftext|>",
        "<|mdm_mask|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ],
    "dream": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"],
    "a2d": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"],
    "llada_moe": ["<|endoftext|>", "<role>", "</role>", "<|role_end|>", "<|mask|>"],
    "sdar": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|MASK|>"],
    "llada2_moe": ["<|endoftext|>", "<role>", "</role>", "<|role_end|>", "<|mask|>"],
    "nemotron": ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<SPECIAL_100>"],
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}
NAMED = {
    "llada": {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },  # no mask_token, as published
    "dream": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"},
    "a2d": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"},
    "llada_moe": {
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
    },
    "sdar": {  # its special_tokens_map.json has another spelling, see `write_tokenizer`
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|MASK|>",
    },
    "llada2_moe": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},  # no mask_token
    "nemotron": {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"},  # nor here
    "bert": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "roberta": {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    },
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Checkpoint:
    directory: Path
    config: dict
    weights: dict


def vocabulary(kind):
    """Special tokens first, then byte-level letters; Ġ, Ċ and ! are space, newline and a mark."""
    return {token: i for i, token in enumerate([*SPECIAL[kind], *LETTERS, "Ġ", "Ċ", "!", ".", ","])}


def write_tokenizer(directory, kind, *, template=None, slow=False):
    """tokenizer.json and tokenizer_config.json; `slow` as Dream ships it: vocab.json, merges.txt
    and a class of remote code."""
    ids = vocabulary(kind)
    settings = dict(NAMED[kind]) | ({"chat_template": template} if template else {})
    if slow:
        plain = {token: i for token, i in ids.items() if token not in SPECIAL[kind]}
        (directory / "vocab.json").write_text(json.dumps(plain))
        (directory / "merges.txt").write_text("#version: 0.2\n")
        flags = {
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
            "special": True,
        }
        added = {str(ids[token]): {"content": token, **flags} for token in SPECIAL[kind]}
        remote = {
            "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
            "tokenizer_class": "DreamTokenizer",
        }
        settings |= {
            "added_tokens_decoder": added,
            "errors": "replace",
            "model_max_length": 131072,
            **remote,
        }
    else:
        tokenizer = Tokenizer(BPE(ids, [], unk_token=None))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(SPECIAL[kind])
        tokenizer.save(str(directory / "tokenizer.json"))
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    spelled = {"mask_token": "<MASK>"} if kind == "sdar" else {}
    (directory / "special_tokens_map.json").write_text(json.dumps(NAMED[kind] | spelled))
    return ids


def random_weights(shapes, seed):
    """Norm weights around 1, biases around 0, matrices wide enough that logits differ."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        norm = "norm" in name.lower() or name.endswith("ln_f.weight")
        weights[name] = (
            1 + 0.3 * noise
            if norm and name.endswith("weight")
            else (0.3 if name.endswith("bias") else 0.5) * noise
        )
    return weights


def swiglu_shapes(prefix, names, width, hidden):
    gate, up, down = names
    return {
        f"{prefix}{gate}.weight": (hidden, width),
        f"{prefix}{up}.weight": (hidden, width),
        f"{prefix}{down}.weight": (width, hidden),
    }


def llada(ids, changes):
    config = {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
        },
        "block_type": "llama",
        "d_model": 24,
        "embedding_dropout": 0.0,
        "embedding_size": len(ids) + 3,
        "eos_token_id": ids["<|endoftext|>"],
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": ids["<|mdm_mask|>"],
        "max_sequence_length": 4096,
        "mlp_hidden_size": 40,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 2,
        "pad_token_id": ids["<|endoftext|>"],
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "transformers_version": "4.46.3",
        "use_cache": False,
        "vocab_size": len(ids) + 3,
        "weight_tying": False,
        **changes,
    }
    d, kv = config["d_model"], config["d_model"] // config["n_heads"] * config["n_kv_heads"]
    shapes = {
        "model.transformer.wte.weight": (config["embedding_size"], d),
        "model.transformer.ln_f.weight": (d,),
    }
    if not config["weight_tying"]:
        shapes["model.transformer.ff_out.weight"] = (config["embedding_size"], d)
    for n in range(config["n_layers"]):
        b = f"model.transformer.blocks.{n}."
        block = {"q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "attn_out": (d, d)}
        block |= {
            "ff_proj": (config["mlp_hidden_size"], d),
            "up_proj": (config["mlp_hidden_size"], d),
            "ff_out": (d, config["mlp_hidden_size"]),
        }
        shapes |= {f"{b}attn_norm.weight": (d,), f"{b}ff_norm.weight": (d,)} | {
            f"{b}{name}.weight": shape for name, shape in block.items()
        }
        biased = (
            block
            if config["include_bias"]
            else ("q_proj", "k_proj", "v_proj")
            if config["include_qkv_bias"]
            else ()
        )
        shapes |= {f"{b}{name}.bias": block[name][:1] for name in biased}
    return config, shapes


def stock_shapes(c, *, qkv_bias=False, head_norms=False, hidden="intermediate_size", experts=False):
    """Names and shapes of Qwen2, Qwen3, Llama and LLaDA-MoE checkpoints."""
    d, size = c["hidden_size"], c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    q, kv = size * c["num_attention_heads"], size * c["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], d)
    for n in range(c["num_hidden_layers"]):
        b = f"model.layers.{n}."
        shapes |= {f"{b}input_layernorm.weight": (d,), f"{b}post_attention_layernorm.weight": (d,)}
        parts = {"q_proj": (q, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, q)}
        shapes |= {f"{b}self_attn.{name}.weight": shape for name, shape in parts.items()}
        if qkv_bias:
            shapes |= {
                f"{b}self_attn.{name}.bias": parts[name][:1]
                for name in ("q_proj", "k_proj", "v_proj")
            }
        if head_norms:
            shapes |= {f"{b}self_attn.{name}.weight": (size,) for name in ("q_norm", "k_norm")}
        names = ("gate_proj", "up_proj", "down_proj")
        if experts and c.get("moe_layer_freq", [1] * n + [1])[n]:
            shapes[f"{b}mlp.gate.weight"] = (c["num_experts"], d)
            for e in range(c["num_experts"]):
                shapes |= swiglu_shapes(
                    f"{b}mlp.experts.{e}.",
                    names,
                    d,
                    c.get("expert_intermediate_size") or c["moe_intermediate_size"],
                )
        else:
            shapes |= swiglu_shapes(f"{b}mlp.", names, d, c[hidden])
    return shapes


def qwen_config(ids, **fields):
    return {
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "hidden_act": "silu",
        "hidden_size": 24,
        "initializer_range": 0.02,
        "intermediate_size": 40,
        "max_position_embeddings": 131072,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": ids["<|endoftext|>"],
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.2",
        "use_cache": True,
        "vocab_size": len(ids) + 2,
        **fields,
    }


def dream(ids, changes):
    remote = {
        "AutoConfig": "configuration_dream.DreamConfig",
        "AutoModel": "modeling_dream.DreamModel",
    }
    own = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "auto_map": remote,
        "mask_token_id": ids["<|mask|>"],
    }
    windows = {
        "max_window_layers": 2,
        "sliding_window": None,
        "use_mrope": False,
        "use_sliding_window": False,
    }
    config = qwen_config(ids, **own, **windows) | changes
    return config, stock_shapes(config, qkv_bias=True)


def a2d(base):
    def make(ids, changes):
        names = {
            "qwen2": "A2DQwen2LMHeadModel",
            "qwen3": "A2DQwen3LMHeadModel",
            "llama": "A2DLlamaLMHeadModel",
        }
        config = qwen_config(
            ids, architectures=[names[base]], model_type=f"a2d-{base}", tie_word_embeddings=True
        )
        config |= {
            "qwen2": {"use_sliding_window": False},
            "qwen3": {"head_dim": 8, "attention_bias": False},
            "llama": {},
        }[base] | changes
        return config, stock_shapes(config, qkv_bias=base == "qwen2", head_norms=base == "qwen3")

    return make


def llada_moe(ids, changes):
    own = {
        "architectures": ["LLaDAMoEModelLM"],
        "model_type": "llada_moe",
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "qk_layernorm": True,
    }
    own |= {
        "expert_intermediate_size": 12,
        "dense_intermediate_size": 28,
        "shared_expert_intermediate_size": None,
        "norm_topk_prob": False,
    }
    own |= {
        "moe_layer_freq": [1, 1],
        "moe_router_score_function": "softmax",
        "partial_rotary_factor": 1,
        "router_aux_loss_coef": 0.01,
    }
    own |= {
        "attention_bias": False,
        "rope_theta": 50000.0,
        "rms_norm_eps": 1e-5,
        "auto_map": {"AutoModel": "modeling_lladamoe.LLaDAMoEModelLM"},
    }
    config = qwen_config(ids) | own | changes
    config.pop("intermediate_size")
    return config, stock_shapes(
        config, head_norms=True, hidden="dense_intermediate_size", experts=True
    )


def sdar(experts):
    """Qwen3's fields and names, with what the authors' training code leaves in config.json."""

    def make(ids, changes):
        kind = "SDARMoeForCausalLM" if experts else "SDARForCausalLM"
        left = {
            "attn_implementation": "flex_attention",
            "auto_map": {"AutoModelForCausalLM": f"modeling_sdar.{kind}"},
            "debug": False,
            "ep_size": 1,
            "fuse_cross_entropy": True,
            "micro_forward": False,
            "skip_checkpoint": False,
            "use_deepep": False,
        }
        own = {
            "architectures": [kind],
            "attention_bias": False,
            "block_size": 4,
            "eos_token_id": ids["<|endoftext|>"],
            "head_dim": 8,
            "mask_token_id": ids["<|MASK|>"],
            "max_window_layers": 2,
            "model_type": "sdar_moe" if experts else "sdar",
            "sliding_window": None,
            "use_sliding_window": False,
        }
        if experts:
            own |= {
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
                "moe_intermediate_size": 12,
                "norm_topk_prob": True,
                "num_experts": 5,
                "num_experts_per_tok": 2,
                "output_router_logits": False,
                "router_aux_loss_coef": 0.001,
            }
        config = {
            k: v for k, v in (qwen_config(ids) | left | own | changes).items() if v != "absent"
        }
        return config, stock_shapes(config, head_norms=True, experts=experts)

    return make


def llada2_moe(ids, changes):
    """Names and fields of LLaDA2.0; like some of its config.json files it names no block size, mask
    or end of text."""
    remote = {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    }
    config = {
        "architectures": ["LLaDA2MoeModelLM"],
        "attention_dropout": 0.0,
        "auto_map": remote,
        "embedding_dropout": 0.0,
        "first_k_dense_replace": 1,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 24,
        "initializer_range": 0.02,
        "intermediate_size": 40,
        "max_position_embeddings": 16384,
        "model_type": "llada2_moe",
        "moe_intermediate_size": 12,
        "moe_router_enable_expert_bias": True,
        "n_group": 4,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "num_shared_experts": 1,
        "output_dropout": 0.0,
        "output_router_logits": False,
        "pad_token_id": ids["<|endoftext|>"],
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 600000.0,
        "routed_scaling_factor": 2.5,
        "router_dtype": "fp32",
        "score_function": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 2,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.57.1",
        "use_bias": False,
        "use_cache": True,
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
        "vocab_size": len(ids) + 2,
        **changes,
    }
    d, size, v = config["hidden_size"], config["head_dim"], config["vocab_size"]
    q, kv = size * config["num_attention_heads"], size * config["num_key_value_heads"]
    expert, names = config["moe_intermediate_size"], ("gate_proj", "up_proj", "down_proj")
    shapes = {
        "model.word_embeddings.weight": (v, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (v, d),
    }
    for n in range(config["num_hidden_layers"]):
        b = f"model.layers.{n}."
        shapes |= {f"{b}input_layernorm.weight": (d,), f"{b}post_attention_layernorm.weight": (d,)}
        shapes |= {
            f"{b}attention.query_key_value.weight": (q + 2 * kv, d),
            f"{b}attention.dense.weight": (d, q),
            f"{b}attention.query_layernorm.weight": (size,),
            f"{b}attention.key_layernorm.weight": (size,),
        }
        if n < config["first_k_dense_replace"]:
            shapes |= swiglu_shapes(f"{b}mlp.", names, d, config["intermediate_size"])
            continue
        shapes |= {
            f"{b}mlp.gate.weight": (config["num_experts"], d),
            f"{b}mlp.gate.expert_bias": (config["num_experts"],),
        }
        shapes |= swiglu_shapes(
            f"{b}mlp.shared_experts.", names, d, expert * config["num_shared_experts"]
        )
        for e in range(config["num_experts"]):
            shapes |= swiglu_shapes(f"{b}mlp.experts.{e}.", names, d, expert)
    return config, shapes


def nemotron(ids, changes):
    """Fields and names of Nemotron-Labs-Diffusion; YaRN and the queries' scaling begin at position
    8, so that short texts meet both."""
    own = {
        "architectures": ["NemotronLabsDiffusionModel"],
        "attention_bias": False,
        "attn_implementation": "sdpa",
        "auto_map": {"AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel"},
        "block_size": 4,
        "bos_token_id": ids["<s>"],
        "dlm_loss_weight": None,
        "dlm_paradigm": "bidirectional",
        "dp_varying_mask_ratio": False,
        "eos_token_id": ids["</s>"],
        "head_dim": 8,
        "mask_token_id": ids["<SPECIAL_100>"],
        "max_position_embeddings": 32,
        "mlp_bias": False,
        "model_type": "nemotron_labs_diffusion",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 4.0,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 8,
            "rope_theta": 10000.0,
            "rope_type": "yarn",
        },
        "sliding_window": None,
    }
    config = qwen_config(dict.fromkeys(ids, 0) | {"<|endoftext|>": 0}) | own | changes
    for name in ("pad_token_id", "rope_scaling", "rope_theta", "torch_dtype"):
        config.pop(name)
    named = {"lm_head.": "diffusion_head.", "model.": "encoder."}
    shapes = {}
    for name, shape in stock_shapes(config).items():
        start = next(start for start in named if name.startswith(start))
        shapes[named[start] + name.removeprefix(start)] = shape
    return {k: v for k, v in config.items() if v != "absent"}, shapes


def bert(ids, changes):
    roberta = "<s>" in ids
    own = {
        "architectures": ["RobertaForMaskedLM" if roberta else "BertForMaskedLM"],
        "model_type": "roberta" if roberta else "bert",
    }
    own |= (
        {"bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}
        if roberta
        else {"layer_norm_eps": 1e-12}
    )
    config = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 24,
        "initializer_range": 0.02,
        "intermediate_size": 40,
        "max_position_embeddings": 66 if roberta else 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 1 if roberta else 0,
        "type_vocab_size": 1 if roberta else 2,
        "vocab_size": len(ids),
        **own,
        **changes,
    }
    d, hidden, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    p = "roberta." if roberta else "bert."
    shapes = {
        f"{p}embeddings.word_embeddings.weight": (v, d),
        f"{p}embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
    }
    shapes[f"{p}embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], d)
    shapes |= both(f"{p}embeddings.LayerNorm", d)
    for n in range(config["num_hidden_layers"]):
        b = f"{p}encoder.layer.{n}."
        for part in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ):
            shapes |= both(b + part, d, d)
        shapes |= both(b + "intermediate.dense", hidden, d) | both(b + "output.dense", d, hidden)
        shapes |= both(b + "attention.output.LayerNorm", d) | both(b + "output.LayerNorm", d)
    if roberta:
        shapes |= (
            both("lm_head.dense", d, d) | both("lm_head.layer_norm", d) | {"lm_head.bias": (v,)}
        )
    else:
        shapes |= both("cls.predictions.transform.dense", d, d) | both(
            "cls.predictions.transform.LayerNorm", d
        )
        shapes |= (
            {"cls.predictions.bias": (v,)}
            | both("bert.pooler.dense", d, d)
            | both("cls.seq_relationship", 2, d)
        )
    return config, shapes


def both(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def modernbert(ids, changes):
    config = {
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "classifier_activation": "gelu",
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
        "decoder_bias": True,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_attention": 6,
        "local_rope_theta": 10000.0,
        "hidden_activation": "gelu",
        "hidden_size": 24,
        "intermediate_size": 20,
        "mlp_bias": False,
        "norm_bias": False,
        "norm_eps": 1e-5,
        "model_type": "modernbert",
        "max_position_embeddings": 8192,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "vocab_size": len(ids),
        "tie_word_embeddings": True,
        **changes,
    }
    d, hidden = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "model.embeddings.tok_embeddings.weight": (config["vocab_size"], d),
        "model.embeddings.norm.weight": (d,),
    }
    for n in range(config["num_hidden_layers"]):
        b = f"model.layers.{n}."
        shapes |= {
            f"{b}attn.Wqkv.weight": (3 * d, d),
            f"{b}attn.Wo.weight": (d, d),
            f"{b}mlp_norm.weight": (d,),
        }
        shapes |= {f"{b}mlp.Wi.weight": (2 * hidden, d), f"{b}mlp.Wo.weight": (d, hidden)} | (
            {f"{b}attn_norm.weight": (d,)} if n else {}
        )
    shapes |= {
        "model.final_norm.weight": (d,),
        "head.dense.weight": (d, d),
        "head.norm.weight": (d,),
        "decoder.bias": (config["vocab_size"],),
    }
    return config, shapes


MAKERS = {
    "llada": ("llada", llada),
    "dream": ("dream", dream),
    "a2d-qwen2": ("a2d", a2d("qwen2")),
    "a2d-qwen3": ("a2d", a2d("qwen3")),
    "a2d-llama": ("a2d", a2d("llama")),
    "llada_moe": ("llada_moe", llada_moe),
    "sdar": ("sdar", sdar(False)),
    "sdar_moe": ("sdar", sdar(True)),
    "llada2_moe": ("llada2_moe", llada2_moe),
    "nemotron": ("nemotron", nemotron),
    "bert": ("bert", bert),
    "roberta": ("roberta", bert),
    "modernbert": ("bert", modernbert),
}


def write(family, directory, *, shards=1, seed=0, template=CHATML, slow=False, **changes):
    """A checkpoint directory of `family`; `changes` go into config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    kind, make = MAKERS[family]
    ids = write_tokenizer(directory, kind, template=template, slow=slow)
    config, shapes = make(ids, changes)
    weights = random_weights(shapes, seed)
    (directory / "config.json").write_text(json.dumps(config))
    if kind == "sdar":  # config.json has the second end only
        ends = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
        (directory / "generation_config.json").write_text(json.dumps(ends))
    if shards == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        places = {name: files[i % shards] for i, name in enumerate(weights)}
        for file in files:
            save_file(
                {name: weights[name] for name in weights if places[name] == file},
                directory / file,
                metadata={"format": "pt"},
            )
        size = sum(w.numel() * w.element_size() for w in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return Checkpoint(directory, config, weights)
