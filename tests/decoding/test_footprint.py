"""What a decode takes in memory is computed, and refused when it cannot fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unmask
from tests.training.runs import tiny_run
from unmask import UnmaskError
from unmask.cli import main
from unmask.decoding import DecodeOptions, Engine, Recorder, decode
from unmask.decoding.footprint import decode_bytes, footprint_of
from unmask.decoding.request import Request
from unmask.memory import GIB, free_memory
from unmask.policies import load_policy


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are Linux's")
def test_what_is_computed_is_at_least_what_is_taken_and_at_most_four_times_what_is_held():
    """The process takes more than its tensors hold at once: the allocator keeps freed memory for
    later, how much differs from run to run. What is held is exact, with an allocator that gives
    everything back at once."""
    taken = run_peaks({})
    held = run_peaks({"MALLOC_MMAP_THRESHOLD_": "65536"})
    assert len(taken) == len(held) == 13
    too_little = {n: sizes for n, sizes in taken.items() if sizes["computed"] < sizes["peak"]}
    too_much = {n: sizes for n, sizes in held.items() if sizes["computed"] > 4 * sizes["peak"]}
    assert (too_little, too_much) == ({}, {})


def run_peaks(allocator):
    """What was computed and the peak of each case, in MiB."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.decoding.peaks"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | allocator,
    )
    cases = (json.loads(line) for line in done.stdout.splitlines())
    return {name: {"computed": c >> 20, "peak": peak >> 20} for name, c, peak in cases}


def ask(model, tokens=8, length=16, policy="threshold:0.9", **options):
    settings = DecodeOptions(max_new_tokens=length, **options)
    return Request(tuple([5] * tokens), load_policy(policy), settings)


def test_a_call_that_cannot_fit_is_refused_at_the_call(tiny_model, monkeypatch):
    """In every way to decode, before anything is run; one that fits is not."""
    footprint = footprint_of(tiny_model, ask(tiny_model, 2))
    least = decode_bytes(tiny_model, footprint, 2)
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: least)
    says = r"decoding 3 prompts, 3 at a time, with canvases of 18 tokens takes .* batch_size"
    for run in (unmask.generate, unmask.stream, decode):
        with pytest.raises(UnmaskError, match=says):
            run(tiny_model, [[5, 6]] * 3, load_policy("threshold:0.9"), max_new_tokens=16)
    with pytest.raises(UnmaskError, match="1 at a time, with canvases of 4000 tokens"):
        unmask.infill(tiny_model, [[5] * 3999 + [tiny_model.mask_id]], "threshold:0.9")
    engine = Engine(tiny_model, slots=8)
    for _ in range(2):
        engine.submit(ask(tiny_model, 2))
    with pytest.raises(UnmaskError, match="3 rows side by side, with canvases of 18 tokens"):
        engine.submit(ask(tiny_model, 2))
    steps = [engine.step() for _ in iter(lambda: engine.idle, True)]
    assert sum(len(step.results) for step in steps) == 2
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: None)
    engine.submit(ask(tiny_model, 3000))


def test_more_rows_than_are_in_flight_take_no_more_but_their_answers(tiny_model, monkeypatch):
    footprint = footprint_of(tiny_model, ask(tiny_model, 2))
    free = decode_bytes(tiny_model, footprint, 2) + 100_000
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: free)
    settings = {"max_new_tokens": 16, "batch_size": 2}
    unmask.generate(tiny_model, [[5, 6]] * 100, "threshold:0", **settings)
    with pytest.raises(UnmaskError, match="decoding 200 prompts, 2 at a time"):
        unmask.generate(tiny_model, [[5, 6]] * 200, "threshold:0", **settings)


def test_what_is_free_is_looked_up_a_few_times_only(tiny_model, monkeypatch):
    looks = []
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: looks.append(1) or 2**40)
    engine = Engine(tiny_model, slots=64)
    for _ in range(64):
        engine.submit(ask(tiny_model))
    assert len(looks) == 1
    engine.submit(ask(tiny_model, 200))
    assert len(looks) == 2


def test_decisions_that_cannot_be_put_together_are_refused(tiny_model, monkeypatch):
    monkeypatch.setattr("unmask.decoding.recorder.LOOK", 1000)
    looks = []

    def look(device):
        looks.append(1)
        return 2**40 if len(looks) < 8 else 1000

    monkeypatch.setattr("unmask.memory.free_memory", look)
    with pytest.raises(UnmaskError, match=r"decisions that were recorded so far takes .* rollouts"):
        decode(
            tiny_model,
            [[5, 6]] * 4,
            load_policy("confidence:1"),
            max_new_tokens=16,
            recorder=Recorder(),
        )
    assert len(looks) == 8


def test_training_and_evaluations_that_cannot_fit_leave_nothing(tiny_dir, tmp_path, monkeypatch):
    """With the memory that this machine really has."""
    huge = {"max_new_tokens": 4000, "block_length": 4000, "batch_size": 2**17}
    with pytest.raises(UnmaskError, match=r"decoding 131072 prompts, .* prompts or rollouts"):
        unmask.train(tiny_run(tmp_path / "a", tiny_dir, prompts=2**14, rollouts=8, **huge))
    with pytest.raises(UnmaskError, match="fewer eval_prompts"):
        unmask.train(tiny_run(tmp_path / "b", tiny_dir, eval_prompts=100_000, **huge))
    model, chain = unmask.load_model(tiny_dir), unmask.load_task("chain")
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: 2**20)
    with pytest.raises(UnmaskError, match="decoding 3 prompts, 3 at a time"):
        unmask.evaluate(model, chain, ["random:1"], prompts=3, out=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_an_update_that_cannot_fit_is_refused(tiny_dir, tmp_path, monkeypatch, any_digit):
    import unmask.training.update as update

    monkeypatch.setattr(update, "micro_bytes", lambda *arguments: 2**60)
    with pytest.raises(UnmaskError, match=r"micro-batches of 128 .* give a smaller micro_batch"):
        unmask.train(tiny_run(tmp_path / "run", tiny_dir, rounds=1))


def test_the_command_says_it_in_one_sentence(tiny_dir, tmp_path, capsys):
    words = ["--prompts", "16384", "--rollouts", "8", "--max-new-tokens", "4000"]
    command = ["train", "--model", str(tiny_dir), *words]
    assert main([*command, "--batch-size", "131072", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "131072 at a time" in said and list(tmp_path.iterdir()) == []


def test_a_cpu_has_some_memory_and_a_container_no_more_than_its_limit(tmp_path, monkeypatch):
    free = free_memory("cpu")
    assert free is not None and free > 2**20
    (tmp_path / "memory.max").write_text(str(GIB))
    (tmp_path / "memory.current").write_text(str(GIB - 5))
    monkeypatch.setattr("unmask.memory.CGROUP", tmp_path)
    assert free_memory("cpu") == 5
