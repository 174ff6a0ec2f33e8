"""Two processes, each on a GPU of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.forks import run_two
from unmask.cli import main
from unmask.tensors import read_tensors

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def two_devices(device):
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


def run_command(device, log, count, *words):
    """A command of unmask in so many processes. On the CPU they are forks of this one, which start
    in no time and which a GPU does not allow."""
    if device != "cpu":
        run_processes(count, "unmask.cli", *words)
    elif count == 2:
        run_two(log, *words)
    else:
        assert main([*map(str, words)]) == 0


def run_processes(count, *arguments):
    """A module in so many processes, as torchrun starts them."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launch, "--nproc_per_node", str(count), "-m", *map(str, arguments)]
    # A process on the CPU takes one thread, as in the tests of one process.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_each_process_has_a_device_of_its_own(device, tiny_dir, tmp_path):
    run_processes(2, "tests.gpu.rank", device, tiny_dir, tmp_path / "answers.json")
    answers = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert [answer["rank"] for answer in answers] == [0, 1]
    assert answers[0]["tokens"] == answers[1]["tokens"]
    for rank, answer in enumerate(answers):
        own = "cpu" if device == "cpu" else f"cuda:{rank}"
        assert answer["device"] == answer["model"] == own
        assert answer["total"] == [2.0, 1.0] and answer["gradient"] == [0.5] * 3
        for card, size in enumerate(answer["allocated"]):
            assert (size > 0) == (card == rank)


def test_a_round_of_two_processes(device, tiny_dir, tmp_path):
    settings = {
        "model": tiny_dir,
        "task": "chain",
        "device": device,
        "max-new-tokens": 6,
        "rounds": 1,
        "prompts": 2,
        "rollouts": 2,
        "width": 16,
        "eval-prompts": 3,
        "out": tmp_path / "run",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    run_command(device, tmp_path / "log", 2, "train", *options)
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["provenance"]["processes"] == 2
    weights = read_tensors(tmp_path / "run" / "best" / "model.safetensors")
    assert all(values.isfinite().all() for values in weights.values())


def test_two_processes_evaluate_as_one(device, tiny_dir, tmp_path):
    settings = ["--model", tiny_dir, "--task", "chain", "--device", device, "--prompts", 10]
    samplers = ["--samplers", "confidence:8", "random:16", "--batch-size", 1, "--temperature", 1.0]
    results = []
    for count in (1, 2):
        out = tmp_path / str(count)
        words = ("evaluate", *settings, *samplers, "--out", out)
        run_command(device, tmp_path / f"log-{count}", count, *words)
        results.append((out / "results.jsonl").read_text(encoding="utf-8"))
    assert results[0] == results[1]
    assert len(results[0].splitlines()) == 20
