"""Whole runs: the recipe of the shipped models is unchanged, resuming gives the same weights, and
what is printed and written."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unmask
from tests.disk import full_disk
from tests.typechecks import check_types
from unmask import UnmaskError
from unmask.cli import main
from unmask.pretraining import PretrainConfig, pretrain
from unmask.pretraining.network import PERIODS
from unmask.processes import fast_dtype
from unmask.tasks import Example, Task
from unmask.tasks.sources import GeneratedSource
from unmask.tensors import read_tensors

CPU = torch.device("cpu")
SMALL = {"width": 32, "layers": 1, "heads": 2, "batch_size": 4}
VARIED = {
    "task": "word-problems",
    "vocabulary": 1200,
    "whole_numbers": 100,
    "number_waves": 0.3,
    "buffer_lengths": (48, 96),
    "result_lines": 4,
} | SMALL


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    monkeypatch.setattr("unmask.pretraining.data.SAMPLE", 300)


def weights(directory):
    return read_tensors(directory / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("settings", [SMALL, VARIED], ids=["fixed", "varied"])
def test_killed_and_resumed_is_the_same_as_never_stopped(tmp_path, settings, monkeypatch):
    pretrain(PretrainConfig(out=tmp_path / "whole", steps=3, save_every=2, **settings))

    import unmask.pretraining.run as run

    def die_after(config, learner, vocabulary, step, curve, save=run.save_run):
        save(config, learner, vocabulary, step, curve)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "save_run", die_after)
        pretrain(PretrainConfig(out=tmp_path / "killed", steps=3, save_every=2, **settings))
    pretrain(PretrainConfig(out=tmp_path / "killed", steps=3, resume=True, **settings))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path, capsys):
    options = f"--out {tmp_path} --steps 2 --layers 1 --width 32 --heads 2 --batch-size 4"
    words = ["pretrain", *options.split()]
    # The settings fit; of the model nothing does, or all but the weights, or but the tokenizer.
    for most in (2000, 20_000, 40_000):
        with full_disk(most):
            assert main([*words, *(["--resume"] if most > 2000 else [])]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and tmp_path.name in said and "too large" in said
        assert not list(tmp_path.rglob(".*"))
    assert main([*words, "--resume"]) == 0


def test_a_run_may_be_resumed_for_longer_and_says_so(tmp_path):
    pretrain(PretrainConfig(out=tmp_path / "m", steps=2, **SMALL))
    pretrain(PretrainConfig(out=tmp_path / "m", steps=3, cooldown=0.5, resume=True, **SMALL))
    recipe = json.loads((tmp_path / "m" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["recipe"]["steps"] == 3
    assert recipe["earlier"] == [{"until": 2, "steps": 2, "cooldown": 0.6, "result_lines": 0}]
    curve = (tmp_path / "m" / "loss.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in curve] == [2, 3]


def test_a_run_stopped_and_resumed_is_the_same_as_one(tmp_path):
    pretrain(PretrainConfig(out=tmp_path / "one", steps=4, **SMALL))
    pretrain(PretrainConfig(out=tmp_path / "two", steps=4, until=1, **SMALL))
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    pretrain(PretrainConfig(out=tmp_path / "two", steps=4, resume=True, **SMALL))
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    recipe = json.loads((tmp_path / "two" / "recipe.json").read_text(encoding="utf-8"))
    assert "earlier" not in recipe
    assert recipe["provenance"]["dtype"] == str(fast_dtype(CPU))[len("torch.") :]
    pretrain(PretrainConfig(out=tmp_path / "two", steps=4, until=2, resume=True, **SMALL))
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    curve = (tmp_path / "two" / "loss.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in curve] == [1, 4]


def test_a_resumed_run_keeps_its_tokenizer(tmp_path, monkeypatch):
    """Even where the task's examples, from which it was learned, are others now."""
    out = tmp_path / "m"
    pretrain(PretrainConfig(out=out, steps=1, **VARIED))
    learned = (out / "tokenizer.json").read_bytes()
    monkeypatch.setattr("unmask.pretraining.data.SAMPLE", 30)
    pretrain(PretrainConfig(out=out, steps=2, resume=True, **VARIED))
    assert (out / "tokenizer.json").read_bytes() == learned
    pretrain(PretrainConfig(out=tmp_path / "other", steps=1, **VARIED))
    assert (tmp_path / "other" / "tokenizer.json").read_bytes() != learned


def test_a_run_goes_on_with_a_tokenizer_that_was_saved_by_half(tmp_path):
    """As where it was killed between its files. All files are those of a run without a kill."""
    out = tmp_path / "m"
    pretrain(PretrainConfig(out=out, steps=1, **VARIED))
    whole = weights(out)
    before = {path.name: path.read_bytes() for path in out.glob("tokenizer*")}
    for name in ("tokenizer_config.json", "checkpoint.safetensors"):
        (out / name).unlink()
    pretrain(PretrainConfig(out=out, steps=1, resume=True, **VARIED))
    assert same(weights(out), whole)
    assert {path.name: path.read_bytes() for path in out.glob("tokenizer*")} == before
    assert unmask.load_model(out).tokenizer.mask_token_id is not None


def diverge_at(step, monkeypatch):
    """Makes the loss NaN before the weights are changed for the `step`-th time."""
    import unmask.pretraining.run as run

    def diverge(learner, loss, config, at, update=run.update_learner):
        update(learner, loss * float("nan") if at + 1 == step else loss, config, at)

    monkeypatch.setattr(run, "update_learner", diverge)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_run_that_diverges_keeps_its_last_checkpoint(tmp_path, step, monkeypatch):
    out = tmp_path / "m"
    pretrain(PretrainConfig(out=out, steps=4, until=1, **SMALL))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    diverge_at(step, monkeypatch)
    with pytest.raises(UnmaskError, match=f"at step {step + step % 2}, .*smaller matrix_lr"):
        pretrain(PretrainConfig(out=out, steps=4, save_every=2, resume=True, **SMALL))
    if step == 2:  # there was no other checkpoint since
        del before["recipe.json"]
        assert all((out / name).read_bytes() == data for name, data in before.items())
    assert all(value.isfinite().all() for value in weights(out).values())
    assert "NaN" not in (out / "loss.jsonl").read_text(encoding="utf-8")


def test_a_loss_that_is_not_finite_is_seen_between_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr("unmask.pretraining.run.LOG_EVERY", 2)
    diverge_at(2, monkeypatch)
    with pytest.raises(UnmaskError, match="not finite at step 4, so"):
        pretrain(PretrainConfig(out=tmp_path / "m", steps=8, **SMALL))
    assert [path.name for path in (tmp_path / "m").iterdir() if path.suffix] == ["recipe.json"]


def test_other_settings_are_refused_when_resumed(tmp_path):
    pretrain(PretrainConfig(out=tmp_path / "m", steps=1, **SMALL))
    changed = PretrainConfig(out=tmp_path / "m", steps=1, matrix_lr=1e-3, resume=True, **SMALL)
    with pytest.raises(UnmaskError, match=r"other settings \(matrix_lr\)"):
        pretrain(changed)


def test_a_resumed_run_cannot_have_fewer_steps_than_it_has(tmp_path):
    pretrain(PretrainConfig(out=tmp_path / "m", steps=3, **SMALL))
    before = (tmp_path / "m" / "recipe.json").read_bytes()
    with pytest.raises(UnmaskError, match="is at step 3, and steps is 2"):
        pretrain(PretrainConfig(out=tmp_path / "m", steps=2, resume=True, **SMALL))
    assert (tmp_path / "m" / "recipe.json").read_bytes() == before


def test_progress_is_shown_at_once(tmp_path, capsys):
    pretrain(PretrainConfig(out=tmp_path / "m", steps=3, **SMALL))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "3/3"]


def test_numbers_begin_with_waves_and_the_model_can_be_loaded(tmp_path):
    out = pretrain(PretrainConfig(out=tmp_path / "m", steps=1, warmup=1000, **VARIED))
    model = unmask.load_model(out, dtype=torch.float32)
    assert model.max_new_tokens == 128
    known = model.tokenizer.get_vocab()
    rows = model.network.get_input_embeddings().weight[[known[str(n)] for n in range(101)]]
    values = torch.arange(101)
    for i, period in enumerate(PERIODS):
        wave = (2 * torch.pi * values / period).cos()
        assert torch.corrcoef(torch.stack((rows[:, i], wave)))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"vocabulary": 100}, "vocabulary"),
        ({"whole_numbers": -1}, "whole_numbers"),
        ({"number_waves": 0.3}, "whole_numbers"),
        ({"buffer_lengths": (96, 48)}, "buffer_lengths"),
        ({"buffer_lengths": (0, 48)}, "buffer_lengths"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, says):
    with pytest.raises(UnmaskError, match=says):
        PretrainConfig(**settings)


@pytest.mark.parametrize(
    "module", ["pretraining/config.py", "pretraining/__init__.py", "cli/pretrain.py"]
)
def test_what_help_needs_imports_nothing_heavy(module):
    source = (Path(unmask.__file__).parent / module).read_text(encoding="utf-8")
    imported = {node.module for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)}
    light = {"dataclasses", "pathlib", "typing", "__future__"}
    light |= {"unmask.errors", "unmask.lazy", "unmask.pretraining.config", "unmask.settings"}
    assert imported <= light
    assert not any(isinstance(node, ast.Import) for node in ast.parse(source).body)


def draw_sum(rng):
    a, b = rng.randrange(100), rng.randrange(100)
    return Example(prompt=f"{a} + {b} =", answer=str(a + b), data=a + b)


def test_a_task_of_ones_own_is_learned_and_asked_for_again(tmp_path):
    """The name in the settings is that of the object, and no task that is loaded by its name."""
    task = Task("sums", GeneratedSource(draw_sum), lambda text, example: 0.0, max_new_tokens=4)
    out = tmp_path / "m"
    pretrain(PretrainConfig(out=out, steps=2, until=1, vocabulary=300, **SMALL), task)
    again = PretrainConfig(out=out, steps=2, vocabulary=300, resume=True, **SMALL)
    with pytest.raises(UnmaskError, match=r"other settings \(task\)"):
        pretrain(again)
    with pytest.raises(UnmaskError, match=r"other settings \(task\)"):
        pretrain(again, replace(task, name="differences"))
    pretrain(again, task)
    recipe = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["recipe"]["task"] == "sums"
    model = unmask.load_model(out)
    assert unmask.generate(model, ["3 + 4 ="], "confidence:1", max_new_tokens=4).nfe.tolist() == [4]
    with pytest.raises(UnmaskError, match="task sums has a verifier but no answers"):
        pretrain(PretrainConfig(out=tmp_path / "n", **SMALL), replace(task, has_answers=False))
    check_types(False)
    with pytest.raises(UnmaskError, match=r"task is 'sums'; give an unmask.tasks.Task"):
        pretrain(PretrainConfig(out=tmp_path / "n", **SMALL), "sums")
    assert not (tmp_path / "n").exists()


def test_settings_are_checked_and_a_directory_may_be_text(tmp_path):
    assert pretrain(PretrainConfig(out=str(tmp_path / "m"), steps=1, **SMALL)).is_dir()
    with pytest.raises(UnmaskError, match=r"steps is 2.5; give"):
        PretrainConfig(steps=2.5)
