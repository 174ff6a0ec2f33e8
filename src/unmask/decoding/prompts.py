"""Prompts of any kind as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from unmask.errors import UnmaskError
from unmask.models.base import Model
from unmask.models.chat import render_chat

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


def mask_text(model: Model) -> str:
    """How the mask token is written in a prompt."""
    return str(model.tokenizer.convert_ids_to_tokens(model.mask_id))


def encode_prompt(model: Model, prompt: Prompt, *, infill: bool = False) -> list[int]:
    """Token ids of one prompt; with `infill` it may hold mask tokens.

    Args:
        model: whose tokenizer and chat template are used.
        prompt: a string, a list of chat messages, or token ids (a list, a tensor or an array).
        infill: whether mask tokens are meant to be filled.

    Raises:
        UnmaskError: if it is empty, of another type, or has a token the model does not know.
    """
    ids = prompt_ids(model, prompt)
    if not ids:
        raise UnmaskError(f"a prompt is empty ({prompt!r}); give at least one token")
    last = min(max(len(model.tokenizer) - 1, model.mask_id), model.vocabulary - 1)
    if wrong := [i for i in ids if not 0 <= i <= last]:
        raise UnmaskError(f"a prompt has the token id {wrong[0]}; this model's ids are 0 to {last}")
    if not infill and model.mask_id in ids:
        raise UnmaskError(
            f"the prompt {prompt!r} holds the mask token {mask_text(model)}; say infill=True to "
            "have "
            "it filled"
        )
    unknown = model.tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        raise UnmaskError(
            f"the prompt {prompt!r} has words that this model's tokenizer does not know; use its "
            "vocabulary"
        )
    return ids


def prompt_ids(model: Model, prompt: Any) -> list[int]:
    """A prompt's token ids, not checked yet."""
    tokenizer = model.tokenizer
    if isinstance(prompt, str):
        return tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if isinstance(prompt, Sequence) and prompt and all(isinstance(m, Mapping) for m in prompt):
        text = render_chat(tokenizer, prompt, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    try:
        if isinstance(prompt, Mapping):
            raise TypeError
        return [index(part) for part in prompt]
    except TypeError:
        raise UnmaskError(
            f"a prompt is {prompt!r}; give a string, a list of chat messages or a list of token ids"
        ) from None
