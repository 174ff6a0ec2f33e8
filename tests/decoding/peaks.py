"""What decodes and updates really take in memory, beside what was computed for them.

Run as a program, in a process of its own: it prints a line of JSON for each case with its name, the
bytes that were computed and those by which the process grew at most (Linux). All cases are measured
in one fork, and a case of each kind in another, whose allocator gives everything back at once.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import unmask
from benchmarks.models import random_llada
from tests.forks import settle_threads
from unmask.decoding import DecodeOptions, Recorder
from unmask.decoding.canvas import padded_width
from unmask.decoding.footprint import answer_bytes, decision_bytes, decode_bytes, footprint_of
from unmask.decoding.request import Request
from unmask.evaluation.plan import EvalPlan
from unmask.models import Model
from unmask.models.tokenizer import word_tokenizer
from unmask.policies import LearnedPolicy, NetworkConfig, Observation, PolicyNetwork
from unmask.policies.base import Needs
from unmask.processes import Processes
from unmask.training.config import OptimConfig
from unmask.training.decisions import Decisions
from unmask.training.record import Recording, piece_bytes, record_traces
from unmask.training.update import MicroBatch, act_again, log_probs, micro_bytes

PROCESS = Path("/proc/self")
M_MMAP_THRESHOLD = -3  # of mallopt
CHAIN = "embedded/chain"


def read_size(name: str) -> int:
    """A size of this process in bytes: VmRSS now, VmHWM at most since it was reset."""
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure_peak(function: Callable[[], Any]) -> int:
    """By how many bytes the process grows at most while a function runs."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    (PROCESS / "clear_refs").write_text("5", encoding="utf-8")
    before = read_size("VmRSS")
    function()
    return read_size("VmHWM") - before


def eager_policy(**settings: Any) -> LearnedPolicy:
    """A policy that reveals nearly everything at once, so that a decode is short."""
    return LearnedPolicy(PolicyNetwork(NetworkConfig(initial_bias=8.0, **settings)))


def compare_decode(
    name: str, model: str | Model, shape: tuple[int, int, int], policy: Any, **settings: Any
) -> None:
    """Prints what a decode of all rows side by side takes.

    Args:
        name: of the case.
        model: the name of an embedded one, or another.
        shape: rows, tokens of each prompt (all different), L.
        policy: or its spec.
        settings: `record`, `longest` (tokens of the first prompt, where it is longer than the
            others), and options.
    """
    loaded = unmask.load_model(model) if isinstance(model, str) else model
    record = settings.pop("record", False)
    rows, size, length = shape
    prompts = [[4 + i // 7**place % 7 for place in range(size)] for i in range(rows)]
    prompts[0] += [4] * (settings.pop("longest", size) - size)
    policy = unmask.load_policy(policy) if isinstance(policy, str) else policy
    options = DecodeOptions(max_new_tokens=length, **settings)
    least = Recorder().needs if record else Needs(everywhere=False)
    footprint = footprint_of(loaded, Request(tuple(prompts[0]), policy, options), least)
    unmask.generate(loaded, prompts[:1], policy, options, record=record)  # what is loaded late
    found = {}

    def go() -> None:
        run = unmask.generate(loaded, prompts, policy, options, batch_size=rows, record=record)
        found["passes"] = int(run.nfe.sum())
        found["transitions"] = run.transitions

    peak = measure_peak(go)
    widths = [padded_width(loaded, len(prompt) + length) for prompt in prompts]
    computed = decode_bytes(loaded, footprint, rows, widths) + rows * answer_bytes(length)
    if record:  # they are kept, and put together
        computed += 2 * found["passes"] * decision_bytes(footprint)
    print(json.dumps([name, computed, peak]), flush=True)


def compare_recording(name: str, prompts: int, length: int, **settings: Any) -> None:
    """Prints what recording a piece takes, in which every answer takes all passes."""
    model, task = unmask.load_model("embedded/chain"), unmask.load_task("chain")
    plan = EvalPlan(
        samplers={"one": unmask.load_policy("confidence:1")},
        block_lengths=(length,),
        prompts=prompts,
        split="train",
        decode=DecodeOptions(max_new_tokens=length),
        batch_size=prompts // 4,
    )
    recording = Recording(plan, **settings)
    computed = piece_bytes(model, recording, plan.load_prompts(model, task))
    with tempfile.TemporaryDirectory() as out:
        alone = Processes(0, 1, model.device)
        record_traces(
            model,
            task,
            replace(recording, plan=replace(plan, prompts=1)),
            Path(out) / "first",
            processes=alone,
        )  # what is loaded late
        peak = measure_peak(
            lambda: record_traces(model, task, recording, Path(out) / "traces", processes=alone)
        )
    print(json.dumps([name, computed, peak]), flush=True)


def compare_update(name: str, count: int, length: int, policy: LearnedPolicy) -> None:
    """Prints what the gradient of so many decisions on L positions takes."""
    config, every = OptimConfig(micro_batch=count, minibatches=1), torch.arange(count)
    shown = torch.ones(count, length, dtype=torch.bool)
    seen = Observation(torch.rand(count, length, 1), shown, shown, every * 0, length)
    ones, action = torch.ones(count), torch.ones(count, length, dtype=torch.int16)
    decisions = Decisions(seen, action, ones, ones, shown[:, 0], every)

    def go() -> None:
        batch = decisions[every]
        acted = act_again(policy, batch, MicroBatch(every, length), config)
        log_probs(acted, batch, config)[0].sum().backward()

    peak = measure_peak(go)
    print(json.dumps([name, micro_bytes(policy, decisions, config), peak]), flush=True)


def in_fork(*functions: Callable[[], None]) -> None:
    """Runs functions in a fork, so that they leave no memory behind in this process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            settle_threads()
            for function in functions:
                function()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the fork ended with {status}"


def give_back_at_once() -> None:
    """Makes the allocator map what is larger than 64 KiB by itself, and unmap it when freed."""
    assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16) == 1


def main() -> None:
    in_fork(compare_first, compare_rest)
    in_fork(give_back_at_once, compare_first)


def compare_first() -> None:
    """Prints a line for a case of each kind."""
    shown = eager_policy(width=64, mlp=256, inputs=20, hidden=128)
    compare_decode("many rows", CHAIN, (256, 8, 48), "threshold:0")
    compare_decode("a cache", CHAIN, (256, 8, 48), "threshold:0", cache="dual")
    compare_decode("recorded", CHAIN, (256, 8, 48), shown, record=True)
    compare_decode("blocks", "embedded/chain-blocks", (64, 200, 48), "threshold:0")
    compare_recording("a recording", 24, 32, hidden=True)
    compare_update("update", 256, 64, eager_policy(width=64, mlp=256))


def compare_rest() -> None:
    """Prints a line for each further case."""
    wide = eager_policy(width=128, mlp=512)
    compare_decode("a long canvas", CHAIN, (1, 16, 3000), "threshold:0")
    at_once = unmask.load_model(CHAIN)
    vars(at_once)["positions_at_once"] = 2**62  # as on a GPU
    compare_decode("a long row", at_once, (256, 8, 48), "threshold:0", longest=2000)
    compare_decode("a longer row", at_once, (32, 8, 48), "threshold:0", longest=430)
    compare_decode("a long answer", CHAIN, (48, 8, 500), "threshold:0")
    compare_decode("a draw", CHAIN, (256, 8, 48), "threshold:0", temperature=1.0, top_p=0.9)
    compare_decode("guidance", CHAIN, (128, 8, 48), "threshold:0", cfg_scale=1.0)
    compare_decode("a learned policy", CHAIN, (256, 8, 48), wide)
    words = word_tokenizer([f"w{i}" for i in range(8)])
    many_words = replace(random_llada(100_000, width=64, layers=1), tokenizer=words)
    compare_decode("few rows, many words", many_words, (2, 8, 8), "threshold:0", temperature=1.0)
    compare_update("a wide update", 64, 256, wide)


if __name__ == "__main__":
    sys.exit(main())
