"""What an evaluation measures: the samplers, their settings and the prompts, cut into pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from unmask.decoding.canvas import padded_width
from unmask.decoding.constraints import check_limits, longest_choice
from unmask.decoding.footprint import check_decode, footprint_of
from unmask.decoding.options import DecodeOptions, check_whole
from unmask.decoding.request import Request, check_request
from unmask.errors import UnmaskError
from unmask.evaluation.contents import model_contents, policy_contents, weights_digest
from unmask.models import Model
from unmask.models.head import CONFIDENCE_RULE
from unmask.policies import load_policy
from unmask.policies.base import PolicyLike, is_function
from unmask.rng import row_keys
from unmask.tasks import Example, Split, Task, answer_length, prompt_tokens
from unmask.tasks.base import SPLITS

MOST_PROMPTS = 1_000_000
# Fields of DecodeOptions that belong to a piece, not to the whole plan.
OF_A_PIECE = ("block_length", "seed")


@dataclass(frozen=True)
class Piece:
    """The unit of work: what is decoded in one call, on one process, and then written down.

    Attributes:
        cell: number of the sampler, block length and seed.
        sampler: its name.
        block_length: BL.
        seed: of everything random.
        rows: which prompts, by number, longest first.
    """

    cell: int
    sampler: str
    block_length: int
    seed: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """The problems of an evaluation.

    Attributes:
        examples: N problems.
        ids: the token ids of each prompt.
        keys: for each seed, the random key of each row.
    """

    examples: Sequence[Example]
    ids: Sequence[list[int]]
    keys: Mapping[int, Sequence[int]]

    def digest(self) -> str:
        """A hash of the prompts' tokens and the right answers, 16 hexadecimal digits."""
        pairs = [(row, e.answer) for row, e in zip(self.ids, self.examples, strict=True)]
        return hashlib.sha256(repr(pairs).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EvalPlan:
    """What is measured: every sampler at every block length with every seed, on the same prompts.
    It checks itself when it is made.

    Attributes:
        samplers: policies by the name that results call them.
        block_lengths: BL; L itself is full diffusion.
        seeds: each sampler is run with each.
        prompts: how many of the split's prompts.
        split: which prompts.
        decode: all other settings; `max_new_tokens` (L) must be set.
        batch_size: rows decoded side by side; four batches make a piece, so it decides which
            pieces there are.
        traces: keep the step that revealed each position, and the tokens.

    Raises:
        UnmaskError: if a value has the wrong type or is out of range, or one is given twice.
    """

    samplers: Mapping[str, PolicyLike]
    block_lengths: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    prompts: int = 256
    split: Split = "test"
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    batch_size: int = 128
    traces: bool = False

    def __post_init__(self) -> None:
        if not self.samplers:
            raise UnmaskError(
                "no samplers were given; give at least one, for example threshold:0.9"
            )
        if self.decode.max_new_tokens is None:
            raise UnmaskError("max_new_tokens is missing; give the length of the answers")
        check_list("seeds", self.seeds, "0")
        check_list("block_lengths", self.block_lengths, "max_new_tokens for full diffusion")
        for block_length in self.block_lengths:
            check_whole("block_length", block_length, 1)
            replace(self.decode, block_length=block_length)
        for seed in self.seeds:
            replace(self.decode, seed=seed)
        check_whole("prompts", self.prompts, 1, MOST_PROMPTS)
        check_whole("batch_size", self.batch_size, 1, 2**20)
        if self.split not in SPLITS:
            raise UnmaskError(f"split {self.split!r} is not known; use one of {', '.join(SPLITS)}")
        check_switch("traces", self.traces)

    @property
    def length(self) -> int:
        """L."""
        return self.decode.max_new_tokens or 0

    def options(self, piece: Piece) -> DecodeOptions:
        """The settings that a piece is decoded with."""
        return replace(self.decode, block_length=piece.block_length, seed=piece.seed)

    def pieces(self, sizes: Sequence[int]) -> list[Piece]:
        """All pieces: for each sampler, block length and seed the prompts, longest first, so that
        those side by side are of like length.

        Args:
            sizes: tokens of each prompt.
        """
        order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
        rows = 4 * self.batch_size
        parts = [tuple(order[start : start + rows]) for start in range(0, len(order), rows)]
        cells = [
            (name, block_length, seed)
            for name in self.samplers
            for block_length in self.block_lengths
            for seed in self.seeds
        ]
        return [Piece(i, *cell, part) for i, cell in enumerate(cells) for part in parts]

    def load_prompts(self, model: Model, task: Task) -> Prompts:
        """The plan's problems, as the model reads them.

        Raises:
            UnmaskError: if the split has none, or one has a token that the model does not know.
        """
        examples = task.examples(self.split, self.prompts)
        ids = [prompt_tokens(model, example) for example in examples]
        return Prompts(examples, ids, {seed: row_keys(ids, seed) for seed in self.seeds})

    def settings(self, model: Model, task: Task, prompts: Prompts) -> dict[str, Any]:
        """All that decides the results, as JSON: what `summary.json` begins with, and what must be
        the same for an interrupted evaluation to go on.

        `samplers` has a hash of each learned policy's weights, `policies` the rest of what decides
        what a policy does, `model_contents` a hash of the frozen model.
        """
        decode = {name: value for name, value in vars(self.decode).items() if name in DECODE_KEYS}
        if self.decode.temperature > 0:
            decode["confidence"] = CONFIDENCE_RULE
        return {
            "model": str(model.name),
            "task": task.name,
            "template": task.template,
            "split": self.split,
            "seeds": list(self.seeds),
            **decode,
            "samplers": {name: weights_digest(policy) for name, policy in self.samplers.items()},
            "policies": {name: policy_contents(policy) for name, policy in self.samplers.items()},
            "block_lengths": list(self.block_lengths),
            "prompts": prompts.digest(),
            "batch_size": self.batch_size,
            "traces": self.traces,
            "dtype": str(model.dtype).removeprefix("torch."),
            "model_contents": model_contents(model),
        }


DECODE_KEYS = tuple(each.name for each in fields(DecodeOptions) if each.name not in OF_A_PIECE)


def check_list(name: str, values: Sequence[int], example: str) -> None:
    """Refuses an empty list, and one that names a value twice: its results would count twice, and
    the same sample would pass for several."""
    what = name.replace("_", " ")
    if not values:
        raise UnmaskError(f"no {what} were given; give at least one, for example {example}")
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise UnmaskError(f"{name} names {twice[0]} more than once; give each value once")


def check_switch(name: str, value: Any) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, bool):
        raise UnmaskError(f"{name} is {value!r}; give True or False")


def check_requests(model: Model, plan: EvalPlan, prompts: Prompts) -> None:
    """Refuses what this model cannot be asked, before anything is decoded or written.

    Raises:
        UnmaskError: if the longest prompt is too long, a policy reads more than there is, the model
            cannot be decoded with a cache or in these blocks, or a piece would not fit into memory.
    """
    longest = tuple(max(prompts.ids, key=len))
    answers = min(4 * plan.batch_size, len(prompts.ids))
    widths = canvas_widths(model, plan, prompts)
    for policy, size in product(plan.samplers.values(), plan.block_lengths):
        request = Request(longest, policy, replace(plan.decode, block_length=size))
        check_request(model, request)
        check_limits(model, request)
        footprint = footprint_of(model, request)
        check_decode(model, footprint, plan.batch_size, answers, widths=widths)


def canvas_widths(model: Model, plan: EvalPlan, prompts: Prompts) -> list[int]:
    """The widths of the prompts' canvases, with padding."""
    return [padded_width(model, len(row) + plan.length) for row in prompts.ids]


def number_list(name: str, values: Any) -> tuple[int, ...]:
    """A list of numbers as a tuple.

    Raises:
        UnmaskError: if it is no list.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise UnmaskError(f"{name} is {values!r}; give a list of whole numbers")
    return tuple(values)


def with_own_length(model: Model, task: Task, decode: DecodeOptions) -> DecodeOptions:
    """Options with their L: as given, else that of the longest choice, to which block lengths are
    cut, else `answer_length`."""
    if decode.choices and decode.max_new_tokens is None:
        return decode.with_length(longest_choice(model, decode.choices))
    return replace(decode, max_new_tokens=answer_length(model, task, decode.max_new_tokens))


def load_samplers(samplers: Any, device: Any) -> dict[str, PolicyLike]:
    """Policies by name.

    Args:
        samplers: a list of specs or directories for `load_policy`, of policies that have a `name`,
            and of plain functions; or a mapping from names to specs or policies.
        device: for the weights of those that are loaded.

    Raises:
        UnmaskError: if one cannot be loaded, has no name, or is no policy; or two have one name.
    """
    if isinstance(samplers, Mapping):
        named = [(name, each) for name, each in samplers.items()]
    elif isinstance(samplers, Sequence) and not isinstance(samplers, str | bytes):
        named = [(sampler_name(each), each) for each in samplers]
    else:
        raise UnmaskError(
            f"samplers is {samplers!r}; give a list of specs such as threshold:0.9, or a mapping "
            "from names to policies"
        )
    found: dict[str, Any] = {}
    for name, each in named:
        if not isinstance(name, str) or not name:
            raise UnmaskError(f"a sampler has the name {name!r}; give a string")
        acts = callable(getattr(each, "act", None)) or is_function(each)
        if not isinstance(each, str | Path) and not acts:
            raise UnmaskError(f"sampler {each!r} is neither a spec nor a policy; give one of them")
        if name in found and found[name] is not each and not isinstance(each, str | Path):
            raise UnmaskError(f"two samplers are named {name!r}; give each a name of its own")
        found[name] = each
    return {
        name: load_policy(each, device=device) if isinstance(each, str | Path) else each
        for name, each in found.items()
    }


def sampler_name(sampler: Any) -> str:
    """How results call a sampler of a list: its spec, or a policy's own `name`.

    Raises:
        UnmaskError: if it has no name.
    """
    if isinstance(sampler, str | Path):
        return str(sampler)
    name = getattr(sampler, "__name__" if is_function(sampler) else "name", None)
    if not isinstance(name, str) or not name:
        raise UnmaskError(
            f"sampler {sampler!r} is neither a spec such as threshold:0.9 nor a policy that has a "
            "name; give one of these, or a mapping from names to policies"
        )
    return name
