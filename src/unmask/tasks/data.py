"""Rows of data sets: from the Hugging Face Hub through `datasets`, or from local files with the
same columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError

BESIDE = ("dataset_info.json", "state.json")  # written by `save_to_disk`, not rows
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}


@dataclass(frozen=True)
class Place:
    """Where data sets are and what may be done with them.

    Attributes:
        data_dir: a directory with one directory for each task (`gsm8k/train.jsonl`, or the official
            repository's files); None loads from the Hub.
        allow_code_execution: whether model-written code may run, in the sandbox.
    """

    data_dir: Path | None = None
    allow_code_execution: bool = False


def needed(module: str, purpose: str) -> Any:
    """An optional dependency.

    Raises:
        UnmaskError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise UnmaskError(
            f"{purpose} needs the package {module.replace('_', '-')}; install it with pip install "
            "'unmask[tasks]'"
        ) from None


def read_rows(
    place: Place,
    task: str,
    repository: str,
    split: str,
    columns: Sequence[str],
    configs: Sequence[str] = ("",),
    files: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """The rows of one official split.

    Args:
        place: the Hub or a local directory.
        task: the directory's name below `place.data_dir`.
        repository: the data set's id on the Hub.
        split: its official split.
        columns: the columns to return; others are dropped.
        configs: the data set's configurations, whose rows are joined; a local directory may have
            them as directories.
        files: read these, wherever they are.

    Raises:
        UnmaskError: if nothing is found, it cannot be read, or a column is missing.
    """
    datasets = needed("datasets", f"task {task}")
    datasets.disable_progress_bars()
    if files or place.data_dir is not None:
        found = list(files) or local_files(
            Path(place.data_dir or ""), task, split, configs, repository
        )
        kinds = {FORMATS.get(path.suffix) for path in found}
        if len(kinds) > 1 or None in kinds:
            raise UnmaskError(
                f"{', '.join(map(str, found))} are not of one format; give parquet, JSONL or Arrow "
                "files"
            )
        load = [
            lambda: datasets.load_dataset(
                kinds.pop(), data_files=[str(path) for path in found], split="train"
            )
        ]
        where = f"{found[0]}" + (f" and {len(found) - 1} more files" if len(found) > 1 else "")
    else:
        load = [
            lambda config=config: datasets.load_dataset(
                repository, *([config] if config else []), split=split
            )
            for config in configs
        ]
        where = f"{repository} on the Hugging Face Hub"
    rows: list[dict[str, Any]] = []
    for part in load:
        try:
            table = part()
        except (
            Exception
        ) as error:  # datasets, pyarrow, requests and huggingface_hub each raise their own
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            hint = (
                f"or give --data-dir DIR with files DIR/{task}/{split}.jsonl"
                if place.data_dir is None and not files
                else "check the file"
            )
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
