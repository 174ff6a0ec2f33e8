"""What makes the host wait for a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

READS = ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy")
SHAPES = ("nonzero", "unique", "masked_select", "bincount")


class Waits(TorchFunctionMode):
    """Lists calls that make the host wait where tensors are on a GPU; a CPU never waits, but the
    calls are the same.

    These are values read, shapes that depend on values, tensors made from lists other than by
    `to_device` (which copies from pinned memory), and a number written at the places of an index
    tensor (`x[index] = 0` copies the number to the GPU and waits; `index_fill_` does not).
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        name = function.__name__
        if name in READS or (name in SHAPES):
            self.found.append(name)
        if name == "repeat_interleave" and (keywords or {}).get("output_size") is None:
            counts = arguments[1] if len(arguments) > 1 else (keywords or {}).get("repeats")
            if isinstance(counts, torch.Tensor):
                self.found.append(name)
        if name in ("__getitem__", "__setitem__"):
            self._index(name, arguments)
        return function(*arguments, **(keywords or {}))

    def _index(self, name: str, arguments: tuple) -> None:
        index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
        tensors = [x for x in index if isinstance(x, torch.Tensor)]
        if any(x.dtype == torch.bool for x in tensors):
            self.found.append(f"{name} by a mask")
        if any(isinstance(x, list) for x in index):
            self.found.append(f"{name} by a list")
        if name == "__setitem__" and tensors and isinstance(arguments[2], bool | int | float):
            self.found.append("a number written at an index")


@contextmanager
def sync_errors(device: str, mode: str) -> Iterator[None]:
    """CUDA's own check of waits: "error" raises where the host would wait, "default" lets it."""
    if device != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
