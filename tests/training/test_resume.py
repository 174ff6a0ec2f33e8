"""A run that is killed and resumed equals one that was never stopped; what a resume accepts."""

import contextlib
import json
import shutil
import time
from dataclasses import replace

import pytest
import torch

from tests.disk import full_disk
from tests.forks import kill_fork, start_fork
from tests.training.runs import (
    Killed,
    assert_equal_weights,
    kill_before_round,
    read_metrics,
    tiny_run,
)
from tests.typechecks import check_types
from unmask import LearnedPolicy, TrainConfig, UnmaskError, load_model, load_task, train
from unmask.cli import main
from unmask.policies import NetworkConfig, PolicyNetwork
from unmask.processes import Processes
from unmask.tensors import read_tensors
from unmask.training import session
from unmask.training.checkpoint import resume_config
from unmask.training.config import RewardConfig

WEIGHTS = ("checkpoint.safetensors", "last/model.safetensors", "best/model.safetensors")


def test_stopped_and_resumed_gives_the_same_weights(tmp_path, tiny_dir, any_digit, monkeypatch):
    train(tiny_run(tmp_path / "whole", tiny_dir))
    check_types(False)  # the same calls follow
    kill_before_round(monkeypatch, 3)
    with pytest.raises(Killed):
        train(tiny_run(tmp_path / "cut", tiny_dir))
    for n in (5, -1):
        kill_before_round(monkeypatch, n)
        with contextlib.suppress(Killed):
            train(TrainConfig(resume=tmp_path / "cut"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "cut", WEIGHTS)
    assert [entry["round"] for entry in read_metrics(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def test_batch_and_save_settings_may_change_on_resume_and_change_no_bits(
    tmp_path, tiny_dir, any_digit, monkeypatch
):
    """Decisions come in another order from a smaller batch; minibatches must not see that."""
    train(tiny_run(tmp_path / "whole", tiny_dir))
    check_types(False)  # the same calls follow
    kill_before_round(monkeypatch, 3)
    with pytest.raises(Killed):
        train(tiny_run(tmp_path / "cut", tiny_dir))
    kill_before_round(monkeypatch, -1)
    train(TrainConfig(resume=tmp_path / "cut", batch_size=5, save_every=1, device="cpu"))
    assert_equal_weights(tmp_path / "whole", tmp_path / "cut", WEIGHTS)


def test_kill_9_and_resume_by_command(tmp_path, tiny_dir, capsys):
    options = f"--model {tiny_dir} --max-new-tokens 6 --rounds 20 --prompts 2 --rollouts 2".split()
    options += ["--width", "16", "--eval-prompts", "2", "--save-every", "3", "--eval-every", "5"]
    assert main(["train", *map(str, options), "--out", str(tmp_path / "whole")]) == 0
    child = start_fork(tmp_path / "log", "train", *options, "--out", tmp_path / "cut")
    metrics, deadline = tmp_path / "cut" / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 4:
            break
        time.sleep(0.005)
    assert kill_fork(child) == -9
    started = (tmp_path / "cut" / "run.json").read_text()
    # An option that contradicts the run is refused even where it equals the default.
    for option in (("--rounds", "300"), ("--width", "64"), ("--no-context",)):
        assert main(["train", "--resume", str(tmp_path / "cut"), *option]) == 2
        name = option[0].removeprefix("--no-").removeprefix("--")
        assert f"another configuration ({name} differ)" in capsys.readouterr().err
    resume = ["train", "--resume", str(tmp_path / "cut"), "--batch-size", "7", "--rounds", "20"]
    assert main(resume) == 0
    assert (tmp_path / "cut" / "run.json").read_text() == started and "--rounds 20" in started
    assert_equal_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_full_disk_ends_a_training_with_one_sentence_and_it_goes_on(tmp_path, tiny_dir, capsys):
    options = f"--model {tiny_dir} --max-new-tokens 6 --rounds 4 --prompts 2 --rollouts 2".split()
    options += ["--width", "16", "--eval-prompts", "2", "--save-every", "2", "--eval-every", "2"]
    assert main(["train", *options, "--out", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    with full_disk(16384):  # the settings fit, a checkpoint does not
        assert main(["train", *options, "--out", str(tmp_path / "cut")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cut/checkpoint.safetensors: File too large" in said
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert_equal_weights(tmp_path / "whole", tmp_path / "cut")


def write_run(directory, **changes):
    settings = TrainConfig().settings() | changes
    (directory / "run.json").write_text(json.dumps({"settings": settings}))


def test_an_option_that_contradicts_the_run_is_refused_even_when_it_equals_the_default(tmp_path):
    write_run(tmp_path, alpha=3.0)
    with pytest.raises(UnmaskError, match=r"another configuration .alpha"):
        resume_config(TrainConfig(resume=tmp_path, alpha=1.0))
    assert resume_config(TrainConfig(resume=tmp_path)).rewards.alpha == 3.0
    assert resume_config(TrainConfig(resume=tmp_path, alpha=3.0)).rewards.alpha == 3.0
    with pytest.raises(UnmaskError, match=r"another configuration .alpha"):
        resume_config(TrainConfig(resume=tmp_path, rewards=RewardConfig(alpha=1.0)))
    with pytest.raises(UnmaskError, match="goes on in its own directory"):
        resume_config(TrainConfig(resume=tmp_path, out=tmp_path / "elsewhere"))


def test_where_and_how_fast_a_run_goes_on_may_change(tmp_path):
    write_run(tmp_path, alpha=3.0)
    config = resume_config(TrainConfig(resume=tmp_path, device="cuda", batch_size=9, save_every=3))
    assert (config.run.device, config.run.batch_size, config.run.save_every) == ("cuda", 9, 3)
    assert config.rewards.alpha == 3.0 and config.run.out == tmp_path
    with pytest.raises(UnmaskError, match="micro_batch"):  # it decides the order of sums
        resume_config(TrainConfig(resume=tmp_path, micro_batch=7))


def test_a_run_above_temperature_0_of_an_older_version_is_refused(tmp_path):
    """Its confidences were another quantity."""
    write_run(tmp_path, temperature=0.5)
    with pytest.raises(UnmaskError, match="probability of the drawn token; start a new run"):
        resume_config(TrainConfig(resume=tmp_path))


class Fragile:
    """A reward that fails in its n-th call."""

    def __init__(self, fails=-1):
        self.fails, self.calls = fails, 0

    def __call__(self, correctness, nfe, length, alpha):
        self.calls += 1
        if self.calls == self.fails:
            raise RuntimeError("a service is down")
        return correctness / nfe


def test_the_rounds_before_one_that_fails_are_kept(tmp_path, tiny_dir, any_digit):
    """Whatever the settings say about checkpoints."""
    seldom = {"save_every": 100, "eval_every": 100}
    train(tiny_run(tmp_path / "whole", tiny_dir, **seldom), reward=Fragile())
    with pytest.raises(RuntimeError, match="a service is down"):
        train(tiny_run(tmp_path / "cut", tiny_dir, **seldom), reward=Fragile(fails=4))
    kept = read_tensors(tmp_path / "cut" / "checkpoint.safetensors")
    assert int(kept["round"]) == 3 == len(read_metrics(tmp_path / "cut"))
    train(TrainConfig(resume=tmp_path / "cut"), reward=Fragile())
    assert_equal_weights(tmp_path / "whole", tmp_path / "cut", WEIGHTS)


def test_whichever_process_fails_keeps_the_rounds_before(
    tmp_path, tiny_dir, any_digit, monkeypatch
):
    """The first one waits for it in a collective then, and is ended there."""
    second = Processes(1, 1, torch.device("cpu"))
    monkeypatch.setattr(Processes, "join", staticmethod(lambda device: second))
    (tmp_path / "run").mkdir()  # by the first process
    config = tiny_run(tmp_path / "run", tiny_dir, save_every=100, eval_every=100)
    with pytest.raises(RuntimeError, match="a service is down"):
        train(config, reward=Fragile(fails=4))
    kept = read_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert int(kept["round"]) == 3


def first_reward(correctness, nfe, length, alpha):
    return correctness


def second_reward(correctness, nfe, length, alpha):
    return correctness


def test_a_run_with_choices_goes_on_by_its_own_command(tmp_path, tiny_dir):
    """They cut the block length, which is written down as it was given."""
    choices = {"choices": ("7", "a 3"), "max_new_tokens": None, "block_length": 16, "rounds": 1}
    run = train(tiny_run(tmp_path / "run", tiny_dir, **choices))
    again = tiny_run(tmp_path / "run", tiny_dir, **choices, resume=run)
    assert resume_config(again).decode.block_length == 16
    trained = LearnedPolicy.from_pretrained(run / "last").metadata["trained"]
    assert trained["block_length"] == 2


def test_a_reward_function_is_recorded_and_asked_for_again(tmp_path, tiny_dir):
    run = train(tiny_run(tmp_path / "run", tiny_dir, rounds=1), reward=first_reward)
    saved = json.loads((run / "run.json").read_text())
    assert saved["reward_function"] == "tests.training.test_resume.first_reward"
    for reward, says in ((None, "none was given"), (second_reward, "second_reward was given")):
        with pytest.raises(UnmaskError, match=f"first_reward, and .*{says}"):
            train(TrainConfig(resume=run), reward=reward)
    train(TrainConfig(resume=run), reward=first_reward)
    plain = train(tiny_run(tmp_path / "plain", tiny_dir, rounds=1))
    with pytest.raises(UnmaskError, match="leave reward out"):
        train(TrainConfig(resume=plain), reward=first_reward)


def test_a_task_of_ones_own_is_recorded_and_asked_for_again(tmp_path, tiny_dir, capsys):
    task = replace(load_task("chain"), name="mine", score=lambda text, example: len(text) % 2)
    run = train(tiny_run(tmp_path / "run", tiny_dir, rounds=1), task=task)
    saved = json.loads((run / "run.json").read_text())
    assert saved["task_object"] == saved["settings"]["task"] == "mine"
    assert main(["train", "--resume", str(run)]) == 2
    assert "the task object mine, and none was given; give train()" in capsys.readouterr().err
    with pytest.raises(UnmaskError, match="and other was given"):
        train(TrainConfig(resume=run), task=replace(task, name="other"))
    train(TrainConfig(resume=run), task=task)
    write_run(tmp_path, task="mine")
    saved = json.loads((tmp_path / "run.json").read_text()) | {"task_object": None}
    (tmp_path / "run.json").write_text(json.dumps(saved))
    with pytest.raises(UnmaskError, match="leave task out"):
        resume_config(TrainConfig(resume=tmp_path), task=task)
    check_types(False)
    for config in (tiny_run(tmp_path / "third", tiny_dir), TrainConfig(resume=run)):
        with pytest.raises(UnmaskError, match=r"task is 'chain'; give an unmask.tasks.Task"):
            train(config, task="chain")


def test_another_number_of_processes_is_refused(tmp_path, monkeypatch):
    write_run(tmp_path)
    saved = json.loads((tmp_path / "run.json").read_text())
    saved["provenance"] = {"processes": 2}
    (tmp_path / "run.json").write_text(json.dumps(saved))
    with pytest.raises(UnmaskError, match="started with 2 processes, and now there is 1; resume"):
        resume_config(TrainConfig(resume=tmp_path))
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    resume_config(TrainConfig(resume=tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UnmaskError, match="2 processes, and now there are 4"):
        resume_config(TrainConfig(resume=tmp_path))


def test_a_run_that_goes_on_does_not_need_the_policies_it_began_with(
    tmp_path, tiny_dir, any_digit, monkeypatch
):
    own = NetworkConfig(width=16, mlp=64, transform="log-odds", context=True)
    LearnedPolicy(PolicyNetwork(own)).save_pretrained(tmp_path / "first")
    changes = {"start": str(tmp_path / "first"), "imitate": (str(tmp_path / "first"),)}
    changes |= {"rounds": 3, "imitation_rounds": 1, "eval_every": 9, "save_every": 1}
    kill_before_round(monkeypatch, 2)
    with pytest.raises(Killed):
        train(tiny_run(tmp_path / "cut", tiny_dir, **changes))
    shutil.rmtree(tmp_path / "first")
    kill_before_round(monkeypatch, -1)
    train(TrainConfig(resume=tmp_path / "cut"))
    assert len(read_metrics(tmp_path / "cut")) == 3


# run.json of a run of the version before the settings were in groups.
OLD_SETTINGS = {
    "model": "embedded/chain",
    "task": "chain",
    "data_dir": None,
    "allow_code_execution": False,
    "block_length": 16,
    "max_new_tokens": None,
    "alpha": 3.0,
    "alpha_start": None,
    "alpha_range": [0.5, 5.0],
    "reward": "multiplicative",
    "dense": 0.0,
    "rounds": 110,
    "prompts": 16,
    "rollouts": 8,
    "epochs": 2,
    "minibatches": 4,
    "experts": ["threshold:0.9"],
    "start": None,
    "imitate": ["entropy:0.3@block_length=16"],
    "imitation_rounds": 8,
    "imitation_lr": 0.001,
    "lr": 0.001,
    "warmup": 5,
    "epsilon": 0.2,
    "scaled": False,
    "entropy_bonus": 0.0,
    "fallback": False,
    "weight_decay": 0.1,
    "max_grad_norm": 0.2,
    "action": "bernoulli",
    "inputs": 1,
    "context": True,
    "joint": False,
    "hidden": False,
    "width": 64,
    "initial_bias": -1.0,
    "transform": "log-odds",
    "eval_every": 10,
    "eval_prompts": 128,
    "eval_temperature": 1.0,
    "save_every": 10,
    "batch_size": 128,
    "micro_batch": 128,
    "mixed_precision": True,
    "seed": 2,
    "device": "cpu",
}


def test_runs_of_older_versions_are_resumed(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"settings": OLD_SETTINGS}))
    config = resume_config(TrainConfig(resume=tmp_path), first_reward)
    assert config.rewards.alpha_range == (0.5, 5.0) and config.decode.seed == 2
    assert config.rollout.experts == ("threshold:0.9",) and config.decode.block_length == 16
    assert config.data.dtype == "bfloat16", "a CPU's kind decides only for new runs"
    assert resume_config(TrainConfig(resume=tmp_path, dtype="auto"), first_reward) == config
    with pytest.raises(UnmaskError, match="dtype differ"):
        resume_config(TrainConfig(resume=tmp_path, dtype="float32"), first_reward)
    # What the run did not know has its plain default, not what today's recipe would fill in.
    assert config.policy.initial_slope == 0
    for old, new in ((None, ()), ("entropy:1", ("entropy:1",))):
        write_run(tmp_path, imitate=old)
        assert resume_config(TrainConfig(resume=tmp_path)).imitation.imitate == new


def test_a_run_keeps_the_dtype_it_began_with(tmp_path, tiny_dir, monkeypatch):
    """Also where it goes on with a CPU of another kind."""
    monkeypatch.setattr("unmask.processes.computes_bf16", lambda device: True)
    kill_before_round(monkeypatch, 1)
    with pytest.raises(Killed):
        train(tiny_run(tmp_path / "run", tiny_dir, rounds=2))
    kill_before_round(monkeypatch, -1)
    monkeypatch.setattr("unmask.processes.computes_bf16", lambda device: False)
    train(tiny_run(tmp_path / "other", tiny_dir, rounds=1))
    loaded = []
    monkeypatch.setattr(
        session, "load_model", lambda *a, **k: loaded.append(k["dtype"]) or load_model(*a, **k)
    )
    train(TrainConfig(resume=tmp_path / "run"))
    assert loaded == ["bfloat16"]
    for directory, dtype in ((tmp_path / "run", "bfloat16"), (tmp_path / "other", "float32")):
        saved = json.loads((directory / "run.json").read_text())
        assert saved["settings"]["dtype"] == saved["provenance"]["dtype"] == dtype


def test_a_file_that_is_no_run_is_refused(tmp_path):
    for text in ("[]", "{}", '{"settings": 3}', '{"settings": {"colour": 1}}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UnmaskError, match="not of this version"):
            resume_config(TrainConfig(resume=tmp_path))


def test_starting_over_in_a_run_directory_is_refused(tmp_path, tiny_dir):
    run = train(tiny_run(tmp_path / "run", tiny_dir, rounds=1))
    with pytest.raises(UnmaskError, match=rf"or go on with `unmask train --resume {run}`"):
        train(tiny_run(run, tiny_dir))


def test_a_run_that_is_named_as_a_policy_says_where_its_policies_are(tmp_path, tiny_dir, capsys):
    run = train(tiny_run(tmp_path / "run", tiny_dir, rounds=1))
    assert f"measuring {run / 'best'} on validation problems" in capsys.readouterr().out
    with pytest.raises(UnmaskError, match=rf"is a training run; its policies are {run / 'best'}"):
        LearnedPolicy.from_pretrained(run)
