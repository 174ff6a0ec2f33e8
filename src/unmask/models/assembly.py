"""A model from its parts: which tokens are its mask and its ends of text, and which no text
contains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, refuse_errors
from unmask.models.base import Model
from unmask.models.families import Family

END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|role_end|>")


def assemble_model(
    family: Family,
    network: Any,
    tokenizer: Any,
    name: str,
    config: Mapping[str, Any],
    directory: Path,
) -> Model:
    """`assemble`, where errors of a damaged tokenizer become an `UnmaskError`."""
    # Special tokens of a wrong type make the tokenizer raise nearly any kind of error.
    with refuse_errors(
        f"the special tokens in {directory} cannot be used", "copy its tokenizer files again"
    ):
        return assemble(family, network, tokenizer, name, config)


def assemble(
    family: Family, network: Any, tokenizer: Any, name: str, config: Mapping[str, Any]
) -> Model:
    """The model with its special tokens: end of text and end of turn, mask, and those that no text
    contains.

    Raises:
        UnmaskError: if there is no mask token, no end of text, or they are the same.
    """
    vocabulary = network.get_input_embeddings().weight.shape[0]
    mask_id = find_mask(family, tokenizer, vocabulary)
    if mask_id is None:
        raise UnmaskError(
            f"the tokenizer of {name} has no mask token, nor has its config.json a mask_token_id; "
            "set mask_token in tokenizer_config.json, or give mask_token_id"
        )
    ends = ends_of_text(family, network, tokenizer, name)
    if mask_id in ends:
        raise UnmaskError(
            f"the mask token of {name} has the id {mask_id}, which also ends a text; give the "
            "right one as mask_token_id"
        )
    padding = tokenizer.pad_token_id
    used = [mask_id, *ends, *([] if padding is None else [padding])]
    if wrong := [token for token in used if not 0 <= token < vocabulary]:
        raise UnmaskError(
            f"{name} has the special token id {wrong[0]}, but its embedding has {vocabulary} rows; "
            "copy all its files from one source"
        )
    last = max(tokenizer.get_vocab().values(), default=-1)
    special = {
        mask_id,
        tokenizer.mask_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.bos_token_id,
        tokenizer.cls_token_id,
    }
    never = (special | set(range(last + 1, vocabulary))) - {None, *ends}
    model = Model(
        network=network,
        tokenizer=tokenizer,
        mask_id=mask_id,
        eos_ids=tuple(ends),
        never_ids=tuple(sorted(token for token in never if token < vocabulary)),
        name=name,
        max_new_tokens=trained_length(config, name),
        family=family.name,
        shift=family.shift,
        head=family.head(network),
        attention_block=family.block_size,
        causal_context=family.causal_context,
    )
    if model.attention_block is not None and not model.takes_mask:
        raise UnmaskError(
            f"{name} has block-causal attention, which needs attn_implementation sdpa and layers "
            "that see all that the mask says; leave attn_implementation out"
        )
    return model


def ends_of_text(family: Family, network: Any, tokenizer: Any, name: str | Path) -> list[int]:
    """The tokens that end a text: those that the files name, the tokenizer's, and where the family
    has them its padding, which then comes first, and those that end a turn of a chat.

    Raises:
        UnmaskError: if there are none.
    """
    known = tokenizer.get_vocab()
    eos = network.config.eos_token_id
    if family.block_size is not None:  # these families name all their ends in the other file
        eos = network.generation_config.eos_token_id or eos
    ends = [
        tokenizer.pad_token_id if family.padding_ends else None,
        *(eos if isinstance(eos, list) else [eos]),
        tokenizer.eos_token_id,
        *(known.get(token) for token in END_OF_TURN if family.turn_ends),
    ]
    ends = list(dict.fromkeys(token for token in ends if token is not None)) or [
        tokenizer.sep_token_id
    ]
    if ends == [None]:
        raise UnmaskError(
            f"{name} names no end of text; set eos_token in its tokenizer_config.json"
        )
    return ends


def find_mask(family: Family, tokenizer: Any, vocabulary: int) -> int | None:
    """The mask token: as config.json says, by the family's name for it, as the tokenizer says, or
    that of the published checkpoints; None if there is none."""
    if family.mask_id is not None:
        return family.mask_id
    named = None if family.mask_token is None else tokenizer.get_vocab().get(family.mask_token)
    if named is not None:
        return named
    default = family.mask_default
    if tokenizer.mask_token_id is None and default is not None and default < vocabulary:
        return default
    return tokenizer.mask_token_id


def trained_length(config: Mapping[str, Any], name: str) -> int | None:
    """The length L of the answers that a model was trained on, if its config.json says so.

    Raises:
        UnmaskError: if it says something that is no length.
    """
    length = config.get("max_new_tokens")
    if length is None or (isinstance(length, int) and not isinstance(length, bool) and length > 0):
        return length
    raise UnmaskError(
        f"config.json of {name} has max_new_tokens {length!r}; correct it to a whole number, at "
        "least 1"
    )
