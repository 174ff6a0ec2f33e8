"""Every family's checkpoint, loaded through the public API, against the plain statement of its
architecture."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from tests.models.checkpoints import MAKERS, vocabulary, write
from tests.reference.architectures import NETWORKS
from unmask.scoring import encode_pair, exact_likelihood

VARIANTS = {
    "llada": ("llada", {}),
    "llada grouped-query, tied, odd sizes": (
        "llada",
        {
            "n_heads": 6,
            "n_kv_heads": 2,
            "d_model": 36,
            "mlp_hidden_size": 37,
            "n_layers": 3,
            "weight_tying": True,
        },
    ),
    "llada with all biases": ("llada", {"include_bias": True, "include_qkv_bias": True}),
    "llada with biases on q, k, v": ("llada", {"include_qkv_bias": True, "n_kv_heads": 1}),
    "llada in shards": ("llada", {"shards": 3}),
    "dream": ("dream", {}),
    "dream in shards, with slow tokenizer files": ("dream", {"shards": 2, "slow": True}),
    "dream tied, odd sizes": (
        "dream",
        {"tie_word_embeddings": True, "intermediate_size": 31, "num_hidden_layers": 3},
    ),
    "a2d-qwen2": ("a2d-qwen2", {}),
    "a2d-qwen3": ("a2d-qwen3", {}),
    "a2d-qwen3 untied, one key head": (
        "a2d-qwen3",
        {"tie_word_embeddings": False, "num_key_value_heads": 1},
    ),
    "a2d-llama": ("a2d-llama", {}),
    "llada_moe": ("llada_moe", {}),
    "llada_moe, one dense layer, weights renormalised": (
        "llada_moe",
        {"moe_layer_freq": [0, 1], "norm_topk_prob": True, "shards": 2},
    ),
    "sdar": ("sdar", {}),
    "sdar in shards, blocks of 3, tied": (
        "sdar",
        {"shards": 2, "block_size": 3, "tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "sdar_moe": ("sdar_moe", {}),
    "sdar_moe in shards, weights as they are": (
        "sdar_moe",
        {"shards": 3, "norm_topk_prob": False, "block_size": 8},
    ),
    "llada2_moe": ("llada2_moe", {}),
    "llada2_moe in shards, blocks of 4, two shared experts": (
        "llada2_moe",
        {"shards": 3, "block_size": 4, "num_shared_experts": 2, "first_k_dense_replace": 2},
    ),
    "nemotron": ("nemotron", {}),
    "nemotron in shards, blocks of 7, one key head": (
        "nemotron",
        {"shards": 2, "block_size": 7, "num_key_value_heads": 1},
    ),
    "bert": ("bert", {}),
    "roberta": ("roberta", {}),
    "modernbert": ("modernbert", {}),
}


def worst_difference(checkpoint, family, seed=0):
    """Largest absolute difference of logits over real positions: without padding, and padded on the
    right to a common length. In fp64, but for kernels that have none: how much fp32 differs depends
    on the CPU."""
    dtype = torch.float32 if family == "sdar_moe" else torch.float64
    model = unmask.load_model(checkpoint.directory, dtype=dtype)
    weights = {name: weight.to(dtype) for name, weight in checkpoint.weights.items()}
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    blocks = model.attention_block is not None
    for sizes in ([1], [2, 2], [9, 4, 13], *([[37, 21]] if blocks else [])):
        tokens = torch.full((len(sizes), max(sizes)), model.pad_id)
        mask = torch.zeros_like(tokens)
        for row, size in enumerate(sizes):
            tokens[row, :size] = torch.randint(6, 30, (size,), generator=generator)
            tokens[row, size // 2] = model.mask_id
            mask[row, :size] = 1
        with torch.no_grad():
            expected = NETWORKS[family](checkpoint.config, weights, tokens, mask)
        difference = (model.logits(tokens, mask) - expected).abs()[mask.bool()]
        assert expected[mask.bool()].std() > 0.1, "logits so flat that the comparison says nothing"
        worst = max(worst, float(difference.max()))
    return worst


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_published_architecture(variant, tmp_path):
    family, changes = VARIANTS[variant]
    assert worst_difference(write(family, tmp_path / "model", **changes), family) < 1e-4


@pytest.mark.parametrize("family", MAKERS)
def test_a_padded_batch_generates_what_each_row_does_alone(family, tmp_path):
    model = unmask.load_model(write(family, tmp_path / "model").directory, dtype=torch.float32)
    prompts = [[7, 8, 9], [10], [11, 12, 13, 14, 15, 16, 17]]
    options = {"max_new_tokens": 10, "block_length": None if model.attention_block else 4}
    together = unmask.generate(model, prompts, "threshold:0.7", **options)
    assert not torch.isin(together.tokens, torch.tensor(model.never_ids)).any()
    assert model.mask_id in model.never_ids
    for i, prompt in enumerate(prompts):
        alone = unmask.generate(model, [prompt], "threshold:0.7", **options)
        assert torch.equal(alone.tokens[0], together.tokens[i])
        assert torch.equal(alone.reveal_step[0], together.reveal_step[i])


def test_special_tokens_of_the_families(tmp_path):
    def special(family):
        model = unmask.load_model(write(family, tmp_path / family).directory, dtype=torch.float32)
        names = model.tokenizer.convert_ids_to_tokens
        return names(model.mask_id), names(list(model.eos_ids)), model.shift, model.family

    assert special("llada") == ("<|mdm_mask|>", ["<|endoftext|>", "<|eot_id|>"], False, "LLaDA")
    assert special("dream") == ("<|mask|>", ["<|endoftext|>", "<|im_end|>"], True, "Dream")
    assert special("a2d-qwen3") == ("<|mask|>", ["<|endoftext|>", "<|im_end|>"], False, "A2D")
    assert special("llada_moe") == (
        "<|mask|>",
        ["<|endoftext|>", "<|role_end|>"],
        False,
        "LLaDA-MoE",
    )
    for family, name in (("sdar", "SDAR"), ("sdar_moe", "SDAR-MoE")):
        assert special(family) == ("<|MASK|>", ["<|im_end|>", "<|endoftext|>"], False, name)
    assert special("llada2_moe") == ("<|mask|>", ["<|endoftext|>"], False, "LLaDA2")
    nemotron = ("<SPECIAL_100>", ["</s>", "<|im_end|>"], False, "Nemotron-Labs-Diffusion")
    assert special("nemotron") == nemotron
    assert special("bert") == ("[MASK]", ["[SEP]"], False, "Bert")
    assert special("roberta") == ("<mask>", ["</s>"], False, "Roberta")
    assert special("modernbert") == ("[MASK]", ["[SEP]"], False, "ModernBert")


def test_blocks_and_masks_come_from_the_files_or_the_caller(tmp_path):
    def load(family, **said):
        return unmask.load_model(tmp_path / family, dtype=torch.float32, **said)

    ids = vocabulary("sdar")
    write("sdar", tmp_path / "sdar", block_size=8, mask_token_id=ids["!"])
    assert load("sdar").attention_block == 8 and load("sdar").mask_id == ids["!"]
    assert load("sdar", block_size=3, mask_token_id=ids["a"]).attention_block == 3
    assert load("sdar", block_size=3, mask_token_id=ids["a"]).mask_id == ids["a"]
    write("sdar", tmp_path / "sdar", block_size="absent", mask_token_id="absent")
    assert load("sdar").attention_block == 4 and load("sdar").mask_id == ids["<|MASK|>"]
    write("llada2_moe", tmp_path / "llada2_moe")
    assert load("llada2_moe").attention_block == 32
    write("a2d-qwen3", tmp_path / "a2d-qwen3")
    assert load("a2d-qwen3").attention_block is None
    write("bert", tmp_path / "bert")
    assert load("bert", mask_token_id=9).mask_id == 9
    with pytest.raises(unmask.UnmaskError, match="which also ends a text"):
        load("sdar", mask_token_id=load("sdar").eos_ids[0])
    write("dream", tmp_path / "dream")
    for family, name in (("dream", "Dream"), ("a2d-qwen3", "A2D")):
        with pytest.raises(unmask.UnmaskError, match=f"this {name} model has no blocks; leave it"):
            load(family, block_size=4)
    assert unmask.load_model("embedded/chain-blocks", block_size=4).attention_block == 4
    with pytest.raises(unmask.UnmaskError, match="needs attn_implementation sdpa"):
        load("sdar", attn_implementation="eager")
    edit(tmp_path / "sdar", block_size=0)
    refused(tmp_path / "sdar", "block_size 0; correct it")
    assert load("sdar", block_size=3).attention_block == 3


@pytest.mark.parametrize("family", ["sdar", "sdar_moe", "llada2_moe", "nemotron", "bert"])
def test_positions_are_counted_from_the_first_token_wherever_padding_is(family, tmp_path):
    changes = {} if family == "bert" else {"block_size": 4}
    model = unmask.load_model(
        write(family, tmp_path / "model", **changes).directory, dtype=torch.float32
    )
    tokens = torch.randint(6, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    mask, padding = torch.ones_like(tokens), torch.zeros(2, 3, dtype=torch.long)
    left = model.logits(torch.cat([padding, tokens], 1), torch.cat([padding, mask], 1))
    torch.testing.assert_close(left[:, 3:], model.logits(tokens, mask), rtol=0, atol=1e-4)


def test_ids_beyond_the_tokenizer_are_never_proposed(tmp_path):
    checkpoint = write("llada", tmp_path / "model")
    model = unmask.load_model(checkpoint.directory, dtype=torch.float32)
    known = len(model.tokenizer)
    assert checkpoint.config["embedding_size"] == known + 3
    assert set(range(known, known + 3)) <= set(model.never_ids)


@pytest.mark.parametrize("width", [10, 12])
def test_experts_of_odd_width_run_in_bf16(tmp_path, width):
    """The kernel for all experts at once takes rows of whole 16 bytes only."""
    directory = write("llada_moe", tmp_path / "model", expert_intermediate_size=width).directory
    model = unmask.load_model(directory, dtype="bfloat16")
    assert unmask.generate(model, [[5, 6]], "confidence:2", max_new_tokens=4).nfe.tolist() == [2]


@pytest.mark.parametrize("slow", [False, True])
def test_dreams_tokenizer_loads_from_either_set_of_files(slow, tmp_path):
    model = unmask.load_model(
        write("dream", tmp_path / "model", slow=slow).directory, dtype=torch.float32
    )
    assert model.tokenizer.decode(model.tokenizer("ab 1")["input_ids"]) == "ab 1"
    ids = model.tokenizer("<|im_start|>a<|im_end|>")["input_ids"]
    assert len(ids) == 3


@pytest.mark.parametrize("family", MAKERS)
def test_chats_use_the_shipped_template_or_a_built_in_one(family, tmp_path):
    chat = [{"role": "user", "content": "ab"}]
    shipped = unmask.load_model(
        write(family, tmp_path / "a", template="{{ messages[0].content }}!").directory,
        dtype=torch.float32,
    )
    assert shipped.tokenizer.apply_chat_template(chat, tokenize=False) == "ab!"
    built_in = unmask.load_model(
        write(family, tmp_path / "b", template=None).directory, dtype=torch.float32
    )
    text = built_in.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    expected = {
        "llada": "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nab<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "dream": "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n",
        "llada_moe": "<role>HUMAN</role>ab<|role_end|><role>ASSISTANT</role>",
    }
    if family in expected:
        assert text == expected[family]
    assert "ab" in text


def refused(directory, message):
    with pytest.raises(unmask.UnmaskError, match=message) as error:
        unmask.load_model(directory, dtype=torch.float32)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def edit(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"alibi": True},
        {"block_type": "sequential"},
        {"activation_type": "gelu"},
        {"layer_norm_type": "default"},
        {"rope": False},
        {"multi_query_attention": True},
    ],
)
def test_llada_variants_without_a_stock_class_are_refused(changes, tmp_path):
    write("llada", tmp_path / "model", **changes)
    refused(tmp_path / "model", f"{next(iter(changes))} = .* not supported")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llada_moe", {"shared_expert_intermediate_size": 8}),
        ("llada_moe", {"partial_rotary_factor": 0.5}),
        ("llada_moe", {"qk_layernorm": False}),
        ("dream", {"use_sliding_window": True}),
        ("sdar", {"use_sliding_window": True}),
        ("sdar", {"attention_bias": True}),
        ("sdar_moe", {"shared_expert_intermediate_size": 8}),
        ("llada2_moe", {"use_qkv_bias": True}),
        ("llada2_moe", {"use_bias": True}),
        ("nemotron", {"sliding_window": 128}),
        ("nemotron", {"mlp_bias": True}),
        ("nemotron", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        ("a2d-qwen3", {"block_size": 32}),
        ("bert", {"is_decoder": True}),
    ],
)
def test_fields_that_mean_another_architecture_are_refused(family, changes, tmp_path):
    write(family, tmp_path / "model")
    edit(tmp_path / "model", **changes)
    refused(tmp_path / "model", f"{next(iter(changes))} = .* not supported")


def test_nemotron_without_its_own_fields_is_that_of_the_publication(tmp_path):
    absent = dict.fromkeys(("block_size", "mask_token_id", "rope_parameters"), "absent")
    checkpoint = write("nemotron", tmp_path / "model", **absent)
    with pytest.raises(unmask.UnmaskError, match="no mask token"):  # fewer than 101 tokens
        unmask.load_model(checkpoint.directory)
    model = unmask.load_model(checkpoint.directory, mask_token_id=5)
    assert (model.attention_block, model.causal_context) == (32, True)
    assert model.network.config.rope_parameters["llama_4_scaling_beta"] == 0
    unmask.generate(model, [[7, 8]], "confidence:32", max_new_tokens=4)
    edit(tmp_path / "model", rope_parameters={"llama_4_scaling_beta": "far"})
    refused(tmp_path / "model", "llama_4_scaling_beta 'far' in rope_parameters")
    edit(tmp_path / "model", rope_parameters={"original_max_position_embeddings": 0})
    refused(tmp_path / "model", "original_max_position_embeddings 0 in rope_parameters")


def test_a_model_with_a_causal_context_has_no_likelihoods(tmp_path):
    model = unmask.load_model(write("nemotron", tmp_path / "model").directory)
    text = encode_pair(model, "abc", "def")
    with pytest.raises(unmask.UnmaskError, match="likelihoods are not computed"):
        exact_likelihood(model, [text])


@pytest.mark.parametrize("family", ["llada", "llada_moe", "llada2_moe"])
@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_scaled_rotary_positions_are_refused_wherever_they_stand(family, name, tmp_path):
    write(family, tmp_path / "model")
    edit(tmp_path / "model", **{name: {"rope_type": "yarn", "factor": 4.0, "rope_theta": 9.0}})
    refused(tmp_path / "model", "scales its rotary positions .*yarn")


@pytest.mark.parametrize("family", ["llada", "llada_moe", "llada2_moe"])
def test_the_base_of_the_rotary_positions_is_read_from_either_place(family, tmp_path):
    write(family, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_theta")
    path.write_text(json.dumps(config | {"rope_parameters": {"rope_theta": 123.0}}))
    edit(tmp_path / "model", rope_scaling={"rope_type": "default"})
    found = unmask.load_model(tmp_path / "model").network.config.rope_parameters
    assert found["rope_theta"] == 123.0 and found["rope_type"] == "default"


def test_what_fills_up_a_text_in_a2d_is_proposed_and_ends_it(tmp_path):
    directory = write("a2d-qwen3", tmp_path / "model").directory
    model = unmask.load_model(directory, dtype=torch.float32)
    padding = model.tokenizer.pad_token_id
    assert padding != model.tokenizer.eos_token_id
    assert padding == model.eos_ids[0] and padding not in model.never_ids


def test_a_class_that_scales_its_logits_is_found_out(tmp_path):
    from transformers import GraniteConfig, GraniteForCausalLM

    write("a2d-llama", tmp_path / "model")
    settings = {
        "vocab_size": 60,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    for scaling, message in ((8.0, "scales or caps its logits"), (1.0, None)):
        network = GraniteForCausalLM(GraniteConfig(**settings, logits_scaling=scaling))
        network.save_pretrained(tmp_path / "model")
        edit(tmp_path / "model", is_causal=False)
        if message:
            refused(tmp_path / "model", message)
        else:
            assert unmask.load_model(tmp_path / "model").family == "plain"


def test_unknown_and_causal_models_are_refused(tmp_path):
    write("a2d-llama", tmp_path / "model")
    edit(tmp_path / "model", model_type="mamba9", architectures=["Mamba9ForCausalLM"])
    refused(tmp_path / "model", "unknown architecture")
    edit(tmp_path / "model", model_type="llama", architectures=["LlamaForCausalLM"])
    refused(tmp_path / "model", "causal")
    edit(tmp_path / "model", is_causal=False)
    assert unmask.load_model(tmp_path / "model").family == "plain"


def test_a_class_that_stays_causal_is_found_out(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    write("a2d-llama", tmp_path / "model")
    settings = MambaConfig(
        vocab_size=60,
        hidden_size=8,
        state_size=4,
        num_hidden_layers=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    MambaForCausalLM(settings).save_pretrained(tmp_path / "model")
    edit(tmp_path / "model", is_causal=False)
    refused(tmp_path / "model", "stays causal")


def test_incomplete_shards_are_refused(tmp_path):
    directory = write("llada", tmp_path / "model", shards=2).directory
    second = directory / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-10])
    refused(directory, "00002-of-00002.safetensors cannot be read .* damaged or truncated")
    second.write_bytes(whole[:4])
    refused(directory, "damaged or truncated")
    second.unlink()
    refused(directory, "00002-of-00002.safetensors does not exist")


def test_missing_and_unexpected_weights_are_refused(tmp_path):
    directory = write("llada", tmp_path / "model").directory
    file = directory / "model.safetensors"
    weights = load_file(file)
    save_file(
        {k: v for k, v in weights.items() if "blocks.1.up_proj" not in k},
        file,
        metadata={"format": "pt"},
    )
    refused(directory, "missing: model.layers.1.mlp.up_proj.weight")
    save_file(
        weights | {"model.transformer.wpe.weight": torch.zeros(3)}, file, metadata={"format": "pt"}
    )
    refused(directory, "unexpected: model.transformer.wpe.weight")
    save_file(
        weights | {"model.transformer.ln_f.weight": torch.zeros(3)}, file, metadata={"format": "pt"}
    )
    refused(directory, "ln_f|model.norm|size")


def test_pickles_are_refused(tmp_path):
    directory = write("dream", tmp_path / "model").directory
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(directory, "pickles only .pytorch_model.bin.")


def test_missing_special_tokens_and_tokenizers_are_refused(tmp_path):
    directory = write("a2d-qwen2", tmp_path / "model").directory
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        path.write_text(
            json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "mask_token"})
        )
    refused(directory, "no mask token")
    (directory / "tokenizer.json").unlink()
    refused(directory, "no tokenizer files")


def test_prompts_longer_than_learned_positions_are_refused(tmp_path):
    model = unmask.load_model(write("roberta", tmp_path / "model").directory, dtype=torch.float32)
    assert unmask.generate(model, [[7] * 54], "confidence:10", max_new_tokens=10).tokens.shape == (
        1,
        10,
    )
    with pytest.raises(unmask.UnmaskError, match="this model takes 64"):
        unmask.generate(model, [[7] * 55], "confidence:10", max_new_tokens=10)


FROM_THE_HUB = """
from unmask import load_model, load_policy
model = load_model("someone/a-model")
print(model.family, model.network.config.num_hidden_layers)
print(load_policy("someone/a-policy").beta)
print(load_policy("hf:someone/a-policy@beta=2").beta)
load_policy("someone/none")
"""


def test_models_and_policies_come_from_the_hubs_cache(tmp_path):
    """In a process of its own: the Hub's package reads the variables when it is imported."""
    commit = "1" * 40
    for name in ("a-model", "a-policy"):
        references = tmp_path / f"models--someone--{name}" / "refs"
        references.mkdir(parents=True)
        (references / "main").write_text(commit)
    model, policy = (
        tmp_path / f"models--someone--{name}" / "snapshots" / commit
        for name in ("a-model", "a-policy")
    )
    made = write("llada", model)
    network = unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    unmask.LearnedPolicy(network, beta=0.5).save_pretrained(policy)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", FROM_THE_HUB], env=environment, capture_output=True, text=True
    )
    layers = str(made.config["n_layers"])
    assert result.stdout.split() == ["LLaDA", layers, "0.5", "2.0"], result.stderr
    assert "could not be downloaded from the Hugging Face Hub" in result.stderr.splitlines()[-1]


def test_unknown_hub_names_are_refused_without_a_network(monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # the variable was read at import
    with pytest.raises(unmask.UnmaskError, match="could not be downloaded from the Hugging Face"):
        unmask.load_model("no-such-organisation/no-such-model")


if __name__ == "__main__":  # the table of docs/models.md
    import tempfile
    from pathlib import Path

    print("| what was compared | largest difference of logits |\n|---|---|")
    for variant, (family, changes) in VARIANTS.items():
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = write(family, Path(directory) / "model", **changes)
            print(f"| {variant} | {worst_difference(checkpoint, family):.1e} |")
