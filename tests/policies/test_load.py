"""Policies by spec, from directories and from the Hub, with models and lengths of other origin."""

import os
import subprocess
import sys

import pytest

import unmask
from unmask import UnmaskError


def test_policies_come_from_the_hubs_cache(tmp_path):
    commit = "0" * 40
    repository = tmp_path / "models--someone--a-policy"
    unmask.LearnedPolicy(
        unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16)), beta=0.5
    ).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    command = (
        "from unmask import load_policy; "
        "print(load_policy('someone/a-policy').beta); "
        "print(load_policy('hf:someone/a-policy@beta=2').beta)"
    )
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


@pytest.mark.parametrize(
    ("remasking", "steps", "spec"),
    [
        ("low_confidence", 8, "confidence:6"),
        ("maskgit_plus", 48, "confidence:1"),
        ("topk_margin", 24, "margin:2"),
        ("random", 1, "random:48"),
    ],
)
def test_lladas_and_dreams_steps_are_the_policy_they_mean(remasking, steps, spec):
    assert unmask.policies.steps_spec(steps, 48, remasking) == spec
