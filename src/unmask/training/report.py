"""What a run says while it goes on: metrics.jsonl, TensorBoard files, a line or a bar."""

from __future__ import annotations

import io
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typing_extensions import TypedDict

from unmask.errors import UnmaskError
from unmask.files import append_bytes, read_json_lines, write_text


class Entry(TypedDict):
    """A line of metrics.jsonl: a round and what was measured in it."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    round: Annotated[int, Field(ge=0)]


class Board:
    """A file for TensorBoard, written without a thread: PyTorch's SummaryWriter has one, and says
    there what a full disk does to it, in many lines."""

    def __init__(self, directory: Path) -> None:
        """Begins a file of this process in a directory, which is made."""
        directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = directory / name
        self.add(file_version="brain.Event:2")

    def write(self, values: Mapping[str, float], number: int) -> None:
        """Adds what was measured in round `number`."""
        found = [{"tag": name, "simple_value": value} for name, value in values.items()]
        self.add(step=number, summary={"value": found})

    def add(self, **fields: Any) -> None:
        """Adds an event of the present time."""
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **fields).SerializeToString())
        append_bytes(self.path, record.getvalue())


class MetricsLog:
    """Writes one entry a round, in the process that writes files; in the others it does nothing."""

    def __init__(self, directory: Path, done: int, rounds: int, main: bool) -> None:
        """Opens the log of a run directory.

        Args:
            directory: of the run.
            done: rounds that are over; entries of later rounds are dropped.
            rounds: of the whole run.
            main: whether this process writes files and prints.
        """
        self.path, self.rounds, self.main = directory / "metrics.jsonl", rounds, main
        self.entries: list[dict[str, Any]] = read_entries(self.path, done) if main else []
        columns = (
            BarColumn(8),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.bar = Progress(*columns, disable=not (main and Console().is_terminal))
        self.bar.add_task("", total=rounds, completed=done)
        self.board = None
        if main:
            write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in self.entries))
            self.board = Board(directory / "tensorboard")

    def __enter__(self) -> MetricsLog:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the entry of a round, or replaces it where the round has one already.

        Raises:
            UnmaskError: if a value is not finite; JSON has no such numbers.
        """
        for name, value in entry.items():
            if not math.isfinite(value):
                raise UnmaskError(
                    f"{name} is {value} in round {entry['round']}; finite numbers are needed, so "
                    "this round was not saved"
                )
        if not self.main:
            return
        known = self.entries and self.entries[-1]["round"] == entry["round"]
        before = self.entries.pop() if known else {}
        self.entries.append(entry)
        if known:
            write_text(self.path, "".join(json.dumps(e) + "\n" for e in self.entries))
        else:
            append_bytes(self.path, json.dumps(entry).encode() + b"\n")
        assert self.board is not None
        new = {name: value for name, value in entry.items() if name not in {"round", *before}}
        self.board.write(new, entry["round"])

    def latest(self, number: int) -> dict[str, Any]:
        """The entry of round `number`, if the log has it, to be completed; else one without
        values."""
        known = self.entries and self.entries[-1]["round"] == number
        return dict(self.entries[-1]) if known else {"round": number}

    def show(self, entry: dict[str, Any]) -> None:
        """Moves the bar, or prints a line; on a terminal a line only for evaluations."""
        if not self.main:
            return
        values = " ".join(
            f"{label} {entry[name]:{form}}"
            for label, name, form in (
                ("reward", "reward", ".3f"),
                ("accuracy", "accuracy", ".3f"),
                ("NFE", "nfe", "4.1f"),
                ("entropy", "entropy", "4.1f"),
                ("no signal", "silent", ".2f"),
                ("loss", "loss", ".4f"),
                ("held out", "held_out_loss", ".4f"),
            )
            if name in entry
        )
        self.bar.update(self.bar.task_ids[0], completed=entry["round"], description=values)
        seconds = entry.get("rollout_seconds", 0.0) + entry.get("update_seconds", 0.0)
        line = f"round {entry['round']:>4}/{self.rounds}  {values}  {seconds:.1f} s"
        if "eval_reward" in entry:
            line += (
                f"  | validation: reward {entry['eval_reward']:.3f} "
                f"accuracy {entry['eval_accuracy']:.3f} NFE {entry['eval_nfe']:.1f}"
            )
        if entry.get("timed_out"):
            line += f"  | a limit on time decided {100 * entry['timed_out']:.1f} % of the verdicts"
        if self.bar.disable:
            print(line, flush=True)
        elif "eval_reward" in entry:
            self.bar.console.print(line, highlight=False)


def read_entries(path: Path, done: int) -> list[dict[str, Any]]:
    """The entries of the first `done` rounds; a last line that a kill has cut is left out."""
    if not path.exists():
        return []
    entries = read_json_lines(path, Entry, torn=True)
    return [entry for entry in entries if entry["round"] <= done]
