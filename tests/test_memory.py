"""What memory is free."""

import pytest

from unmask import UnmaskError
from unmask.memory import GIB, check_memory, free_memory


def fill_container(directory, limit, used, stat=None):
    """The files in which the kernel says what a container has and uses, in GiB."""
    (directory / "memory.max").write_text(f"{int(limit * GIB)}\n", encoding="utf-8")
    (directory / "memory.current").write_text(f"{int(used * GIB)}\n", encoding="utf-8")
    if stat is not None:
        lines = (f"{name} {int(size * GIB)}\n" for name, size in stat.items())
        (directory / "memory.stat").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A container on a machine with 14 GiB to give."""
    (tmp_path / "meminfo").write_text(f"MemAvailable: {14 * 2**20} kB\n", encoding="utf-8")
    monkeypatch.setattr("unmask.memory.MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("unmask.memory.CGROUP", tmp_path)
    return tmp_path


def test_files_that_were_read_are_free_memory_in_a_container(container):
    """A checkpoint that was read once stays in the page cache, and counts as used."""
    stat = {"anon": 1, "file": 14.5, "inactive_file": 14, "slab_reclaimable": 0.25}
    fill_container(container, 16, 15.75, stat)
    assert free_memory() == 14 * GIB  # of the machine; of the container 14.5
    check_memory(GIB, "the model in DIR", "load it elsewhere")
    fill_container(container, 8, 7.75, {"anon": 5, "inactive_file": 2, "slab_reclaimable": 0.25})
    assert free_memory() == 2.5 * GIB


@pytest.mark.parametrize("stat", [None, {}, {"anon": 15.5}, {"inactive_file": 0.125}])
def test_what_a_container_uses_is_not_free(container, stat):
    fill_container(container, 16, 15.75, stat)
    assert free_memory() == (0.375 if stat and "inactive_file" in stat else 0.25) * GIB
    with pytest.raises(UnmaskError, match="the model in DIR takes about"):
        check_memory(GIB, "the model in DIR", "load it elsewhere")


def test_a_container_without_a_limit_has_what_the_machine_has(container):
    fill_container(container, 16, 15)
    (container / "memory.max").write_text("max\n", encoding="utf-8")
    assert free_memory() == 14 * GIB
