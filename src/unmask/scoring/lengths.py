"""Infilling of unknown length: each length of a range is tried, and the likeliest filling kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unmask.decoding.calls import check_prompts, decode, find_holes
from unmask.decoding.generation import count_answer, row_text
from unmask.decoding.options import DecodeOptions, check_whole, decode_options
from unmask.decoding.prompts import Prompt, encode_prompt, mask_text
from unmask.decoding.request import Request, with_trained_blocks
from unmask.errors import UnmaskError, count_of, short_text
from unmask.models.base import Model, check_model
from unmask.policies.base import PolicyLike
from unmask.policies.load import load_policy
from unmask.rng import row_keys
from unmask.scoring.likelihood import bound_likelihood, check_samples
from unmask.scoring.texts import Text

MOST_LENGTHS = 1000


@dataclass(frozen=True)
class Filling:
    """A gap that was filled with as many tokens as are likeliest.

    Attributes:
        text: the whole text.
        tokens: what fills the gap; `length` token ids.
        answer_tokens: how many of them were revealed before the first end of text.
        nfe: forward passes of all lengths together; scoring is not in it.
        per_token: the mean log-likelihood of a token (nats, LLaDA's bound) of each length tried.
    """

    text: str
    tokens: tuple[int, ...]
    answer_tokens: int
    nfe: int
    per_token: dict[int, float]

    @property
    def length(self) -> int:
        """How many tokens fill the gap."""
        return len(self.tokens)


def infill_lengths(
    model: Model,
    prompts: Sequence[Prompt],
    policy: PolicyLike | str | Path,
    lengths: tuple[int, int],
    options: DecodeOptions | None = None,
    *,
    samples: int = 32,
    batch_size: int = 64,
    keys: Sequence[int] | None = None,
    **settings: Any,
) -> list[Filling]:
    """Fills one gap in each text with as many tokens as are likeliest.

    Each length of the range is decoded, and of the fillings the one with the largest mean
    log-likelihood of a token is kept, the shortest of equal ones: LLaDA's bound of the gap's tokens
    given all the others. No end of text is proposed unless `eos` says so, as the length says where
    the gap ends.

    Args:
        model: from `load_model`; it must see the text behind a gap, so none is block-causal.
        prompts: as for `infill`, each with one mask token, which stands for the gap.
        policy: as for `generate`.
        lengths: the least and the greatest number of tokens.
        options: as for `generate`.
        samples: masks for the bound of each filling; see `bound_likelihood`.
        batch_size: rows side by side; it changes the speed, never the result.
        keys: what each prompt's random numbers depend on, as for `stream`.
        settings: fields of `DecodeOptions`, which win over `options`.

    Raises:
        UnmaskError: as `infill`; if a prompt has more than one mask token, the range is none, or
            the policy leaves masks in a gap.

    Examples:
        >>> from unmask.scoring import infill_lengths
        >>> model = unmask.load_model("embedded/chain")
        >>> infill_lengths(model, ["7 a <mask> = 2"], "confidence:1", (1, 4))[0].text
        '7 a ... = 2'
    """
    check_model(model)
    chosen = gap_options(options, settings)
    low, high = check_lengths(lengths)
    check_samples(samples)
    check_rows(prompts, keys)
    loaded: Any = policy
    if isinstance(policy, str | Path):
        loaded = load_policy(policy, device=model.device)
    chosen = with_trained_blocks(model, loaded, chosen)
    gaps = [split_gap(model, prompt) for prompt in prompts]
    if keys is None:
        keys = row_keys([(*before, model.mask_id, *behind) for before, behind in gaps], chosen.seed)
    rows, holes, row_key = [], [], []
    for (before, behind), key in zip(gaps, keys, strict=True):
        row_key += [key] * (high - low + 1)
        for length in range(low, high + 1):
            rows.append((*before, *[model.mask_id] * length, *behind))
            holes.append(tuple(range(len(before), len(before) + length)))
    found = decode(model, rows, loaded, chosen, batch_size=batch_size, holes=holes, keys=row_key)
    buffers, nfe = found.tokens.tolist(), found.nfe.tolist()
    steps = found.reveal_step.tolist()
    filled = [tuple(buffer[: len(hole)]) for buffer, hole in zip(buffers, holes, strict=True)]
    if any(model.mask_id in tokens for tokens in filled):
        raise UnmaskError(
            "the policy left masks in a gap, which has no likelihood then; let it reveal a "
            "position in each pass"
        )
    texts = []
    for row, hole, tokens in zip(rows, holes, filled, strict=True):
        texts.append(Text((*row[: hole[0]], *tokens, *row[hole[-1] + 1 :]), hole))
    scores = bound_likelihood(
        model, texts, samples=samples, seed=chosen.seed, batch_size=batch_size
    )
    fillings, tried = [], high - low + 1
    for first in range(0, len(rows), tried):
        mine = range(first, first + tried)
        best = max(mine, key=lambda i: scores[i].per_token)
        request = Request(rows[best], loaded, chosen, holes=holes[best])
        fillings.append(
            Filling(
                row_text(model, request, filled[best]),
                filled[best],
                count_answer(model, request, filled[best], steps[best]),
                sum(nfe[i] for i in mine),
                {len(holes[i]): scores[i].per_token for i in mine},
            )
        )
    return fillings


def gap_options(options: DecodeOptions | None, settings: Mapping[str, Any]) -> DecodeOptions:
    """How gaps are filled: whole, and with no end of text unless `eos` says so.

    Raises:
        UnmaskError: for an option that cannot be used, or that ends an answer early.
    """
    chosen = decode_options(options, settings)
    ends = ["choices", "max_passes", "stop", *(["stop_at_eos"] if chosen.eos == "last" else [])]
    if given := [name for name in ends if getattr(chosen, name)]:
        raise UnmaskError(
            f"{given[0]} was given for a gap of unknown length; leave it out, as each length is "
            "filled whole"
        )
    eos = "never" if chosen.eos == "free" else chosen.eos
    return replace(chosen, eos=eos, max_new_tokens=None)


def check_rows(prompts: Any, keys: Any) -> None:
    """Refuses what is no list of prompts, or keys that are not one for each of them.

    Raises:
        UnmaskError: if so.
    """
    check_prompts(prompts)
    if not prompts:
        raise UnmaskError("no prompts were given; give at least one prompt")
    if keys is not None and not (isinstance(keys, Sequence) and len(keys) == len(prompts)):
        raise UnmaskError(
            f"keys is {short_text(repr(keys))}; give a list of one whole number for each of "
            f"{count_of(len(prompts), 'prompt')}"
        )


def check_lengths(lengths: tuple[int, int]) -> tuple[int, int]:
    """The least and the greatest length of a gap.

    Raises:
        UnmaskError: if they are no range.
    """
    if not isinstance(lengths, Sequence) or len(lengths) != 2:
        raise UnmaskError(f"lengths is {lengths!r}; give the least and the greatest length")
    low, high = lengths
    check_whole("the least length", low, 1)
    check_whole("the greatest length", high, low, low + MOST_LENGTHS - 1)
    return low, high


def split_gap(model: Model, prompt: Prompt) -> tuple[list[int], list[int]]:
    """The tokens before and behind the one mask token of a prompt.

    Raises:
        UnmaskError: if it holds none, or several.
    """
    ids = encode_prompt(model, prompt, infill=True)
    holes = find_holes(model, ids, prompt)
    if len(holes) > 1:
        raise UnmaskError(
            f"a prompt holds {len(holes)} mask tokens; write {mask_text(model)} once, where the "
            "gap of unknown length is"
        )
    return ids[: holes[0]], ids[holes[0] + 1 :]
