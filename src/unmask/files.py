"""Files and directories that are never half-written, and JSON that is checked when it is read."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, short_error, short_text

WRITTEN = (".json", ".jsonl", ".safetensors", ".md", ".jinja", ".txt")  # suffixes of files of runs
LARGEST_JSON = 2**32  # bytes of a JSON file; results with traces are the largest ones


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file so that a kill at any moment leaves the old one or the new one, never a
    part."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """`write_text` of bytes. A device, a pipe or an open file, as `/dev/stdout`, is written to
    itself."""
    if not is_stream(path):
        with replacing(path) as part:
            part.write_bytes(data)
        return
    sys.stdout.flush()  # what was printed comes first where that is the same file
    number = open_number(path)
    descriptor = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a new, empty file to write to, which takes the place of `path` when the body has
    ended; after an error it is removed. A link stays, and the file behind it is replaced.

    Raises:
        OSError: of the body or of the replacing, with the name of `path`.
    """
    path = path.resolve() if path.is_symlink() else path
    part = part_of(path)
    try:
        part.unlink(missing_ok=True)
        part.touch()
        yield part
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # else it has its own words
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def filling(directory: Path) -> Iterator[Path]:
    """Gives a new directory inside another one, whose files are moved into the other one, one by
    one, when the body has ended; after an error they are removed.

    Raises:
        OSError: of the body or of the moving, with the name of a file in `directory`, or of
            `directory` where the error names none.
        UnmaskError: of the body; files that it names are those in `directory`.
    """
    part = part_of(directory / "files")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        for path in sorted(part.iterdir()):
            os.replace(path, directory / path.name)
        part.rmdir()
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, UnmaskError):
            raise UnmaskError(str(error).replace(str(part), str(directory))) from None
        if isinstance(error, OSError) and error.errno is not None:
            name = directory if error.filename is None else directory / Path(error.filename).name
            raise OSError(error.errno, error.strerror, str(name)) from None
        raise


def append_bytes(path: Path, data: bytes) -> None:
    """Writes to the end of a file, which is as long as before after an error.

    Raises:
        OSError: if it cannot be written, with its name.
    """
    length = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, length)
        raise OSError(error.errno, error.strerror, str(path)) from None


def check_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before the work is done: a directory in its place, or
    a directory around it, if there is one, that takes no files.

    Raises:
        UnmaskError: if so.
    """
    if path.is_dir():
        raise UnmaskError(f"output file {path} is a directory; name a file")
    if is_stream(path) and os.access(path, os.W_OK):
        return
    path = path.resolve() if path.is_symlink() else path
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise UnmaskError(
            f"output file {path} cannot be written, as {path.parent} takes no new files; name one "
            "that you may write"
        )


def open_number(path: Path) -> int | None:
    """The number of an open file of this process, if a path stands for one: `/dev/fd/3`, or
    `/dev/stdout`, which is a link to such a path."""
    names = [path, path.parent / os.readlink(path)] if path.is_symlink() else [path]
    found = [re.fullmatch(r"(?:/proc/self|/dev)/fd/(\d+)", str(name)) for name in names]
    return next((int(match[1]) for match in found if match), None)


def is_stream(path: Path) -> bool:
    """Whether a path is that of a device, a pipe or an open file of this process."""
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or open_number(path) is not None


def part_of(path: Path) -> Path:
    """Where a file is written before it is moved into its place. Each process of a run has a name
    of its own, as several may write the same file at once; it is the same at the next try, which
    so takes the place of what a kill has left."""
    rank = os.environ.get("RANK", "0")
    return path.with_name(f".{path.name}.part" if rank == "0" else f".{path.name}.{rank}.part")


def is_part(path: Path) -> bool:
    """Whether a file or directory is the unfinished one of a write that a kill has ended."""
    return path.name.startswith(".") and path.name.endswith(".part")


def list_whole(directory: Path) -> list[Path]:
    """What lies in a directory but for unfinished files; nothing if there is none."""
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(path for path in found if not is_part(path))


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


def new_directory(path: Path, *, overwrite: bool = False, begun: str = "", go_on: str = "") -> Path:
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
            hint = f", or go on with {go_on}" if begun and (path / begun).exists() else ""
            raise UnmaskError(
                f"output directory {path} already holds files; name a new one or remove it{hint}"
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
