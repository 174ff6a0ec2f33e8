"""Where an evaluation keeps its results while it runs: in a directory, which processes share and
which is good after a kill at any moment; or in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from unmask.decoding.options import DecodeOptions
from unmask.errors import UnmaskError
from unmask.evaluation.schema import PieceLine, Record, StartedEvaluation, Summary
from unmask.files import (
    append_bytes,
    check_data,
    check_file,
    check_plain,
    list_whole,
    new_directory,
    read_json,
    read_json_lines,
    remove_parts,
    write_json,
    write_text,
)

PARTIAL, RESULTS, SUMMARY, SETTINGS = "partial", "results.jsonl", "summary.json", "settings.json"
# Settings that older evaluations did not write down: what they ran with, or, for the hashes, what
# nobody can know any more, so that nothing is compared.
DEFAULTS = json.loads(json.dumps(vars(DecodeOptions())))
UNKNOWN_BEFORE = ("policies", "model_contents")


@runtime_checkable
class Store(Protocol):
    """Finished pieces of an evaluation, and in the end its results."""

    def open(self, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Begins, or goes on with what an earlier run of the same settings left; called by one
        process, before the others use the store.

        Raises:
            UnmaskError: if what is there is not this evaluation.
        """
        ...

    def finished(self) -> Mapping[str, Any] | None:
        """The summary of an evaluation that was finished earlier; None if there is work left."""
        ...

    def provenance(self) -> Mapping[str, Any]:
        """That of the process which began the evaluation."""
        ...

    def pieces(self) -> dict[int, Mapping[str, Any]]:
        """Every finished piece of all processes, by number."""
        ...

    def writer(self, rank: int) -> Callable[[Mapping[str, Any]], None]:
        """What keeps a piece that the process of this rank has finished."""
        ...

    def close(self, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        """Keeps the final results; called by one process."""
        ...


@dataclass
class MemoryStore:
    """A store that is gone when the evaluation is over: for one process, and never resumed."""

    found: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def open(self, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        self.origin = provenance

    def finished(self) -> None:
        return None

    def provenance(self) -> Mapping[str, Any]:
        return self.origin

    def pieces(self) -> dict[int, Mapping[str, Any]]:
        return dict(self.found)

    def writer(self, rank: int) -> Callable[[Mapping[str, Any]], None]:
        def write(piece: Mapping[str, Any]) -> None:
            self.found[piece["piece"]] = piece

        return write

    def close(self, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        self.found.clear()


@dataclass(frozen=True)
class Ledger:
    """The directory of one evaluation.

    While it runs, `partial/settings.json` says what is measured and `partial/RANK.jsonl` of each
    process gets a line for every finished piece of work. When all are done `results.jsonl` and
    `summary.json` are written, and `partial` is removed.

    Attributes:
        directory: where.
        resume: whether what the directory holds may be gone on with.
    """

    directory: Path
    resume: bool = False

    def open(self, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Starts a new directory, or with `resume` goes on in one.

        Raises:
            UnmaskError: if the directory holds files and `resume` is off, or what it holds is not
                this evaluation.
        """
        if self.resume and self.go_on(settings):
            return
        new_directory(self.directory, begun=PARTIAL, go_on="--resume")
        partial = self.directory / PARTIAL
        partial.mkdir()
        write_json(partial / SETTINGS, {"settings": dict(settings), "provenance": dict(provenance)})

    def go_on(self, settings: Mapping[str, Any]) -> bool:
        """Whether the directory holds this evaluation, begun or finished; then all is removed that
        a kill left half-written. One that was killed before it began is made empty.

        Raises:
            UnmaskError: if what it holds is not this evaluation.
        """
        partial, held = self.directory / PARTIAL, list_whole(self.directory)
        finished, begun = (self.directory / SUMMARY).exists(), (partial / SETTINGS).exists()
        if not held:
            return False
        if not (finished or begun or (held == [partial] and partial.is_dir())):
            raise UnmaskError(f"{self.directory} holds no evaluation of unmask; name its directory")
        check_plain(self.directory)
        if not finished and not begun:
            if any(partial.glob("*.jsonl")):
                raise UnmaskError(
                    f"{partial / SETTINGS} is missing, though there are results beside it; copy "
                    "it again, or name a new directory"
                )
            shutil.rmtree(partial)  # killed before it began
            return False
        if finished:
            self.check(settings, read_summary(self.directory / SUMMARY))
            shutil.rmtree(partial, ignore_errors=True)
        else:
            self.check(settings, self.started()["settings"], begun=True)
        remove_parts(self.directory)
        return True

    def check(
        self, settings: Mapping[str, Any], found: Mapping[str, Any], begun: bool = False
    ) -> None:
        """Refuses to go on unless the settings of the directory are the ones asked for.

        Args:
            settings: what is asked for.
            found: those of the directory.
            begun: whether there is work left. Its pieces are numbered in the order of the samplers,
                which counts then too.

        Raises:
            UnmaskError: naming those that differ.
        """
        differ = [
            name
            for name, value in json.loads(json.dumps(settings)).items()
            if not (name not in found and name in UNKNOWN_BEFORE)
            and found.get(name, DEFAULTS.get(name)) != value
        ]
        if begun and not differ and list(found["samplers"]) != list(settings["samplers"]):
            differ = ["samplers in their order"]
        if differ:
            raise UnmaskError(
                f"{self.directory} holds an evaluation with other settings "
                f"({', '.join(sorted(differ))} differ); give the same ones, or name a new directory"
            )

    def finished(self) -> dict[str, Any] | None:
        """The summary of a finished evaluation."""
        if (self.directory / PARTIAL).is_dir():
            return None
        return read_summary(self.directory / SUMMARY)

    def started(self) -> dict[str, Any]:
        """What the process that started the evaluation wrote down: settings and provenance."""
        return read_json(self.directory / PARTIAL / SETTINGS, StartedEvaluation)

    def provenance(self) -> dict[str, Any]:
        """The provenance of the process that started the evaluation."""
        return self.started()["provenance"]

    def pieces(self) -> dict[int, Mapping[str, Any]]:
        """Every finished piece of all processes, by number. What a kill left of a line is no
        piece.

        Raises:
            UnmaskError: if a whole line is no piece: the ledger is damaged.
        """
        paths = sorted((self.directory / PARTIAL).glob("*.jsonl"))
        lines = [line for path in paths for line in read_json_lines(path, PieceLine, torn=True)]
        return {line["piece"]: line for line in lines}

    def writer(self, rank: int) -> Callable[[Mapping[str, Any]], None]:
        """What appends a piece to this process' file. A torn last line of an earlier process is
        closed first."""
        path = self.directory / PARTIAL / f"{rank}.jsonl"
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            append_bytes(path, b"\n")

        def write(piece: Mapping[str, Any]) -> None:
            append_bytes(path, json.dumps(piece, allow_nan=False).encode() + b"\n")

        return write

    def close(self, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        """Writes the final files and removes the partial ones."""
        write_text(
            self.directory / RESULTS, "".join(json.dumps(record) + "\n" for record in records)
        )
        write_json(self.directory / SUMMARY, summary)
        shutil.rmtree(self.directory / PARTIAL, ignore_errors=True)


def check_finished(directory: Path) -> None:
    """Refuses an evaluation that was not finished.

    Raises:
        UnmaskError: if so.
    """
    if (directory / PARTIAL).is_dir() and not (directory / SUMMARY).exists():
        raise UnmaskError(
            f"the evaluation in {directory} is not finished; go on with `unmask evaluate --resume "
            f"--out {directory}` and the options that it was started with"
        )


def held_settings(directory: Path) -> dict[str, Any] | None:
    """The settings of the evaluation in a directory, finished or not; None without one.

    Raises:
        UnmaskError: if the file that says them is damaged.
    """
    if (directory / PARTIAL / SETTINGS).exists():
        return Ledger(directory).started()["settings"]
    if (directory / SUMMARY).exists():
        return read_summary(directory / SUMMARY)
    return None


def read_summary(path: Path) -> dict[str, Any]:
    """A summary.json.

    Raises:
        UnmaskError: if it is missing, damaged, or no summary.
    """
    check_finished(path.parent)
    summary = read_json(path)
    check_data(summary, Summary, f"{path}, read as a summary of `unmask evaluate`,")
    return summary


def read_records(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of the `results.jsonl` that `evaluate` wrote in a directory.

    Raises:
        UnmaskError: if there is none, or it is damaged.
    """
    path = Path(directory) / RESULTS
    check_finished(path.parent)
    check_file(path, "give a directory that `unmask evaluate` wrote")
    return read_json_lines(path, Record)
