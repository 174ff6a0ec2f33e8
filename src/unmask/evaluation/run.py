"""Evaluation of samplers on held-out prompts: one JSON-lines file, and a summary with intervals."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState

from unmask.decoding import check_arguments, check_cache, decode
from unmask.errors import UnmaskError
from unmask.evaluation.fronts import fronts
from unmask.evaluation.ledger import Ledger
from unmask.evaluation.points import Point, describe, summarise
from unmask.files import provenance
from unmask.models import Model
from unmask.policies import LearnedPolicy, Policy, load_policy
from unmask.rng import row_keys
from unmask.tasks import Example, Split, Task, answer_length, prompt_tokens


@dataclass(frozen=True)
class Piece:
    """The unit of work: what is decoded in one call, on one process, and then written down.

    Attributes:
        cell: number of the sampler, block length and seed.
        sampler: its spec.
        block_length: BL.
        seed: of everything random.
        rows: which prompts, by number, longest first.
    """

    cell: int
    sampler: str
    block_length: int
    seed: int
    rows: tuple[int, ...]


def plan(
    samplers: Sequence[str],
    block_lengths: Sequence[int],
    seeds: Sequence[int],
    sizes: Sequence[int],
    rows: int,
) -> list[Piece]:
    """All pieces: for each sampler, block length and seed the prompts, longest first, so that those
    side by side are of like length.

    Args:
        sizes: tokens of each prompt.
        rows: how many prompts make a piece.
    """
    order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    parts = [tuple(order[start : start + rows]) for start in range(0, len(order), rows)]
    cells = [(spec, bl, seed) for spec in samplers for bl in block_lengths for seed in seeds]
    return [Piece(i, *cell, part) for i, cell in enumerate(cells) for part in parts]


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
    resume: bool = False,
    progress: bool = False,
) -> list[Point]:
    """Measures samplers on held-out prompts.

    Under `accelerate launch` the processes share the work; what they write is the same file as that
    of one process. So is what an evaluation writes that was killed, however often, and resumed.

    Args:
        model: the frozen model.
        task: prompts and verifier.
        samplers: specs or directories for `load_policy`.
        block_lengths: each sampler is run at each; L itself is full diffusion.
        prompts: how many of the split's prompts.
        seeds: each sampler is run with each (greedy heuristics are the same for all).
        split: which prompts.
        max_new_tokens: L; None is the task's own.
        temperature: τ of the frozen model; above 0 each seed is a sample
            (`unmask.evaluation.sampling` gives pass@k).
        batch_size: rows side by side. Results are written after every four batches or so.
        traces: keep in each line of results.jsonl which step revealed each position, and the tokens
            (for `unmask analyze`).
        cache: "prefix" or "dual" caches keys and values (see `unmask.generate`); None is exact.
        out: a new directory for `results.jsonl` (a line for each prompt) and `summary.json`
            (points, times and provenance).
        resume: go on with an interrupted evaluation of the same settings in `out`.
        progress: print a line for each sampler.

    Returns:
        The points; none on processes but the first.

    Raises:
        UnmaskError: for unusable arguments; all are checked before anything runs.
    """
    length = answer_length(model, task, max_new_tokens)
    if not samplers:
        raise UnmaskError("no samplers were given; give at least one, for example threshold:0.9")
    if not seeds:
        raise UnmaskError("no seeds were given; give at least one")
    if not block_lengths:
        raise UnmaskError(
            "no block lengths were given; give at least one, for example max_new_tokens for full "
            "diffusion"
        )
    for block_length in block_lengths:
        check_arguments(prompts, length, block_length, temperature, batch_size)
    check_cache(model, cache, None, 0.0)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if out is None and (several or resume):
        raise UnmaskError(
            "out is missing; resuming, and several processes, need a directory for the results"
        )
    processes = (
        PartialState(cpu=model.device.type == "cpu", timeout=timedelta(days=7)) if several else None
    )
    main, rank, world = (
        (processes.is_main_process, processes.process_index, processes.num_processes)
        if processes
        else (True, 0, 1)
    )
    policies = {spec: load_policy(spec, device=model.device) for spec in samplers}
    examples = task.examples(split, prompts)
    ids = [prompt_tokens(model, example) for example in examples]
    keys = {seed: row_keys(ids, seed) for seed in seeds}
    work = plan(list(policies), block_lengths, seeds, [len(row) for row in ids], 4 * batch_size)

    settings = {
        "model": str(model.name),
        "task": task.name,
        "template": task.template,
        "split": split,
        "max_new_tokens": length,
        "seeds": list(seeds),
        "temperature": temperature,
        "cache": cache,
        "samplers": {spec: digest(policy) for spec, policy in policies.items()},
        "block_lengths": list(block_lengths),
        "prompts": hashlib.sha256(
            repr(
                [(row, example.answer) for row, example in zip(ids, examples, strict=True)]
            ).encode()
        ).hexdigest()[:16],
        "batch_size": batch_size,
        "traces": traces,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    ledger = Ledger(Path(out), settings) if out is not None else None
    done: dict[int, Any] = {}
    if ledger is not None:
        if main:
            ledger.open(provenance(model.device, model.dtype), resume)
        if processes:
            processes.wait_for_everyone()
        if not ledger.running():
            points = [Point(**point) for point in ledger.summary()["points"]]
            show(points if progress and main else ())
            return points
        done = ledger.pieces()
        if processes:
            processes.wait_for_everyone()  # nobody writes before all have read
    write = ledger.writer(rank) if ledger is not None else lambda piece: None

    shown: set[tuple[str, int]] = set()
    decoding = {
        "max_new_tokens": length,
        "temperature": temperature,
        "batch_size": batch_size,
        "cache": cache,
    }
    for number in [number for number in range(len(work)) if number not in done][rank::world]:
        piece = work[number]
        rows = [(examples[row], ids[row], keys[piece.seed][row]) for row in piece.rows]
        done[number] = {
            "piece": number,
            **measure(model, task, piece, policies[piece.sampler], rows, traces, **decoding),
        }
        write(done[number])
        cell = (piece.sampler, piece.block_length)
        whole = [
            other for other, each in enumerate(work) if (each.sampler, each.block_length) == cell
        ]
        if progress and not processes and all(other in done for other in whole):
            show(summarise(gathered(work, done, whole)))
            shown.add(cell)
    if processes:
        processes.wait_for_everyone()
        if not main:
            return []
        assert ledger is not None
        done = ledger.pieces()
    records = gathered(work, done, range(len(work)))
    speed = speeds(work, [done[number]["cost"] for number in range(len(work))])
    points = [
        replace(point, seconds=row["seconds_per_prompt"])
        for point, row in zip(summarise(records), speed, strict=True)
    ]
    if ledger is not None:
        found = {
            "points": [vars(point) for point in points],
            "fronts": fronts(points, length),
            "speed": speed,
        }
        ledger.close(records, {"provenance": ledger.begun_with(), **found})
    if progress:
        show(point for point in points if (point.sampler, point.block_length) not in shown)
    return points


def measure(
    model: Model,
    task: Task,
    piece: Piece,
    policy: Policy,
    rows: Sequence[tuple[Example, list[int], int]],
    traces: bool,
    **decoding: Any,
) -> dict[str, Any]:
    """Decodes and scores a piece: a record for each row, and what it cost.

    Args:
        rows: example, token ids and key of each row.
        decoding: further arguments of `decode`.
    """
    examples, ids, keys = map(list, zip(*rows, strict=True))
    began = time.perf_counter()
    generation = decode(model, ids, policy, block_length=piece.block_length, keys=keys, **decoding)
    decoded = time.perf_counter()
    correct = task.score_all(generation.text, examples)
    scored = time.perf_counter()
    records = []
    columns = (generation.text, correct, generation.nfe.tolist(), generation.answer_tokens.tolist())
    for i, (example, text, right, nfe, tokens) in enumerate(zip(examples, *columns, strict=True)):
        record = {
            "sampler": piece.sampler,
            "block_length": piece.block_length,
            "seed": piece.seed,
            "prompt": example.prompt,
        }
        record |= {
            "correct": right,
            "nfe": nfe,
            "answer_tokens": tokens,
            "answer": task.answer(text, example),
        }
        if traces:
            record["reveal_step"] = generation.reveal_step[i].tolist()
            record["tokens"] = model.tokenizer.convert_ids_to_tokens(generation.tokens[i].tolist())
        records.append(record)
    cost = {
        "seconds": decoded - began,
        "scoring_seconds": scored - decoded,
        "model_calls": generation.cost.model_calls,
    }
    return {
        "cost": cost | {"positions": generation.cost.positions, "padding": generation.cost.padding},
        "records": records,
    }


def gathered(
    work: Sequence[Piece], done: Mapping[int, Mapping[str, Any]], numbers: Iterable[int]
) -> list[dict[str, Any]]:
    """The records of some pieces, sorted as if each cell's prompts had been taken in their
    order."""
    found = []
    for number in numbers:
        piece = work[number]
        found += [
            (piece.cell, row, record)
            for row, record in zip(piece.rows, done[number]["records"], strict=True)
        ]
    return [record for _, _, record in sorted(found, key=lambda each: each[:2])]


def speeds(work: Sequence[Piece], costs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each sampler and block length: seconds of decoding and of scoring (of all processes
    together, over all prompts and seeds), passes of batches, positions forwarded a second without
    padding, and the share of padding."""
    totals: dict[tuple[str, int], dict[str, float]] = {}
    for piece, cost in zip(work, costs, strict=True):
        total = totals.setdefault(
            (piece.sampler, piece.block_length), dict.fromkeys((*cost, "prompts"), 0)
        )
        for name, value in cost.items():
            total[name] += value
        total["prompts"] += len(piece.rows)
    return [
        {
            "sampler": sampler,
            "block_length": block_length,
            "seconds": total["seconds"],
            "scoring_seconds": total["scoring_seconds"],
            "seconds_per_prompt": total["seconds"] / total["prompts"],
            "model_calls": total["model_calls"],
            "positions_per_second": (total["positions"] - total["padding"]) / total["seconds"],
            "padding_share": total["padding"] / total["positions"],
        }
        for (sampler, block_length), total in totals.items()
    ]


def digest(policy: Policy) -> str:
    """What tells policies apart whose specs are equal: a hash of a learned one's weights; a
    heuristic's spec says all."""
    if not isinstance(policy, LearnedPolicy):
        return ""
    found = hashlib.sha256()
    for name, weight in sorted(policy.network.state_dict().items()):
        found.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def show(points: Iterable[Point]) -> None:
    """Prints points, a line each."""
    for point in points:
        print(describe(point), flush=True)
