"""Loads a frozen model: an embedded one by name, a directory, or a repository of the Hugging Face
Hub; stock classes, no remote code."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers import logging as transformers_logging
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from unmask.errors import UnmaskError, short_error, short_text
from unmask.files import read_json
from unmask.models.base import Model
from unmask.models.families import FAMILIES, Family
from unmask.processes import usable_device
from unmask.sources import find_source

EMBEDDED = Path(__file__).parent / "embedded"
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|role_end|>")
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt")
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def embedded_models() -> list[str]:
    """The names of the models that ship with the package, as `load_model` takes them."""
    return sorted(
        f"embedded/{directory.parent.name}" for directory in EMBEDDED.glob("*/config.json")
    )


def load_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.bfloat16,
    attn_implementation: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantization_config: Any = None,
    revision: str | None = None,
    block_size: int | None = None,
    mask_token_id: int | None = None,
) -> Model:
    """Loads a frozen masked diffusion language model for inference.

    The family (LLaDA, Dream, A2D, LLaDA-MoE, SDAR, LLaDA2, masked-LM encoders, plain) is decided
    from `config.json`. Weights are read shard by shard straight into `dtype`; pickles and remote
    code are never touched.

    Args:
        name_or_path: `embedded/NAME` (see `embedded_models`), a directory, or a Hub repository
            `owner/name`. A name whose first part is a directory here is a local path; write
            `hf:owner/name` if the Hub's repository is meant all the same.
        device: where to put it.
        dtype: of its weights and activations, a `torch.dtype` or its name ("bfloat16", "float16",
            "float32"); confidences are fp32 whatever this is.
        attn_implementation: as in `transformers` (sdpa, eager, flash_attention_2, …); None is its
            default.
        device_map: as in `transformers`, where it places the whole model on one device (for example
            "auto" with one GPU); `device` is then not used.
        quantization_config: as in `transformers`, for example
            `BitsAndBytesConfig(load_in_4bit=True)`; needs a `device_map` or a GPU.
        revision: branch, tag or commit of a Hub repository.
        block_size: of a block-causal model (SDAR, LLaDA2), where config.json lacks it or is wrong.
        mask_token_id: the mask token, where config.json lacks it or is wrong.

    Raises:
        UnmaskError: for an argument of the wrong type, an unknown name or architecture, a damaged
            or incomplete checkpoint, weights that are missing or superfluous, a causal model, a
            mask token that neither config.json nor the tokenizer names, or a `device_map` that
            spreads the model over several devices.

    Example:
        >>> model = load_model("embedded/chain")
    """
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        raise UnmaskError(
            f"model is {name_or_path!r}; give an embedded model, a directory or a Hub repository"
        )
    target, number = usable_device(device), weight_dtype(dtype)
    check_placement(attn_implementation, device_map)
    directory = find_model(str(name_or_path), revision)
    config = read_json(directory / "config.json")
    if not isinstance(config, dict):
        raise UnmaskError(f"{directory}/config.json describes no model; copy it again")
    said = {"block_size": block_size, "mask_token_id": mask_token_id}
    config |= {name: value for name, value in said.items() if value is not None}
    check_weights(directory)
    placement = {
        "attn_implementation": attn_implementation,
        "device_map": device_map,
        "quantization_config": quantization_config,
    }
    with quiet_transformers():
        family = find_family(config, directory)
        if block_size is not None and family.block_size is None:
            raise UnmaskError(
                f"block_size was given, but a {family.name} model has no blocks; leave it out"
            )
        network = load_network(family, directory, number, placement)
        if device_map is None and quantization_config is None:
            network = network.to(target)
        if family.probe and not bidirectional(network):
            raise UnmaskError(
                f"{directory} holds a {type(network).__name__}, which stays causal whatever its "
                "config says; it cannot be used here"
            )
        tokenizer = load_tokenizer(directory, family)
        return assemble_model(family, network, tokenizer, str(name_or_path), config, directory)


def weight_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating-point type from itself or its name.

    Raises:
        UnmaskError: if it is another one.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise UnmaskError(f"dtype is {dtype!r}; give {', '.join(DTYPES)} or a torch.dtype of these")
    return found


def check_placement(
    attn_implementation: str | None, device_map: str | Mapping[str, Any] | None
) -> None:
    """Refuses what is known to be unusable before a file is read.

    Raises:
        UnmaskError: for a wrong type, or a `device_map` that names several devices.
    """
    if not isinstance(attn_implementation, str | None):
        raise UnmaskError(
            f"attn_implementation is {attn_implementation!r}; give a name such as sdpa, or None"
        )
    if not isinstance(device_map, str | Mapping | None):
        raise UnmaskError(f'device_map is {device_map!r}; give "auto", a mapping or None')
    if isinstance(device_map, Mapping):
        check_one_device(device_map)


def check_one_device(device_map: Mapping[str, Any]) -> None:
    """Refuses a model that lies on several devices.

    The decoder calls the backbone and the head apart, which goes past the hook with which
    `accelerate` brings the outputs of a spread model back to the device of its inputs.

    Raises:
        UnmaskError: if the map names more than one device.
    """
    devices = sorted({str(place) for place in device_map.values()})
    if len(devices) > 1:
        raise UnmaskError(
            f"device_map spreads the model over several devices ({', '.join(devices)}), which is "
            "not supported; load it on one device, quantized if it does not fit, or let each "
            "process of `accelerate launch` have a copy on its own GPU"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' log and progress bars while the body runs: what matters of it becomes
    an `UnmaskError`. Afterwards the caller's settings are as before."""
    verbosity = transformers_logging.get_verbosity()
    bars, hub_bars = (
        transformers_logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # switches those of huggingface_hub off, too
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        elif hub_bars:
            enable_progress_bars()


def load_network(
    family: Family, directory: Path, dtype: torch.dtype, placement: Mapping[str, Any]
) -> Any:
    """The network with its weights, frozen.

    Args:
        family: what the checkpoint is.
        directory: where its files are.
        dtype: of weights and activations.
        placement: arguments of `from_pretrained` that say where and how; None leaves one out.

    Raises:
        UnmaskError: if the weights cannot be loaded, do not fit config.json, or lie on several
            devices.
    """
    try:
        network, report = family.network.from_pretrained(
            directory,
            config=family.config,
            key_mapping=dict(family.renames) or None,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **{name: value for name, value in placement.items() if value is not None},
        )
    # A damaged file makes transformers raise nearly any kind of error.
    except Exception as error:
        raise UnmaskError(
            f"{directory} cannot be loaded ({short_error(error)}); check that its files belong "
            "together"
        ) from None
    check_report(report, family, directory)
    check_one_device(getattr(network, "hf_device_map", None) or {})
    network.requires_grad_(False)
    return network.eval()


def find_model(name: str, revision: str | None = None) -> Path:
    """The directory of an embedded model, a local one, or the local copy of a Hub repository
    (downloaded if need be).

    Raises:
        UnmaskError: if there is none.
    """
    known = ", ".join(embedded_models())
    if not name.startswith("embedded/"):
        return find_source(
            "model", name, HUB_FILES, others=f"nor one of {known}", revision=revision
        )
    if name not in embedded_models():
        raise UnmaskError(f"model {name!r} is not known; embedded are {known}")
    if revision is not None:
        raise UnmaskError(
            f"revision {revision!r} was given, but {name} ships with this package; leave it out"
        )
    return EMBEDDED / name.removeprefix("embedded/")


def find_family(config: dict[str, Any], directory: Path) -> Family:
    """The first family that knows this config.json.

    Raises:
        UnmaskError: if none does.
    """
    try:
        module = next((module for module in FAMILIES if module.matches(config)), None)
        if module is not None:
            return module.family(config)
    except UnmaskError:
        raise
    # Absurd values make the configuration classes raise nearly any kind of error.
    except Exception as error:
        raise UnmaskError(
            f"{directory} cannot be loaded: its config.json is not usable ({short_error(error)}); "
            "copy it from its source"
        ) from None
    kind = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
    raise UnmaskError(
        f"{directory} holds a causal model or one of an unknown architecture ({short_text(kind)}); "
        "known are LLaDA, Dream, A2D, LLaDA-MoE, SDAR, LLaDA2, BERT-like masked LMs, and stock "
        'causal classes with "is_causal": false in config.json'
    )


def check_weights(directory: Path) -> None:
    """Looks at every weight file's header and size before anything is built, so that damage is
    named by file.

    Raises:
        UnmaskError: if there are no safetensors files, one is missing, or one is shorter than its
            header says.
    """
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists():
        files = ["model.safetensors"]
    elif index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UnmaskError(f"{index} names no weights; copy it again")
        files = sorted(set(weight_map.values()))
    else:
        pickles = sorted(
            path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern)
        )
        if pickles:
            raise UnmaskError(
                f"{directory} holds its weights as pickles only ({pickles[0]}), which are never "
                "loaded; convert them to safetensors"
            )
        raise UnmaskError(
            f"{directory}/model.safetensors does not exist; a checkpoint directory holds "
            "config.json and safetensors files"
        )
    for file in files:
        path = directory / file
        if not path.is_file():
            raise UnmaskError(
                f"{path} does not exist, though {index.name} names it; copy the missing shard"
            )
        if not whole(path):
            raise UnmaskError(
                f"{path} cannot be read as safetensors; it is damaged or truncated, so copy it "
                "again"
            )


def whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > size:
                return False
            header = json.loads(file.read(header_size))
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        return False
    return size == 8 + header_size + max(ends, default=0)


def check_report(report: Mapping[str, Any], family: Family, directory: Path) -> None:
    """Refuses what `transformers` would only warn of.

    Raises:
        UnmaskError: if a weight is missing, has the wrong shape, or is not known to the class.
    """
    wrong = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = [key if isinstance(key, str) else key[0] for key in report.get(kind) or ()]
        keys = sorted(
            key for key in keys if not any(re.search(pattern, key) for pattern in family.ignored)
        )
        if keys:
            wrong.append(
                f"{kind.removesuffix('_keys')}: "
                f"{', '.join(keys[:3])}{' and others' if len(keys) > 3 else ''}"
            )
    if wrong:
        raise UnmaskError(
            f"the weights in {directory} do not fit its config.json ({'; '.join(wrong)}); copy "
            "both from one source"
        )


@torch.inference_mode()
def bidirectional(network: Any) -> bool:
    """Whether the first position sees the last one."""
    device = next(network.parameters()).device
    tokens = torch.tensor([[1, 2, 3], [1, 2, 4]], device=device)
    hidden = network.base_model(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
    ).last_hidden_state
    return not torch.equal(hidden[0, 0], hidden[1, 0])


def load_tokenizer(directory: Path, family: Family) -> Any:
    """The tokenizer, from the files that are there and never from a class that they name.

    Raises:
        UnmaskError: if there are none, or they cannot be read.
    """
    if (directory / "tokenizer.json").exists():
        tokenizer_class: Any = PreTrainedTokenizerFast
    elif (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        tokenizer_class = Qwen2Tokenizer
    elif (directory / "vocab.txt").exists():
        tokenizer_class = AutoTokenizer
    else:
        raise UnmaskError(
            f"{directory} has no tokenizer files; a checkpoint holds tokenizer.json, or vocab.json "
            "and merges.txt, or vocab.txt"
        )
    try:
        tokenizer: Any = tokenizer_class.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the Rust library raises bare Exception
        raise UnmaskError(
            f"the tokenizer in {directory} cannot be loaded ({short_error(error)}); copy it again"
        ) from None
    if not tokenizer.chat_template:
        tokenizer.chat_template = family.chat_template
    if not isinstance(tokenizer.chat_template, str | dict):
        raise UnmaskError(
            f"the chat template in {directory} is no text but {tokenizer.chat_template!r}; copy "
            "tokenizer_config.json again"
        )
    if not isinstance(tokenizer.model_max_length, int | float):
        tokenizer.model_max_length = VERY_LARGE_INTEGER  # it only warns of long texts
    return tokenizer


def assemble_model(
    family: Family,
    network: Any,
    tokenizer: Any,
    name: str,
    config: Mapping[str, Any],
    directory: Path,
) -> Model:
    """`assemble`, where errors of a damaged tokenizer become an `UnmaskError`."""
    try:
        return assemble(family, network, tokenizer, name, config)
    except UnmaskError:
        raise
    # Special tokens of a wrong type make the tokenizer raise nearly any kind of error.
    except Exception as error:
        raise UnmaskError(
            f"the special tokens in {directory} cannot be used ({short_error(error)}); copy its "
            "tokenizer files again"
        ) from None


def assemble(
    family: Family, network: Any, tokenizer: Any, name: str, config: Mapping[str, Any]
) -> Model:
    """The model with its special tokens: end of text and end of turn, mask, and those that no text
    contains.

    Raises:
        UnmaskError: if there is no mask token, or no end of text.
    """
    known, vocabulary = tokenizer.get_vocab(), network.get_input_embeddings().weight.shape[0]
    mask_id = find_mask(family, tokenizer, vocabulary)
    if mask_id is None:
        raise UnmaskError(
            f"the tokenizer of {name} has no mask token, nor has its config.json a mask_token_id; "
            "set mask_token in tokenizer_config.json, or give mask_token_id"
        )
    eos = network.config.eos_token_id
    if family.block_size is not None:  # these families name all their ends in the other file
        eos = network.generation_config.eos_token_id or eos
    ends = [
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
    if wrong := [token for token in [mask_id, *ends] if not 0 <= token < vocabulary]:
        raise UnmaskError(
            f"{name} has the special token id {wrong[0]}, but its embedding has {vocabulary} rows; "
            "copy all its files from one source"
        )
    special = {
        mask_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.bos_token_id,
        tokenizer.cls_token_id,
    }
    never = (special | set(range(len(tokenizer), vocabulary))) - {None, *ends}
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
    )
    if model.attention_block is not None and not model.takes_mask:
        raise UnmaskError(
            f"{name} has block-causal attention, which needs attn_implementation sdpa and layers "
            "that see all that the mask says; leave attn_implementation out"
        )
    return model


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
