"""Small lists from the host to a device without making the host wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(
    values: Sequence[float | int] | Sequence[Sequence[int]],
    device: torch.device,
    dtype: torch.dtype = torch.long,
) -> Tensor:
    """A tensor of numbers on a device.

    A copy from ordinary memory to a GPU waits until the GPU has done all work before it; one from
    pinned memory is queued.
    """
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    host = torch.tensor(values, dtype=dtype, device="cpu")  # whatever the default device is
    return host.pin_memory().to(device, non_blocking=True)
