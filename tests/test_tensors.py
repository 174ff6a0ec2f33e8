"""Files of tensors: headers that lie, and what does not fit what is expected."""

import errno
import json
import os
import stat
import struct

import pytest
import torch

from tests.disk import full_disk
from tests.forks import begin_fork, has_ended, kill_fork
from unmask import UnmaskError
from unmask.files import is_part, write_json
from unmask.tensors import read_header, read_tensors, write_tensors


def test_tensors_that_cannot_be_read_are_named_in_one_line(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UnmaskError, match="cannot be read as safetensors") as caught:
        read_tensors(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_others_may_read_tensors_as_far_as_every_other_file(tmp_path):
    """safetensors itself lets nobody but the owner read."""
    for mask, mode in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode


def test_tensors_that_cannot_be_written_leave_nothing(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(OSError, match=r"a[.]safetensors"):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_kill_leaves_the_file_or_what_the_next_try_takes_away(tmp_path):
    """safetensors writes to a file of its own first, of another name each time."""
    path = tmp_path / "a.safetensors"

    def act():
        write_tensors(path, {"a": torch.zeros(8_000_000)})
        return 0

    with (tmp_path.parent / "log").open("w", encoding="utf-8") as log:
        child = begin_fork(act, log, log)
    while not any(each.is_file() and each.stat().st_size for each in tmp_path.rglob("*")):
        assert not has_ended(child)
    kill_fork(child)
    assert all(each == path or is_part(each) for each in tmp_path.iterdir())
    write_tensors(path, {"a": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_size < 1000


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    """And not one of safetensors, which the command line does not know."""
    for path, write in (
        (tmp_path / "a.safetensors", lambda path: write_tensors(path, {"a": torch.zeros(9999)})),
        (tmp_path / "a.json", lambda path: write_json(path, "a" * 9999)),
    ):
        path.write_text("before")
        with full_disk(), pytest.raises(OSError, match=path.name) as caught:
            write(path)
        assert caught.value.errno == errno.EFBIG
        assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def write_header(path, header, data=b"\0" * 8):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": [2**40, 2**40]}, "another size"),
        ({"shape": [-2]}, "no whole number"),
        ({"shape": [True, 2]}, "no whole number"),
        ({"shape": 2}, "cannot be read as safetensors"),
        ({"dtype": "F99"}, "unknown type"),
        ({"dtype": []}, "cannot be read as safetensors"),
        ({"data_offsets": [8, 16]}, "one behind the other"),
        ({"data_offsets": [0, 800]}, "another size"),
        ({"data_offsets": None}, "cannot be read as safetensors"),
    ],
)
def test_headers_that_lie_are_refused_before_anything_is_allocated(tmp_path, change, says):
    assert read_header(write_header(tmp_path / "a", {"a": GOOD}))["a"].shape == (2,)
    with pytest.raises(UnmaskError, match=says) as caught:
        read_header(write_header(tmp_path / "b", {"a": GOOD | change}))
    assert "\n" not in str(caught.value) and str(tmp_path / "b") in str(caught.value)


def test_tensors_are_compared_with_what_is_expected(tmp_path):
    path = write_header(tmp_path / "a.safetensors", {"a": GOOD})
    assert read_tensors(path, expected={"a": (2,)})["a"].tolist() == [0, 0]
    for expected, says in (
        ({}, "unexpected: a"),
        ({"a": (3,)}, "a has the shape \\[2\\], not \\[3\\]"),
        ({"a": (2,), "b": (1,)}, "missing: b"),
    ):
        with pytest.raises(UnmaskError, match=says):
            read_tensors(path, expected=expected)
