"""Safetensors files that are never half-written, what their headers say, and an optimiser's state
without pickles."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import UnmaskError, refuse_errors, short_error, short_text
from unmask.files import check_file, filling, replacing

# The functions that handle tensors import torch themselves: the commands read configurations
# without it, and `--help` must not wait for torch.
if TYPE_CHECKING:
    import torch

# What an optimiser keeps of each weight.
OPTIMIZER_STATE = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Muon": {"momentum_buffer"}}
LARGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
# Bits of a number of each type that safetensors knows.
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """`write_text` for a safetensors file, with the permissions of every other new file: those that
    safetensors gives let nobody but the owner read.

    Raises:
        OSError: if it cannot be written, for example on a disk that is full.
    """
    from safetensors.torch import save_file

    # In a directory: safetensors writes to a file of a random name first, which a kill leaves.
    with replacing(path) as part, filling(path.parent) as directory, system_errors():
        permissions, new = stat.S_IMODE(part.stat().st_mode), directory / part.name
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
            new,
            metadata={"format": "pt"},
        )
        new.chmod(permissions)


@contextmanager
def system_errors() -> Iterator[None]:
    """Makes what safetensors and tokenizers say of a file that the system cannot write an
    OSError."""
    try:
        yield
    except Exception as error:  # those of tokenizers are of no other type
        if found := re.search(r"os error ([0-9]+)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number)) from None
        raise


def read_tensors(
    path: Path,
    device: str | torch.device = "cpu",
    expected: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.
        device: where the tensors go.
        expected: the shape of each tensor that the file must hold; None takes any. Names and
            shapes are compared before anything is allocated.

    Raises:
        UnmaskError: if the file is missing, truncated or damaged, or does not hold what is
            expected.
    """
    import torch
    from safetensors.torch import load_file

    header = read_header(path)
    if expected is not None and (reason := describe_misfit(header, expected)):
        raise UnmaskError(f"{path} does not hold the weights that belong there ({reason})")
    # safetensors does not know the name cpu:0, which torch gives to the same device.
    target = "cpu" if torch.device(device).type == "cpu" else str(device)
    with refuse_errors(f"{path} cannot be read as safetensors", "copy it again"):
        return load_file(path, device=target)


@dataclass(frozen=True)
class TensorInfo:
    """What the header of a safetensors file says of a tensor: its type, as `F32`, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, types and shapes in a safetensors file, none of which is read; the header's own
    claims are checked against the length of the file.

    Raises:
        UnmaskError: if the file is missing, shorter or longer than its header says, or the header
            contradicts itself.
    """
    check_file(path, "a checkpoint directory holds config.json and safetensors files")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, LARGEST_HEADER):
                raise ValueError(f"its header would have {length} bytes")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        found, places = {}, []
        for name, entry in entries.items():
            found[name] = TensorInfo(entry["dtype"], tuple(entry["shape"]))
            begin, end = entry["data_offsets"]
            check_extent(name, found[name], begin, end)
            places.append((begin, end))
        place = 0
        for begin, end in sorted(places):
            if begin != place:
                raise ValueError("its tensors do not lie one behind the other")
            place = end
        if size != 8 + length + place:
            raise ValueError(f"it has {size} bytes and should have {8 + length + place}")
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else short_error(error)
        raise UnmaskError(
            f"{path} cannot be read as safetensors ({reason}); it is damaged or truncated, so copy "
            "it again"
        ) from None
    except RecursionError:
        raise UnmaskError(
            f"{path} cannot be read as safetensors (its header is nested too deep); copy it again"
        ) from None
    return found


def check_extent(name: str, tensor: TensorInfo, begin: Any, end: Any) -> None:
    """Refuses a tensor whose shape does not fill its place in the file.

    Raises:
        ValueError: saying why.
    """
    if not isinstance(name, str) or tensor.dtype not in BITS:
        raise ValueError(f"tensor {short_text(name, 60)!r} has an unknown type")
    if not all(
        type(number) is int and 0 <= number < 2**63 for number in (*tensor.shape, begin, end)
    ):
        raise ValueError(f"tensor {short_text(name, 60)!r} has a size that is no whole number")
    if 8 * (end - begin) != tensor.numbers * BITS[tensor.dtype]:
        raise ValueError(f"tensor {short_text(name, 60)!r} has another size than its shape says")


def describe_misfit(found: Mapping[str, TensorInfo], expected: Mapping[str, Sequence[int]]) -> str:
    """How a file's tensors differ from those expected: the first names, or ""."""
    wrong = []
    for kind, names in (
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
    ):
        if names:
            shown = ", ".join(short_text(name, 60) for name in sorted(names)[:3])
            wrong.append(f"{kind}: {shown}{' and others' if len(names) > 3 else ''}")
    for name in (name for name in expected if name in found):
        if found[name].shape != tuple(expected[name]):
            wrong.append(
                f"{short_text(name, 60)} has the shape {list(found[name].shape)}, not "
                f"{list(expected[name])}"
            )
            break
    return "; ".join(wrong)


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """The state of an optimiser as flat tensors `prefix/parameter/name`."""
    import torch

    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}/{i}/{name}": torch.as_tensor(value)
        for i, entry in state.items()
        for name, value in entry.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], prefix: str
) -> None:
    """Puts back what `optimizer_tensors` took out; the groups keep the settings that the optimiser
    was made with.

    Raises:
        UnmaskError: if the tensors are not the state of this optimiser.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = OPTIMIZER_STATE[type(optimizer).__name__]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}/"):
            _, index, name = (*key.split("/"), "", "")[:3]
            number = int(index) if index.isascii() and index.isdecimal() else len(parameters)
            shapes = {(), tuple(parameters[number].shape)} if number < len(parameters) else ()
            if name not in names or tuple(tensor.shape) not in shapes:
                raise UnmaskError(f"{short_text(key, 60)} is not a part of this optimiser's state")
            state.setdefault(number, {})[name] = tensor
    for number, entry in state.items():
        if set(entry) != names or not all(bool(value.isfinite().all()) for value in entry.values()):
            raise UnmaskError(
                f"{prefix}/{number} is not the whole state of a weight, or not finite"
            )
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def read_whole(tensors: Mapping[str, torch.Tensor], name: str, most: int) -> int:
    """A whole number from 0 to `most` that a checkpoint holds as a tensor.

    Raises:
        UnmaskError: if it holds something else.
    """
    tensor = tensors.get(name)
    if tensor is None or tensor.numel() != 1 or tensor.is_floating_point() or tensor.is_complex():
        raise UnmaskError(f"its {name} is no whole number")
    if not 0 <= int(tensor) <= most:
        raise UnmaskError(f"its {name} is {int(tensor)}, and the run has {most}")
    return int(tensor)


def check_weights(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Any]) -> None:
    """Refuses weights of a checkpoint that are not those of a network.

    Args:
        tensors: what was read.
        expected: the network's own weights, of which the shapes count.

    Raises:
        UnmaskError: if a name is missing or unknown, or a shape or value cannot be.
    """
    found = {name: TensorInfo("", tuple(value.shape)) for name, value in tensors.items()}
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    if reason := describe_misfit(found, shapes):
        raise UnmaskError(reason)
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise UnmaskError(f"{short_text(name, 60)} holds what is no finite number")
