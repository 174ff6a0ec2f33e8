"""Rows of data sets: from the Hugging Face Hub through `datasets`, or from local files with the
same columns."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.tasks.examples import Example

BESIDE = ("dataset_info.json", "state.json")  # written by `save_to_disk`, not rows
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}


@dataclass(frozen=True)
class DataAccess:
    """Where data sets are and what may be done with them.

    Attributes:
        data_dir: a directory with one directory for each task (`gsm8k/train.jsonl`, or the official
            repository's files); None loads from the Hub.
        allow_code_execution: whether model-written code may run, in the sandbox.
    """

    data_dir: Path | None = None
    allow_code_execution: bool = False


def require_package(module: str, purpose: str) -> Any:
    """An optional dependency.

    Raises:
        UnmaskError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UnmaskError(
            f"{purpose} needs the package {module.replace('_', '-')}; install it with pip install "
            "'unmask[tasks]'"
        ) from None


def read_rows(
    access: DataAccess,
    task: str,
    repository: str,
    split: str,
    columns: Sequence[str],
    configs: Sequence[str] = ("",),
    files: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """The rows of one official split.

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
        UnmaskError: if nothing is found, it cannot be read, or a column is missing.
    """
    datasets = require_package("datasets", f"task {task}")
    # What is loaded: the arguments of `datasets.load_dataset`, a call for each part.
    if files or access.data_dir is not None:
        root = access.data_dir or Path()
        found = list(files) or local_files(root, task, split, configs, repository)
        paths = [str(path) for path in found]
        calls = [((file_format(found),), {"data_files": paths, "split": "train"})]
        where = paths[0] + (f" and {len(paths) - 1} more files" if len(paths) > 1 else "")
    else:
        calls = [((repository, config) if config else (repository,), {}) for config in configs]
        calls = [(args, {"split": split}) for args, _ in calls]
        where = f"{repository} on the Hugging Face Hub"
    hint = "check the file"
    if access.data_dir is None and not files:
        hint = f"or give --data-dir DIR with files DIR/{task}/{split}.jsonl"
    rows: list[dict[str, Any]] = []
    with hidden_progress_bars(datasets):
        for args, named in calls:
            try:
                table = datasets.load_dataset(*args, **named)
            except Exception as error:  # each of the libraries below raises its own
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise UnmaskError(f"{where} cannot be read ({reason}); {hint}") from None
            if missing := [column for column in columns if column not in table.column_names]:
                raise UnmaskError(
                    f"{where} has no column {', '.join(missing)}; task {task} needs "
                    f"{', '.join(columns)}"
                )
            rows += table.select_columns(list(columns)).to_list()
    if not rows:
        raise UnmaskError(f"{where} holds no rows; task {task} needs at least one")
    return rows


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


def drop_unsolvable(
    task: str, split: str, examples: list[Example], solvable: Callable[[Example], bool]
) -> list[Example]:
    """The examples that some completion can solve. The others are counted and named in a warning:
    with them in, an accuracy of 1 would be out of reach in silence.

    Raises:
        UnmaskError: if none is left.
    """
    kept = [example for example in examples if solvable(example)]
    if lost := [example for example in examples if not solvable(example)]:
        message = (
            f"task {task}: {len(lost)} of {len(examples)} {split} examples have no answer that can "
            f"be read, the first has the prompt {lost[0].prompt[:80]!r} and the answer "
            f"{lost[0].answer[-80:]!r}"
        )
        if not kept:
            raise UnmaskError(f"{message}; check the file's answers")
        warnings.warn(f"{message}; they are left out", stacklevel=2)
    return kept


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
