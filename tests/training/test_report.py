"""What a run says while it goes on: the file for TensorBoard."""

import threading

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.disk import full_disk
from unmask.training.report import Board


def test_tensorboard_reads_what_was_measured(tmp_path):
    for values, number in (({"reward": 0.5, "nfe": 7.0}, 1), ({"reward": 0.75}, 2)):
        Board(tmp_path / "board").write(values, number)  # a file each, as of two processes
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    found = {name: [(e.step, e.value) for e in board.Scalars(name)] for name in ("reward", "nfe")}
    assert found == {"reward": [(1, 0.5), (2, 0.75)], "nfe": [(1, 7.0)]}


def test_a_full_disk_is_said_here_and_not_in_a_thread(tmp_path):
    board, threads = Board(tmp_path / "board"), threading.active_count()
    length = board.path.stat().st_size
    with full_disk(60), pytest.raises(OSError, match=r"too large.*events[.]out"):
        board.write({"reward": 0.5}, 1)
    assert board.path.stat().st_size == length and threading.active_count() == threads
