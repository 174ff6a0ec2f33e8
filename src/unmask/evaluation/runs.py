"""Evaluation of samplers on held-out prompts: one JSON-lines file, and a summary with intervals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.decoding import Cost, Generation, decode
from unmask.decoding.constraints import longest_choice
from unmask.decoding.options import DecodeOptions, check_whole, decode_options
from unmask.decoding.text import token_labels
from unmask.errors import UnmaskError
from unmask.evaluation.contents import model_revision
from unmask.evaluation.front import fronts
from unmask.evaluation.plan import (
    EvalPlan,
    Piece,
    Prompts,
    check_requests,
    check_switch,
    load_samplers,
    number_list,
    with_own_length,
)
from unmask.evaluation.points import Point, describe, summarise
from unmask.evaluation.stores import Ledger, MemoryStore, Store
from unmask.models import Model
from unmask.models.base import check_model
from unmask.policies.base import PolicyLike
from unmask.processes import Processes, count_processes
from unmask.provenance import provenance
from unmask.tasks import Example, Split, Task, Verdict


def evaluate(
    model: Model,
    task: Task,
    samplers: Sequence[str | Path | PolicyLike] | Mapping[str, str | Path | PolicyLike],
    *,
    block_lengths: Sequence[int] | None = None,
    prompts: int = 256,
    seeds: Sequence[int] | None = None,
    split: Split = "test",
    batch_size: int = 128,
    traces: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    processes: Processes | None = None,
    options: DecodeOptions | None = None,
    **settings: Any,
) -> list[Point]:
    """Measures samplers on held-out prompts.

    Under `accelerate launch` the processes share the work; what they write is the same file as that
    of one process. So is what an evaluation writes that was killed, however often, and resumed.

    Args:
        model: the frozen model.
        task: prompts and verifier.
        samplers: specs or directories for `load_policy`, policies that have a `name`, and plain
            functions (see `generate`); or a mapping from the names that results use to specs or
            policies.
        block_lengths: each sampler is run at each; L itself is full diffusion. None is the
            `block_length` of the options, or full diffusion; a block-causal model has its own.
        prompts: how many of the split's prompts.
        seeds: each sampler is run with each; above temperature 0 each seed is a sample
            (`unmask.evaluation.sampling` gives pass@k). None is the `seed` of the options.
        split: which prompts: train, validation or test.
        batch_size: rows side by side. Results are written after every four batches or so, which are
            also what processes share; a resumed evaluation needs the same one.
        traces: keep in each line of results.jsonl which step revealed each position, and the tokens
            (for `unmask analyze`).
        out: a new directory for `results.jsonl` (a line for each prompt) and `summary.json`
            (points, times and provenance). None keeps nothing.
        resume: go on with an interrupted evaluation of the same settings in `out`.
        progress: print a line for each sampler.
        processes: the group that this process has joined; None joins the one that the launcher
            started, if any.
        options: how prompts are answered; without `max_new_tokens` L is that of the longest choice,
            or without choices the task's own.
        settings: fields of `DecodeOptions`, which go before those of `options`.

    Returns:
        The points; none on processes but the first.

    Raises:
        UnmaskError: for unusable arguments; all are checked before anything is decoded or written.

    Examples:
        >>> model, task = unmask.load_model("embedded/chain"), unmask.load_task("chain")
        >>> points = unmask.evaluate(model, task, ["threshold:0.9", "threshold:0.5"], prompts=8)
        >>> points[0].nfe > points[1].nfe
        True
    """
    check_callers_objects(model, task)
    for name, value in (("traces", traces), ("resume", resume), ("progress", progress)):
        check_switch(name, value)
    if out is not None and not isinstance(out, str | Path):
        raise UnmaskError(f"out is {out!r}; name a directory, or leave it out")
    decode = decode_options(options, settings)
    if decode.choices and decode.max_new_tokens is None and block_lengths is not None:
        longest = longest_choice(model, decode.choices)
        block_lengths = cut_blocks(number_list("block_lengths", block_lengths), longest)
    decode = with_own_length(model, task, decode)
    plan = EvalPlan(
        samplers=load_samplers(samplers, model.device),
        block_lengths=choose_block_lengths(model, block_lengths, decode),
        seeds=choose_seeds(seeds, decode),
        prompts=prompts,
        split=split,
        decode=replace(decode, block_length=None, seed=0),
        batch_size=batch_size,
        traces=traces,
    )
    processes = processes or join_processes(model)
    if out is None and (processes.world > 1 or resume):
        raise UnmaskError(
            "out is missing; resuming, and several processes, need a directory for the results"
        )
    store = MemoryStore() if out is None else Ledger(Path(out), resume)
    with processes.hold(None if out is None else Path(out)):
        return evaluate_plan(model, task, plan, store, processes, progress=progress)


def check_callers_objects(model: Any, task: Any) -> None:
    """Refuses what is no model or no task."""
    check_model(model)
    if not isinstance(task, Task):
        raise UnmaskError(f"task is {task!r}; give what load_task returns")


def cut_blocks(block_lengths: Sequence[int], longest: int) -> tuple[int, ...]:
    """The block lengths cut to answers of at most `longest` tokens, each once.

    Raises:
        UnmaskError: if one is no whole number.
    """
    for each in block_lengths:
        check_whole("block_length", each, 1)
    return tuple(dict.fromkeys(min(each, longest) for each in block_lengths))


def choose_block_lengths(
    model: Model, given: Sequence[int] | None, decode: DecodeOptions
) -> tuple[int, ...]:
    """The block lengths of a plan: the list, else the single one of the options, else that of a
    block-causal model, else L."""
    length = decode.max_new_tokens or 0
    if given is None:
        return (decode.block_length or min(model.attention_block or length, length),)
    if decode.block_length is not None:
        raise UnmaskError("block_lengths and block_length were both given; give one of them")
    return number_list("block_lengths", given)


def choose_seeds(given: Sequence[int] | None, decode: DecodeOptions) -> tuple[int, ...]:
    """The seeds of a plan: the list, else the single one of the options."""
    if given is None:
        return (decode.seed,)
    if decode.seed:
        raise UnmaskError("seeds and seed were both given; give one of them")
    return number_list("seeds", given)


def join_processes(model: Model) -> Processes:
    """The launcher's group, if there is one, with the model where it is."""
    if count_processes() == 1:
        return Processes(0, 1, model.device)
    return replace(Processes.join(model.device.type), device=model.device)


def evaluate_plan(
    model: Model,
    task: Task,
    plan: EvalPlan,
    store: Store,
    processes: Processes,
    *,
    progress: bool = False,
) -> list[Point]:
    """`evaluate` for a plan: what is not yet in the store is measured, shared among the processes.

    Returns:
        The points; none on processes but the first.
    """
    prompts = plan.load_prompts(model, task)
    check_requests(model, plan, prompts)
    work = plan.pieces([len(row) for row in prompts.ids])
    settings = plan.settings(model, task, prompts)
    open_store(store, settings, model, processes)
    if (summary := store.finished()) is not None:
        points = [Point(**point) for point in summary["points"]] if processes.main else []
        show(points if progress else ())
        return points
    done = store.pieces()
    check_pieces(work, done, prompts)
    processes.barrier()  # nobody writes before all have read
    write, shown = store.writer(processes.rank), set()
    missing = CellsMissing(work, done)
    for number in processes.share(n for n in range(len(work)) if n not in done):
        done[number] = {
            "piece": number,
            **measure(model, task, plan, work[number], prompts),
        }
        write(done[number])
        cell = missing.remove(number)
        if cell and progress and processes.world == 1:
            show(summarise(collect_records(work, done, missing.pieces[cell])))
            shown.add(cell)
    processes.barrier()
    if not processes.main:
        return []
    points = close_store(store, settings, plan, work)
    if progress:
        show(point for point in points if (point.sampler, point.block_length) not in shown)
        show_time_limits(points)
    return points


def check_pieces(
    work: Sequence[Piece], done: Mapping[int, Mapping[str, Any]], prompts: Prompts
) -> None:
    """Refuses pieces that are not of this evaluation, before anything is added to them.

    Raises:
        UnmaskError: naming the first such piece.
    """
    for number, found in done.items():
        names = ("sampler", "block_length", "seed", "prompt")
        held = [tuple(record[name] for name in names) for record in found["records"]]
        wanted: list[tuple[Any, ...]] = []
        if number < len(work):
            piece = work[number]
            cell = (piece.sampler, piece.block_length, piece.seed)
            wanted = [(*cell, prompts.examples[row].prompt) for row in piece.rows]
        if not wanted or held != wanted:
            raise UnmaskError(
                f"piece {number} of the interrupted evaluation is not what its settings ask for; "
                "its directory is damaged, so evaluate again in a new one"
            )


def open_store(
    store: Store, settings: Mapping[str, Any], model: Model, processes: Processes
) -> None:
    """Opens the store in the first process; the others wait for it, and fail with it.

    Raises:
        UnmaskError: in every process, if the first one cannot open it.
    """
    error = None
    if processes.main:
        origin = provenance(model.device, model.dtype)
        if (revision := model_revision(model)) is not None:
            origin["model_revision"] = revision
        try:
            store.open(settings, origin)
        except UnmaskError as refusal:
            error = str(refusal)
    if (error := processes.gather(error)[0]) is not None:
        raise UnmaskError(error)


def close_store(
    store: Store, settings: Mapping[str, Any], plan: EvalPlan, work: Sequence[Piece]
) -> list[Point]:
    """Puts the results of all pieces together and keeps them; returns the points."""
    done = store.pieces()
    records = collect_records(work, done, range(len(work)))
    speed = speeds(work, [done[number]["cost"] for number in range(len(work))])
    points = [
        replace(point, seconds=row["seconds_per_prompt"])
        for point, row in zip(summarise(records), speed, strict=True)
    ]
    found = {
        "provenance": store.provenance(),
        "points": [vars(point) for point in points],
        "fronts": fronts(points, plan.length),
        "speed": speed,
        "timed_out": sum(point.timed_out for point in points),
    }
    store.close(records, {**settings, **found})
    return points


class CellsMissing:
    """How many pieces each sampler and block length still lacks.

    Attributes:
        work: all pieces.
        pieces: the numbers of the pieces of each (sampler, block length).
        count: how many of them are not done.
    """

    def __init__(self, work: Sequence[Piece], done: Mapping[int, Any]) -> None:
        self.work = work
        self.pieces: dict[tuple[str, int], list[int]] = {}
        for number, piece in enumerate(work):
            self.pieces.setdefault((piece.sampler, piece.block_length), []).append(number)
        self.count = Counter(
            {cell: sum(n not in done for n in numbers) for cell, numbers in self.pieces.items()}
        )

    def remove(self, number: int) -> tuple[str, int] | None:
        """Notes that a piece is done; returns its cell if that was the last one of it."""
        cell = (self.work[number].sampler, self.work[number].block_length)
        self.count[cell] -= 1
        return None if self.count[cell] else cell


def measure(
    model: Model, task: Task, plan: EvalPlan, piece: Piece, prompts: Prompts
) -> dict[str, Any]:
    """Decodes and scores a piece: a record for each row, and what it cost."""
    examples = [prompts.examples[row] for row in piece.rows]
    ids = [prompts.ids[row] for row in piece.rows]
    keys = [prompts.keys[piece.seed][row] for row in piece.rows]
    began = time.perf_counter()
    generation = decode(
        model,
        ids,
        plan.samplers[piece.sampler],
        plan.options(piece),
        batch_size=plan.batch_size,
        keys=keys,
    )
    decoded = time.perf_counter()
    verdicts = task.verdicts(generation.text, examples)
    scored = time.perf_counter()
    cost = {"seconds": decoded - began, "scoring_seconds": scored - decoded}
    return {
        "cost": cost | forward_cost(generation.cost),
        "records": piece_records(model, task, plan, piece, examples, generation, verdicts),
    }


def piece_records(
    model: Model,
    task: Task,
    plan: EvalPlan,
    piece: Piece,
    examples: Sequence[Example],
    generation: Generation,
    verdicts: Sequence[Verdict],
) -> list[dict[str, Any]]:
    """A line of results.jsonl for each row of a piece."""
    records = []
    nfe, answer_tokens = generation.nfe.tolist(), generation.answer_tokens.tolist()
    for i, (example, text) in enumerate(zip(examples, generation.text, strict=True)):
        record = {
            "sampler": piece.sampler,
            "block_length": piece.block_length,
            "seed": piece.seed,
            "prompt": example.prompt,
            "correct": verdicts[i].correct,
            "nfe": nfe[i],
            "answer_tokens": answer_tokens[i],
            "answer": task.answer(text, example),
        }
        if verdicts[i].timed_out:
            record["timed_out"] = True
        if plan.traces:
            record["reveal_step"] = generation.reveal_step[i].tolist()
            record["tokens"] = token_labels(model, generation.tokens[i].tolist())
        records.append(record)
    return records


def forward_cost(cost: Cost) -> dict[str, int]:
    """What results say of forward passes: batches, positions in them, and padding among these."""
    return {
        "model_calls": cost.model_calls,
        "positions": cost.positions,
        "padding": cost.padding,
    }


def collect_records(
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


def show(points: Iterable[Point]) -> None:
    """Prints points, a line each."""
    for point in points:
        print(describe(point), flush=True)


def show_time_limits(points: Sequence[Point]) -> None:
    """Prints a line if a time limit decided verdicts: accuracy then depends on the machine too."""
    total = sum(point.timed_out for point in points)
    if total:
        answers = sum(point.prompts * point.seeds for point in points)
        print(
            f"{total} of {answers} answers count as wrong because a time limit ended their check; "
            "on a less busy machine some may pass",
            flush=True,
        )
