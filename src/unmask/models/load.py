"""Loads a frozen model: an embedded one by name, or a directory as `unmask pretrain` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from unmask.errors import UnmaskError
from unmask.files import read_json, read_tensors
from unmask.models.base import Model

EMBEDDED = Path(__file__).parent / "embedded"


def embedded_models() -> list[str]:
    """The names of the models that ship with the package, as `load_model` takes them."""
    return sorted(f"embedded/{directory.parent.name}" for directory in EMBEDDED.glob("*/config.json"))


def usable_device(device: str | torch.device) -> torch.device:
    """The device, tried out.

    Raises:
        UnmaskError: if this machine has none of that name.
    """
    try:
        return torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UnmaskError(
            f"device {str(device)!r} cannot be used here; give cpu, cuda or cuda:N of a device that this machine has"
        ) from None


def load_model(name_or_path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.bfloat16) -> Model:
    """Loads a frozen masked diffusion language model for inference.

    Args:
        name_or_path: `embedded/NAME` (see `embedded_models`), or a directory with `config.json` (`"is_causal": false`),
            `model.safetensors` and tokenizer files with a mask token.
        device: where to put it.
        dtype: of its weights and activations; confidences are fp32 whatever this is.

    Raises:
        UnmaskError: for an unknown name, a damaged or incomplete checkpoint, a causal model, or a tokenizer without mask token.

    Example:
        >>> model = load_model("embedded/chain")
    """
    name = str(name_or_path)
    device = usable_device(device)
    if name.startswith("embedded/"):
        if name not in embedded_models():
            raise UnmaskError(f"model {name!r} is not known; embedded are {', '.join(embedded_models())}")
        directory = EMBEDDED / name.removeprefix("embedded/")
    else:
        directory = Path(name_or_path)
        if not directory.is_dir():
            raise UnmaskError(f"model {name!r} is neither a directory nor one of {', '.join(embedded_models())}")
    config = read_json(directory / "config.json")
    if not isinstance(config, dict) or config.get("is_causal") is not False:
        raise UnmaskError(f'{directory} holds a causal model; a masked diffusion model says "is_causal": false in its config.json')
    weights = read_tensors(directory / "model.safetensors")  # read whole before anything is built, so that damage is found first
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network, report = loaded
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UnmaskError(f"{directory} cannot be loaded ({' '.join(str(error).split())}); check that its files belong together") from None
    wrong = {kind: sorted(report[kind]) for kind in ("missing_keys", "unexpected_keys") if report[kind]}
    if wrong:
        found = "; ".join(f"{kind.replace('_keys', '')}: {', '.join(map(str, keys[:3]))}" for kind, keys in wrong.items())
        raise UnmaskError(f"{directory} has {len(weights)} weights that do not fit its config.json ({found}); copy both from one source")
    if tokenizer.mask_token_id is None:
        raise UnmaskError(f"the tokenizer in {directory} has no mask token; set mask_token in tokenizer_config.json")
    eos = network.config.eos_token_id
    eos_ids = tuple(eos) if isinstance(eos, list) else (tokenizer.eos_token_id if eos is None else eos,)
    never = {tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id} - {None, *eos_ids}
    network.requires_grad_(False)
    network.eval()
    length = config.get("max_new_tokens")
    return Model(network.to(device), tokenizer, tokenizer.mask_token_id, eos_ids, tuple(sorted(never)), name, length)
