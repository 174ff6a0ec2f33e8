"""A training round on the device."""

import json

import pytest

from unmask import TrainConfig, train
from unmask.tensors import read_tensors

pytestmark = pytest.mark.gpu

SMALL = {
    "task": "chain",
    "max_new_tokens": 6,
    "block_length": 3,
    "rounds": 1,
    "prompts": 3,
    "rollouts": 4,
    "width": 16,
    "lr": 1e-2,
    "eval_every": 1,
    "eval_prompts": 4,
    "save_every": 1,
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"mixed_precision": True}, {"hidden": True}, {"action": "plackett-luce"}],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_a_round_leaves_finite_weights(tmp_path, tiny_dir, any_digit, device, changes):
    out = tmp_path / "run"
    train(TrainConfig(out=out, model=str(tiny_dir), device=device, **(SMALL | changes)))
    entry = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert entry["grad_norm"] > 0 and entry["reward"] >= 0
    for file in out.rglob("*.safetensors"):
        for name, values in read_tensors(file).items():
            assert values.double().isfinite().all(), (file, name)
    assert (out / "best" / "model.safetensors").exists()
