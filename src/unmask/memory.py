"""What a request takes in memory or on disk, against what there is: refused before it is
allocated or written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.errors import UnmaskError, count_of

if TYPE_CHECKING:
    import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
GIB = 2**30


def free_memory(device: str | torch.device = "cpu") -> int | None:
    """Bytes that can still be allocated on a device; None where nothing says it.

    On a CPU what the system could take back counts, within the limit of a container; on a GPU also
    what PyTorch holds and nothing uses.
    """
    if not str(device).startswith("cpu"):
        if not str(device).startswith("cuda"):
            return None
        import torch

        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    try:
        lines = MEMINFO.read_text(encoding="utf-8").splitlines()
        found = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable:" in line)
    except (OSError, StopIteration):
        return None
    try:  # a container may be given less than the machine has
        limit = int((CGROUP / "memory.max").read_text(encoding="utf-8"))
        used = int((CGROUP / "memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is no limit: "max"
        return found
    used -= reclaimable_memory()
    return min(found, max(limit - used, 0))


def reclaimable_memory() -> int:
    """Bytes that a container uses and the kernel gives back when they are wanted: files that were
    read and are not in use (the page cache), and its own caches."""
    try:
        lines = (CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
        sizes = {name: int(size) for name, size in map(str.split, lines)}
    except (OSError, ValueError):
        return 0
    return sizes.get("inactive_file", 0) + sizes.get("slab_reclaimable", 0)


def check_memory(
    wanted: int, what: str, advice: str, device: str | torch.device = "cpu"
) -> int | None:
    """Refuses what cannot fit.

    Args:
        wanted: bytes.
        what: the subject of the sentence, for example "the model in DIR".
        advice: what to do.
        device: where it is to be allocated.

    Returns:
        Bytes that are free; None where nothing says it.

    Raises:
        UnmaskError: if more is wanted than is free.
    """
    free = free_memory(device)
    if free is not None and wanted > free:
        raise UnmaskError(
            f"{what} takes about {wanted / GIB:,.1f} GiB of memory and {free / GIB:,.1f} GiB are "
            f"free on {device}; {advice}"
        )
    return free


def free_disk(path: Path) -> int:
    """Bytes that can still be written where a path is, or will be."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def check_disk(wanted: int, what: str, advice: str, path: Path) -> None:
    """Refuses what the disk cannot hold.

    Args:
        wanted: bytes.
        what: the subject of the sentence, for example "the traces in DIR".
        advice: what to do.
        path: where it is to be written; it need not exist yet.

    Raises:
        UnmaskError: if more is wanted than is free.
    """
    free = free_disk(path)
    if wanted > free:
        raise UnmaskError(
            f"{what} may take {describe_size(wanted)} and {describe_size(free)} are free there; "
            f"{advice}"
        )


def describe_size(size: int) -> str:
    """A number of bytes in words."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit / 10:
            return f"{size / unit:,.1f} {name}"
    return count_of(size, "byte")
