"""The decoder: alternates the frozen model's proposals and the policy's decisions until nothing is
masked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.caching import Caching, check_cache
from unmask.decoding.options import DecodeOptions, decode_options
from unmask.errors import UnmaskError
from unmask.models import Model, Proposal
from unmask.models.cache import KeyValues
from unmask.policies import Observation, Policy, current_block
from unmask.rng import RowGenerator, mix, row_keys


@dataclass(frozen=True)
class Transitions:
    """Every decision of a call, in the order taken; T is the sum of the rows' NFE.

    Attributes:
        row: int64 [T], which row decided.
        observation: what it saw, T rows.
        action: int16 [T, L], what it revealed: 0 where nothing, else the place in the policy's
            order, or 1 where it has none.
    """

    row: Int[Tensor, " T"]
    observation: Observation
    action: Int[Tensor, "T L"]


@dataclass(frozen=True)
class Generation:
    """What a call of `generate` or `decode` gives for N prompts.

    Attributes:
        tokens: int64 [N, L], the generation buffer; the mask token where the step limit came first
            (never at inference).
        text: the decoded buffers up to the first end-of-text token, special tokens and masks
            dropped.
        nfe: int64 [N], forward passes each row was part of while it had something to reveal.
        reveal_step: int64 [N, L], the step that revealed each position, from 0; −1 never.
        answer_tokens: int64 [N], tokens before the first end-of-text token: what tokens per forward
            are counted with.
        model_calls: forward passes of batches that were really run.
        rows_forwarded: rows in them. Fewer than the sum of `nfe` where rows were shared or had not
            changed.
        positions_forwarded: positions in them, padding included.
        padding_forwarded: how many of those were padding.
        transitions: the decisions, if they were asked for.
    """

    tokens: Int[Tensor, "N L"]
    text: list[str]
    nfe: Int[Tensor, " N"]
    reveal_step: Int[Tensor, "N L"]
    answer_tokens: Int[Tensor, " N"]
    model_calls: int
    rows_forwarded: int
    positions_forwarded: int
    padding_forwarded: int
    transitions: Transitions | None = None


@dataclass(frozen=True)
class Step:
    """What `stream` yields after each step. Its tensors are not changed afterwards.

    Attributes:
        rows: int64 [B], the rows that took part.
        tokens: int64 [B, L], their buffers after the step: committed tokens, and masks.
        fresh: bool [B, L], what the step revealed.
        proposals: int64 [B, L], what the model proposed in the step, for every position that the
            policy could choose from.
        finished: bool [B], which rows are done.
    """

    rows: Int[Tensor, " B"]
    tokens: Int[Tensor, "B L"]
    fresh: Bool[Tensor, "B L"]
    proposals: Int[Tensor, "B L"]
    finished: Bool[Tensor, " B"]


@dataclass
class Recorder:
    """Keeps every decision of a decode, for training.

    Attributes:
        observer: what this policy reads is recorded too, although another one decides; used when an
            expert's rollout trains it. None records what the deciding policy reads.
    """

    observer: Policy | None = None


def decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    policy: Policy,
    options: DecodeOptions | None = None,
    *,
    batch_size: int = 64,
    keys: Sequence[int] | None = None,
    alpha: Sequence[float] | Tensor | None = None,
    recorder: Recorder | None = None,
    **settings: Any,
) -> Generation:
    """Answers prompts of token ids with one policy (a stand-in until the engine is there)."""
    chosen = vars(decode_options(options, settings)).copy()
    for name in ("top_p", "top_k", "stop", "max_passes"):
        chosen.pop(name)
    rows = torch.as_tensor(alpha, dtype=torch.float32) if alpha is not None else None
    steps = decode_steps(
        model,
        prompts,
        policy,
        batch_size=batch_size,
        keys=keys,
        alpha=rows,
        record=recorder is not None,
        observer=recorder.observer if recorder else None,
        **chosen,
    )
    return finish(steps)


def finish(
    steps: Generator[Step, None, Generation], see: Callable[[Step], None] = lambda step: None
) -> Generation:
    """Runs a stream of steps to its end, showing each to `see`; what it returns."""
    while True:
        try:
            see(next(steps))
        except StopIteration as end:
            return end.value


@torch.inference_mode()
def decode_steps(
    model: Model,
    prompts: Sequence[Sequence[int]],
    policy: Policy,
    *,
    max_new_tokens: int,
    block_length: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    keys: Sequence[int] | None = None,
    cfg_scale: float = 0.0,
    eos: str = "free",
    stop_at_eos: bool = False,
    holes: Sequence[Sequence[int]] | None = None,
    alpha: Tensor | None = None,
    observer: Policy | None = None,
    record: bool = False,
    cache: str | None = None,
    cache_refresh: int | None = None,
) -> Generator[Step, None, Generation]:
    """Fills a buffer of L = `max_new_tokens` masked positions behind each prompt; yields after each
    step, and may be closed at any time.

    Rows are independent: each has its own block, its own randomness (keyed by its tokens and the
        seed) and its own end. A finished row
    leaves the batch at once and the next prompt, in the order of falling length, takes its place.
    Rows with equal canvases are forwarded once, and a row that revealed nothing keeps its
    proposals. Both count as NFE all the same.

    Args:
        model: the frozen model.
        prompts: token ids, N lists of any lengths.
        policy: decides what to reveal.
        max_new_tokens: L, also the limit of steps.
        block_length: BL, from 1 to L, not necessarily a divisor; None is full diffusion (BL = L).
        temperature: τ of the frozen model.
        batch_size: how many rows are decoded side by side.
        seed: of everything random.
        keys: what each row's randomness depends on, N numbers; None takes `row_keys(prompts,
            seed)`. (For a part of the rows of a whole.)
        cfg_scale: weight of classifier-free guidance; 0 is none. A guided step forwards each row
            twice and still costs one NFE.
        eos: "free", "never" or "last", how `Model.propose` treats end-of-text tokens.
        stop_at_eos: a row is finished once an end-of-text token is revealed and all before it is;
            the rest of its buffer becomes end-of-text, with `reveal_step` −1.
        holes: L positions of each prompt that hold masks; they are the buffer then, and nothing is
            put behind the prompt (infilling).
        alpha: fp32 [N], what each row's policy is told to act for, if it was trained for many.
        observer: a policy that the recorded observations must suffice for too (an expert decides,
            the policy that learns looks on).
        record: keep the transitions.
        cache: "prefix" forwards only the current block and what is behind it, "dual" only the block
            (Fast-dLLM): an approximation, since keys, values, proposals and confidences elsewhere
            stay as they were when the row entered its block. None is exact.
        cache_refresh: forward a row whole again after so many of its steps, too; 1 is exact. None
            refreshes at block borders only.

    Raises:
        UnmaskError: if an argument is out of range or there are no prompts.
    """
    length, n = max_new_tokens, len(prompts)
    block_length = length if block_length is None else block_length
    check_arguments(n, length, block_length, temperature, batch_size)
    check_guidance(cfg_scale, eos)
    check_cache(model, cache, cache_refresh, cfg_scale)
    device = model.device
    k = max(getattr(p, "inputs", 1) for p in (policy, observer))
    needs = policy.needs | (observer.needs if observer else frozenset())
    # Heuristics look at eligible positions only: then the head runs on those alone, in semi-AR a
    # small part of the buffer.
    local = getattr(policy, "local", False) and not record
    alpha = None if alpha is None else alpha.to(device)

    # Prompt, buffer, padding. Padding is on the right, so positions start at each prompt's first
    # token. Widths are multiples of 16: then,
    # up to 192 tokens, the attention kernels of CPUs give a row the same bits whatever it is
    # batched with (lab book).
    behind = length if holes is None else 0
    sizes = torch.tensor([len(prompt) + behind for prompt in prompts])
    tokens_of = sizes.tolist()
    widths = [padded_width(model, size) for size in tokens_of]
    limit, longest = model.max_positions, int(sizes.max())
    if limit is not None and longest > limit:
        raise UnmaskError(
            f"a prompt and its buffer have {longest} tokens; this model takes {limit}, so shorten "
            "one of them"
        )
    canvas = torch.full((n, max(widths)), model.pad_id)
    for i, prompt in enumerate(prompts):
        canvas[i, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        canvas[i, len(prompt) : len(prompt) + behind] = model.mask_id
    canvas, sizes = canvas.to(device), sizes.to(device)
    where = (
        sizes[:, None] - length + torch.arange(length, device=device)
        if holes is None
        else torch.tensor(holes, device=device)
    )
    inside = torch.arange(max(widths), device=device) < sizes[:, None]
    given = inside.scatter(1, where, False)  # the prompt, which guidance hides
    ends = torch.tensor(model.eos_ids, device=device)
    row_key = torch.tensor(row_keys(prompts, seed) if keys is None else keys, device=device)
    # Only rows with equal prompts can ever have equal canvases; at temperature 0 those are
    # forwarded once.
    first_like = {tuple(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}
    group = [first_like[tuple(prompt)] for prompt in prompts]
    shared = temperature == 0 and len(first_like) < n and cache is None

    reveal_step = torch.full((n, length), -1, device=device)
    nfe = torch.zeros(n, dtype=torch.long, device=device)
    proposed = torch.full((n, length), model.mask_id, device=device)
    confidence = torch.zeros(n, length, k, device=device)
    features: dict[str, Tensor] = {}
    model_calls = rows_forwarded = positions_forwarded = padding_forwarded = 0
    recorded: list[tuple[Tensor, Observation, Tensor]] = []

    # Longest rows first: those side by side are of like length, so little is padded. `order` and
    # what else is a list lives on the host.
    order = sorted(range(n), key=lambda row: -widths[row])
    current, admitted = order[:batch_size], min(batch_size, n)
    caching = None
    if cache is not None:
        store = KeyValues(min(batch_size, n), max(widths))
        caching = Caching(
            cache, cache_refresh, block_length, model.shift, where.tolist(), tokens_of, store
        )
        caching.enter(current)
    changed = current  # rows whose canvas changed since their last proposal
    canvases: list[Any] = list(group)  # what tells the canvases of rows apart
    while current:
        active = torch.tensor(current, device=device)
        masked = reveal_step[active] < 0
        eligible = current_block(masked, block_length)
        for part, cached in (
            caching.parts(changed)
            if caching
            else [(part, False) for part in alike(changed, widths)]
        ):
            if not part:
                continue
            unique = {canvases[row]: row for row in part} if shared else {}
            forwarded = list(unique.values()) if shared else part
            rows = (
                active if len(forwarded) == len(current) else torch.tensor(forwarded, device=device)
            )
            width, view, needed = max(widths[row] for row in forwarded), None, None
            if local:
                needed = (
                    eligible
                    if rows is active
                    else current_block(reveal_step[rows] < 0, block_length)
                )
            if caching:
                view = caching.view(forwarded, cached, device)
                width = max(widths)
            if view is not None and cached:
                reached = view.reached((where[rows] - int(model.shift)).clamp(min=0))[0]
                needed = reached if needed is None else needed & reached
            proposal = model.propose(
                canvas[rows, :width],
                inside[rows, :width],
                where[rows],
                needed=needed,
                needs=needs,
                k=k,
                temperature=temperature,
                generator=RowGenerator(row_key[rows]),
                unconditional=canvas[rows, :width].masked_fill(given[rows, :width], model.mask_id)
                if cfg_scale
                else None,
                cfg_scale=cfg_scale,
                eos=eos,
                view=view,
            )
            if cached and needed is not None:  # what was not reached stays as it was
                old = {name: features[name][rows] for name in proposal.features}
                proposal = proposal.where(needed, Proposal(proposed[rows], confidence[rows], old))
            to, spread = rows, slice(None)
            if len(forwarded) < len(part):
                place = {canvases[row]: i for i, row in enumerate(forwarded)}
                to, spread = (
                    torch.tensor(part, device=device),
                    torch.tensor([place[canvases[row]] for row in part], device=device),
                )
            proposed[to] = proposal.tokens[spread]
            confidence[to] = proposal.confidence[spread]
            for name, values in proposal.features.items():
                features.setdefault(name, values.new_zeros(n, *values.shape[1:]))[to] = values[
                    spread
                ]
            model_calls += 1
            passes = 2 if cfg_scale else 1
            rows_forwarded += len(forwarded) * passes
            if cached and view is not None and view.queries is not None:
                positions_forwarded += view.queries.numel()
            else:
                positions_forwarded += len(forwarded) * width * passes
                padding_forwarded += sum(width - tokens_of[row] for row in forwarded) * passes

        seen = {name: values[active] for name, values in features.items()}
        told = None if alpha is None else alpha[active]
        step = nfe[active]
        observation = Observation(confidence[active], masked, eligible, step, length, seen, told)
        decided = policy.act(observation, RowGenerator(row_key[active]))
        action = (decided > 0) & eligible
        if record:
            recorded.append((active, observation, (decided * eligible).short()))

        proposals = proposed[active]
        buffer = torch.where(action, proposals, canvas[active].gather(1, where[active]))
        left = masked & ~action
        going = left.any(1) & (step + 1 < length)
        final = buffer
        if stop_at_eos:
            ended = (torch.isin(buffer, ends) & ~left & (left.cumsum(1) == 0)).any(1)
            final = torch.where(left & ended[:, None], ends[0], buffer)
            going &= ~ended
        canvas[active] = canvas[active].scatter(1, where[active], final)
        reveal_step[active] = torch.where(action, step[:, None], reveal_step[active])
        nfe[active] = step + 1
        yield Step(active, buffer, action, proposals, ~going)

        # The one time in a step that the host waits: who goes on, whose canvas changed, and a hash
        # of it if rows may be equal.
        first = left.int().argmax(1) // block_length
        report = [
            going.long(),
            action.any(1).long(),
            first,
            *([fingerprint(buffer)] if shared else []),
        ]
        going, moved, blocks, *prints = torch.stack(report).tolist()
        if caching:
            for row, number, goes in zip(current, blocks, going, strict=True):
                caching.move(row, number, bool(goes))
        if shared:
            for row, mark in zip(current, prints[0], strict=True):
                canvases[row] = (group[row], mark)
        changed = [
            row for row, goes, fresh in zip(current, going, moved, strict=True) if goes and fresh
        ]
        current = [row for row, goes in zip(current, going, strict=True) if goes]
        new = order[admitted : admitted + batch_size - len(current)]
        admitted += len(new)
        if caching:
            caching.enter(new)
        current, changed = current + new, changed + new

    tokens = canvas.gather(1, where)
    transitions = None
    if record:
        rows, observations, actions = zip(*recorded, strict=True)
        transitions = Transitions(
            torch.cat(rows), Observation.cat(list(observations)), torch.cat(actions)
        )
    ended = torch.isin(tokens, ends)
    answer_tokens = torch.where(ended.any(1), ended.int().argmax(1), length)
    text = (
        texts(model, tokens)
        if holes is None
        else model.tokenizer.batch_decode(
            [row[:size] for row, size in zip(canvas.tolist(), tokens_of, strict=True)],
            skip_special_tokens=True,
        )
    )
    forwarded = (model_calls, rows_forwarded, positions_forwarded, padding_forwarded)
    return Generation(tokens, text, nfe, reveal_step, answer_tokens, *forwarded, transitions)


def padded_width(model: Model, size: int) -> int:
    """The width of a canvas for rows of up to `size` tokens: a multiple of 16, with a column of
    padding where the kernels need one to use a mask at all, and within what the model takes."""
    width = -(-size // 16) * 16 if model.full_attention else size // 16 * 16 + 16
    return width if model.max_positions is None else max(size, min(width, model.max_positions))


def alike(rows: Sequence[int], widths: Sequence[int]) -> list[list[int]]:
    """Rows, by falling width, in parts to forward apart: a new one begins where that spares the
    rows from there on 128 positions of padding or more (a pass of its own costs that), and the part
    before has 512 positions, enough for a pass to be worth its while."""
    parts: list[list[int]] = []
    for i, row in enumerate(rows):
        widest = widths[parts[-1][0]] if parts else 0
        spared = (widest - widths[row]) * (len(rows) - i)
        narrower = (
            i > 0 and widths[row] < widths[rows[i - 1]]
        )  # rows that may share a pass stay together
        if i == 0 or (narrower and spared >= 128 and widest * len(parts[-1]) >= 512):
            parts.append([])
        parts[-1].append(row)
    return parts


def fingerprint(tokens: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
    """A 64-bit hash of each row's tokens: equal rows have equal ones, and others do not but for
    chance (1 in 2^60)."""
    return mix(
        mix(tokens) * (2 * mix(torch.arange(tokens.shape[1], device=tokens.device)) + 1)
    ).sum(1)


def texts(model: Model, tokens: Int[Tensor, "N L"]) -> list[str]:
    """Decoded buffers: up to the first end-of-text token, without masks and other special
    tokens."""
    rows = tokens.tolist()
    ends = [
        next((i for i, token in enumerate(row) if token in model.eos_ids), len(row)) for row in rows
    ]
    kept = [
        [token for token in row[:end] if token not in model.never_ids]
        for row, end in zip(rows, ends, strict=True)
    ]
    return model.tokenizer.batch_decode(kept, skip_special_tokens=True)


def check_arguments(
    n: int, length: int, block_length: int, temperature: float, batch_size: int
) -> None:
    """One clear sentence for each argument of `decode` that cannot be used."""
    if n < 1:
        raise UnmaskError(f"no prompts were given ({n}); give at least 1")
    if length < 1:
        raise UnmaskError(f"max_new_tokens is {length}; give at least 1")
    if not 1 <= block_length <= length:
        raise UnmaskError(f"block_length is {block_length}; give 1 to max_new_tokens ({length})")
    if not 0 <= temperature < float("inf"):
        raise UnmaskError(f"temperature is {temperature:g}; give 0 (greedy) or more")
    if batch_size < 1:
        raise UnmaskError(f"batch_size is {batch_size}; give at least 1")


def check_guidance(cfg_scale: float, eos: str) -> None:
    """The same for guidance and end-of-text tokens."""
    if not 0 <= cfg_scale < float("inf"):
        raise UnmaskError(f"cfg_scale is {cfg_scale:g}; give 0 (no guidance) or more")
    if eos not in ("free", "never", "last"):
        raise UnmaskError(f"eos is {eos!r}; give free, never or last")
