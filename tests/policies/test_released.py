"""Policies of the paper's released code: their logits, and files that are not such policies."""

import pytest
import torch
from safetensors.torch import save_file

import unmask
from tests.reference import released_policy
from unmask import load_policy
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
    refused(weights | {"base_policy.transformer_blocks.0.norm1.weight": torch.ones(3)}, "not fit")
    out.mkdir()
    (out / "file").write_text("", encoding="utf-8")
    save_file(weights, file)
    assert main(["import-policy", str(file), "--to", str(out)]) == 2
    assert "already holds files" in capsys.readouterr().err
