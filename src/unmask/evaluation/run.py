"""Evaluation of samplers on held-out prompts: one JSON-lines file, and a summary with intervals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask.decoding import check_arguments, decode
from unmask.errors import UnmaskError
from unmask.files import new_directory, provenance, write_json, write_text
from unmask.models import Model
from unmask.policies import load_policy
from unmask.tasks import Split, Task, answer_length, prompt_tokens


@dataclass(frozen=True)
class Point:
    """One sampler at one block length, over all prompts and seeds.

    Attributes:
        sampler: its spec.
        block_length: BL.
        prompts: how many prompts.
        seeds: how many seeds.
        accuracy: mean correctness, 0 to 1, with its 95 % interval.
        nfe: mean forward passes a prompt, with its 95 % interval.
    """

    sampler: str
    block_length: int
    prompts: int
    seeds: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe: float
    nfe_low: float
    nfe_high: float


def bootstrap(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of values [prompts], by resampling prompts with a fixed seed."""
    picks = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def summarise(records: Iterable[dict[str, Any]]) -> list[Point]:
    """One `Point` for each sampler and block length, in the order of the records.

    The prompt is the unit: a prompt's results are averaged over seeds first, so more seeds do not fake more prompts.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["sampler"], record["block_length"]), []).append(record)
    points = []
    for (sampler, block_length), group in groups.items():
        of_prompt: dict[str, list[dict[str, Any]]] = {}
        for record in group:
            of_prompt.setdefault(record["prompt"], []).append(record)
        correct = np.array([np.mean([r["correct"] for r in rs]) for rs in of_prompt.values()])
        nfe = np.array([np.mean([r["nfe"] for r in rs]) for rs in of_prompt.values()])
        seeds = len({record["seed"] for record in group})
        accuracy, cost = (float(correct.mean()), *bootstrap(correct)), (float(nfe.mean()), *bootstrap(nfe))
        points.append(Point(sampler, block_length, len(of_prompt), seeds, *accuracy, *cost))
    return points


def evaluate(
    model: Model,
    task: Task,
    samplers: Sequence[str],
    *,
    block_lengths: Sequence[int],
    prompts: int = 256,
    seeds: Sequence[int] = (0,),
    split: Split = "test",
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 128,
    traces: bool = False,
    cache: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> list[Point]:
    """Measures samplers on held-out prompts.

    Args:
        model: the frozen model.
        task: prompts and verifier.
        samplers: specs or directories for `load_policy`.
        block_lengths: each sampler is run at each; L itself is full diffusion.
        prompts: how many of the split's prompts.
        seeds: each sampler is run with each (greedy heuristics are the same for all).
        split: which prompts.
        max_new_tokens: L; None is the task's own.
        temperature: τ of the frozen model; above 0 each seed is a sample (`unmask.evaluation.sampling` gives pass@k).
        batch_size: rows side by side.
        traces: keep in each line of results.jsonl which step revealed each position, and the tokens (for `unmask analyze`).
        cache: "prefix" or "dual" caches keys and values (see `unmask.generate`); None is exact.
        out: a new directory for `results.jsonl` (a line for each prompt) and `summary.json` (points and provenance).
        progress: print a line for each sampler.

    Raises:
        UnmaskError: for unusable arguments; all are checked before anything runs.
    """
    length = answer_length(model, task, max_new_tokens)
    if not samplers:
        raise UnmaskError("no samplers were given; give at least one, for example threshold:0.9")
    if not seeds:
        raise UnmaskError("no seeds were given; give at least one")
    if not block_lengths:
        raise UnmaskError("no block lengths were given; give at least one, for example max_new_tokens for full diffusion")
    for block_length in block_lengths:
        check_arguments(prompts, length, block_length, temperature, batch_size)
    policies = {spec: load_policy(spec, device=model.device) for spec in samplers}
    examples = task.examples(split, prompts)
    ids = [prompt_tokens(model, example) for example in examples]
    directory = new_directory(Path(out)) if out is not None else None
    records: list[dict[str, Any]] = []
    for spec, policy in policies.items():
        for block_length in block_lengths:
            began = time.perf_counter()
            for seed in seeds:
                setting = {"max_new_tokens": length, "block_length": block_length, "temperature": temperature, "seed": seed}
                generation = decode(model, ids, policy, batch_size=batch_size, cache=cache, **setting)
                for row, (example, text, nfe) in enumerate(zip(examples, generation.text, generation.nfe.tolist(), strict=True)):
                    run = {"sampler": spec, "block_length": block_length, "seed": seed, "prompt": example.prompt}
                    outcome = {"correct": task.score(text, example), "nfe": nfe, "answer": task.answer(text)}
                    if traces:
                        outcome["reveal_step"] = generation.reveal_step[row].tolist()
                        outcome["tokens"] = model.tokenizer.convert_ids_to_tokens(generation.tokens[row].tolist())
                    records.append(run | outcome)
            if progress:
                seconds = time.perf_counter() - began
                print(f"{describe(summarise(records[-len(seeds) * len(ids) :])[0])}  {seconds:.1f} s", flush=True)
    points = summarise(records)
    if directory is not None:
        write_text(directory / "results.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        setting = {
            "model": str(model.name),
            "task": task.name,
            "template": task.template,
            "split": split,
            "max_new_tokens": length,
            "seeds": list(seeds),
        }
        summary = {
            **setting,
            "temperature": temperature,
            "cache": cache,
            "provenance": provenance(model.device, model.dtype),
            "points": [vars(point) for point in points],
        }
        write_json(directory / "summary.json", summary)
    return points


def describe(point: Point) -> str:
    """A point as one line of text."""
    accuracy = f"{100 * point.accuracy:5.1f} % [{100 * point.accuracy_low:.1f}, {100 * point.accuracy_high:.1f}]"
    return f"{point.sampler:<48} BL {point.block_length:>3}  accuracy {accuracy}  NFE {point.nfe:5.1f}"
