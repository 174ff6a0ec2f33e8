"""Masked-language-model encoders (BERT, RoBERTa, ModernBERT): bidirectional by birth, loaded as
they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import AutoConfig, BertForMaskedLM, ModernBertForMaskedLM, RobertaForMaskedLM

from unmask.models.families.base import PLAIN_TEMPLATE, Family, supported

CLASSES: dict[str, Any] = {
    "BertForMaskedLM": BertForMaskedLM,
    "RobertaForMaskedLM": RobertaForMaskedLM,
    "ModernBertForMaskedLM": ModernBertForMaskedLM,
}
HEADS: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "BertForMaskedLM": lambda network: network.cls,
    "RobertaForMaskedLM": lambda network: network.lm_head,
    "ModernBertForMaskedLM": lambda network: lambda hidden: network.decoder(network.head(hidden)),
}
# What pre-training left in published files, and older names of a head's bias that is stored twice.
IGNORED = (
    r"pooler\.",
    r"cls\.seq_relationship\.",
    r"position_ids$",
    r"cls\.predictions\.decoder\.bias$",
    r"lm_head\.decoder\.bias$",
)


def architecture(config: Mapping[str, Any]) -> str | None:
    """The masked-LM class that config.json names, if it is one of ours."""
    return next((name for name in config.get("architectures") or () if name in CLASSES), None)


def matches(config: Mapping[str, Any]) -> bool:
    return architecture(config) is not None


def family(config: Mapping[str, Any]) -> Family:
    supported(config, is_decoder=(False, None))
    name = architecture(config)
    assert name is not None
    fields = {
        key: value
        for key, value in config.items()
        if key not in ("architectures", "auto_map", "transformers_version", "model_type")
    }
    stock = AutoConfig.for_model(config["model_type"], **fields)
    return Family(
        name.removesuffix("ForMaskedLM"),
        CLASSES[name],
        stock,
        ignored=IGNORED,
        chat_template=PLAIN_TEMPLATE,
        head=HEADS[name],
        mask_id=config.get("mask_token_id"),
    )
