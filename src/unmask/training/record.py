"""Records traces: decodes training problems with any samplers and stores every step.

Work is cut into pieces as an evaluation's is, and processes share them. A piece becomes a shard,
which is whole or not there; so a recording that is killed anywhere goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.decoding import Recorder, decode_steps, finish
from unmask.decoding.footprint import answer_bytes, decision_bytes, decode_bytes, footprint_of
from unmask.decoding.options import DecodeOptions
from unmask.decoding.request import Request
from unmask.errors import UnmaskError, count_of
from unmask.evaluation.plan import (
    EvalPlan,
    Piece,
    Prompts,
    canvas_widths,
    check_requests,
    check_switch,
)
from unmask.files import (
    check_plain,
    list_whole,
    new_directory,
    remove_parts,
    write_json,
    write_text,
)
from unmask.memory import check_disk, check_memory, describe_size, free_disk
from unmask.models import Model
from unmask.policies import LearnedPolicy
from unmask.policies.base import Needs
from unmask.policies.heuristics import SemiAutoregressive
from unmask.processes import Processes
from unmask.provenance import provenance
from unmask.tasks import Task
from unmask.tensors import read_header
from unmask.training.recorded import Decoded, encode_answers, force_answers, judge_reveals
from unmask.training.traces import (
    FORMAT,
    MANIFEST,
    Manifest,
    ShardFile,
    TraceShape,
    count_bytes,
    pack_bits,
    read_manifest,
    read_shard,
    row_columns,
    shard_path,
    step_columns,
    text_path,
    to_log_odds,
    write_shard,
)

LINE_BYTES = 2000  # of an answer's line beside a shard: a guess for prompt and text
OF_STEPS = 64  # bytes at each position of a step: proposals, and what is made of them for a shard
LONGEST = 2**15 - 1  # passes and positions are stored as 16 bits


@dataclass(frozen=True)
class Recording:
    """What is recorded. It checks itself when it is made.

    Attributes:
        plan: samplers, training prompts, seeds and how they are decoded; one block length.
        inputs: k, how many probabilities are kept at each position.
        hidden: keep the frozen model's hidden states too (as bf16).
        truth: put the worked answer's tokens on the canvas, in the order in which the sampler
            reveals, and keep the margins by which they win (label `truth-margin`). The frozen model
            runs once more for each step.
        judge: share of the steps of right answers in which one more position is revealed, of those
            whose proposal is not the final token, and decoded on to a verdict (label `rejoins`).

    Raises:
        UnmaskError: if the settings do not fit each other.
    """

    plan: EvalPlan
    inputs: int = 1
    hidden: bool = False
    truth: bool = False
    judge: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hidden", "truth"):
            check_switch(name, getattr(self, name))
        if not 0 <= self.judge <= 1:
            raise UnmaskError(f"judge is {self.judge:g}; give a share of the steps from 0 to 1")
        if not 1 <= self.inputs <= 2**16:
            raise UnmaskError(f"inputs is {self.inputs}; give 1 to {2**16}")
        plan = self.plan
        if len(plan.block_lengths) != 1:
            raise UnmaskError("several block lengths were given; record each in a directory")
        if plan.length > LONGEST:
            raise UnmaskError(f"answers have {plan.length} tokens; give at most {LONGEST}")
        if self.truth and self.judge:
            raise UnmaskError("truth and judge were both given; record each in a directory")
        given = given_options(plan.decode, ("temperature", "cfg_scale", "eos", "choices"))
        if self.truth and given:
            raise UnmaskError(
                f"truth was given with {given}; the worked answer's margins are those of the model "
                f"itself, so leave out {given}"
            )
        given = given_options(plan.decode, ("cfg_scale", "stop", "choices", "max_passes"))
        if self.judge and given:
            raise UnmaskError(
                f"judge was given with {given}; going on from one more reveal fills the gaps of an "
                f"answer, where such options mean something else, so leave out {given}"
            )
        if self.judge and min(plan.block_lengths[0], plan.length) < plan.length:
            raise UnmaskError(
                f"judge was given with block_length {plan.block_lengths[0]}; one more reveal is "
                "judged in full diffusion only, so leave one of them out"
            )
        for name, sampler in plan.samplers.items() if self.judge else ():
            if isinstance(sampler, LearnedPolicy | SemiAutoregressive):
                raise UnmaskError(
                    f"judge was given with the sampler {name}, which is learned or has blocks of "
                    "its own and would go on from one more reveal in another way; leave out judge, "
                    "or use plain heuristics"
                )

    def shape(self, model: Model) -> TraceShape:
        """What each step holds with this model."""
        return {
            "length": self.plan.length,
            "inputs": self.inputs,
            "hidden": model.hidden_size if self.hidden else 0,
            "wide_tokens": model.vocabulary > 2**15,
            "truth": self.truth,
            "judged": self.judge > 0,
        }

    @property
    def needs(self) -> Needs:
        """What is recorded of each step, whatever the sampler reads."""
        return Needs(frozenset({"hidden"} if self.hidden else ()), self.inputs)

    @property
    def most_passes(self) -> int:
        """How many passes an answer takes at most."""
        return min(self.plan.decode.max_passes or self.plan.length, self.plan.length)

    def most_bytes(self, shape: TraceShape, answers: int) -> int:
        """Bytes that so many answers take at most: every one needs all passes that it may have."""
        row = count_bytes(row_columns(shape)) + LINE_BYTES
        return answers * (row + self.most_passes * count_bytes(step_columns(shape)))


def given_options(decode: DecodeOptions, names: Sequence[str]) -> str:
    """Which of some options are not at their defaults, in words; empty if none is."""
    default = DecodeOptions()
    return ", ".join(name for name in names if getattr(decode, name) != getattr(default, name))


def record_traces(
    model: Model,
    task: Task,
    recording: Recording,
    out: Path,
    *,
    resume: bool = False,
    processes: Processes,
    progress: bool = False,
) -> Manifest | None:
    """Decodes training problems and stores every step.

    Args:
        model: the frozen model.
        task: prompts and verifier.
        recording: what is recorded.
        out: a new directory.
        resume: go on with an interrupted recording of the same settings in `out`.
        processes: the group that this process has joined; they share the work.
        progress: print the size beforehand, and a line for each piece.

    Returns:
        The manifest; None on processes but the first.

    Raises:
        UnmaskError: for unusable arguments, or if the disk cannot hold the traces; all is checked
            before anything is decoded.
    """
    plan = recording.plan
    if model.attention_block is not None:
        raise UnmaskError(
            "traces of block-causal models cannot be recorded; use a model with full attention"
        )
    prompts = plan.load_prompts(model, task)
    check_requests(model, plan, prompts)
    shape = recording.shape(model)
    if recording.inputs > model.vocabulary:
        raise UnmaskError(f"inputs is {recording.inputs}; this model has {model.vocabulary} tokens")
    if recording.truth:
        prompts = keep_answered(model, prompts, shape["length"])
    work = plan.pieces([len(row) for row in prompts.ids])
    settings = plan.settings(model, task, prompts) | {
        "inputs": recording.inputs,
        "hidden": recording.hidden,
        "truth": recording.truth,
        "judge": recording.judge,
    }
    with processes.hold(out):
        error = None
        if processes.main:
            try:
                check_piece(model, recording, prompts)
                check_size(recording, shape, work, out, progress)
                open_recording(out, resume, settings, shape, len(work), model)
            except UnmaskError as refusal:
                error = str(refusal)
        if (error := processes.gather(error)[0]) is not None:
            raise UnmaskError(error)
        missing = [i for i in range(len(work)) if not shard_path(out, i).exists()]
        processes.barrier()  # nobody writes before all have looked
        for number in processes.share(missing):
            decoded = decode_piece(model, task, recording, work[number], prompts)
            tensors = piece_tensors(model, task, recording, decoded)
            write_text(text_path(out, number), piece_lines(work[number], decoded))
            write_shard(out, number, shape, tensors)
            if progress:
                print(
                    f"{number + 1}/{len(work)}  {describe_piece(work[number], tensors)}", flush=True
                )
        processes.barrier()
        return close_recording(out) if processes.main else None


def piece_bytes(model: Model, recording: Recording, prompts: Prompts) -> int:
    """The most that a piece takes in memory at one moment, in bytes, if every answer needs all
    passes that it may have: its decode and, of each step, what was seen three times (as it was
    kept, put together, and by answer and step) and some numbers at each position."""
    plan, needs = recording.plan, recording.needs
    answers, longest = min(4 * plan.batch_size, len(prompts.ids)), max(prompts.ids, key=len)
    steps, widths = answers * recording.most_passes, canvas_widths(model, plan, prompts)
    found = 0
    for policy in plan.samplers.values():
        footprint = footprint_of(model, Request(tuple(longest), policy, plan.decode), needs)
        step = 3 * decision_bytes(footprint) + OF_STEPS * plan.length
        decoding = decode_bytes(model, footprint, min(plan.batch_size, answers), widths)
        found = max(found, decoding + answers * answer_bytes(plan.length) + steps * step)
    return found


def check_piece(model: Model, recording: Recording, prompts: Prompts) -> None:
    """Refuses a piece that may not fit into memory: found out on the way, it would end a recording
    that cannot go on with other settings.

    Raises:
        UnmaskError: if it takes more than is free.
    """
    check_memory(
        piece_bytes(model, recording, prompts),
        f"recording {min(4 * recording.plan.batch_size, len(prompts.ids))} answers of up to "
        f"{recording.most_passes} passes side by side",
        "give a smaller batch_size or max_passes" + (", or leave hidden out" * recording.hidden),
        model.device,
    )


def check_size(
    recording: Recording, shape: TraceShape, work: Sequence[Piece], out: Path, progress: bool
) -> None:
    """Refuses traces that the disk may not be able to hold; says how large they may become.

    Raises:
        UnmaskError: if they take more than is free.
    """
    missing = [p for i, p in enumerate(work) if not shard_path(out, i).exists()]
    answers = sum(len(piece.rows) for piece in missing)
    most = recording.most_bytes(shape, answers)
    check_disk(most, f"the traces in {out}", "record fewer prompts, or elsewhere", out)
    if progress:
        print(
            f"{count_of(answers, 'answer')} may take up to {describe_size(most)} in {out} "
            f"({describe_size(free_disk(out))} are free)",
            flush=True,
        )


def open_recording(
    out: Path,
    resume: bool,
    settings: dict[str, Any],
    shape: TraceShape,
    pieces: int,
    model: Model,
) -> None:
    """Begins a directory of traces, or with `resume` goes on in one.

    Raises:
        UnmaskError: if the directory holds files and `resume` is off, or what it holds is not this
            recording.
    """
    if resume and (out / MANIFEST).exists():
        found = read_manifest(out)
        check_plain(out)
        wanted = json.loads(json.dumps(settings))
        held = found["settings"]
        differ = sorted(n for n in {*wanted, *held} if held.get(n) != wanted.get(n))
        if differ or found["shape"] != shape or found["pieces"] != pieces:
            raise UnmaskError(
                f"{out} holds traces of other settings ({', '.join(differ) or 'shape'} differ); "
                "give the same ones, or name a new directory"
            )
        remove_parts(out)
        return
    if resume and list_whole(out):
        raise UnmaskError(f"{out} holds no recording of unmask; name its directory")
    new_directory(out, begun=MANIFEST, go_on="--resume")
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "shape": shape,
        "pieces": pieces,
        "provenance": provenance(model.device, model.dtype),
    }
    write_json(out / MANIFEST, manifest)


def close_recording(out: Path) -> Manifest:
    """Adds to the manifest what the shards hold: the recording is finished."""
    manifest = read_manifest(out)
    listed: list[ShardFile] = []
    for piece in range(manifest["pieces"]):
        path = shard_path(out, piece)
        header = read_header(path)
        sizes = [header[name].shape[0] if name in header else 0 for name in ("nfe", "row")]
        tensors = read_shard(path, manifest["shape"], *sizes)
        correct = float(tensors["correct"].double().mean()) if sizes[0] else 0.0
        listed.append(
            {
                "rows": sizes[0],
                "steps": sizes[1],
                "correct": round(correct, 6),
                "forwards": int(tensors["forwards"]),
            }
        )
    if manifest.get("shards") != listed:
        manifest["shards"] = listed
        write_json(out / MANIFEST, manifest)
    return manifest


def keep_answered(model: Model, prompts: Prompts, length: int) -> Prompts:
    """The problems whose worked answers fit into the buffer.

    Raises:
        UnmaskError: if there are none.
    """
    answers = encode_answers(model, prompts.examples, length)
    kept = [row for row, answer in enumerate(answers) if answer is not None]
    if not kept:
        raise UnmaskError(
            f"no worked answer fits into {length} tokens; truth needs problems that have one"
        )
    return Prompts(
        [prompts.examples[row] for row in kept],
        [prompts.ids[row] for row in kept],
        {seed: [keys[row] for row in kept] for seed, keys in prompts.keys.items()},
    )


def decode_piece(
    model: Model, task: Task, recording: Recording, piece: Piece, prompts: Prompts
) -> Decoded:
    """Decodes the problems of a piece and keeps every step."""
    rows = list(piece.rows)
    examples = [prompts.examples[row] for row in rows]
    ids = [list(prompts.ids[row]) for row in rows]
    keys = [prompts.keys[piece.seed][row] for row in rows]
    options = recording.plan.options(piece)
    recorder = Recorder(recording.needs)
    proposals: list[Tensor] = []
    generation = finish(
        decode_steps(
            model,
            ids,
            recording.plan.samplers[piece.sampler],
            options,
            batch_size=recording.plan.batch_size,
            keys=keys,
            recorder=recorder,
        ),
        lambda step: proposals.append(step.proposals),
    )
    found = generation.transitions
    assert found is not None, "each row takes a step"
    # By answer and then by step, so that the batch size changes nothing.
    order = (found.row * (1 + int(found.passes.max())) + found.passes).argsort()
    correct = [verdict.correct for verdict in task.verdicts(generation.text, examples)]
    return Decoded(
        rows=torch.tensor(rows),
        ids=ids,
        keys=keys,
        examples=examples,
        sampler=recording.plan.samplers[piece.sampler],
        options=options,
        text=generation.text,
        tokens=generation.tokens.cpu(),
        reveal_step=generation.reveal_step.cpu(),
        nfe=generation.nfe.cpu(),
        correct=torch.tensor(correct, dtype=torch.float32),
        row=found.row[order].cpu(),
        observation=found.observation[order].map(Tensor.cpu),
        proposal=torch.cat(proposals)[order].cpu(),
        forwards=generation.cost.rows,
    )


def piece_tensors(
    model: Model, task: Task, recording: Recording, decoded: Decoded
) -> dict[str, Tensor]:
    """The tensors of a piece's shard; see `row_columns` and `step_columns`."""
    further: dict[str, Tensor] = {}
    if recording.truth:
        decoded, margin = force_answers(model, decoded, recording.plan.batch_size)
        further = {"margin": margin}
    if recording.judge:
        decoded, tried, rejoined = judge_reveals(
            model, task, decoded, recording.judge, recording.plan.batch_size
        )
        further = {"tried": tried, "rejoined": rejoined}
    if recording.hidden:
        further["hidden"] = decoded.observation.features["hidden"]
    confidence = decoded.observation.confidence[..., : recording.inputs]
    return further | {
        "prompt": decoded.rows,
        "tokens": decoded.tokens,
        "reveal_step": decoded.reveal_step,
        "nfe": decoded.nfe,
        "correct": decoded.correct,
        "row": decoded.row,
        "passes": decoded.observation.step,
        "eligible": pack_bits(decoded.observation.eligible),
        "proposal": decoded.proposal,
        "log_odds": to_log_odds(confidence),
        "forwards": torch.tensor(decoded.forwards),
    }


def piece_lines(piece: Piece, decoded: Decoded) -> str:
    """The texts of a piece as JSON lines."""
    columns = (decoded.examples, decoded.text, decoded.correct.tolist(), decoded.nfe.tolist())
    lines = [
        {
            "sampler": piece.sampler,
            "seed": piece.seed,
            "prompt": example.prompt,
            "text": text,
            "correct": correct,
            "nfe": nfe,
        }
        for example, text, correct, nfe in zip(*columns, strict=True)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def describe_piece(piece: Piece, tensors: dict[str, Tensor]) -> str:
    """What a piece brought in, in words."""
    return (
        f"{piece.sampler}: {count_of(len(tensors['nfe']), 'answer')}, "
        f"{count_of(len(tensors['row']), 'step')}, "
        f"{100 * float(tensors['correct'].mean()):.1f} % right, "
        f"{count_of(int(tensors['forwards']), 'row')} forwarded"
    )
