"""What a family says of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unmask.errors import UnmaskError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


def output_embeddings(network: Any) -> Callable[[Tensor], Tensor]:
    """The head of a causal class: one linear map."""
    return network.get_output_embeddings()


@dataclass(frozen=True)
class Family:
    """How one checkpoint becomes a stock `transformers` model.

    Attributes:
        name: how documentation and results call it.
        network: the stock class.
        config: its configuration, an instance of the class' own; not causal.
        renames: regular expressions of weight names and what replaces them, applied in this order.
        ignored: regular expressions of weights in the checkpoint that the stock class has no use
            for.
        shift: the logits at position i predict token i + 1.
        mask_id: the mask token, where config.json names it; None leaves it to the tokenizer.
        mask_token: how the vocabulary writes the mask token, where config.json does not name it;
            None leaves it to the tokenizer.
        mask_default: the mask token of the published checkpoints, where nothing names it.
        chat_template: used where the checkpoint ships none.
        head: takes the network, gives the map from hidden states to logits.
        probe: check by a forward pass that attention is bidirectional and that `head` gives the
            class' logits (for classes that this package does not know).
        block_size: b of a block-causal family (see `Model.attention_block`); None is full
            attention.
        causal_context: a block sees its context causally (see `Model.causal_context`).
        turn_ends: tokens that end a turn of a chat end a text.
        padding_ends: the padding token fills a buffer up behind the text, as the model was trained
            to write it, and so ends a text.
    """

    name: str
    network: Any
    config: Any
    renames: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    shift: bool = False
    mask_id: int | None = None
    mask_token: str | None = None
    mask_default: int | None = None
    chat_template: str = PLAIN_TEMPLATE
    head: Callable[[Any], Callable[[Tensor], Tensor]] = output_embeddings
    probe: bool = False
    block_size: int | None = None
    causal_context: bool = False
    turn_ends: bool = True
    padding_ends: bool = False


def required(config: Mapping[str, Any], *names: str) -> list[Any]:
    """The values of fields that a family cannot do without.

    Raises:
        UnmaskError: if one is missing.
    """
    if missing := [name for name in names if config.get(name) is None]:
        raise UnmaskError(
            f"config.json of this {config.get('model_type')} checkpoint lacks "
            f"{', '.join(missing)}; copy it from its source"
        )
    return [config[name] for name in names]


def supported(config: Mapping[str, Any], **accepted: tuple[Any, ...]) -> None:
    """Refuses fields whose value changes the architecture into one that the stock class does not
    have; missing fields are fine.

    Raises:
        UnmaskError: for the first such field.
    """
    for name, values in accepted.items():
        if name in config and config[name] not in values:
            allowed = " or ".join(map(repr, values))
            raise UnmaskError(
                f"this {config.get('model_type')} checkpoint has {name} = {config[name]!r}, which "
                f"is not supported; supported is {allowed}"
            )


def default_rope(config: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """The rotary positions of a family that scales them nowhere, with the base that config.json
    gives, in either of its places, else `theta`.

    Raises:
        UnmaskError: if config.json scales them.
    """
    places = [config.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    for own in places:
        if own.get("rope_type", own.get("type", "default")) != "default":
            raise UnmaskError(
                f"this {config.get('model_type')} checkpoint scales its rotary positions ({own}), "
                "which is not supported; supported is none, or the type default"
            )
    base = config.get("rope_theta", places[0].get("rope_theta", theta))
    return {"rope_type": "default", "rope_theta": base}


def block_size(config: Mapping[str, Any], default: int | None) -> int | None:
    """The size of a block-causal model's blocks, as config.json says, else the family's own.

    Raises:
        UnmaskError: if it says something that is no size.
    """
    size = config.get("block_size")
    if size is None:
        return default
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UnmaskError(
            f"config.json has block_size {size!r}; correct it to a whole number, at least 1"
        )
    return size
