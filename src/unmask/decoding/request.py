"""One prompt to answer, with everything that its result may depend on beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from unmask.decoding.options import DecodeOptions
from unmask.errors import UnmaskError, short_text
from unmask.models.base import Model, check_model
from unmask.models.head import Sampling
from unmask.models.limits import canvas_limit
from unmask.policies.base import Needs, PolicyLike, needs_of
from unmask.policies.learned import LearnedPolicy
from unmask.policies.schema import LARGEST, SMALLEST


@dataclass(frozen=True, eq=False)
class Request:
    """One row for the engine: it decides alone what the row becomes, whatever its batch-mates are.

    Attributes:
        prompt: token ids; with none, the model writes without being asked anything.
        policy: decides what to reveal.
        options: lengths, temperature, rules and the like; `options.max_new_tokens` is L, unless
            `holes` are given.
        key: what the row's random numbers depend on, an int64 (see `unmask.rng.row_keys`).
        alpha: α that the policy is to act for, if it was trained for many; None is the policy's
            own.
        holes: positions of the prompt that hold masks; they are the buffer then, and nothing is put
            behind the prompt (infilling).
        allowed: for each position of the buffer from the first on, the token ids that may stand
            there, or None for any; positions behind the last entry are free. Also a bool tensor or
            array [positions, V].

    Raises:
        UnmaskError: if a value has the wrong type or is out of range.
    """

    prompt: tuple[int, ...]
    policy: PolicyLike
    options: DecodeOptions
    key: int = 0
    alpha: float | None = None
    holes: tuple[int, ...] | None = None
    allowed: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", as_tuple("prompt", self.prompt))
        if not all(type(token) is int for token in self.prompt):
            raise UnmaskError("a prompt holds something else than token ids; give whole numbers")
        needs_of(self.policy)
        if not isinstance(self.options, DecodeOptions):
            raise UnmaskError(f"options is {self.options!r}; give a DecodeOptions")
        if type(self.key) is not int or not -(2**63) <= self.key < 2**63:
            raise UnmaskError(f"key is {self.key!r}; give a whole number of 64 bits")
        if self.alpha is not None and not is_scale(self.alpha):
            raise UnmaskError(
                f"alpha is {self.alpha!r}; give a number above 0, from {SMALLEST:g} to "
                f"{LARGEST:g}, or leave it out"
            )
        if self.alpha is not None:
            object.__setattr__(self, "alpha", float(self.alpha))
        if self.allowed is not None:
            object.__setattr__(self, "allowed", as_token_sets(self.allowed))
        if self.holes is not None:
            object.__setattr__(self, "holes", as_tuple("holes", self.holes))
            check_holes(self.holes, len(self.prompt))
        elif self.options.max_new_tokens is None:
            raise UnmaskError(
                "max_new_tokens is missing; give the length of the answers, or infill=True for "
                "prompts that hold masks"
            )

    @cached_property
    def length(self) -> int:
        """L, how many positions are generated."""
        if self.holes is not None:
            return len(self.holes)
        return self.options.max_new_tokens or 0

    @cached_property
    def block_length(self) -> int:
        """BL; L itself is full diffusion."""
        return min(self.options.block_length or self.length, self.length)

    @cached_property
    def max_passes(self) -> int:
        """Most forward passes that the row takes part in: at most L."""
        return min(self.options.max_passes or self.length, self.length)

    @cached_property
    def size(self) -> int:
        """Tokens of the canvas: prompt and buffer."""
        return len(self.prompt) + (self.length if self.holes is None else 0)

    @property
    def buffer(self) -> Sequence[int]:
        """The canvas positions that are generated, L of them."""
        return range(len(self.prompt), self.size) if self.holes is None else self.holes

    @cached_property
    def sampling(self) -> Sampling:
        """How the model's head treats this row."""
        o = self.options
        return Sampling(o.temperature, o.top_p, o.top_k, o.cfg_scale, o.eos)

    @cached_property
    def needs(self) -> Needs:
        return needs_of(self.policy)

    @property
    def acts_for(self) -> float | None:
        """α that the policy is told: the request's, else the policy's own, if it is a number that
        can be one."""
        own = getattr(self.policy, "alpha", None) if self.alpha is None else self.alpha
        return own if is_scale(own) else None


@dataclass(frozen=True)
class Extent:
    """Which canvas positions of a row are decided, for the attention of its model.

    In full attention these are the L positions of the request. A block-causal model decides whole
    blocks, counted from the first token of the prompt: the buffer begins with the block that holds
    the end of the prompt and reaches to the end of the last block, which is cut to L afterwards.

    Attributes:
        size: tokens of the canvas.
        buffer: the canvas positions that are decided, in rising order.
        given: how many of them, at the beginning, are tokens of the prompt.
        block_length: BL.
        most: most forward passes that the row takes part in.
    """

    size: int
    buffer: Sequence[int]
    given: int
    block_length: int
    most: int


def extent_of(model: Model, request: Request) -> Extent:
    """The positions that a model decides for a request."""
    size = model.attention_block
    if size is None:
        whole = (request.size, request.buffer, 0, request.block_length, request.max_passes)
        return Extent(*whole)
    prompt = len(request.prompt)
    first = prompt if model.causal_context else prompt // size * size
    end = first + -(-(request.size - first) // size) * size
    masked = end - prompt
    most = min(request.options.max_passes or masked, masked)
    return Extent(end, range(first, end), prompt - first, size, most)


def trained_blocks(model: Model, policy: Any) -> int | None:
    """BL of the blocks that a learned policy was trained in, which holds where nobody gives one.
    None for other policies, and for a block-causal model, which has its own blocks."""
    learned = isinstance(policy, LearnedPolicy) and model.attention_block is None
    return policy.block_length if learned else None


def with_trained_blocks(model: Model, policy: Any, options: DecodeOptions) -> DecodeOptions:
    """Options with the `trained_blocks` of a policy where they give no block length."""
    own = trained_blocks(model, policy)
    if own is None or options.block_length is not None:
        return options
    return replace(options, block_length=min(own, options.max_new_tokens or own))


def as_tuple(name: str, values: Any) -> tuple[Any, ...]:
    """A sequence as a tuple; an `UnmaskError` for anything else."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UnmaskError(f"{name} is {values!r}; give a sequence of whole numbers")
    return tuple(values)


class Tokens(tuple[Any, ...]):
    """A tuple that keeps its hash. A set of tokens may hold the whole vocabulary, and every row
    asks for it in every pass."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def as_token_sets(
    allowed: Any, vocabulary: int | None = None
) -> tuple[tuple[int, ...] | None, ...]:
    """The tokens that may stand at each position, sorted, from lists of ids, or from a bool tensor
    or array [positions, V]; of the model's `vocabulary`, where that is known. Equal sets are one
    object, and what this function has made it gives back as it is.

    Raises:
        UnmaskError: if it is neither.
    """
    if isinstance(allowed, Tokens):
        return allowed
    wanted = "give for each position a list of token ids, or None for any token"
    if isinstance(allowed, Tensor | np.ndarray):
        if allowed.ndim != 2 or str(allowed.dtype).removeprefix("torch.") != "bool":
            raise UnmaskError(
                f"allowed is an array {list(allowed.shape)} of {allowed.dtype}; give a bool one "
                "[positions, vocabulary]"
            )
        if vocabulary not in (None, allowed.shape[1]):
            raise UnmaskError(
                f"allowed is an array for {allowed.shape[1]} tokens, and this model has "
                f"{vocabulary}; give one column for each"
            )
        rows = np.asarray(allowed.cpu() if isinstance(allowed, Tensor) else allowed)
        known: dict[bytes, Tokens | None] = {}
        for row in rows:
            if (name := row.tobytes()) not in known:
                known[name] = None if row.all() else Tokens(row.nonzero()[0].tolist())
        return Tokens(known[row.tobytes()] for row in rows)
    if isinstance(allowed, str) or not isinstance(allowed, Sequence):
        raise UnmaskError(f"allowed is {short_text(repr(allowed))}; {wanted}")
    found: list[Tokens | None] = []
    for ids in allowed:
        plain = isinstance(ids, list | tuple | set | frozenset | range)
        if ids is not None and not (plain and all(type(token) is int for token in ids)):
            raise UnmaskError(f"allowed holds {short_text(repr(ids))}; {wanted}")
        found.append(None if ids is None else Tokens(sorted(set(ids))))
    same = {ids: ids for ids in found}
    return Tokens(same[ids] for ids in found)


def is_scale(value: Any) -> bool:
    """Whether a value is a number above 0 that does not overflow where policies compute, as α."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and SMALLEST <= float(value) <= LARGEST


def check_holes(holes: Sequence[int], size: int) -> None:
    """Refuses positions that are no rising sequence within a prompt of `size` tokens."""
    if not all(type(hole) is int for hole in holes):
        raise UnmaskError(f"holes are {list(holes)!r}; give whole numbers")
    rising = list(holes) == sorted(set(holes))
    if not holes or not rising or not 0 <= holes[0] <= holes[-1] < size:
        raise UnmaskError(
            f"holes are {list(holes)!r}; give rising positions within the prompt of {size} tokens"
        )


def check_request(model: Model, request: Request) -> None:
    """Refuses a request that this model cannot answer.

    Raises:
        UnmaskError: for a model without an end of text, token ids that it has no embedding of, a
            canvas that is too long, more probabilities than there are tokens, or a cache with which
            the model cannot work.
    """
    check_model(model)
    if not isinstance(request, Request):
        raise UnmaskError(f"a request is {request!r}; give an unmask.decoding.Request")
    last = model.vocabulary - 1
    if wrong := [token for token in request.prompt if not 0 <= token <= last]:
        raise UnmaskError(f"a prompt has the token id {wrong[0]}; this model's ids are 0 to {last}")
    limit = model.max_positions
    if limit is not None and request.size > limit:
        raise UnmaskError(
            f"a prompt and its buffer have {request.size} tokens; this model takes {limit}, so "
            "shorten one of them"
        )
    most = canvas_limit(model.network.config)
    if request.size > most:
        raise UnmaskError(
            f"a prompt and its buffer have {request.size} tokens; give this model at most {most}"
        )
    check_policy(model, request)
    if request.needs.top_k > model.vocabulary:
        raise UnmaskError(
            f"the policy reads the top {request.needs.top_k} probabilities; this model has "
            f"{model.vocabulary} tokens"
        )
    if model.attention_block is not None:
        check_blocks(model.attention_block, request)
    if request.options.cache is not None and not model.takes_mask:
        raise UnmaskError(f"a {model.family} model cannot be decoded with a cache; leave out cache")


def check_blocks(size: int, request: Request) -> None:
    """Refuses what a block-causal model with blocks of `size` positions cannot do.

    Raises:
        UnmaskError: as `check_request`.
    """
    options = request.options
    if options.block_length not in (None, size, min(size, request.length)):
        raise UnmaskError(
            f"block_length is {options.block_length}; this model is decoded in its own blocks of "
            f"{size}, so give {size} or leave it out"
        )
    if options.cache is not None:
        raise UnmaskError(
            f"cache is {options.cache!r}; this model's finished blocks are always cached, and "
            "exactly, so leave it out"
        )
    if options.cfg_scale:
        raise UnmaskError(
            "cfg_scale was given, and guidance needs a second cache, which block-causal models do "
            "not have here; leave it out"
        )
    if request.holes is not None:
        raise UnmaskError(
            "infilling needs a model that sees the text behind a hole; a block-causal model does "
            "not, so use one with full attention"
        )


def check_policy(model: Model, request: Request) -> None:
    """Refuses a learned policy that cannot decide for this model, or is not told its α.

    Raises:
        UnmaskError: as `check_request`.
    """
    policy = request.policy
    if not isinstance(policy, LearnedPolicy):
        return
    config = policy.network.config
    if config.hidden not in (0, model.hidden_size):
        raise UnmaskError(
            f"the policy reads hidden states of width {config.hidden} and this model's have "
            f"{model.hidden_size}; use the model it was trained on"
        )
    if config.conditioned and request.acts_for is None:
        raise UnmaskError(
            "the policy is one for every α and was given none; say which, for example DIR@alpha=1"
        )
