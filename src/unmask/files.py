"""Files that are never half-written, optimiser state without pickles, and where a result came
from."""

from __future__ import annotations

import functools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import UnmaskError, short_error

# The functions that handle tensors import torch themselves: the commands read configurations with
# this module, and `--help` must not wait for torch.
if TYPE_CHECKING:
    import torch

# The words of the `unmask` command that runs now; None where unmask is used as a library.
RUNNING_COMMAND: ContextVar[tuple[str, ...] | None] = ContextVar("RUNNING_COMMAND", default=None)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file so that a kill at any moment leaves the old one or the new one, never a
    part."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def is_part(path: Path) -> bool:
    """Whether a file or directory is the unfinished one of a write that a kill has ended."""
    return path.name.startswith(".") and path.name.endswith(".part")


def remove_parts(directory: Path) -> None:
    """Removes what a killed process left half-written in a directory and below it."""
    for path in [path for path in directory.rglob(".*.part") if is_part(path)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def decode_lines(data: bytes) -> list[str]:
    r"""The lines of a UTF-8 file without their `\n`; a byte-order mark at the start is dropped.

    Lines end at `\n` only. `str.splitlines` also splits at characters such as U+2028 and U+0085,
    which JSON allows inside a string.

    Raises:
        UnicodeDecodeError: if the bytes are not UTF-8.
    """
    return data.decode("utf-8-sig").removesuffix("\n").split("\n")


def write_json(path: Path, data: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """`write_text` for a safetensors file."""
    from safetensors.torch import save_file

    part = path.with_name(f".{path.name}.part")
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        part,
        metadata={"format": "pt"},
    )
    os.replace(part, path)


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UnmaskError: if the file is missing or truncated.
    """
    import torch
    from safetensors.torch import load_file

    # safetensors does not know the name cpu:0, which torch gives to the same device.
    target = "cpu" if torch.device(device).type == "cpu" else str(device)
    try:
        return load_file(path, device=target)
    except FileNotFoundError:
        raise UnmaskError(
            f"{path} does not exist; a checkpoint directory holds config.json and safetensors files"
        ) from None
    # safetensors raises its own type, and OSError when the header is cut.
    except Exception as error:
        raise UnmaskError(
            f"{path} cannot be read as safetensors ({short_error(error)}); it is damaged or "
            "truncated, so copy it again"
        ) from None


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        UnmaskError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UnmaskError(f"{path} does not exist; check the directory's name") from None
    # RecursionError: brackets that are nested thousands deep.
    except (OSError, ValueError, RecursionError) as error:
        raise UnmaskError(
            f"{path} cannot be read as JSON ({short_error(error)}); it is damaged, so make or copy "
            "it again"
        ) from None


def new_directory(path: Path, *, overwrite: bool = False) -> Path:
    """Makes sure that `path` is an empty directory that can be written to. One that holds nothing
    but unfinished files of a killed process counts as empty.

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
    if path.is_dir() and all(map(is_part, path.iterdir())):
        remove_parts(path)  # a process was killed before it had written anything whole
    elif path.is_dir():
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
    was made with."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


@functools.cache
def commit() -> str | None:
    """The git commit of this package's checkout, with `+` if files differ from it.

    None if this file is not tracked by git: a package that is installed inside somebody's project
    must not report that project's commit. The answer is kept, so that a process asks git once.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def running_command(words: Sequence[str]) -> Iterator[None]:
    """While the body runs, `provenance` names this `unmask` command as what made a result."""
    token = RUNNING_COMMAND.set(tuple(words))
    try:
        yield
    finally:
        RUNNING_COMMAND.reset(token)


def provenance(
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """What made a result: command, commit, versions, machine, device and dtype.

    `command` is the `unmask` command that runs. Where a program uses unmask as a library, `command`
    is None and `argv` holds that program's own command line.
    """
    import torch

    words = RUNNING_COMMAND.get()
    origin: dict[str, Any] = {"command": None if words is None else shlex.join(words)}
    if words is None:
        origin["argv"] = shlex.join(sys.orig_argv)
    machine = f"{platform.system()} {platform.machine()}"
    return {
        **origin,
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("unmask", "torch", "transformers")},
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "machine": f"{machine}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch.") if dtype else None,
    }
