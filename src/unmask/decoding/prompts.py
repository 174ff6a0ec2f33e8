"""Prompts of any kind as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from unmask.errors import UnmaskError, short_text
from unmask.models.base import Model
from unmask.models.chat import render_chat

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


def mask_text(model: Model) -> str:
    """How the mask token is written in a prompt."""
    return str(model.tokenizer.convert_ids_to_tokens(model.mask_id))


def encode_prompt(
    model: Model, prompt: Prompt, *, infill: bool = False, what: str = "prompt"
) -> list[int]:
    """Token ids of one prompt; with `infill` it may hold mask tokens.

    An empty prompt has no tokens: the model then writes without being asked anything. A chat that
    ends with a message of the assistant is gone on with: the new text continues that message.

    Args:
        model: whose tokenizer and chat template are used.
        prompt: a string, a list of chat messages, or token ids (a list, a tensor or an array). The
            content of a message is a string, or a list of parts {"type": "text", "text": …}.
        infill: whether mask tokens are meant to be filled.
        what: what errors call it.

    Raises:
        UnmaskError: if it is of another type, the chat template cannot write it, or it has a token
            the model does not know.
    """
    ids = prompt_ids(model, prompt, what)
    last = min(max(model.largest_id, model.mask_id), model.vocabulary - 1)
    if wrong := [i for i in ids if not 0 <= i <= last]:
        raise UnmaskError(f"a {what} has the token id {wrong[0]}; this model's ids are 0 to {last}")
    if not infill and model.mask_id in ids:
        raise UnmaskError(
            f"the {what} {short_text(repr(prompt))} holds the mask token {mask_text(model)}; "
            + ("say infill=True to have it filled" if what == "prompt" else "leave it out")
        )
    unknown = model.tokenizer.unk_token_id
    if unknown is not None and unknown in ids and unknown not in model.end_set:
        raise UnmaskError(
            f"the {what} {short_text(repr(prompt))} has words that this model's tokenizer does not "
            "know; use its vocabulary, or for a task's prompts the model that was trained on it"
        )
    return ids


def prompt_ids(model: Model, prompt: Any, what: str = "prompt") -> list[int]:
    """A prompt's token ids, not checked yet; errors call it `what`."""
    if isinstance(prompt, Sequence) and prompt and all(isinstance(m, Mapping) for m in prompt):
        prompt = chat_text(model, [check_message(message) for message in prompt])
    if isinstance(prompt, str):
        if not is_text(prompt):
            raise UnmaskError(
                f"the {what} {short_text(ascii(prompt))} holds half a character (a lone "
                "surrogate); give text of whole characters"
            )
        return model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    try:
        if isinstance(prompt, Mapping | bytes | bytearray):
            raise TypeError
        return [index(part) for part in prompt]
    except TypeError:
        raise UnmaskError(
            f"a {what} is {short_text(repr(prompt))}; give a string, a list of chat messages or a "
            "list of token ids"
        ) from None


def is_text(text: str) -> bool:
    """Whether a string has characters only, which a lone surrogate is not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A chat message with its content as one string.

    Raises:
        UnmaskError: if it has no role, or its content is neither a string nor parts of text.
    """
    if not isinstance(message.get("role"), str):
        raise UnmaskError(
            f"the chat message {short_text(repr(dict(message)))} has no role; write "
            '{"role": "user", "content": …}'
        )
    content = message.get("content")
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else None
    if parts and all(isinstance(p, Mapping) and p.get("type") == "text" for p in parts):
        parts = [p.get("text") for p in parts]
        content = "".join(map(str, parts)) if all(isinstance(p, str) for p in parts) else None
    if not isinstance(content, str):
        raise UnmaskError(
            f"the content of a chat message is {short_text(repr(message.get('content')))}; give a "
            'string, or a list of parts {"type": "text", "text": …}'
        )
    return {**message, "content": content}


def chat_text(model: Model, messages: Sequence[Mapping[str, Any]]) -> str:
    """A chat as the model's template writes it, open for the assistant's words.

    Raises:
        UnmaskError: if there is no template, or it cannot write these messages.
    """
    if model.tokenizer.chat_template is None:
        raise UnmaskError(
            f"model {model.name} has no chat template; give the prompt as a string or token ids"
        )
    last = messages[-1]
    goes_on = last["role"] == "assistant" and bool(last["content"].strip())
    if last["role"] == "assistant" and not goes_on:
        messages = messages[:-1]
    if not messages:
        raise UnmaskError(
            "the chat holds no message but an empty one of the assistant; begin with one of the "
            "user"
        )
    return render_chat(
        model.tokenizer,
        messages,
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
    )


def refuses_system(model: Model) -> bool:
    """Whether a model's chat template writes messages of users but none of the system."""
    user = [{"role": "user", "content": "a"}]
    for messages, refused in ((user, False), ([{"role": "system", "content": "b"}, *user], True)):
        try:
            chat_text(model, messages)
        except UnmaskError:
            return refused
    return False
