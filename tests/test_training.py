"""The loss against its re-statement, rewards, and invariant 7: killed and resumed is the same as
never stopped."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import grpo as reference
from unmask import TrainConfig, UnmaskError, train
from unmask.files import read_tensors
from unmask.policies import Bernoulli
from unmask.training.config import resumed
from unmask.training.grpo import group_advantages, grpo_loss
from unmask.training.rewards import multiplicative


@given(seed=st.integers(0, 10**6), epsilon=st.sampled_from([0.05, 0.2, 0.5]))
def test_loss_equals_the_slow_objective(seed, epsilon):
    rng = random.Random(seed)
    length, flat = 4, []
    groups = [[{"reward": rng.random(), "steps": []} for _ in range(3)] for _ in range(2)]
    for group in groups:
        for rollout in group:
            for _ in range(rng.randint(1, 5)):
                logits = [rng.gauss(0, 1) for _ in range(length)]
                old = [b + rng.gauss(0, 0.4) for b in logits]
                eligible = [rng.random() < 0.7 for _ in range(length)]
                action = [e and rng.random() < 0.5 for e in eligible]
                rollout["steps"].append((logits, old, eligible, action))
    advantages = group_advantages(
        torch.tensor([[r["reward"] for r in group] for group in groups])
    ).flatten()
    rollouts = [rollout for group in groups for rollout in group]
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        flat += [
            (*step, advantage, 1 / (len(rollout["steps"]) * len(rollouts)))
            for step in rollout["steps"]
        ]
    logits, old, eligible, action, advantage, weight = (
        torch.tensor(column) for column in zip(*flat, strict=True)
    )
    new_log_prob = Bernoulli(logits, eligible).log_prob(action)
    loss = grpo_loss(
        new_log_prob, Bernoulli(old, eligible).log_prob(action), advantage, weight, epsilon
    )
    assert abs(-float(loss) - reference.objective(groups, epsilon)) < 1e-5


def test_loss_gradient_matches_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    eligible, action = torch.rand(6, 3) < 0.8, torch.rand(6, 3) < 0.5
    old = Bernoulli(logits.detach() + 0.1 * torch.randn(6, 3), eligible).log_prob(action)
    advantage, weight = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64)

    def loss(b):
        return grpo_loss(Bernoulli(b, eligible).log_prob(action), old, advantage, weight, 0.3)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_clip_stops_the_gradient_only_where_the_objective_would_gain():
    for ratio, advantage, moves in (
        (1.5, 1.0, False),
        (1.5, -1.0, True),
        (0.5, 1.0, True),
        (0.5, -1.0, False),
        (1.1, 1.0, True),
    ):
        log_prob = torch.tensor([ratio]).log().requires_grad_()
        grpo_loss(
            log_prob, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), 0.2
        ).backward()
        assert bool(log_prob.grad.abs().sum() > 0) is moves


def test_reward_ends():
    r = multiplicative(
        torch.tensor([1.0, 1.0, 1.0, 0.0, 0.5]), torch.tensor([1, 10, 11, 1, 1]), 10, 2.0
    )
    assert torch.allclose(r, torch.tensor([1.0, 0.01, 0.01, 0.0, 0.5]))
    assert torch.equal(
        multiplicative(torch.tensor([1.0]), torch.tensor([7]), 10, 0.0), torch.ones(1)
    )


def tiny(out, tiny_dir, **changes):
    settings = {
        "model": str(tiny_dir),
        "task": "chain",
        "max_new_tokens": 6,
        "rounds": 6,
        "prompts": 3,
        "rollouts": 4,
        "width": 16,
        "eval_prompts": 4,
    }
    return TrainConfig(
        out=out,
        **(settings | {"eval_every": 2, "save_every": 2, "block_length": 3, "lr": 1e-2} | changes),
    )


def test_training_moves_the_weights_and_writes_what_it_promises(tmp_path, tiny_dir, any_digit):
    train(tiny(tmp_path / "run", tiny_dir))
    metrics = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [entry["round"] for entry in metrics] == [1, 2, 3, 4, 5, 6]
    assert {"reward", "accuracy", "nfe", "entropy", "silent", "grad_norm"} <= set(metrics[0])
    assert [entry["round"] for entry in metrics if "eval_reward" in entry] == [2, 4, 6]
    assert any(entry["grad_norm"] > 0 for entry in metrics)
    for name in ("best", "last"):
        config = json.loads((tmp_path / "run" / name / "config.json").read_text())
        assert config["metadata"]["trained"]["alpha"] == 1.0 and config["fallback"] is True
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_runs_from_when_one_heuristic_was_imitated_are_resumed(tmp_path):
    for old, new in ((None, ()), ("entropy:1", ("entropy:1",))):
        (tmp_path / "run.json").write_text(
            json.dumps({"settings": TrainConfig().settings() | {"imitate": old}})
        )
        assert resumed(TrainConfig(resume=tmp_path)).imitate == new


def test_stopped_and_resumed_gives_the_same_weights(tmp_path, tiny_dir, any_digit, monkeypatch):
    train(tiny(tmp_path / "whole", tiny_dir))
    import unmask.training.trainer as trainer

    class Killed(BaseException):
        pass

    original = trainer.Run.train_round

    def dies_in_round(n):
        def train_round(run):
            if run.round == n:
                raise Killed
            return original(run)

        monkeypatch.setattr(trainer.Run, "train_round", train_round)

    dies_in_round(3)
    with pytest.raises(Killed):
        train(tiny(tmp_path / "cut", tiny_dir))
    for n in (5, -1):
        dies_in_round(n)
        with contextlib.suppress(Killed):
            train(TrainConfig(resume=tmp_path / "cut"))
    for name in ("checkpoint.safetensors", "last/model.safetensors", "best/model.safetensors"):
        a, b = read_tensors(tmp_path / "whole" / name), read_tensors(tmp_path / "cut" / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
    rounds = [
        json.loads(line)["round"]
        for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rounds == [1, 2, 3, 4, 5, 6]


def command(*arguments):
    return [sys.executable, "-m", "unmask.cli", "train", *map(str, arguments)]


def test_kill_9_and_resume_by_command(tmp_path, tiny_dir):
    options = [
        "--model",
        tiny_dir,
        "--max-new-tokens",
        6,
        "--rounds",
        40,
        "--prompts",
        2,
        "--rollouts",
        2,
        "--width",
        16,
    ]
    options += ["--eval-prompts", 2, "--save-every", 3, "--eval-every", 5]
    subprocess.run(command(*options, "--out", tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(
        command(*options, "--out", tmp_path / "cut"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while (
        not (metrics.exists() and len(metrics.read_text().splitlines()) >= 4)
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    started = (tmp_path / "cut" / "run.json").read_text()
    subprocess.run(command("--resume", tmp_path / "cut"), check=True, capture_output=True)
    assert (tmp_path / "cut" / "run.json").read_text() == started and "--rounds 40" in started
    a, b = (read_tensors(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_two_processes_train_one_policy(tmp_path, tiny_dir):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        "-m",
        "unmask.cli",
    ]
    arguments = command(
        "--model",
        tiny_dir,
        "--max-new-tokens",
        6,
        "--rounds",
        2,
        "--prompts",
        2,
        "--rollouts",
        2,
        "--width",
        16,
    )[3:]
    result = subprocess.run(
        [*launch, *arguments, "--eval-prompts", "3", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert Path(tmp_path / "run" / "best" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["provenance"]["processes"] == 2


def test_resuming_with_other_settings_is_refused(tmp_path, tiny_dir, any_digit):
    train(tiny(tmp_path / "run", tiny_dir, rounds=2))
    with pytest.raises(UnmaskError, match=r"another configuration .alpha"):
        train(TrainConfig(resume=tmp_path / "run", alpha=3.0))
    with pytest.raises(UnmaskError, match="already holds files"):
        train(tiny(tmp_path / "run", tiny_dir))


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"alpha": -1.0},
            {"alpha": float("nan")},
            {"rollouts": 1},
            {"rounds": 0},
            {"epsilon": -0.1},
            {"eval_temperature": 0.0},
        ),
        *({"initial_bias": float("nan")}, {"width": 0}),
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(UnmaskError, match="give"):
        TrainConfig(**change)
