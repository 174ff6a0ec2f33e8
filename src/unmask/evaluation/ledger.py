"""Results on disk while an evaluation runs: append-only, shared by processes, and good after a kill
at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.files import new_directory, read_json, write_json, write_text

PARTIAL, RESULTS, SUMMARY = "partial", "results.jsonl", "summary.json"


@dataclass(frozen=True)
class Ledger:
    """The directory of one evaluation.

    While it runs, `partial/settings.json` says what is measured and `partial/RANK.jsonl` of each
    process gets a line for every finished piece of work. When all are done `results.jsonl` and
    `summary.json` are written, and `partial` goes.

    Attributes:
        directory: where.
        settings: what decides the results; an evaluation goes on only with the same.
    """

    directory: Path
    settings: Mapping[str, Any]

    def open(self, provenance: Mapping[str, Any], resume: bool) -> None:
        """Starts a new directory, or with `resume` goes on in one; called by one process, before
        the others use it.

        Raises:
            UnmaskError: if the directory holds files and `resume` is off, or what it holds is not
                this evaluation.
        """
        summary, begun = self.directory / SUMMARY, self.directory / PARTIAL / "settings.json"
        if resume and summary.exists():
            self.check(self.summary())
            shutil.rmtree(begun.parent, ignore_errors=True)
            return
        if resume and begun.exists():
            self.check(read_json(begun)["settings"])
            return
        if (
            resume
            and (self.directory / PARTIAL).is_dir()
            and not any(path for path in self.directory.iterdir() if path.name != PARTIAL)
        ):
            shutil.rmtree(self.directory / PARTIAL)  # killed before it began
        try:
            new_directory(self.directory)
        except UnmaskError as error:
            raise UnmaskError(
                f"{error}; or give --resume to go on with an interrupted evaluation"
            ) from None
        begun.parent.mkdir()
        write_json(begun, {"settings": dict(self.settings), "provenance": dict(provenance)})

    def check(self, found: Mapping[str, Any]) -> None:
        """That the settings of the directory are these.

        Raises:
            UnmaskError: naming those that differ.
        """
        mine = json.loads(json.dumps(dict(self.settings)))
        if differ := sorted(name for name in mine if found.get(name) != mine[name]):
            names = ", ".join(differ)
            raise UnmaskError(
                f"{self.directory} holds an evaluation with other settings ({names} differ); give "
                "the same ones, or name a new directory"
            )

    def running(self) -> bool:
        """Whether there is something left to do."""
        return (self.directory / PARTIAL).is_dir()

    def summary(self) -> dict[str, Any]:
        """What a finished evaluation found."""
        return read_json(self.directory / SUMMARY)

    def begun_with(self) -> dict[str, Any]:
        """The provenance of the process that started the evaluation."""
        return read_json(self.directory / PARTIAL / "settings.json")["provenance"]

    def pieces(self) -> dict[int, dict[str, Any]]:
        """Every finished piece of all processes, by number. What a kill left of a line is no
        piece."""
        found: dict[int, dict[str, Any]] = {}
        for path in sorted((self.directory / PARTIAL).glob("*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    piece = json.loads(line)
                except ValueError:
                    continue
                found[piece["piece"]] = piece
        return found

    def writer(self, rank: int) -> Callable[[Mapping[str, Any]], None]:
        """What appends a piece to this process' file. A torn last line of an earlier process is
        closed first."""
        path = self.directory / PARTIAL / f"{rank}.jsonl"
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a") as file:
                file.write("\n")

        def write(piece: Mapping[str, Any]) -> None:
            with path.open("a") as file:
                file.write(json.dumps(piece) + "\n")

        return write

    def close(self, records: list[dict[str, Any]], summary: Mapping[str, Any]) -> None:
        """Writes the final files and removes the partial ones; called by one process."""
        write_text(
            self.directory / RESULTS, "".join(json.dumps(record) + "\n" for record in records)
        )
        write_json(self.directory / SUMMARY, {**self.settings, **summary})
        shutil.rmtree(self.directory / PARTIAL, ignore_errors=True)


def read_records(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of the `results.jsonl` that `evaluate` wrote in a directory.

    Raises:
        UnmaskError: if there is none, or it is damaged.
    """
    path = Path(directory) / RESULTS
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        if not all(
            {"sampler", "block_length", "seed", "prompt", "correct", "nfe"} <= set(record)
            for record in records
        ):
            raise ValueError
    except (OSError, ValueError, TypeError):
        raise UnmaskError(
            f"{path} is not a results file of `unmask evaluate`; give its directory"
        ) from None
    return records
