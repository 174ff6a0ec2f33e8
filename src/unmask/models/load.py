"""Loads a frozen model: an embedded one by name, a directory, or a repository of the Hugging Face
Hub; stock classes, no remote code."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers import logging as transformers_logging
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from unmask.errors import UnmaskError, refuse_errors, short_error, short_text
from unmask.extras import require_package
from unmask.files import read_json
from unmask.memory import check_memory
from unmask.models.assembly import assemble_model
from unmask.models.base import Model
from unmask.models.chat import check_template
from unmask.models.families import FAMILIES, Family
from unmask.models.schema import (
    RecipeFile,
    WeightIndex,
    check_parts,
    check_tokenizer_files,
    read_model_config,
)
from unmask.processes import fast_dtype, usable_device
from unmask.sources import find_source
from unmask.tensors import TensorInfo, read_header

EMBEDDED = Path(__file__).parent / "embedded"
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt")
KERNELS = ("_attn_implementation", "attn_implementation", "_experts_implementation")
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def embedded_models() -> list[str]:
    """The names of the models that ship with the package, as `load_model` takes them.

    Examples:
        >>> unmask.embedded_models()[0]
        'embedded/chain'
    """
    return sorted(
        f"embedded/{directory.parent.name}" for directory in EMBEDDED.glob("*/config.json")
    )


def load_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
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
        device: where to put it, quantized or not.
        dtype: of its weights and activations, a `torch.dtype` or its name ("bfloat16", "float16",
            "float32"); confidences are fp32 whatever this is. "auto" is bfloat16, but float32 on a
            CPU that has no instructions for bfloat16 and so would be many times slower with it.
        attn_implementation: as in `transformers` (sdpa, eager, flash_attention_2, …); None is its
            default.
        device_map: as in `transformers`, where it places the whole model on one device (for example
            "auto" with one GPU); `device` is then not used.
        quantization_config: as in `transformers`, for example
            `BitsAndBytesConfig(load_in_4bit=True)`; most kinds need a GPU, so say device="cuda".
        revision: branch, tag or commit of a Hub repository.
        block_size: of a block-causal model, where config.json is wrong, or lacks it and the family
            has blocks all the same (SDAR, LLaDA2).
        mask_token_id: the mask token, where config.json lacks it or is wrong.

    Raises:
        UnmaskError: for an argument of the wrong type, an unknown name or architecture, a damaged
            or incomplete checkpoint, weights that are missing or superfluous, a causal model, a
            mask token that neither config.json nor the tokenizer names, or a `device_map` that
            spreads the model over several devices.

    Examples:
        >>> model = unmask.load_model("embedded/chain", dtype="float32")
        >>> model.tokenizer.mask_token_id == model.mask_id
        True
    """
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        raise UnmaskError(
            f"model is {name_or_path!r}; give an embedded model, a directory or a Hub repository"
        )
    if mask_token_id is not None and (type(mask_token_id) is not int or mask_token_id < 0):
        raise UnmaskError(f"mask_token_id is {mask_token_id!r}; give the id of a token, from 0 on")
    if block_size is not None and (type(block_size) is not int or block_size < 1):
        raise UnmaskError(f"block_size is {block_size!r}; give a whole number, at least 1")
    target = usable_device(device)
    if device_map is None and quantization_config is not None:
        device_map = {"": str(target)}  # transformers would take the current GPU, if there is one
    number = weight_dtype(dtype, weights_device(target, device_map))
    check_placement(attn_implementation, device_map)
    directory = find_model(str(name_or_path), revision)
    config = read_model_config(directory)
    config |= {} if mask_token_id is None else {"mask_token_id": mask_token_id}
    headers = read_weight_headers(directory)
    check_parts(config, headers, directory / "config.json")
    check_tokenizer_files(directory)
    placement = {
        "attn_implementation": attn_implementation,
        "device_map": device_map,
        "quantization_config": quantization_config,
    }
    with quiet_transformers():
        if block_size is not None:
            check_has_blocks(config, directory, block_size)
            config |= {"block_size": block_size}
        family = find_family(config, directory)
        whole = device_map is None
        if whole and config.get("quantization_config") is None:
            check_network(family, headers, directory, target, number)
        network = load_network(family, directory, number, placement)
        if whole:
            network = network.to(target)
        if family.probe:
            check_forward(family, network, directory)
        tokenizer = load_tokenizer(directory, family)
        return assemble_model(family, network, tokenizer, str(name_or_path), config, directory)


def load_without_weights(name: str) -> Model:
    """The model that `load_model` would load, with weights that hold no numbers: for its tokens and
    its tokenizer. Weights are neither read nor downloaded.

    Raises:
        UnmaskError: as `load_model`.
    """
    files = tuple(pattern for pattern in HUB_FILES if pattern != "*.safetensors")
    directory = find_model(name, files=files)
    config = read_json(directory / "config.json")
    with quiet_transformers():
        family = find_family(config, directory)
        network = empty_network(family, directory)
        tokenizer = load_tokenizer(directory, family)
        return assemble_model(family, network, tokenizer, name, config, directory)


def empty_network(family: Family, directory: Path) -> Any:
    """The network with weights that hold no numbers.

    Raises:
        UnmaskError: if its configuration files cannot be used.
    """
    try:
        with torch.device("meta"):
            # Classes that only choose another one by its config are made otherwise.
            network = getattr(family.network, "from_config", family.network)(family.config)
        if (directory / "generation_config.json").exists():
            network.generation_config = GenerationConfig.from_pretrained(directory)
        return network
    # Absurd values make transformers raise nearly any kind of error.
    except Exception as error:
        raise UnmaskError(
            f"{directory} cannot be loaded ({short_error(error)}); check that its files belong "
            "together"
        ) from None


def weight_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """A floating-point type from itself or its name; "auto" is the faster one on a device.

    Raises:
        UnmaskError: if it is another one.
    """
    if dtype == "auto":
        return fast_dtype(device)
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise UnmaskError(
            f"dtype is {dtype!r}; give auto, {', '.join(DTYPES)} or a torch.dtype of these"
        )
    return found


def weights_device(
    device: torch.device, device_map: str | Mapping[str, Any] | None
) -> torch.device:
    """Where the weights will be: on `device`, or where a map places them, which is an accelerator
    if there is one and no other device is named."""
    if device_map is None:
        return device
    # Names such as "auto" are no devices; what is no device at all is refused later.
    with suppress(RuntimeError, TypeError, ValueError):
        place: Any = device_map
        if isinstance(device_map, Mapping):
            (place,) = set(device_map.values())
        return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    return torch.accelerator.current_accelerator(check_available=True) or device


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
    if device_map is not None:
        require_package("accelerate", "device_map or quantization_config", "train")
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
    # A damaged file makes transformers raise nearly any kind of error.
    with refuse_errors(f"{directory} cannot be loaded", "check that its files belong together"):
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
    check_report(report, family, directory)
    check_one_device(getattr(network, "hf_device_map", None) or {})
    choose_expert_kernel(network)
    network.requires_grad_(False)
    return network.eval()


def choose_expert_kernel(network: Any) -> None:
    """Takes the plain loop over experts where torch's grouped product cannot be used: rows of its
    matrices must be multiples of 16 bytes."""
    experts = [value for name, value in network.named_parameters() if ".experts." in name]
    if any(size * value.itemsize % 16 for value in experts for size in value.shape[-2:]):
        network.set_experts_implementation("eager")


def find_model(name: str, revision: str | None = None, files: Sequence[str] = HUB_FILES) -> Path:
    """The directory of an embedded model, a local one, or the local copy of a Hub repository
    (downloaded if need be: those of its files that match the patterns).

    Raises:
        UnmaskError: if there is none.
    """
    known = ", ".join(embedded_models())
    if not name.startswith("embedded/"):
        return find_source("model", name, files, others=f"nor one of {known}", revision=revision)
    if name not in embedded_models():
        raise UnmaskError(f"model {name!r} is not known; embedded are {known}")
    if revision is not None:
        raise UnmaskError(
            f"revision {revision!r} was given, but {name} ships with this package; leave it out"
        )
    return EMBEDDED / name.removeprefix("embedded/")


def own_task(name: str) -> str:
    """The name of the task that a model was pre-trained on, from the recipe that `unmask pretrain`
    wrote beside its weights.

    Raises:
        UnmaskError: if there is no such model, or nothing beside it says which task it knows.
    """
    path = find_model(name, files=("recipe.json",)) / "recipe.json"
    if path.exists():
        return read_json(path, RecipeFile).recipe.task
    raise UnmaskError(
        f"no task was given, and model {name} does not say on which one it was trained; give a "
        "task that it knows (gsm8k, math, humaneval, …)"
    )


def find_family(config: dict[str, Any], directory: Path) -> Family:
    """The first family that knows this config.json.

    Raises:
        UnmaskError: if none does.
    """
    # Absurd values make the configuration classes raise nearly any kind of error.
    with refuse_errors(
        f"{directory} cannot be loaded: its config.json is not usable", "copy it from its source"
    ):
        module = next((module for module in FAMILIES if module.matches(config)), None)
        if module is not None:
            # A file must not say which attention kernel runs: the name may be one on the Hub.
            return module.family({k: v for k, v in config.items() if k not in KERNELS})
    kind = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
    raise UnmaskError(
        f"{directory} holds a causal model or one of an unknown architecture ({short_text(kind)}); "
        "known are LLaDA, Dream, A2D, LLaDA-MoE, SDAR, LLaDA2, BERT-like masked LMs, and stock "
        'causal classes with "is_causal": false in config.json'
    )


def check_has_blocks(config: dict[str, Any], directory: Path, size: int) -> None:
    """Refuses a size of blocks for a model that has none. It has blocks if its family does, or, in
    a plain model, if config.json gives a size, right or wrong.

    Raises:
        UnmaskError: if so.
    """
    given = None if config.get("block_size") is None else size
    family = find_family(config | {"block_size": given}, directory)
    if family.block_size is None:
        raise UnmaskError(
            f"block_size was given, but this {family.name} model has no blocks; leave it out"
        )


def read_weight_headers(directory: Path) -> dict[str, TensorInfo]:
    """Name, type and shape of every weight, from the headers of all weight files.

    Raises:
        UnmaskError: if there are no safetensors files, one is missing or damaged, or the index
            names weights that are not in it.
    """
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists():
        return read_header(directory / "model.safetensors")
    if not index.exists():
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
    weight_map = read_json(index, WeightIndex).weight_map
    found: dict[str, TensorInfo] = {}
    for file in sorted(set(weight_map.values())):
        if not (directory / file).is_file():
            raise UnmaskError(
                f"{directory / file} does not exist, though {index.name} names it; copy the "
                "missing shard"
            )
        header = read_header(directory / file)
        if lost := [
            name for name, where in weight_map.items() if where == file and name not in header
        ]:
            raise UnmaskError(
                f"{directory / file} does not hold {short_text(lost[0], 80)}, though {index.name} "
                "says so; copy both from one source"
            )
        found |= header
    return found


def check_network(
    family: Family,
    headers: Mapping[str, TensorInfo],
    directory: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Builds the network without memory (on the `meta` device), compares it with what the weight
    files hold, and lets it read three tokens: sizes that do not fit each other show here.

    Raises:
        UnmaskError: if it cannot be built, needs other weights, or would not fit into memory.
    """
    what = f"{directory} cannot be loaded: the sizes in its config.json do not fit each other"
    with refuse_errors(what, "copy it from its source"), torch.device("meta"):
        build = getattr(family.network, "_from_config", None) or family.network.from_config
        network = build(copy.deepcopy(family.config), dtype=dtype).eval()
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {rename_weight(family, name): info for name, info in headers.items()}
    for name in sorted(set(expected) & set(found)):
        if found[name].shape != expected[name]:
            raise UnmaskError(
                f"the weights in {directory} do not fit its config.json (mismatched: "
                f"{short_text(name, 80)} has the shape {list(found[name].shape)}, not "
                f"{list(expected[name])}); copy both from one source"
            )
    wanted = sum(value.numel() for value in network.parameters())
    held = sum(info.numbers for info in headers.values())
    if wanted > 2 * held + 2**20:  # twice: tied weights are in the files once
        raise UnmaskError(
            f"the weights in {directory} do not fit its config.json ({held} numbers, and it "
            f"describes a network of {wanted}); copy both from one source"
        )
    advice = "load it elsewhere"
    if dtype.itemsize > 2:
        advice += ", or with dtype bfloat16, which takes less and is slow where the CPU emulates it"
    check_memory(wanted * dtype.itemsize, f"the model in {directory}", advice, device)
    with refuse_errors(what, "copy it from its source"), torch.inference_mode():
        if hasattr(network, "set_experts_implementation"):
            network.set_experts_implementation("batched_mm")  # others look at the data
        tokens = torch.ones(1, 3, dtype=torch.int64, device="meta")
        with suppress(NotImplementedError):  # some experts are chosen by looking at the data
            hidden = network.base_model(input_ids=tokens).last_hidden_state
            family.head(network)(hidden)


def rename_weight(family: Family, name: str) -> str:
    """What a weight of the files is called in the stock class."""
    for pattern, replacement in family.renames.items():
        name = re.sub(pattern, replacement, name)
    return name


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
def check_forward(family: Family, network: Any, directory: Path) -> None:
    """Refuses a class that is not what `Model` makes of it: one that stays causal, or that changes
    its logits behind the head.

    Raises:
        UnmaskError: if so.
    """
    device, name = next(network.parameters()).device, type(network).__name__
    tokens = torch.tensor([[1, 2, 3], [1, 2, 4]], device=device)
    seen = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}
    hidden = network.base_model(**seen).last_hidden_state
    if torch.equal(hidden[0, 0], hidden[1, 0]):
        raise UnmaskError(
            f"{directory} holds a {name}, which stays causal whatever its config says; it cannot "
            "be used here"
        )
    own, ours = network(**seen).logits.float(), family.head(network)(hidden).float()
    if (own - ours).abs().max() > 0.01 * own.abs().max():
        raise UnmaskError(
            f"{directory} holds a {name}, which scales or caps its logits behind the head, so that "
            "confidences would be wrong; it cannot be used here"
        )


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
    with refuse_errors(f"the tokenizer in {directory} cannot be loaded", "copy it again"):
        tokenizer: Any = tokenizer_class.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    if not tokenizer.chat_template:
        tokenizer.chat_template = family.chat_template
    check_template(tokenizer.chat_template, directory)
    if not isinstance(tokenizer.model_max_length, int | float):
        tokenizer.model_max_length = VERY_LARGE_INTEGER  # it only warns of long texts
    return tokenizer
