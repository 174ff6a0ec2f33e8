"""What a decode takes in memory, computed before anything is allocated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unmask.decoding.caching import PREFILL, padded_keys
from unmask.decoding.canvas import KINDS, Canvas, padded_width
from unmask.decoding.proposer import ENOUGH, SPARED, Proposer
from unmask.decoding.request import Request, extent_of
from unmask.errors import count_of
from unmask.memory import check_memory
from unmask.models.base import Model
from unmask.models.head import Sampling
from unmask.models.limits import forward_bytes, head_bytes, position_bytes
from unmask.policies.base import Needs, PolicyLike
from unmask.policies.learned import LearnedPolicy
from unmask.policies.network import activation_bytes

# Allocators keep holes between what stays and what goes, and kernels have buffers of their own.
HOLES, BUFFERS = 1.5, 2**25
OF_RULES = 64  # a heuristic ranks positions: scores, places, and both sorted
ADVICE = "give a smaller batch_size or max_new_tokens, or fewer prompts"


@dataclass(frozen=True)
class Footprint:
    """The most that a row of some requests asks for. Rows side by side are padded to the longest,
    so what several take is not the sum of what each takes alone.

    Attributes:
        size: tokens of the canvas.
        width: S, with padding.
        length: L, positions of the buffer.
        seen: how many of them policies see at once: L, or the block of a block-causal model.
        top_k: probabilities at each.
        features: bytes of the features at each.
        policy: bytes that the policy takes for each.
        text: 1 where a stop string is looked for in the buffer, else 0.
        cached: 1 where it is decoded with `cache`, else 0.
        guided: 1 where it is forwarded without its prompt too, else 0.
        choices: of how many its answer is one; 0 where it may be anything.
        sets: the sets of allowed tokens; rows with the same set share it.
        samplings: how the head treats the rows.
    """

    size: int = 0
    width: int = 0
    length: int = 0
    seen: int = 0
    top_k: int = 1
    features: int = 0
    policy: int = 0
    text: int = 0
    cached: int = 0
    guided: int = 0
    choices: int = 0
    sets: frozenset[tuple[int, ...] | None] = frozenset()
    samplings: frozenset[Sampling] = frozenset()

    def __or__(self, other: Footprint) -> Footprint:
        """That of both."""
        if self == other:
            return self
        both = {
            name: value | getattr(other, name)
            if isinstance(value, frozenset)
            else max(value, getattr(other, name))
            for name, value in vars(self).items()
        }
        return Footprint(**both)


def footprint_of(model: Model, request: Request, least: Needs | None = None) -> Footprint:
    """That of one request.

    Args:
        model: the frozen model.
        request: what is asked.
        least: what is needed beside what the policy reads, for a recorder.
    """
    extent, needs, options = extent_of(model, request), request.needs, request.options
    needs = needs if least is None else needs | least
    return Footprint(
        size=extent.size,
        width=padded_width(model, extent.size),
        length=len(extent.buffer),
        seen=model.attention_block or len(extent.buffer),
        top_k=needs.top_k,
        features=feature_bytes(model, needs),
        policy=policy_bytes(request.policy),
        text=int(bool(options.stop)),
        cached=int(options.cache is not None),
        guided=int(options.cfg_scale > 0),
        choices=len(options.choices),
        sets=frozenset(request.allowed or ()),
        samplings=frozenset({request.sampling}),
    )


def feature_bytes(model: Model, needs: Needs) -> int:
    """Bytes of what a policy reads at one position beside probabilities."""
    return sum(
        model.hidden_size * model.dtype.itemsize if name == "hidden" else 4
        for name in needs.features
    )


def policy_bytes(policy: PolicyLike) -> int:
    """Bytes that a policy takes for each position that it sees."""
    if isinstance(policy, LearnedPolicy):
        return OF_RULES + activation_bytes(policy.network.config)
    return OF_RULES


def group_shapes(widths: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """The largest groups in which rows may be forwarded together: how many rows, and their width.

    `group_by_width` begins a new group where that saves `SPARED` padded positions and the group
    holds at least `ENOUGH`. So beside a row of that many positions there are only rows that are
    less than `SPARED` narrower; beside a shorter one there may be all that are narrower.

    Args:
        widths: of the canvases of all rows that may be in flight.
        rows: how many of them are in flight at most.
    """
    counts = Counter(widths)
    found = []
    for widest in counts:
        least = widest - SPARED + 1 if widest >= ENOUGH else 0
        beside = sum(count for width, count in counts.items() if least <= width <= widest)
        found.append((min(rows, beside), widest))
    return found


def decode_bytes(model: Model, footprint: Footprint, rows: int, widths: Sequence[int] = ()) -> int:
    """The most that rows side by side take at one moment, in bytes: what stays from pass to pass,
    and the largest of what comes and goes.

    * It stays: of the canvas 9 S + 25 L for each row; of the latest proposal 8 + 4 k + features at
      each position that policies see. Twice, as both grow into new tensors. Keys and values, where
      they are kept, at each position of each row, and those of one layer once more. Of answers
      that are restricted a byte for each token of each set, on the host and on the device, and 48
      at each position of each choice, which is twice the tokens and what compares them.
    * A row is opened: its canvas as lists of numbers and as tensors, 32 S + 112 L.
    * A pass: `forward_bytes` or, after it, `head_bytes`; beside them hidden states in parts and put
      together, and a new proposal. Rows of full attention are forwarded in groups of like width
      (`group_shapes`), one after the other; cached ones all at once, as wide as the longest.
    * A decision: what the policy is shown and computes, and some twenty numbers at each of the L
      positions; 48 more where a string may stop the row, as the host looks for it.

    Half as much again is added for holes that allocators leave, and 32 MiB for kernels' buffers.

    Args:
        model: the frozen model.
        footprint: of the requests.
        rows: how many are in flight at most.
        widths: of the canvases of all rows that may be in flight, with padding; none given means
            that all are as wide as the longest.
    """
    f, block = footprint, model.attention_block
    seen, k, passes = rows * f.seen, 4 * f.top_k, rows * (1 + f.guided)
    stays = 2 * rows * (9 * f.width + 25 * f.length) + 2 * seen * (8 + k + f.features)
    keys = f.width if block is None else padded_keys(f.size)
    stays += 2 * len(f.sets) * model.vocabulary + 48 * rows * f.choices * f.length
    if block is not None or f.cached:
        layers = model.network.config.num_hidden_layers
        stays += rows * keys * position_bytes(model) * (layers + 1) // layers
    if block is not None:
        forward = forward_bytes(model, passes, min(keys, max(PREFILL, 2 * block)), keys)
    elif f.cached or not widths:
        forward = forward_bytes(model, passes, keys, keys, bool(f.cached))
    else:
        groups = group_shapes(widths, rows)
        forward = max(forward_bytes(model, n * (1 + f.guided), w, w) for n, w in groups)
    head = max((head_bytes(model, s, seen, f.top_k) for s in f.samplings), default=0)
    hidden = 2 * passes * f.seen * model.hidden_size * model.dtype.itemsize
    opening = rows * (32 * f.width + 112 * f.length)
    proposing = hidden + seen * (24 + 2 * k + f.features) + max(forward, head)
    deciding = rows * f.length * (160 + 48 * f.text) + seen * (3 * k + f.features + f.policy)
    return int(HOLES * (stays + max(opening, proposing, deciding))) + BUFFERS


def held_bytes(canvas: Canvas, proposer: Proposer) -> int:
    """Bytes of what rows in flight hold already, and keep from pass to pass."""
    blocks = proposer.blocks
    stores = [proposer.caching.store] + ([] if blocks is None else [blocks.store])
    tensors = [getattr(canvas, name) for name in KINDS]
    tensors += [proposer.tokens, proposer.confidence, *proposer.features.values()]
    tensors += [stored for store in stores for pair in store.layers for stored in pair]
    return sum(tensor.nbytes for tensor in tensors)


def answer_bytes(length: int) -> int:
    """Bytes of a finished answer of L positions: tokens, reveal steps, and its text."""
    return 24 * length + 512


def decision_bytes(footprint: Footprint) -> int:
    """Bytes of one recorded decision: probabilities, features, what is masked, what is eligible and
    the action at each position that the policy saw."""
    return footprint.seen * (4 * footprint.top_k + footprint.features + 4) + 64


def check_decode(
    model: Model,
    footprint: Footprint,
    batch_size: int,
    answers: int,
    recorded: bool = False,
    advice: str = ADVICE,
    widths: Sequence[int] = (),
) -> None:
    """Refuses a call that cannot fit: its rows in flight, its answers and, where decisions are
    recorded, one for each answer, which is the least there can be.

    Args:
        model: the frozen model.
        footprint: of all requests.
        batch_size: most rows in flight.
        answers: N.
        recorded: whether decisions are recorded.
        advice: what to do.
        widths: of the canvases of all requests, as for `decode_bytes`.

    Raises:
        UnmaskError: if it takes more memory than is free.
    """
    rows = min(batch_size, answers)
    each = answer_bytes(footprint.length) + recorded * decision_bytes(footprint)
    check_memory(
        decode_bytes(model, footprint, rows, widths) + answers * each,
        f"decoding {count_of(answers, 'prompt')}, {rows} at a time, with canvases of "
        f"{describe_sizes(footprint, widths)}",
        advice,
        model.device,
    )


def describe_sizes(footprint: Footprint, widths: Sequence[int]) -> str:
    """How long canvases are, in words."""
    return "up to " * (len(set(widths)) > 1) + count_of(footprint.size, "token")


def join_footprints(found: Sequence[Footprint]) -> Footprint:
    """That of all of some requests."""
    joint = Footprint()
    for each in dict.fromkeys(found):
        joint = joint | each
    return joint
