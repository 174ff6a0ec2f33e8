"""The settings of a decode; imports no torch and no transformers: commands read it for help."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from unmask.errors import UnmaskError

EndOfText = Literal["free", "never", "last"]
CacheKind = Literal["prefix", "dual"]


@dataclass(frozen=True)
class DecodeOptions:
    """How a prompt is answered: all that decides a row's result beside model, prompt and policy.

    Every caller of the decoder takes this object: `generate`, `stream`, `infill`, training,
    evaluation, lm-evaluation-harness and the command line. It checks itself when it is made.

    Raises:
        UnmaskError: if a value has the wrong type or is out of range.

    Examples:
        >>> options = unmask.DecodeOptions(max_new_tokens=48, temperature=0.7, stop=("\\n\\n",))
        >>> unmask.DecodeOptions(temperature=-1.0)
        Traceback (most recent call last):
        unmask.errors.UnmaskError: temperature is -1.0; ...
    """

    max_new_tokens: int | None = None
    """L, the length of the generation buffer in tokens; leave out for the task's or model's own."""
    block_length: int | None = None
    """Block length BL (semi-autoregressive decoding); L is full diffusion. Left out, it is that of
    a learned policy that was trained in blocks (`generate`, serving, `lm-eval`, `score --order`),
    else L; a block-causal model has no other blocks than its own."""
    temperature: float = 0.0
    """Temperature τ of the frozen model's token draw; 0 takes the most probable token."""
    top_p: float = 1.0
    """Draw tokens among the most probable ones that together hold this share; 1 is all."""
    top_k: int = 0
    """Draw tokens among this many most probable ones; 0 is all."""
    cfg_scale: float = 0.0
    """Weight w of classifier-free guidance; 0 is none, more doubles the cost of each pass."""
    eos: EndOfText = "free"
    """End-of-text tokens: free; never proposed; or last, revealed after all others."""
    stop_at_eos: bool = False
    """Finish a row once an end of text is revealed and everything before it is. Block-causal models
    stop without it too, after the block that holds an end."""
    stop: tuple[str, ...] = ()
    """Strings that end a row's text: it is cut before the first one, and the row is finished. Of a
    prompt with several gaps, those that are not filled yet then stay empty."""
    choices: tuple[str, ...] = ()
    """The answer is one of these strings. Each is tokenized and padded with the end-of-text token
    to L, which is the longest one's length if it is left out."""
    max_passes: int | None = None
    """Most forward passes for a row; what is masked then stays masked. Leave out for no limit."""
    cache: CacheKind | None = None
    """Cache keys and values within each block (Fast-dLLM): faster, and an approximation."""
    cache_refresh: int | None = None
    """With cache, forward a row whole again after so many passes in a block; 1 is exact."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "block_length", "max_passes", "cache_refresh"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        check_whole("top_k", self.top_k, 0)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        check_number("temperature", self.temperature, "0 (greedy) to 1e6", high=1e6)
        check_number("cfg_scale", self.cfg_scale, "0 (no guidance) to 1000", high=1000.0)
        check_number("top_p", self.top_p, "a share above 0, at most 1", low=1e-9, high=1.0)
        if 0 < self.temperature < 1e-6:
            raise UnmaskError(
                f"temperature is {self.temperature:g}; give 0 (greedy), or 1e-6 or more"
            )
        if self.eos not in get_args(EndOfText):
            raise UnmaskError(f"eos is {self.eos!r}; give free, never or last")
        if not isinstance(self.stop_at_eos, bool):
            raise UnmaskError(f"stop_at_eos is {self.stop_at_eos!r}; give True or False")
        texts = self.stop if isinstance(self.stop, list | tuple) else (None,)
        if not all(isinstance(text, str) and text for text in texts):
            raise UnmaskError(f"stop is {self.stop!r}; give a tuple of strings that are not empty")
        object.__setattr__(self, "stop", tuple(self.stop))
        check_choices(self.choices)
        object.__setattr__(self, "choices", tuple(self.choices))
        length = self.max_new_tokens
        if length is not None and (self.block_length or 0) > length:
            raise UnmaskError(
                f"block_length is {self.block_length}; give 1 to max_new_tokens ({length})"
            )
        if self.cache not in (None, *get_args(CacheKind)):
            raise UnmaskError(f"cache is {self.cache!r}; give prefix or dual, or leave it out")
        if self.cache is None and self.cache_refresh is not None:
            raise UnmaskError(
                "cache_refresh was given without cache; say which cache, or leave it out"
            )
        if self.cache is not None and self.cfg_scale:
            raise UnmaskError("cache and guidance (cfg_scale) do not go together; leave out one")

    def with_length(self, length: int) -> DecodeOptions:
        """The same for a buffer of `length` tokens; a block length above it is full diffusion."""
        block_length = self.block_length
        if block_length is not None:
            block_length = min(block_length, length)
        return replace(self, max_new_tokens=length, block_length=block_length)


MOST_CHOICES = 1000


def check_choices(choices: Any) -> None:
    """Refuses what are no choices of an answer."""
    texts = choices if isinstance(choices, list | tuple) else (None,)
    if not all(isinstance(text, str) and text for text in texts):
        raise UnmaskError(f"choices is {choices!r}; give a tuple of strings that are not empty")
    if len(texts) > MOST_CHOICES:
        raise UnmaskError(f"choices are {len(texts)} strings; give at most {MOST_CHOICES}")


ALIASES = {"logits_eos_inf": "never", "confidence_eos_eot_inf": "last"}


def decode_options(options: DecodeOptions | None, settings: Mapping[str, Any]) -> DecodeOptions:
    """Options from an object, from keywords, or from both (the keywords win).

    Keywords are the fields of `DecodeOptions`, and LLaDA's names `logits_eos_inf` (eos="never") and
    `confidence_eos_eot_inf` (eos="last").

    Raises:
        UnmaskError: for an unknown keyword, or a value that cannot be used.
    """
    if options is not None and not isinstance(options, DecodeOptions):
        raise UnmaskError(f"options is {options!r}; give a DecodeOptions")
    given = dict(settings)
    rules = [rule for name, rule in ALIASES.items() if given.pop(name, False)]
    if len(rules) > 1:
        raise UnmaskError(
            f"{' and '.join(ALIASES)} were both given; an end that is never proposed cannot come "
            "last"
        )
    if rules and given.get("eos", rules[0]) != rules[0]:
        raise UnmaskError(
            f"eos is {given['eos']!r} and an option of LLaDA's name says {rules[0]!r}; give one"
        )
    if rules:
        given["eos"] = rules[0]
    known = [field.name for field in fields(DecodeOptions)]
    if unknown := sorted(set(given) - set(known)):
        raise UnmaskError(f"option {unknown[0]} is not known; known are {', '.join(known)}")
    return replace(options or DecodeOptions(), **given)


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Refuses what is no whole number from `low` to `high`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        accepted = f"at least {low}" if high is None else f"{low} to {high}"
        raise UnmaskError(f"{name} is {value!r}; give a whole number, {accepted}")


def check_number(
    name: str, value: Any, accepted: str, low: float = 0.0, high: float = math.inf
) -> None:
    """Refuses what is no finite number from `low` to `high`; `accepted` says so in words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or not abs(value) <= sys.float_info.max:
        raise UnmaskError(f"{name} is {value!r}; give {accepted}")
