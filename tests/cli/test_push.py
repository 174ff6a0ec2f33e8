"""`unmask push`."""

import os
import subprocess
import sys

import unmask
from unmask.cli import main


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
