"""`generate`, `stream` and `infill`: prompts of any kind in, text and its cost out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.decoding.canvas import padded_width
from unmask.decoding.constraints import allowed_ids, check_limits, longest_choice
from unmask.decoding.engine import Engine
from unmask.decoding.footprint import check_decode, footprint_of, join_footprints
from unmask.decoding.generation import Generation, Step, count_answer, row_text
from unmask.decoding.options import DecodeOptions, check_whole, decode_options
from unmask.decoding.prompts import Prompt, encode_prompt, mask_text
from unmask.decoding.recorder import Recorder
from unmask.decoding.request import (
    Request,
    as_token_sets,
    as_tuple,
    check_request,
    with_trained_blocks,
)
from unmask.errors import UnmaskError, count_of
from unmask.models.base import Model, check_model
from unmask.policies.base import PolicyLike
from unmask.policies.load import load_policy
from unmask.rng import row_keys
from unmask.transfer import to_device

Steps = Generator[Step, None, Generation]


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    policy: PolicyLike | str | Path,
    options: DecodeOptions | None = None,
    **settings: Any,
) -> Generation:
    """Answers prompts with a frozen model and an unmasking policy.

    Args:
        model: from `load_model`.
        prompts: each a string, a list of chat messages (`{"role": …, "content": …}`) or a list of
            token ids; of any lengths.
        policy: a policy, a spec or directory for `load_policy`, or a plain function of an
            `Observation` (and a generator) that says which positions to reveal: a bool tensor or
            array [B, L].
        options: lengths, temperature and the like; None takes the defaults.
        settings: the keywords of `stream`: `batch_size` (64 by default), `infill`, `append`,
            `record`, `allowed`, and any field of `DecodeOptions`, which wins over `options`:
            max_new_tokens, block_length, temperature, top_p, top_k, cfg_scale, eos, stop_at_eos,
            stop, choices, max_passes, cache, cache_refresh, seed. LLaDA's `logits_eos_inf` is
            eos="never", its `confidence_eos_eot_inf` is eos="last".

    Raises:
        UnmaskError: if there are no prompts, one cannot be read, or an argument is out of range.

    Examples:
        >>> model = unmask.load_model("embedded/chain")
        >>> unmask.generate(model, ["7 a +5 b *3 ="], "threshold:0.9", max_new_tokens=48).text
        ['a then 7 +5 gives 2 . b then 2 *3 gives 6 . # 6']
    """
    return finish(stream(model, prompts, policy, options, **settings))


def infill(
    model: Model,
    prompts: Sequence[Prompt],
    policy: PolicyLike | str | Path,
    options: DecodeOptions | None = None,
    **settings: Any,
) -> Generation:
    """Fills the mask tokens in texts, and nothing else.

    Args:
        model: from `load_model`.
        prompts: texts, chats or token ids that hold mask tokens.
        policy: as for `generate`.
        options: as for `generate`; `max_new_tokens` is not used. A block length counts masks, not
            positions of the text.
        settings: as for `generate`.

    Returns:
        A generation whose rows of `tokens` are the filled positions in order, padded behind with
        the end-of-text token where other prompts have more; `text` is the whole text.

    Raises:
        UnmaskError: as `generate`, and if a prompt holds no mask token.

    Examples:
        >>> model = unmask.load_model("embedded/chain")
        >>> mask = model.tokenizer.mask_token
        >>> prompt = f"7 a +5 b *3 = a then 7 +5 gives {mask} . b then 2 *3 gives {mask} . # 6"
        >>> unmask.infill(model, [prompt], "confidence:1").text
        ['7 a +5 b *3 = a then 7 +5 gives 2 . b then 2 *3 gives 6 . # 6']
    """
    return generate(model, prompts, policy, options, infill=True, **settings)


def stream(
    model: Model,
    prompts: Sequence[Prompt],
    policy: PolicyLike | str | Path,
    options: DecodeOptions | None = None,
    *,
    batch_size: int = 64,
    infill: bool = False,
    append: int = 0,
    record: bool = False,
    keys: Sequence[int] | None = None,
    allowed: Any = None,
    **settings: Any,
) -> Steps:
    """`generate`, step by step: yields a `Step` after each pass, and may be closed at any time.

    Args:
        model: from `load_model`.
        prompts: as for `generate`.
        policy: as for `generate`.
        options: as for `generate`.
        batch_size: rows decoded side by side; changes the speed, never the result.
        infill: the prompts hold mask tokens, and only those are filled; see `infill`.
        append: with `infill`, put so many mask tokens behind each prompt, to be filled too.
        record: keep every decision in `Generation.transitions`.
        keys: what each prompt's random numbers depend on, one each; None takes those of
            `unmask.rng.row_keys`. For a part of the prompts of a whole.
        allowed: for each position of the answers from the first on, the tokens that may stand there
            (token ids, or texts of one token), or None for any; positions behind the last entry
            are free. Also a bool tensor or array [positions, V]. It holds for every prompt.
        settings: any field of `DecodeOptions` by keyword, as for `generate`.

    Returns:
        A generator of steps, whose own return value is the `Generation` (`unmask.decoding.finish`
        runs it to its end and gives that).

    Raises:
        UnmaskError: as `generate`, at the call.

    Examples:
        >>> from unmask.decoding import text_so_far
        >>> model = unmask.load_model("embedded/chain")
        >>> for step in unmask.stream(model, ["7 a +5 ="], "confidence:24", max_new_tokens=48):
        ...     text = text_so_far(model, step.tokens[0])  # · where nothing is known yet
    """
    chosen = decode_options(options, settings)
    check_model(model)
    for name, value in (("infill", infill), ("record", record)):
        if not isinstance(value, bool):
            raise UnmaskError(f"{name} is {value!r}; give True or False")
    check_whole("append", append, 0)
    if append and not infill:
        raise UnmaskError(
            f"append is {append} without infill; it puts masks behind prompts that hold some, and "
            "max_new_tokens says how long an answer is"
        )
    check_prompts(prompts)
    if infill:
        chosen = replace(chosen, max_new_tokens=None)
    elif chosen.max_new_tokens is None and chosen.choices:
        chosen = chosen.with_length(longest_choice(model, chosen.choices))
    if not infill and chosen.max_new_tokens is None:
        raise UnmaskError(
            "max_new_tokens is missing; give the length of the answers, or infill=True for prompts "
            "that hold masks"
        )
    loaded: Any = policy
    if isinstance(policy, str | Path):
        loaded = load_policy(policy, device=model.device)
    chosen = with_trained_blocks(model, loaded, chosen)
    behind = [model.mask_id] * append
    ids = [encode_prompt(model, prompt, infill=infill) + behind for prompt in prompts]
    pairs = zip(ids, prompts, strict=True)
    holes = [find_holes(model, row, prompt) for row, prompt in pairs] if infill else None
    return decode_steps(
        model,
        ids,
        loaded,
        chosen,
        batch_size=batch_size,
        keys=keys,
        holes=holes,
        recorder=Recorder() if record else None,
        allowed=None if allowed is None else allowed_ids(model, allowed),
    )


def check_prompts(prompts: Any) -> None:
    """Refuses what is no list of prompts.

    Raises:
        UnmaskError: if so.
    """
    if isinstance(prompts, str):
        raise UnmaskError(
            f"prompts is the text {shorten(repr(prompts), 60)}; give a list of prompts: [text]"
        )
    if isinstance(prompts, Tensor | np.ndarray):
        raise UnmaskError(
            f"prompts is an array {list(prompts.shape)}; give a list of prompts: list(ids) where "
            "no row is padded"
        )
    if not isinstance(prompts, Sequence):
        raise UnmaskError(f"prompts is {shorten(repr(prompts), 60)}; give a list of prompts")


def find_holes(model: Model, row: Sequence[int], prompt: Prompt) -> list[int]:
    """The positions of a prompt's mask tokens.

    Raises:
        UnmaskError: if there are none.
    """
    found = [i for i, token in enumerate(row) if token == model.mask_id]
    if not found:
        raise UnmaskError(
            f"the prompt {shorten(repr(prompt), 60)} holds no mask token ({mask_text(model)}); "
            "infilling needs one in each prompt"
        )
    return found


def decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    policy: PolicyLike,
    *arguments: Any,
    **settings: Any,
) -> Generation:
    """`decode_steps`, run to its end; takes the same arguments."""
    return finish(decode_steps(model, prompts, policy, *arguments, **settings))


def decode_steps(
    model: Model,
    prompts: Sequence[Sequence[int]],
    policy: PolicyLike,
    options: DecodeOptions | None = None,
    *,
    batch_size: int = 64,
    keys: Sequence[int] | None = None,
    alpha: Sequence[float] | Tensor | None = None,
    holes: Sequence[Sequence[int]] | None = None,
    recorder: Recorder | None = None,
    allowed: Any = None,
    **settings: Any,
) -> Steps:
    """Answers prompts of token ids with one policy, step by step: submits all, steps until done.

    Args:
        model: the frozen model.
        prompts: token ids, N lists of any lengths.
        policy: decides what to reveal.
        options: as for `generate`.
        batch_size: rows in flight.
        keys: what each row's randomness depends on, N numbers; None takes `row_keys(prompts,
            seed)`. (For a part of the rows of a whole.)
        alpha: N numbers, what each row's policy is told to act for, if it was trained for many.
        holes: the positions of each prompt that hold masks, for infilling.
        recorder: keeps the decisions, which the generation then has as `transitions`.
        allowed: the token ids that may stand at each position, as `Request.allowed`.
        settings: as for `generate`.

    Raises:
        UnmaskError: as `generate`, at the call.
    """
    chosen = decode_options(options, settings)
    check_model(model)
    check_prompts(prompts)
    n = len(prompts)
    if n < 1:
        raise UnmaskError(f"no prompts were given ({n}); give at least 1")
    for name, values in (("keys", keys), ("alpha", alpha), ("holes", holes)):
        if values is None:
            continue
        if not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
            given = shorten(repr(values), 60)
            raise UnmaskError(f"{name} is {given}; give one for each prompt, in a list")
        if len(values) != n:
            raise UnmaskError(
                f"{name} has {count_of(len(values), 'entry', 'entries')}; give one for each of "
                f"{count_of(n, 'prompt')}"
            )
    if recorder is not None and holes is not None and len({len(row) for row in holes}) > 1:
        raise UnmaskError(
            "infilling with record=True needs equally many masks in every prompt; call it for each "
            "number of masks apart"
        )
    rows = [as_tuple("a prompt", prompt) for prompt in prompts]
    own = row_keys(rows, chosen.seed) if keys is None else list(keys)
    told = alpha.tolist() if isinstance(alpha, Tensor) else alpha
    sets = None if allowed is None else as_token_sets(allowed, model.vocabulary)

    def request(row: int) -> Request:
        return Request(
            rows[row],
            policy,
            chosen,
            own[row],
            None if told is None else told[row],
            None if holes is None else as_tuple("holes", holes[row]),
            sets,
        )

    engine = Engine(model, batch_size, recorder)
    sizes, footprints = [], {}
    for row in range(n):  # everything is checked before anything runs
        made = request(row)
        check_request(model, made)
        check_limits(model, made)
        sizes.append((padded_width(model, made.size), made.length, made.size))
        if sizes[-1] not in footprints:  # rows differ in nothing else
            footprints[sizes[-1]] = footprint_of(model, made, engine.least)
    # Longest rows first: those side by side are of like length, so little is padded.
    order = sorted(range(n), key=lambda row: -sizes[row][0])
    longest = max(length for _, length, _ in sizes)
    footprint = join_footprints(list(footprints.values()))
    widths = [width for width, _, _ in sizes]
    check_decode(model, footprint, batch_size, n, recorder is not None, widths=widths)
    warn_of_length(model, max(size for _, _, size in sizes))
    return run_requests(engine, request, order, longest)


def warn_of_length(model: Model, size: int) -> None:
    """Warns of a canvas that is longer than those the model was made for."""
    trained = getattr(model.network.config, "max_position_embeddings", None)
    if isinstance(trained, int) and size > trained:
        warnings.warn(
            f"a prompt and its buffer have {size} tokens, and this model was made for {trained}; "
            "its answers may be worse",
            stacklevel=2,
        )


def run_requests(
    engine: Engine, request: Callable[[int], Request], order: Sequence[int], longest: int
) -> Steps:
    """Submits rows in an order, steps until all are done, and puts the results together.

    Args:
        engine: a new one.
        request: makes the request of a row; it is asked for again whenever a row is needed, so that
            memory holds few of them.
        order: the row numbers, 0 to N − 1, in the order of submission.
        longest: L of the longest buffer.
    """
    model, n, device = engine.model, len(order), engine.model.device
    numbers = to_device(order, device)
    tokens = torch.full((n, longest), model.eos_ids[0], device=device)
    reveal_step, nfe = torch.full_like(tokens, -1), [0] * n
    waiting = iter(order)
    while True:
        for row in islice(waiting, engine.room):
            engine.submit(request(row))
        step = engine.step()
        if step is None:
            break
        results = tuple(replace(r, ticket=order[r.ticket]) for r in step.results)
        for result in results:
            row, length = result.ticket, result.request.length
            tokens[row, :length], reveal_step[row, :length] = result.tokens, result.reveal_step
            nfe[row] = result.nfe
            if result.error:
                asked = shorten(repr(model.tokenizer.decode(list(result.request.prompt))), 60)
                raise UnmaskError(f"prompt {asked}: {result.error}")
        yield replace(step, rows=numbers[step.rows], results=results)
    if engine.recorder is not None:
        engine.recorder.number_rows(numbers)
    text, answer_tokens, left = [], [], 0
    # Row by row: as lists, all at once would take many times the memory of the tensors.
    for row, (buffer, steps) in enumerate(zip(tokens.cpu(), reveal_step.cpu(), strict=True)):
        asked, buffer, steps = request(row), buffer.tolist(), steps.tolist()
        text.append(row_text(model, asked, buffer))
        answer_tokens.append(count_answer(model, asked, buffer, steps))
        left += asked.options.max_passes is None and model.mask_id in buffer
    if left and engine.recorder is None:
        warnings.warn(
            f"{left} of {n} answers still hold masks, which their text leaves out: the policy "
            "revealed nothing in some passes; let it reveal a position in each",
            stacklevel=2,
        )
    return Generation(
        tokens,
        text,
        torch.tensor(nfe, device=device),
        reveal_step,
        torch.tensor(answer_tokens, device=device),
        engine.cost,
        engine.recorder,
    )


def finish(steps: Steps, see: Callable[[Step], None] = lambda step: None) -> Generation:
    """Runs a stream of steps to its end, showing each to `see`; what it returns."""
    while True:
        try:
            see(next(steps))
        except StopIteration as end:
            return end.value
