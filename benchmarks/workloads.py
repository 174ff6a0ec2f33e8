"""What is measured: workloads (a) to (d), memory, growth and two processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import reference_loops as reference
from benchmarks.measure import (
    RowStep,
    clock,
    forwards_of,
    ideal,
    interleaved,
    median,
    ours,
    ratio,
    timed,
)
from benchmarks.models import random_llada, random_policy, random_prompts
from unmask.decoding import Recorder, decode, encode_prompt
from unmask.models import Model, load_model
from unmask.policies import LearnedPolicy, Policy, load_policy
from unmask.processes import Processes
from unmask.tasks import load_task
from unmask.training import TrainConfig
from unmask.training.decisions import signal_batch
from unmask.training.phases import Grpo
from unmask.training.update import update


@dataclass(frozen=True)
class Workload:
    """One decoding job.

    Attributes:
        name: letter of the workload, block length, policy.
        model: made once and shared.
        prompts: token ids.
        policy: what both decoders go by.
        length: L.
        block_length: BL.
        batch_size: rows side by side.
        loop: the reference loop for one batch of prompts, giving tokens; None if it is not run.
        repeats: of ours and the ideal; the reference takes `reference_repeats`.
    """

    name: str
    model: Model
    prompts: list[list[int]]
    policy: Policy
    length: int
    block_length: int
    batch_size: int
    loop: Callable[[Sequence[Sequence[int]]], torch.Tensor] | None = None
    repeats: int = 5
    reference_repeats: int = 2


def chain_prompts(model: Model, n: int) -> list[list[int]]:
    return [
        encode_prompt(model, example.prompt) for example in load_task("chain").examples("test", n)
    ]


def decoding() -> list[Workload]:
    """Workloads (a), (b) and (c)."""
    chain, llada = load_model("embedded/chain", dtype="bfloat16"), random_llada()
    a, b = chain_prompts(chain, 128), random_prompts(8, 64, 64)
    c = random_prompts(16, 20, 400, seed=1)
    found = []
    for bl in (16, 48):
        threshold, loop = (
            load_policy("threshold:0.9"),
            lambda rows, bl=bl: reference.fast_dllm(chain, rows, 48, bl, 0.9),
        )
        found.append(
            Workload(f"a BL {bl} threshold:0.9", chain, a, threshold, 48, bl, 64, loop, 4, 2)
        )
        found.append(
            Workload(
                f"a BL {bl} learned", chain, a, random_policy(64, bias=-1.0), 48, bl, 64, None, 3
            )
        )
    for bl in (32, 128):
        loop = lambda rows, bl=bl: reference.llada(llada, rows, 128, bl, 16)  # noqa: E731
        found.append(
            Workload(
                f"b BL {bl} confidence:16",
                llada,
                b,
                load_policy("confidence:16"),
                128,
                bl,
                8,
                loop,
                2,
                1,
            )
        )
        found.append(
            Workload(f"b BL {bl} learned", llada, b, random_policy(bias=1.0), 128, bl, 8, None, 1)
        )
    found.append(
        Workload(
            "b BL 32 threshold:0.5", llada, b, load_policy("threshold:0.5"), 128, 32, 8, None, 1
        )
    )
    for bl in (32, 128):
        found.append(
            Workload(
                f"c BL {bl} confidence:32",
                llada,
                c,
                load_policy("confidence:32"),
                128,
                bl,
                8,
                None,
                1,
            )
        )
    return found


def run_decoding(work: Workload) -> dict[str, Any]:
    """Ours, the ideal and the reference on one workload, in turns; the reference's tokens must be
    ours."""
    options = {
        "max_new_tokens": work.length,
        "block_length": work.block_length,
        "batch_size": work.batch_size,
    }
    forwards, generation = forwards_of(work.model, work.prompts, work.policy, **options)
    chunks = [
        work.prompts[i : i + work.batch_size] for i in range(0, len(work.prompts), work.batch_size)
    ]
    tokens: list[torch.Tensor] = []

    def run_reference() -> dict[str, float]:
        assert work.loop is not None
        loop = work.loop
        return timed(lambda: tokens.append(torch.cat([loop(chunk) for chunk in chunks])))

    contenders = {
        "ideal": lambda: ideal(work.model, forwards, work.batch_size),
        "ours": lambda: ours(work.model, work.prompts, work.policy, **options),
    }
    repeats = {"ideal": work.repeats, "ours": work.repeats}
    if work.loop is not None:
        contenders["reference"], repeats["reference"] = run_reference, work.reference_repeats
    times = interleaved(contenders, repeats)
    result = {
        "workload": work.name,
        "nfe": float(generation.nfe.double().mean()),
        "row_steps": len(forwards),
        "model_calls": generation.cost.model_calls,
        "needed_positions": sum(len(forward.needed) for forward in forwards),
        "ours / ideal": ratio(times["ours"], times["ideal"]),
        "seconds": {name: median([run["total"] for run in runs]) for name, runs in times.items()},
        "split": split(times["ours"], times["ideal"]),
    }
    if work.loop is not None:
        same = (tokens[0] == generation.tokens).all(1)
        result["rows with equal tokens"] = f"{int(same.sum())} of {len(same)}"
        result["reference / ours"] = ratio(times["reference"], times["ours"])
        # From 193 tokens on, the bits of CPUs' attention depend on the padding.
        longest = max(len(prompt) for prompt in work.prompts) + work.length
        assert same.all() or longest > 192, (
            f"{work.name}: the reference decides otherwise in {int((~same).sum())} rows"
        )
    return result


def split(
    ours_runs: list[dict[str, float]], ideal_runs: list[dict[str, float]]
) -> dict[str, float]:
    """Shares of our decoder's time. Idle: what the backbone took beyond the same row-steps in full
    batches."""
    mid = {name: statistics.median(run[name] for run in ours_runs) for name in ours_runs[0]}
    idle = max(0.0, mid["backbone"] - statistics.median(run["backbone"] for run in ideal_runs))
    parts = {"backbone": mid["backbone"] - idle, "idle": idle} | {
        name: mid[name] for name in ("head", "policy", "bookkeeping")
    }
    total = sum(parts.values())
    return {name: seconds / total for name, seconds in parts.items()}


def fake_rewards(tokens: torch.Tensor) -> torch.Tensor:
    """A reward that differs within groups and costs nothing: the parity of the tokens' sum."""
    return (tokens.sum(1) % 2).float()


def run_grpo(
    name: str,
    model: Model,
    prompts: list[list[int]],
    length: int,
    block_length: int,
    width: int,
    repeats: int,
    bias: float,
) -> dict[str, Any]:
    """One GRPO step: 8 rollouts of each prompt, rewards, two optimiser steps over all decisions."""
    g = 8
    config = TrainConfig(rollouts=g, minibatches=1, epochs=2, width=width, context=False)
    rows = [prompt for prompt in prompts for _ in range(g)]
    processes = Processes.join()
    policies: dict[str, LearnedPolicy] = {}
    tokens: dict[str, torch.Tensor] = {}
    parts: dict[str, list[float]] = {
        "rollouts": [],
        "update": [],
        "reference rollouts": [],
        "reference update": [],
    }

    def fresh(who: str) -> tuple[LearnedPolicy, torch.optim.Optimizer]:
        policies[who] = random_policy(width, bias=bias, fallback=False)
        return policies[who], torch.optim.AdamW(policies[who].network.parameters(), lr=1e-3)

    def run_ours() -> None:
        policy, optimizer = fresh("ours")
        began = time.process_time()
        options = {"max_new_tokens": length, "block_length": block_length, "batch_size": len(rows)}
        generation = decode(model, rows, policy, **options, recorder=Recorder())
        rolled = time.process_time()
        batch = signal_batch(policy, generation, fake_rewards(generation.tokens), [], g, 0.0)
        update(policy, batch, optimizer, Grpo(config, range(300)), config.optim, processes, 0)
        parts["rollouts"].append(rolled - began)
        parts["update"].append(time.process_time() - rolled)
        tokens["ours"] = generation.tokens

    def run_reference() -> None:
        policy, optimizer = fresh("reference")
        began = time.process_time()
        done = reference.rollouts(model, rows, policy, length, block_length)
        rolled = time.process_time()
        reference.update(policy, done, fake_rewards(done.tokens), optimizer, config)
        parts["reference rollouts"].append(rolled - began)
        parts["reference update"].append(time.process_time() - rolled)
        tokens["reference"] = done.tokens

    contenders = {"ours": lambda: timed(run_ours), "reference": lambda: timed(run_reference)}
    times = interleaved(contenders, dict.fromkeys(contenders, repeats))
    assert torch.equal(tokens["ours"], tokens["reference"]), (
        f"{name}: the reference decides otherwise"
    )
    a, b = (
        torch.cat([p.flatten() for p in policies[who].network.parameters()])
        for who in ("ours", "reference")
    )
    return {
        "workload": name,
        "reference / ours": ratio(times["reference"], times["ours"]),
        "seconds": {part: statistics.median(values) for part, values in parts.items()},
        "largest difference of updated weights": float((a - b).detach().abs().max()),
    }


def grpo() -> list[dict[str, Any]]:
    """Workload (d)."""
    chain = load_model("embedded/chain", dtype="bfloat16")
    results = [
        run_grpo(f"d (a) BL {bl}", chain, chain_prompts(chain, 16), 48, bl, 64, 3, -1.0)
        for bl in (16, 48)
    ]
    llada = random_llada()
    return [
        *results,
        *(
            run_grpo(f"d (b) BL {bl}", llada, random_prompts(1, 64, 64), 128, bl, 128, 1, 0.0)
            for bl in (128,)
        ),
    ]


def cache() -> dict[str, list[dict[str, Any]]]:
    """Caching of keys and values: speed on workload (b), accuracy and speed on the embedded
    models."""
    llada, rows = random_llada(), random_prompts(8, 64, 64)
    speed, accuracy = [], []
    for spec in ("confidence:8", "threshold:0.5"):
        options = {"max_new_tokens": 128, "block_length": 32, "batch_size": 8}
        policy = load_policy(spec)
        contenders = {
            str(kind): lambda kind=kind, policy=policy, options=options: ours(
                llada, rows, policy, cache=kind, **options
            )
            for kind in (None, "prefix", "dual")
        }
        times = interleaved(contenders, dict.fromkeys(contenders, 1))
        for kind in ("prefix", "dual"):
            nfe = float(decode(llada, rows, policy, cache=kind, **options).nfe.double().mean())
            speed.append(
                {
                    "workload": f"b BL 32 {spec}",
                    "cache": kind,
                    "nfe": nfe,
                    "without / with": ratio(times["None"], times[kind]),
                }
            )
    for name, block_lengths in (("chain", (8, 16)), ("sudoku", (6, 18))):
        model, task = load_model(f"embedded/{name}", dtype="bfloat16"), load_task(name)
        examples = task.examples("test", 128)
        prompts = [encode_prompt(model, example.prompt) for example in examples]
        for bl in block_lengths:
            for kind in (None, "prefix", "dual"):
                length = task.max_new_tokens or model.max_new_tokens or 0
                options = {
                    "max_new_tokens": length,
                    "block_length": bl,
                    "batch_size": 64,
                    "cache": kind,
                }
                began = clock()
                generation = decode(model, prompts, load_policy("threshold:0.9"), **options)
                seconds = clock() - began
                correct = statistics.mean(task.score_all(generation.text, examples))
                nfe = float(generation.nfe.double().mean())
                row = {
                    "model": f"embedded/{name}",
                    "block_length": bl,
                    "cache": kind or "none",
                    "accuracy": correct,
                }
                accuracy.append(row | {"nfe": nfe, "seconds": seconds})
    return {"speed": speed, "accuracy": accuracy}


def peak(job: Callable[[], Any]) -> float:
    """MB by which a job's largest resident size exceeds what was resident before (Linux: the
    high-water mark is reset first)."""

    def status(name: str) -> float:
        line = next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith(name)
        )
        return int(line.split()[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    job()
    return status("VmHWM") - before


def peak_of(who: str, block_length: int) -> float:
    """For a process of its own: peak memory over the weights on workload (b), a few steps."""
    model, prompts = random_llada(), random_prompts(8, 64, 64)
    k = block_length // 2  # two steps a block; the peak is the same in every step
    with torch.inference_mode():  # what libraries allocate once is not counted
        model.network.base_model(
            input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2), use_cache=False
        )
    if who == "reference":
        return peak(lambda: reference.llada(model, prompts, 128, block_length, k))
    options = {"max_new_tokens": 128, "block_length": block_length, "batch_size": 8}
    if who == "learned":
        return peak(
            lambda: decode(
                model, prompts, LearnedPolicy(random_policy(bias=2.0).network), **options
            )
        )
    return peak(lambda: decode(model, prompts, load_policy(f"confidence:{k}"), **options))


def memory() -> list[dict[str, Any]]:
    """Peak memory over the weights, each in a process of its own."""
    results = []
    for bl in (32, 128):
        found = {}
        for who in ("ours", "learned", "reference"):
            code = f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"
            code += f"from benchmarks.workloads import peak_of; print(peak_of({who!r}, {bl}))"
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            found[who] = float(done.stdout.split()[-1])
        results.append(
            {
                "workload": f"b BL {bl}",
                "MB": found,
                "ours / reference": found["ours"] / found["reference"],
            }
        )
    return results


def growth() -> dict[str, list[dict[str, Any]]]:
    """Seconds of ours, the ideal and the backbone alone while one size grows; 4 steps in full
    diffusion, width 256, 4 layers."""
    sizes = {
        "length": [(8192, 8, n) for n in (64, 128, 256, 512)],
        "batch": [(8192, n, 64) for n in (1, 4, 16, 64)],
        "vocabulary": [(n, 8, 128) for n in (1024, 4096, 16_384, 65_536, 131_072)],
    }
    results: dict[str, list[dict[str, Any]]] = {}
    for axis, points in sizes.items():
        results[axis] = []
        for vocabulary, batch, length in points:
            model = random_llada(vocabulary, width=256, layers=4)
            prompts, policy = (
                random_prompts(batch, 64, 64, vocabulary),
                load_policy(f"confidence:{length // 4}"),
            )
            options = {"max_new_tokens": length, "batch_size": batch}
            forwards, _ = forwards_of(model, prompts, policy, **options)
            times = interleaved(
                growing(model, forwards, prompts, policy, options), {"ideal": 3, "ours": 3}
            )
            seconds = {
                "ours": median([run["total"] for run in times["ours"]]),
                "ideal": median([run["total"] for run in times["ideal"]]),
            }
            seconds["backbone"] = median([run["backbone"] for run in times["ideal"]])
            results[axis].append(
                {"vocabulary": vocabulary, "batch": batch, "length": length, "seconds": seconds}
            )
    return results


def growing(
    model: Model,
    forwards: list[RowStep],
    prompts: list[list[int]],
    policy: Policy,
    options: dict[str, Any],
) -> dict[str, Callable[[], dict[str, float]]]:
    batch = options["batch_size"]
    return {
        "ideal": lambda: ideal(model, forwards, batch),
        "ours": lambda: ours(model, prompts, policy, **options),
    }


def processes(repeats: int = 3) -> dict[str, Any]:
    """Rollouts a second (wall clock) of one process and of two under `accelerate launch`, one core
    each, in turns."""
    found: dict[int, list[float]] = {1: [], 2: []}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    launch += ["--dynamo_backend", "no"]
    for _ in range(repeats):
        for n in (1, 2):
            command = [
                *launch,
                *(["--multi_gpu"] if n > 1 else ["--cpu"]),
                "--num_processes",
                str(n),
                "--main_process_port",
                "0",
                "-m",
                "benchmarks.rollouts",
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, check=True
            )
            found[n].append(float(done.stdout.split()[-1]))
    gain = median([two / one for one, two in zip(found[1], found[2], strict=True)])
    return {
        "rollouts a second": {str(n): median(values) for n, values in found.items()},
        "two / one": gain,
        "load": os.getloadavg(),
    }
