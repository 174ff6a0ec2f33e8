"""Files that are never half-written, optimiser state without pickles, and where a result came
from."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import math
import os
import platform
import shlex
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import UnmaskError, refuse_errors, short_error, short_text

# The functions that handle tensors import torch themselves: the commands read configurations with
# this module, and `--help` must not wait for torch.
if TYPE_CHECKING:
    import torch

# The words of the `unmask` command that runs now; None where unmask is used as a library.
RUNNING_COMMAND: ContextVar[tuple[str, ...] | None] = ContextVar("RUNNING_COMMAND", default=None)
# What an optimiser keeps of each weight.
OPTIMIZER_STATE = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Muon": {"momentum_buffer"}}
WRITTEN = (".json", ".jsonl", ".safetensors", ".md", ".jinja", ".txt")  # suffixes of files of runs
LARGEST_JSON = 2**32  # bytes of a JSON file; results with traces are the largest ones
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


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file so that a kill at any moment leaves the old one or the new one, never a
    part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """`write_text` of bytes."""
    part = part_of(path)
    part.write_bytes(data)
    os.replace(part, path)


def part_of(path: Path) -> Path:
    """Where a file is written before it is moved into its place. Each process of a run has a name
    of its own, as several may write the same file at once; it is the same at the next try, which
    so takes the place of what a kill has left."""
    rank = os.environ.get("RANK", "0")
    return path.with_name(f".{path.name}.part" if rank == "0" else f".{path.name}.{rank}.part")


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


def decode_lines(data: bytes, errors: str = "strict") -> list[str]:
    r"""The lines of a UTF-8 file without their `\n`; a byte-order mark at the start is dropped.

    Lines end at `\n` only. `str.splitlines` also splits at characters such as U+2028 and U+0085,
    which JSON allows inside a string.

    Raises:
        UnicodeDecodeError: if the bytes are not UTF-8.
    """
    return data.decode("utf-8-sig", errors).removesuffix("\n").split("\n")


def write_json(path: Path, data: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """`write_text` for a safetensors file."""
    from safetensors.torch import save_file

    part = part_of(path)
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        part,
        metadata={"format": "pt"},
    )
    os.replace(part, path)


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


def check_file(path: Path, advice: str = "check the name") -> None:
    """Refuses what is no ordinary file: nothing, a directory, or a pipe that would be waited for.

    Raises:
        UnmaskError: if so.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise UnmaskError(f"{path} does not exist; {advice}") from None
    except (OSError, ValueError) as error:
        raise UnmaskError(f"{path} cannot be read ({short_error(error)}); {advice}") from None
    if not stat.S_ISREG(kind):
        raise UnmaskError(f"{path} is not a file; {advice}")


def check_plain(directory: Path) -> None:
    """Refuses to go on in a directory that holds what no run writes, before anything in it is
    changed: pipes, links that lead nowhere, directories in the place of files.

    Raises:
        UnmaskError: naming the first of these.
    """
    for path in sorted(directory.rglob("*")):
        if not (path.is_file() or (path.is_dir() and path.suffix not in WRITTEN)):
            raise UnmaskError(
                f"{path} is not a file, as a run writes it; remove it or copy it again"
            )


def read_json(path: Path, schema: Any = None) -> Any:
    """The contents of a JSON file.

    Args:
        path: the file.
        schema: what they must be, a type as pydantic takes it; None takes anything.

    Raises:
        UnmaskError: if the file is missing, is not JSON, or does not fit the schema.
    """
    check_file(path, "check the directory's name")
    value = parse_json(read_bytes(path), f"{path} cannot be read as JSON")
    return value if schema is None else check_data(value, schema, str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that is not absurdly large.

    Raises:
        UnmaskError: if it is, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise OSError(f"it has {size} bytes, and at most {LARGEST_JSON} are read")
        return path.read_bytes()
    except OSError as error:
        raise UnmaskError(f"{path} cannot be read ({short_error(error)}); copy it again") from None


def parse_json(data: bytes | str, complaint: str) -> Any:
    """The value of a JSON text.

    Raises:
        UnmaskError: beginning with the complaint, if it is not JSON.
    """
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
    # RecursionError: brackets that are nested thousands deep.
    except (ValueError, RecursionError) as error:
        raise UnmaskError(
            f"{complaint} ({short_error(error)}); it is damaged, so make or copy it again"
        ) from None


def read_json_lines(path: Path, schema: Any, *, torn: bool = False) -> list[Any]:
    """The values of a JSON-lines file; empty lines count for nothing.

    Args:
        path: the file.
        schema: what each must be, a type as pydantic takes it.
        torn: leave out lines that a kill has cut: those that begin as an object and are no whole
            one.

    Raises:
        UnmaskError: naming the first line that is not JSON or does not fit the schema.
    """
    check_file(path)
    try:
        lines = decode_lines(read_bytes(path), errors="replace" if torn else "strict")
    except UnicodeDecodeError as error:
        raise UnmaskError(
            f"{path} cannot be read as JSON lines ({short_error(error)}); copy it again"
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line, f"line {number} of {path} is not JSON")
        except UnmaskError:
            if torn and line.startswith("{"):
                continue
            raise
        check_data(value, schema, f"line {number} of {path}")
        found.append(value)  # as it is in the file: the order of its keys is kept
    return found


@functools.cache
def schema_validator(schema: Any) -> Any:
    """The pydantic validator of a type, made once."""
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def check_data(value: Any, schema: Any, where: str) -> Any:
    """A value read from a file, as the type that it must be.

    Args:
        value: what was read.
        schema: a type as pydantic takes it: a model, a TypedDict, a dataclass, `list[int]`.
        where: the file, for the error message.

    Raises:
        UnmaskError: naming the file, the place in it, what is there and what is accepted.
    """
    from pydantic import ValidationError

    try:
        return schema_validator(schema).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        given = (
            ""
            if first["type"] == "missing"
            else f" is {short_text(ascii_repr(first['input']), 60)}"
        )
        raise UnmaskError(
            f"{where} cannot be used: {short_text(place, 80)}{given} ({short_text(first['msg'])}); "
            "correct it, or make or copy it again"
        ) from None


def ascii_repr(value: Any) -> str:
    """A short text for a value that may be large, nested or hold half characters."""
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge number"
    return ascii(value[:80]) if isinstance(value, str) else ascii(value)


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
    try:
        exists, holds = path.exists(), path.is_dir() and any(path.iterdir())
    except (OSError, ValueError) as error:
        raise UnmaskError(
            f"output directory {short_text(ascii(str(path)))} cannot be used "
            f"({short_text(getattr(error, 'strerror', None) or str(error))}); name another one"
        ) from None
    if exists and not path.is_dir():
        raise UnmaskError(f"output directory {path} is a file; name a new directory")
    if holds and all(map(is_part, path.iterdir())):
        remove_parts(path)  # a process was killed before it had written anything whole
    elif holds:
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


@contextmanager
def hold_directory(path: Path, *, make: bool = True) -> Iterator[None]:
    """Keeps every other process from writing a run to a directory while the body runs.

    The lock is on the directory itself, so it leaves no file, and the system releases it when the
    process ends in any way. A file system that knows no locks does not keep anybody out.

    Args:
        path: the directory. What is wrong with a name that cannot be used is left to those who use
            it to say.
        make: make the directory where there is none; it is removed again if it stays empty.

    Raises:
        UnmaskError: if another process holds it.
    """
    missing: list[Path] = []
    descriptor = None
    try:
        missing = [each for each in (path, *path.parents) if make and not each.exists()]
        if missing:
            path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, ValueError) as error:
        if descriptor is not None and getattr(error, "errno", None) == errno.EWOULDBLOCK:
            os.close(descriptor)
            raise UnmaskError(
                f"another process writes to {path} now; wait until it ends, or name another "
                "directory"
            ) from None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        for each in missing:
            with suppress(OSError):  # it holds something
                each.rmdir()


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
