"""Stored traces: what a policy would have seen in each step of many decodes, what the frozen model
proposed there, and how the decodes ended.

A directory holds `manifest.json` and for each piece of work a shard: `shard-00000.safetensors`,
which is memory-mapped when it is read, and `shard-00000.jsonl` with the texts for people. What can
be computed from the rest is not stored: where a position is masked, and what a step revealed,
follow from the step that revealed each position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict

from unmask.errors import UnmaskError
from unmask.files import read_json
from unmask.policies.base import Observation
from unmask.tensors import describe_misfit, read_header, read_tensors, write_tensors

FORMAT = "unmask traces 1"
MANIFEST = "manifest.json"
# Log-odds are cut to ±16: fp32 confidences hardly get closer to 0 and 1.
MOST_LOG_ODDS = 16.0
RIGHT = 0.5  # an answer whose correctness is above this counts as right
MOST = 2**31 - 1
STRICT = ConfigDict(extra="allow", strict=True)
Whole = Annotated[int, Field(ge=0, le=MOST)]
Size = Annotated[int, Field(ge=1, le=MOST)]
# Types of the tensors as the header of a safetensors file names them.
NAMES = {
    torch.int16: "I16",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.int64: "I64",
}


class TraceShape(TypedDict):
    """What each step holds.

    Keys:
        length: L.
        inputs: k, probabilities at each position.
        hidden: width of the frozen model's hidden states; 0 where they are not stored.
        wide_tokens: whether a token takes 4 bytes instead of 2.
        truth: whether canvases hold the worked answer's tokens, and its margins are stored.
        judged: whether some steps hold the verdict on one more reveal.
    """

    __pydantic_config__ = STRICT  # type: ignore[misc]

    length: Size
    inputs: Size
    hidden: Whole
    wide_tokens: bool
    truth: bool
    judged: bool


class ShardFile(TypedDict):
    """What a finished manifest says of a shard: its answers, its steps, the share of right answers
    and the rows that were forwarded through the frozen model for it."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    rows: Whole
    steps: Whole
    correct: Annotated[float, Field(ge=0, le=1)]
    forwards: Annotated[int, Field(ge=0, le=2**53)]


class Manifest(TypedDict):
    """manifest.json. `shards` is missing while traces are still being recorded."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    format: Literal["unmask traces 1"]
    settings: dict[str, Any]
    shape: TraceShape
    pieces: Size
    provenance: dict[str, Any]
    shards: NotRequired[list[ShardFile]]


Columns = dict[str, tuple[tuple[int, ...], torch.dtype]]


def row_columns(shape: TraceShape) -> Columns:
    """Of each answer: the prompt's number, the final tokens, the step that revealed each position
    (−1 never), NFE and correctness. The size of one entry of each tensor, and its dtype."""
    length = shape["length"]
    return {
        "prompt": ((), torch.int32),
        "tokens": ((length,), token_type(shape)),
        "reveal_step": ((length,), torch.int16),
        "nfe": ((), torch.int32),
        "correct": ((), torch.float32),
    }


def step_columns(shape: TraceShape) -> Columns:
    """Of each step: its answer, the passes before it, which positions are eligible (bits), the
    proposals and the log-odds of their probabilities (the first of k is the proposal's). If stored,
    hidden states, the worked answer's margins, and the position that one more reveal tried (−1
    none) with the verdict on the decode that followed."""
    length = shape["length"]
    found: Columns = {
        "row": ((), torch.int32),
        "passes": ((), torch.int16),
        "eligible": ((-(-length // 8),), torch.uint8),
        "proposal": ((length,), token_type(shape)),
        "log_odds": ((length, shape["inputs"]), torch.float16),
    }
    if shape["hidden"]:
        found["hidden"] = ((length, shape["hidden"]), torch.bfloat16)
    if shape["truth"]:
        found["margin"] = ((length,), torch.float16)
    if shape["judged"]:
        found |= {"tried": ((), torch.int16), "rejoined": ((), torch.float16)}
    return found


def token_type(shape: TraceShape) -> torch.dtype:
    """The dtype of a token."""
    return torch.int32 if shape["wide_tokens"] else torch.int16


def count_bytes(columns: Columns) -> int:
    """Bytes that one entry of each column takes together."""
    return sum(math.prod(size) * kind.itemsize for size, kind in columns.values())


def tensor_shapes(shape: TraceShape, rows: int, steps: int) -> Columns:
    """Shape and dtype of every tensor of a shard of so many answers and steps; `forwards` counts
    the rows that went through the frozen model for it."""
    of_rows = {name: ((rows, *size), kind) for name, (size, kind) in row_columns(shape).items()}
    of_steps = {name: ((steps, *size), kind) for name, (size, kind) in step_columns(shape).items()}
    return of_rows | of_steps | {"forwards": ((), torch.int64)}


def shard_path(directory: Path, piece: int) -> Path:
    """Where the tensors of a piece are."""
    return directory / f"shard-{piece:05}.safetensors"


def text_path(directory: Path, piece: int) -> Path:
    """Where the texts of a piece are."""
    return directory / f"shard-{piece:05}.jsonl"


def pack_bits(bits: Bool[Tensor, "T L"]) -> UInt8[Tensor, "T bytes"]:
    """Eight positions in a byte, the first one lowest."""
    length = bits.shape[1]
    padded = torch.nn.functional.pad(bits, (0, -length % 8)).view(len(bits), -1, 8)
    return (padded.to(torch.uint8) << torch.arange(8, dtype=torch.uint8)).sum(2, dtype=torch.uint8)


def unpack_bits(packed: UInt8[Tensor, "T bytes"], length: int) -> Bool[Tensor, "T L"]:
    """The other way."""
    bits = (packed[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten(1)[:, :length].bool()


def to_log_odds(confidence: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Probabilities as fp16 log-odds, which keep 0.999 and 0.9999 apart."""
    return confidence.logit().clamp(-MOST_LOG_ODDS, MOST_LOG_ODDS).half()


def write_shard(directory: Path, piece: int, shape: TraceShape, tensors: dict[str, Tensor]) -> None:
    """Writes the tensors of a piece in the types of the format; the file is whole or not there."""
    rows, steps = len(tensors["nfe"]), len(tensors["row"])
    kinds = tensor_shapes(shape, rows, steps)
    write_tensors(
        shard_path(directory, piece), {name: tensors[name].to(kinds[name][1]) for name in kinds}
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory of traces.

    Raises:
        UnmaskError: if there is none, or it is damaged.
    """
    if not (directory / MANIFEST).exists():
        raise UnmaskError(
            f"{directory} holds no {MANIFEST}; give a directory that `unmask record` wrote"
        )
    return read_json(directory / MANIFEST, Manifest)


@dataclass(frozen=True)
class TraceSteps:
    """Some steps of stored traces, as labels see them; t steps.

    Attributes:
        observation: what a policy would see.
        proposal: int64 [t, L], the token that the frozen model proposed at each position.
        action: bool [t, L], what the sampler revealed in the step.
        final: int64 [t, L], the tokens of the finished answer.
        known: bool [t, L], where the answer has a final token. What a limit of passes leaves masked
            has none.
        correct: fp32 [t], the verdict on the finished answer, 0 to 1.
        nfe: int64 [t], passes of the whole answer.
        margin: fp32 [t, L], probability of the worked answer's token less that of its best rival;
            None where traces were recorded without `truth`.
        tried: int64 [t], the position that one more reveal tried, −1 none; None where traces were
            recorded without `judge`.
        rejoined: fp32 [t], the verdict on the decode that followed that reveal; where none was
            tried, 1 in steps that were drawn to be judged and had nothing to try, else 0.
    """

    observation: Observation
    proposal: Int[Tensor, "t L"]
    action: Bool[Tensor, "t L"]
    final: Int[Tensor, "t L"]
    known: Bool[Tensor, "t L"]
    correct: Float[Tensor, " t"]
    nfe: Int[Tensor, " t"]
    margin: Float[Tensor, "t L"] | None = None
    tried: Int[Tensor, " t"] | None = None
    rejoined: Float[Tensor, " t"] | None = None

    def __len__(self) -> int:
        return len(self.correct)


@dataclass(frozen=True)
class Traces:
    """All shards of a directory, memory-mapped.

    Attributes:
        directory: where they are.
        manifest: what they are.
        shards: the tensors of each piece.
    """

    directory: Path
    manifest: Manifest
    shards: tuple[dict[str, Tensor], ...]

    @staticmethod
    def open(directory: Path) -> Traces:
        """Maps the shards of a finished recording.

        Raises:
            UnmaskError: if the recording is not finished, or a file is missing or damaged.
        """
        manifest = read_manifest(directory)
        shape, listed = manifest["shape"], manifest.get("shards")
        if listed is None or len(listed) != manifest["pieces"]:
            raise UnmaskError(
                f"the traces in {directory} are not finished; go on with `unmask record --out "
                f"{directory} --resume` and the options that it was started with"
            )
        shards = tuple(
            read_shard(shard_path(directory, piece), shape, entry["rows"], entry["steps"])
            for piece, entry in enumerate(listed)
        )
        return Traces(directory, manifest, shards)

    @property
    def length(self) -> int:
        """L."""
        return self.manifest["shape"]["length"]

    @cached_property
    def starts(self) -> Int[Tensor, " shards"]:
        """The number of each shard's first step, and at the end that of all steps."""
        sizes = torch.tensor([0, *(len(shard["row"]) for shard in self.shards)])
        return sizes.cumsum(0)

    def __len__(self) -> int:
        """How many steps there are."""
        return int(self.starts[-1])

    @cached_property
    def prompt(self) -> Int[Tensor, " T"]:
        """The number of the prompt of every step."""
        return torch.cat([shard["prompt"][shard["row"].long()] for shard in self.shards]).long()

    @cached_property
    def eligible_counts(self) -> Int[Tensor, " T"]:
        """How many positions are eligible in every step."""
        counts = [unpack_bits(shard["eligible"], self.length).sum(1) for shard in self.shards]
        return torch.cat(counts)

    @property
    def forwards(self) -> int:
        """Rows that went through the frozen model to record them."""
        return sum(entry["forwards"] for entry in self.manifest.get("shards", ()))

    def gather(self, index: Int[Tensor, " t"], device: torch.device) -> TraceSteps:
        """The steps of some numbers, in that order, on a device."""
        where = torch.searchsorted(self.starts, index, right=True) - 1
        order = where.argsort(stable=True)
        parts = []
        for number in where.unique().tolist():
            chosen = index[where == number] - self.starts[number]
            parts.append(self._take(self.shards[number], chosen))
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        back = order.argsort()
        return self._steps({name: value[back].to(device) for name, value in joined.items()})

    def _take(self, shard: dict[str, Tensor], chosen: Int[Tensor, " t"]) -> dict[str, Tensor]:
        """Steps of one shard, each with the columns of its answer."""
        found = {name: shard[name][chosen] for name in step_columns(self.manifest["shape"])}
        row = found.pop("row").long()
        for name in ("tokens", "reveal_step", "nfe", "correct"):
            found[name] = shard[name][row]
        return found

    def _steps(self, columns: dict[str, Tensor]) -> TraceSteps:
        """Columns as the types that they had when they were recorded."""
        length, shape = self.length, self.manifest["shape"]
        reveal_step, passes = columns["reveal_step"].long(), columns["passes"].long()
        # An answer that ended before its last pass is whole: what no step revealed is behind its
        # end. So are the worked answers.
        most = min(self.manifest["settings"].get("max_passes") or length, length)
        known = (reveal_step >= 0) | (columns["nfe"] < most)[:, None] | shape["truth"]
        features = {"hidden": columns["hidden"]} if shape["hidden"] else {}
        observation = Observation(
            columns["log_odds"].double().sigmoid().float(),
            (reveal_step < 0) | (reveal_step >= passes[:, None]),
            unpack_bits(columns["eligible"].cpu(), length).to(passes.device),
            passes,
            length,
            features,
        )
        return TraceSteps(
            observation,
            columns["proposal"].long(),
            reveal_step == passes[:, None],
            columns["tokens"].long(),
            known,
            columns["correct"],
            columns["nfe"].long(),
            columns["margin"].float() if shape["truth"] else None,
            columns["tried"].long() if shape["judged"] else None,
            columns["rejoined"].float() if shape["judged"] else None,
        )


def read_shard(path: Path, shape: TraceShape, rows: int, steps: int) -> dict[str, Tensor]:
    """The tensors of a shard, memory-mapped; names, shapes and dtypes are checked in its header
    first, and the numbers that others are looked up with afterwards.

    Raises:
        UnmaskError: if the file is missing, damaged, or not what the manifest says.
    """
    expected = tensor_shapes(shape, rows, steps)
    header = read_header(path)
    reason = describe_misfit(header, {name: size for name, (size, _) in expected.items()})
    for name, (_, kind) in expected.items():
        if not reason and header[name].dtype != NAMES[kind]:
            reason = f"{name} has the type {header[name].dtype}, not {NAMES[kind]}"
    if reason:
        raise UnmaskError(
            f"{path} is not the shard that {MANIFEST} describes ({reason}); record the traces again"
        )
    tensors = read_tensors(path)
    row, passes, right = tensors["row"], tensors["passes"], tensors["correct"]
    sound = bool((row >= 0).all() and (row < rows).all() and (passes >= 0).all())
    sound = sound and bool((right >= 0).all() and (right <= 1).all())
    if shape["judged"]:
        tried = tensors["tried"]
        sound = sound and bool((tried >= -1).all() and (tried < shape["length"]).all())
    if not sound:
        raise UnmaskError(f"{path} holds numbers that no recording writes; record the traces again")
    return tensors
