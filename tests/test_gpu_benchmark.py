"""The GPU benchmark on a CPU, with layouts small enough for it."""

import json

import pytest
import torch

from benchmarks.gpu import LAYOUTS, Config, main, random_model
from tests.forks import run_module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_ends(capsys):
    assert main(Config()) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("The benchmark needs a GPU") and "\n" not in said


def test_it_measures_both_layouts(tmp_path, capsys):
    small = {"layers": 1, "width": 64, "vocabulary": 192, "batch_size": 4, "repeats": 2}
    short = {"prompt_length": 8, "max_new_tokens": 8, "block_length": 4, "grpo_prompts": 1}
    out = tmp_path / "gpu" / "bench.json"
    assert main(Config("cpu", **small, **short, passes_per_block=2, out=out)) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["card"] == {"name": "CPU"} and written["provenance"]["dtype"] == "bfloat16"
    said = capsys.readouterr().out
    for name in LAYOUTS:
        found = written["results"][name]
        assert found["decode"]["fixed"]["passes"] == 4  # two passes for each of two blocks
        assert found["decode"]["learned"]["tokens a second"] > 0
        assert found["grpo"]["decisions"] >= 0 and found["forward"]["backbone"] > 0
        assert f"| {name} | fixed |" in said and f"| {name}, GRPO round |" in said


def test_layouts_are_those_of_the_published_models():
    """Parameters, from the shapes alone (nothing is allocated on the meta device)."""
    counts = {}
    for name, layout in LAYOUTS.items():
        network = random_model(layout, torch.device("meta")).network
        counts[name] = sum(p.numel() for p in network.parameters()) / 1e9
        assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert counts["llada-8b"] == pytest.approx(8.0, abs=0.05)
    assert counts["llada-moe"] == pytest.approx(7.36, abs=0.05)


def test_it_is_a_program():
    done = run_module("benchmarks.gpu", "--help")
    assert done.returncode == 0 and "--layouts" in done.stdout
