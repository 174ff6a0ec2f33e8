"""What tells models and policies apart that have the same name: hashes of all that they hold.

An evaluation that is resumed must go on with the same weights and the same decode-time settings.
Names do not say that: a directory may be trained on, or its config.json edited, in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from logging import Logger
from pathlib import Path, PurePath
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unmask.models import Model
from unmask.policies import LearnedPolicy
from unmask.policies.base import PolicyLike
from unmask.rng import mix

MOST_NESTED = 8  # of a policy's attributes within attributes
CHUNK = 1 << 16  # words of 8 bytes that make one sum: half a megabyte, which a CPU's cache holds
AT_ONCE = {"cpu": 1}  # chunks; elsewhere 64, since a kernel takes longer to start than to read one
# Entries of a network's configuration that say which library read it and how it was asked to.
VOLATILE = ("transformers_version", "dtype", "torch_dtype")


def model_contents(model: Model) -> str:
    """A hash of a frozen model: every byte of its parameters and buffers as they were loaded, its
    configuration, its special tokens and its vocabulary. 16 hexadecimal digits.

    Every byte counts, and 16 GB take seconds: see `tensor_digest`.
    """
    config = model.network.config.to_dict() if hasattr(model.network, "config") else {}
    kept = {k: v for k, v in config.items() if not k.startswith("_") and k not in VOLATILE}
    described = {
        "config": kept,
        "special": [model.mask_id, list(model.eos_ids), list(model.never_ids)],
        "family": [model.family, model.shift],
        "vocabulary": sorted(model.tokenizer.get_vocab().items()),
    }
    found = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, value in sorted(model.network.state_dict().items()):
        found.update(name.encode())
        found.update(tensor_digest(value) if isinstance(value, Tensor) else repr(value).encode())
    return found.hexdigest()[:16]


def tensor_digest(tensor: Tensor) -> bytes:
    """32 bytes that depend on a tensor's shape, dtype and every byte of it, but not on its device.

    The bytes are read as 64-bit words w_i, and of each half megabyte the sum Σ mix(w_i ⊕ k_i) is
    taken modulo 2^64, with a random constant k_i for each place. That runs on the tensor's own
    device, at a few times the cost of reading it once. A change of one word always changes the sum;
    tensors that differ in more have equal sums with a probability of about 2^-64. (It is no defence
    against an attacker.)
    """
    found = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    if tensor.device.type == "meta":  # offloaded: there are no bytes to read
        return found.digest()
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if raw.storage_offset() % 8:
        raw = raw.clone()  # words must begin at a multiple of 8
    whole = raw.numel() // 8 * 8
    words = raw[:whole].view(torch.int64)
    places = mix(torch.arange(1, min(CHUNK, len(words)) + 1, device=raw.device))
    full = len(words) // CHUNK
    chunks, rest = words[: full * CHUNK].view(full, CHUNK), words[full * CHUNK :]
    at_once = AT_ONCE.get(raw.device.type, 64)
    starts = range(0, full, at_once)
    sums = [mix(chunks[start : start + at_once] ^ places).sum(1) for start in starts]
    sums.append(mix(rest ^ places[: len(rest)]).sum()[None])
    found.update(torch.cat(sums).cpu().numpy().tobytes())
    found.update(bytes(raw[whole:].tolist()))
    return found.digest()


def model_revision(model: Model) -> str | None:
    """The commit of the Hugging Face Hub repository that a model was loaded from; None if it was
    loaded from elsewhere. Looks at local files only."""
    name = str(model.name)
    repository = name.removeprefix("hf:")
    if name.startswith("embedded/") or Path(name).is_dir() or repository.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, local_files_only=True)).name
    except Exception:  # the hub raises many kinds; a result without a revision is still a result
        return None


def weights_digest(policy: PolicyLike) -> str:
    """A hash of a learned policy's weights, 16 hexadecimal digits; "" for other policies."""
    if not isinstance(policy, LearnedPolicy):
        return ""
    found = hashlib.sha256()
    for name, weight in sorted(policy.network.state_dict().items()):
        found.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def policy_contents(policy: PolicyLike) -> Any:
    """All that decides what a policy does, as JSON: its class and its settings, with weights and
    other tensors as hashes. What it was trained on (`metadata`) is left out."""
    if not isinstance(policy, LearnedPolicy):
        return describe_value(policy)
    settings = {field.name: getattr(policy, field.name) for field in fields(policy)}
    return describe_value({k: v for k, v in settings.items() if k not in ("network", "metadata")})


def describe_value(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A value as JSON that is equal for equal values and stays equal in another process.

    Args:
        value: what a policy holds.
        above: the ids of the values that hold it, outermost first. One that holds itself is
            described once.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in above:
        return f"held by itself, {len(above) - above.index(id(value))} above"
    depth, inside = len(above), (*above, id(value))
    if isinstance(value, Tensor):
        return tensor_digest(value).hex()[:16]
    if isinstance(value, nn.Module):
        return {name: describe_value(part) for name, part in sorted(value.state_dict().items())}
    if isinstance(value, Mapping) and depth < MOST_NESTED:
        return {str(key): describe_value(part, inside) for key, part in value.items()}
    if isinstance(value, list | tuple) and depth < MOST_NESTED:
        return [describe_value(part, inside) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, ModuleType | PurePath):
        return value.__name__ if isinstance(value, ModuleType) else str(value)
    if isinstance(value, Logger):  # it knows all other loggers of the process
        return f"logger {value.name}"
    if isinstance(value, np.ndarray | np.generic):
        return describe_array(np.asarray(value), inside)
    if isinstance(value, CodeType):
        return digest([value.co_code.hex(), value.co_names, describe_value(value.co_consts)])
    named: Any = value if hasattr(value, "__qualname__") else type(value)  # function; or object
    module = named.__module__ or "__main__"  # code that `exec` runs may have no module
    own = module.startswith("unmask.")  # modules of this package may be moved
    name = named.__qualname__ if own else f"{module}.{named.__qualname__}"
    if isinstance(value, type) or depth >= MOST_NESTED:
        return name
    held = {key: describe_value(part, inside) for key, part in held_by(value, own).items()}
    if named is not value:
        return {"class": name} | held
    return f"{name} {digest(held)}" if held else name


def digest(described: Any) -> str:
    """A hash of JSON, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def describe_array(array: np.ndarray, above: tuple[int, ...]) -> Any:
    """A NumPy array or scalar as JSON: a hash of its type, its shape and its bytes, or all that it
    holds where these are Python objects."""
    if array.dtype.hasobject:
        return describe_value(array.tolist(), above)
    return digest([array.dtype.str, array.shape, array.tobytes().hex()])


def held_by(value: Any, own: bool) -> dict[str, Any]:
    """What an object or a function holds, by name: its attributes, what a function was made with,
    and the text of an object that has no attributes (a date, a dtype).

    Args:
        value: no class.
        own: whether it is of this package, whose code is not compared.
    """
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, partial):
        return vars(value) | {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, MethodType):
        return {"func": value.__func__, "self": value.__self__}
    if isinstance(value, FunctionType):
        closure = [cell_contents(cell) for cell in value.__closure__ or ()]
        parts = {"closure": closure, "defaults": value.__defaults__, "named": value.__kwdefaults__}
        held = vars(value) | {name: part for name, part in parts.items() if part}
        return held if own else held | {"code": value.__code__}
    names = [name for kind in type(value).__mro__ for name in slots_of(kind)]
    held = {name: getattr(value, name) for name in names if hasattr(value, name)}
    held |= getattr(value, "__dict__", {})
    if hasattr(value, "__dict__") or hasattr(value, "__qualname__") or held:
        return held
    return {} if " at 0x" in repr(value) else {"text": repr(value)}


def slots_of(kind: type) -> tuple[str, ...]:
    """The attributes that a class keeps in slots."""
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if not name.startswith("__"))


def cell_contents(cell: CellType) -> Any:
    """What a function's closure holds in one place; None where nothing is there yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
