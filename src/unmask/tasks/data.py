"""Rows of data sets: from the Hugging Face Hub through `datasets`, or from local files with the
same columns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, short_error
from unmask.extras import require_package
from unmask.files import decode_lines
from unmask.tasks.options import TaskOptions

BESIDE = ("dataset_info.json", "state.json")  # written by `save_to_disk`, not rows
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}


@dataclass(frozen=True)
class DataAccess:
    """Where data sets are and what may be done with them.

    Attributes:
        data_dir: a directory with one directory for each task (`gsm8k/train.jsonl`, or the official
            repository's files); None loads from the Hub.
        allow_code_execution: whether model-written code may run, in the sandbox.
        options: what was said of the task behind its name.
    """

    data_dir: Path | None = None
    allow_code_execution: bool = False
    options: TaskOptions = field(default_factory=TaskOptions)


def is_file(name: str) -> bool:
    """Whether there is a file of this name."""
    try:
        return bool(name) and Path(name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def read_rows(
    access: DataAccess,
    task: str,
    repository: str,
    split: str,
    columns: Sequence[str],
    configs: Sequence[str] = ("",),
    files: Sequence[Path] = (),
) -> list[Any]:
    """The rows of one official split, as they are: a row may be damaged (`rows.make_examples`).

    Args:
        access: the Hub or a local directory.
        task: the directory's name below `access.data_dir`.
        repository: the data set's id on the Hub.
        split: its official split.
        columns: the columns to return; others are dropped.
        configs: the data set's configurations, whose rows are joined; a local directory may have
            them as directories.
        files: read these, wherever they are.

    Raises:
        UnmaskError: if nothing is found, it cannot be read, or a column is missing in all rows.
    """
    if files or access.data_dir is not None:
        root = access.data_dir or Path()
        found = list(files) or local_files(root, task, split, configs, repository)
        where = str(found[0]) + (f" and {len(found) - 1} more files" if len(found) > 1 else "")
        if file_format(found) == "json":
            rows = [row for path in found for row in read_json_rows(path)]
            return choose_columns(rows, where, task, columns)
        calls = [((file_format(found),), {"data_files": [*map(str, found)], "split": "train"})]
    else:
        calls = [((repository, config) if config else (repository,), {}) for config in configs]
        calls = [(args, {"split": split}) for args, _ in calls]
        where = f"{repository} on the Hugging Face Hub"
    hint = "check the file"
    if access.data_dir is None and not files:
        hint = f"or give --data-dir DIR with files DIR/{task}/{split}.jsonl"
    datasets = require_package("datasets", f"task {task}")
    rows = []
    with hidden_progress_bars(datasets):
        for args, named in calls:
            try:
                table = datasets.load_dataset(*args, **named)
                known = [column for column in columns if column in table.column_names]
                rows += table.select_columns(known).to_list() if known else [{}] * len(table)
            except Exception as error:  # each of the libraries below raises its own
                raise UnmaskError(
                    f"{where} cannot be read ({short_error(error)}); {hint}"
                ) from None
    return choose_columns(rows, where, task, columns)


def choose_columns(rows: list[Any], where: str, task: str, columns: Sequence[str]) -> list[Any]:
    """The rows with these columns alone; one that is no object stays as it is.

    Raises:
        UnmaskError: if there are no rows, or no row has one of the columns.
    """
    if not rows:
        raise UnmaskError(f"{where} holds no rows; task {task} needs at least one")
    objects = [row for row in rows if isinstance(row, dict)]
    missing = [column for column in columns if not any(column in row for row in objects)]
    if missing and objects:
        advice = ", or one for all lines, as jsonl:FILE@verifier=number"
        raise UnmaskError(
            f"{where} has no column {', '.join(missing)}; task {task} needs {', '.join(columns)}"
            + (advice if missing == ["verifier"] else "")
        )
    wanted = set(columns)
    return [
        {key: value for key, value in row.items() if key in wanted}
        if isinstance(row, dict)
        else row
        for row in rows
    ]


def read_json_rows(path: Path) -> list[Any]:
    """The rows of a JSON-lines file, or of a JSON file that holds a list. A line that is not JSON
    is a row too, as a text, for a data set is not useless because of it.

    Raises:
        UnmaskError: if the file cannot be read, or has no line of JSON.
    """
    try:
        lines = decode_lines(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnmaskError(
            f"{path} cannot be read ({short_error(error)}); give a UTF-8 file of JSON lines"
        ) from None
    if path.suffix == ".json":
        listed = parse_json("\n".join(lines))
        if isinstance(listed, list):
            return listed
    written = [line for line in lines if line.strip()]
    rows = [parse_json(line) for line in written]
    if written and not any(isinstance(row, dict) for row in rows):
        raise UnmaskError(
            f"{path} cannot be read as JSON lines (its first is {written[0][:60]!r}); write an "
            "object with the columns in each line"
        )
    return rows


def parse_json(text: str) -> Any:
    """A JSON value, or the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@contextmanager
def hidden_progress_bars(datasets: Any) -> Iterator[None]:
    """Without the progress bars of `datasets`, which are the program's again afterwards."""
    hidden_before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden_before:
            datasets.enable_progress_bars()


def file_format(files: Sequence[Path]) -> str:
    """The one format of some files, as `datasets` calls it.

    Raises:
        UnmaskError: if they have several, or one that is not known.
    """
    kinds = {FORMATS.get(path.suffix) for path in files}
    kind = kinds.pop()
    if kind is None or kinds:
        raise UnmaskError(
            f"{', '.join(map(str, files))} are not of one format; give parquet, JSONL or Arrow "
            "files"
        )
    return kind


def local_files(
    data_dir: Path, task: str, split: str, configs: Sequence[str], repository: str
) -> list[Path]:
    """Files of one split: those whose name, or whose directory's name, begins with the split's."""
    root = data_dir / task
    if not root.is_dir():
        root = data_dir / repository.rsplit("/", 1)[-1]  # as `hf download` lays it out
    chosen = [root / config for config in configs if config and (root / config).is_dir()] or [root]

    def of_split(path: Path, base: Path) -> bool:
        return path.name.startswith(split) or (path.parent != base and path.parent.name == split)

    found = sorted(
        Path(folder) / name
        for base in chosen
        for folder, _, names in os.walk(base)
        for name in names
        if Path(name).suffix in FORMATS
        and name not in BESIDE
        and of_split(Path(folder) / name, base)
    )
    if not found:
        raise UnmaskError(
            f"{data_dir / task} has no {split} files; put {split}.parquet, {split}.jsonl or "
            f"{split}.arrow there, with the official columns"
        )
    return found
