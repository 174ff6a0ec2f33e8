"""Policies that come from elsewhere or go elsewhere."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import unmask
from tests.reference import released_policy
from unmask import UnmaskError, load_policy
from unmask.cli import main
from unmask.policies import Observation


def released(seed=0, width=16, mlp=24, inputs=1, affine=True, sequence=False):
    """Random weights under the released code's names."""
    generator = torch.Generator().manual_seed(seed)
    block = "base_policy.transformer_blocks.0."
    shapes = {
        "base_policy.time_mlp.0": (width, width),
        "base_policy.time_mlp.2": (width, width),
        "base_policy.confidence_proj": (width, inputs),
    }
    shapes |= {f"{block}{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
    shapes |= {
        f"{block}linear1": (mlp, width),
        f"{block}linear2": (width, mlp),
        "base_policy.output_proj": (1, width),
    }
    shapes |= {f"{block}ada_conditioning{'.1' if sequence else ''}": (6 * width, width)}
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.4
        weights[f"{name}.bias"] = torch.randn(shape[:1], generator=generator) * 0.4
    for name in ("base_policy.final_norm", *((f"{block}norm1", f"{block}norm2") if affine else ())):
        weights[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        weights[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)
    weights["base_policy.mask_embedding.weight"] = torch.randn(2, width, generator=generator)
    weights[f"{block}inv_freq"] = 10_000.0 ** -(torch.arange(0, width // 2, 2) / (width // 2))
    return weights


@pytest.mark.parametrize(
    "variant", [{}, {"affine": False}, {"inputs": 3}, {"sequence": True}, {"width": 24, "mlp": 7}]
)
def test_imported_policies_give_the_released_logits(variant, tmp_path, capsys):
    weights = released(**variant)
    save_file(weights, tmp_path / "model.safetensors")
    assert (
        main(
            ["import-policy", str(tmp_path / "model.safetensors"), "--to", str(tmp_path / "policy")]
        )
        == 0
    )
    policy = load_policy(tmp_path / "policy")
    generator = torch.Generator().manual_seed(1)
    length, k = 7, variant.get("inputs", 1)
    confidence = torch.rand(4, length, k, generator=generator)
    masked = torch.rand(4, length, generator=generator) < 0.6
    step = torch.tensor([0, 2, 5, 7])
    got = policy.logits(Observation(confidence, masked, masked, step, length))
    for row in range(4):
        expected = released_policy.logits(
            weights,
            confidence[row],
            masked[row],
            int(step[row]),
            length,
            activate=variant.get("sequence", False),
        )
        assert (got[row] - expected).abs().max() < 1e-4
    assert got.std() > 0.1


def test_imported_policies_decode(tmp_path, tiny_model):
    save_file(released(), tmp_path / "model.safetensors")
    assert (
        main(
            ["import-policy", str(tmp_path / "model.safetensors"), "--to", str(tmp_path / "policy")]
        )
        == 0
    )
    generation = unmask.generate(tiny_model, ["7 a +5 ="], tmp_path / "policy", max_new_tokens=9)
    assert (generation.reveal_step >= 0).all()


def test_files_of_other_origin_are_refused(tmp_path, capsys):
    file, out = tmp_path / "model.safetensors", tmp_path / "policy"

    def refused(weights, message):
        if weights is not None:
            save_file(weights, file)
        assert main(["import-policy", str(file), "--to", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not out.exists()

    refused(None, "does not exist")
    file.write_bytes(b"PK\x03\x04")
    refused(None, "cannot be read as safetensors")
    refused({"x": torch.zeros(2)}, "holds no base_policy.")
    weights = released()
    refused({k: v for k, v in weights.items() if "out_proj.bias" not in k}, "out_proj.bias")
    refused(
        weights | {"base_policy.transformer_blocks.0.k_proj.weight": torch.zeros(3, 3)},
        "does not fit",
    )
    refused(
        weights | {"base_policy.transformer_blocks.1.k_proj.weight": torch.zeros(3, 3)}, "not known"
    )
    refused(
        weights | {"base_policy.transformer_blocks.0.inv_freq": torch.ones(4)}, "rotary frequencies"
    )
    out.mkdir()
    (out / "file").write_text("")
    save_file(weights, file)
    assert main(["import-policy", str(file), "--to", str(out)]) == 2
    assert "already holds files" in capsys.readouterr().err


def test_policies_come_from_the_hubs_cache(tmp_path):
    commit = "0" * 40
    repository = tmp_path / "models--someone--a-policy"
    unmask.LearnedPolicy(
        unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16)), beta=0.5
    ).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    command = "import unmask; print(unmask.load_policy('someone/a-policy').beta, unmask.load_policy('someone/a-policy@beta=2').beta)"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True
    )
    assert result.stdout.split() == ["0.5", "2.0"], result.stderr
    command = command.replace("a-policy", "none")
    result = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True
    )
    assert "could not be downloaded from the Hugging Face Hub" in result.stderr.splitlines()[-1]


def test_model_cards_say_what_is_known_and_nothing_else(tmp_path, tiny_dir):
    network = unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    point = {
        "sampler": "β = 1",
        "accuracy": 0.9,
        "accuracy_low": 0.88,
        "accuracy_high": 0.92,
        "nfe": 4.25,
    }
    trained = {
        "model": "embedded/chain",
        "task": "chain",
        "alpha": 3.0,
        "seed": 1,
        "rounds": 9,
        "block_length": None,
    }
    metadata = {
        "trained": trained,
        "length": 48,
        "metrics": {"round": 9, "eval_accuracy": 0.5, "eval_nfe": 3.0},
        "pareto": [point],
    }
    unmask.LearnedPolicy(network, metadata=metadata).save_pretrained(tmp_path / "a")
    card = (tmp_path / "a" / "README.md").read_text()
    for text in (
        "library_name: unmask",
        "| α | 3.0 |",
        "| block length | full diffusion |",
        "9 of 9",
        "90.0 [88.0, 92.0] | 4.2 |",
        "50.0 % @ 3.0",
    ):
        assert text in card
    unmask.LearnedPolicy(network).save_pretrained(tmp_path / "b")
    assert "None" not in card + (tmp_path / "b" / "README.md").read_text()


def test_push_checks_everything_here_first(tmp_path, capsys, monkeypatch):
    policy = unmask.LearnedPolicy(
        unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    )
    policy.save_pretrained(tmp_path / "p")
    assert main(["push", str(tmp_path / "p"), "someone/policy", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(
        name in out for name in ("README.md", "config.json", "model.safetensors", "someone/policy")
    )
    assert (
        main(["push", str(tmp_path / "p"), "no-owner"]) == 2
        and "no-owner" in capsys.readouterr().err
    )
    assert (
        main(["push", str(tmp_path / "nothing"), "someone/policy"]) == 2
        and "nothing" in capsys.readouterr().err
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_secret"}
    command = [sys.executable, "-m", "unmask.cli", "push", str(tmp_path / "p"), "someone/policy"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (
        result.returncode == 2
        and result.stderr.count("\n") == 1
        and "hf_secret" not in result.stderr + result.stdout
    )
    assert "could not be uploaded" in result.stderr


def test_a_policy_runs_with_another_length_block_length_and_model(tmp_path, tiny_model):
    policy = unmask.LearnedPolicy(
        unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    )
    chain = unmask.load_model("embedded/chain")
    for model in (tiny_model, chain):
        for length, block_length in ((5, 5), (20, 7), (48, 16)):
            generation = unmask.generate(
                model, ["7 a +5 ="], policy, max_new_tokens=length, block_length=block_length
            )
            assert (generation.reveal_step >= 0).all() and int(generation.nfe[0]) <= length


@pytest.mark.parametrize("setting", ["time", "modulation"])
def test_unknown_network_settings_are_refused(setting):
    with pytest.raises(UnmaskError, match=f"{setting} of the policy network is 'x'"):
        unmask.policies.NetworkConfig(**{setting: "x"})
