"""Training on a block-causal model: policies see one block, and nothing depends on the batch."""

import json

import pytest
import torch

import unmask
from tests.training.runs import assert_equal_weights, tiny_run
from unmask.training import train


@pytest.fixture
def block_dir(tiny_dir, tmp_path):
    """The tiny model as a block-causal one."""
    directory = tmp_path / "blocks"
    directory.mkdir()
    for file in tiny_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_size": 4}))
    return directory


def test_a_policy_is_trained_on_blocks_whatever_the_batch_size(block_dir, tmp_path, any_digit):
    settings = {"block_length": None, "max_new_tokens": 10, "rounds": 2, "experts": ()}
    settings |= {"imitate": ("threshold:0.5",), "imitation_rounds": 1}
    for name, size in (("whole", 64), ("parts", 5)):
        train(tiny_run(tmp_path / name, block_dir, **settings, batch_size=size))
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")
    model = unmask.load_model(block_dir, dtype=torch.float32)
    policy = unmask.load_policy(tmp_path / "whole" / "last")
    run = unmask.generate(model, ["7 a +5 ="], policy, max_new_tokens=10, record=True)
    assert run.transitions is not None
    assert run.transitions.observation.length == 4


def test_a_dense_reward_is_refused(block_dir, tmp_path):
    with pytest.raises(unmask.UnmaskError, match="leave out dense"):
        train(tiny_run(tmp_path / "run", block_dir, block_length=None, dense=0.1))
    assert not (tmp_path / "run").exists()


def test_a_range_of_alpha_brings_the_recipe_for_blocks(block_dir, tmp_path, any_digit, monkeypatch):
    """A block-causal model decodes in blocks, though no block length is given."""
    monkeypatch.setattr("unmask.training.front.RANGE_PROMPTS", 4)
    settings = {"block_length": None, "max_new_tokens": 10, "rounds": 1}
    run = train(tiny_run(tmp_path / "run", block_dir, alpha_range=(0.1, 3.0), **settings))
    saved = json.loads((run / "run.json").read_text())["settings"]
    assert (saved["initial_slope"], saved["imitate"], saved["rounds"]) == (0.5, [], 1)
    assert saved["block_length"] is None


def test_blocks_that_are_not_the_models_own_are_refused_before_anything_is_written(
    block_dir, tmp_path
):
    with pytest.raises(unmask.UnmaskError, match="its own blocks of 4"):
        train(tiny_run(tmp_path / "run", block_dir, max_new_tokens=10))  # blocks of 3
    model, task = unmask.load_model(block_dir), unmask.load_task("chain")
    options = {"block_lengths": [4, 3], "prompts": 2, "max_new_tokens": 10}
    with pytest.raises(unmask.UnmaskError, match="its own blocks of 4"):
        unmask.evaluate(model, task, ["threshold:0.5"], out=tmp_path / "results", **options)
    assert not (tmp_path / "run").exists() and not (tmp_path / "results").exists()
