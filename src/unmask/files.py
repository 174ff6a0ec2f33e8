"""Files that are never half-written, optimiser state without pickles, and where a result came
from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unmask.errors import UnmaskError


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a kill at any moment leaves the old one or the new one, never a
    part."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


def write_json(path: Path, data: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """`write_text` for a safetensors file."""
    part = path.with_name(f".{path.name}.part")
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        part,
        metadata={"format": "pt"},
    )
    os.replace(part, path)


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UnmaskError: if the file is missing or truncated.
    """
    try:
        return load_file(
            path, device="cpu" if torch.device(device).type == "cpu" else str(device)
        )  # torch has cpu:0, safetensors not
    except FileNotFoundError:
        raise UnmaskError(
            f"{path} does not exist; a checkpoint directory holds config.json and safetensors files"
        ) from None
    except (
        Exception
    ) as error:  # safetensors raises its own type, and OSError when the header is cut
        raise UnmaskError(
            f"{path} cannot be read as safetensors ({error}); it is damaged or truncated, so copy "
            "it again"
        ) from None


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        UnmaskError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UnmaskError(f"{path} does not exist; check the directory's name") from None
    except (OSError, ValueError) as error:
        raise UnmaskError(
            f"{path} cannot be read as JSON ({error}); it is damaged, so make or copy it again"
        ) from None


def new_directory(path: Path, *, overwrite: bool = False) -> Path:
    """Makes sure that `path` is an empty directory that can be written to.

    Raises:
        UnmaskError: if the path is empty, is a file, holds files (unless `overwrite`), or cannot be
            written to.
    """
    if not str(path).strip() or str(path) == ".":
        raise UnmaskError(
            "the output directory is empty; name a new directory, for example runs/first"
        )
    if path.exists() and not path.is_dir():
        raise UnmaskError(f"output directory {path} is a file; name a new directory")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise UnmaskError(
                f"output directory {path} already holds files; name a new one or remove it"
            )
        shutil.rmtree(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnmaskError(
            f"output directory {path} cannot be made ({error.strerror}); name one that you may "
            "write to"
        ) from None
    if not os.access(path, os.W_OK):
        raise UnmaskError(
            f"output directory {path} cannot be written to; name one that you may write to"
        )
    return path


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state of an optimiser as flat tensors `prefix/parameter/name`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}/{i}/{name}": torch.as_tensor(value)
        for i, entry in state.items()
        for name, value in entry.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str
) -> None:
    """Puts back what `optimizer_tensors` took out; the groups keep the settings that the optimiser
    was made with."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def commit() -> str | None:
    """The git commit of this checkout (with `+` if files differ from it), or None outside one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """What made a result: command, commit, versions, machine, device and dtype."""
    return {
        "command": " ".join(["unmask", *sys.argv[1:]]),
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("unmask", "torch", "transformers")},
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch.") if dtype else None,
    }
