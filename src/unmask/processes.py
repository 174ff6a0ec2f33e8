"""Which rank, world and device this process is: joined before anything is loaded.

`accelerate launch` or `torchrun` start the processes and set WORLD_SIZE, RANK and LOCAL_RANK. Every
command that may run on several of them calls `Processes.join` first and loads its model onto
`Processes.device`, so no process ever puts weights on the device of another one.
"""

from __future__ import annotations

import atexit
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unmask.errors import UnmaskError
from unmask.extras import require_package
from unmask.files import hold_directory

T = TypeVar("T")
# One slow rank (tests of programs, a large model) must not end a run: collectives wait this long.
PATIENCE = timedelta(days=7)


def usable_device(device: str | torch.device) -> torch.device:
    """The device, tried out.

    Raises:
        UnmaskError: if this machine has none of that name, or it holds no data (`meta`).
    """
    try:
        found = torch.zeros(1, device=device).device
        if not isinstance(device, str | torch.device) or found.type == "meta":
            raise ValueError
        return found
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError):
        raise UnmaskError(
            f"device {str(device)!r} cannot be used here; give cpu, cuda or cuda:N of a device "
            "that this machine has"
        ) from None


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16. Accelerators are taken to; a CPU without them
    emulates bf16, and its products of matrices are 20 to 90 times slower than in fp32 (measured on
    AMD's Zen 3)."""
    if device.type != "cpu":
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    # Older versions of torch say it in private, and on x86 oneDNN takes any AVX-512 for enough.
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which a device multiplies matrices fast: bf16 if it computes it, else fp32."""
    return torch.bfloat16 if computes_bf16(device) else torch.float32


def bf16_autocast(device: torch.device, enabled: bool = True) -> torch.autocast:
    """Runs its body under bf16 autocast if that is wanted and the device computes bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and computes_bf16(device))


def count_processes() -> int:
    """How many processes share this run: WORLD_SIZE, which a launcher sets.

    Raises:
        UnmaskError: if it is no number, or above 1 without a launcher.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    launched = "RANK" in os.environ and "MASTER_ADDR" in os.environ
    if world != "1" and not (launched and world.isdecimal() and int(world) > 1):
        raise UnmaskError(
            f"WORLD_SIZE is {world!r}, and no launcher set RANK and MASTER_ADDR; unset it, or use "
            "accelerate launch"
        )
    return int(world)


def leave_group() -> None:
    """Ends this process' membership in the group, if it is in one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Processes:
    """The group of processes that share one run, seen from one of them.

    Every collective method must be called by all of them. With one process each is the identity.

    Attributes:
        rank: the number of this process, from 0.
        world: how many processes there are.
        device: where this process puts its model and its tensors.
    """

    rank: int
    world: int
    device: torch.device

    @staticmethod
    def join(device: str = "cpu", timeout: timedelta = PATIENCE) -> Processes:
        """Joins the group that the launcher started, on a device of this process' own.

        Args:
            device: "cpu", "cuda" (each process takes the GPU of its LOCAL_RANK), or, for a single
                process, a device such as "cuda:1".
            timeout: how long a collective waits for the slowest process.

        Raises:
            UnmaskError: if this machine has no such device, several processes are told to share one
                GPU, or WORLD_SIZE was not set by a launcher.
        """
        world = count_processes()
        if world == 1:
            return Processes(0, 1, usable_device(device))
        if device != "cpu" and ":" in device:
            raise UnmaskError(
                f"device is {device!r} and there are {world} processes, which would share it; give "
                f"{device.partition(':')[0]}, and each process takes its own"
            )
        accelerate = require_package("accelerate", f"a job of {world} processes", "train")
        own = device
        if device != "cpu":
            own = f"{device}:{os.environ.get('LOCAL_RANK', '0')}"
            usable_device(own)
        state = accelerate.PartialState(cpu=device == "cpu", timeout=timeout)
        if torch.distributed.get_backend() == "gloo":
            # Its threads would end a process that exits before them with an abort. (NCCL needs no
            # such care, and there the call could wait for a process that has failed.)
            atexit.register(leave_group)
        return Processes(state.process_index, state.num_processes, torch.device(own))

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @contextmanager
    def hold(self, directory: Path | None) -> Iterator[None]:
        """`hold_directory` for the whole group while the body runs: its first process takes the
        lock, and where it is refused all are. None holds nothing.

        Raises:
            UnmaskError: in every process, if a process of another run holds the directory.
        """
        with ExitStack() as stack:
            error = None
            if self.main and directory is not None:
                try:
                    stack.enter_context(hold_directory(directory))
                except UnmaskError as refusal:
                    error = str(refusal)
            if (error := self.gather(error)[0]) is not None:
                raise UnmaskError(error)
            yield

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, on this process' device (the backend of GPUs has no other).

        Args:
            values: any shape, the same in every process.
        """
        values = values.to(self.device)
        if self.world > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
        return values

    def means(self, sums: Mapping[str, float], count: int) -> dict[str, float]:
        """Means over what all processes have, rounded to six digits.

        Args:
            sums: of this process, by name; the same names in every process.
            count: how many things of this process they are sums over, perhaps 0.
        """
        values = torch.tensor([*sums.values(), count], dtype=torch.float64)
        *totals, everything = self.total(values).tolist()
        return {
            name: round(total / everything, 6) for name, total in zip(sums, totals, strict=True)
        }

    def mean_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces gradients by their mean over all processes, in one flat reduction.

        A parameter without a gradient counts as zero.
        """
        if self.world == 1:
            return
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        )
        mean = self.total(flat) / self.world
        for p, grad in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
            p.grad = grad.view_as(p).clone()

    def share(self, items: Iterable[T]) -> list[T]:
        """This process' part of some work: every `world`-th item, beginning with the `rank`-th."""
        return list(items)[self.rank :: self.world]

    def common_dtype(self, dtype: str) -> str:
        """The dtype in which all processes load their model: what was asked for, or for "auto"
        bfloat16 if every process' device computes it, else float32."""
        if dtype != "auto":
            return dtype
        return "bfloat16" if all(self.gather(computes_bf16(self.device))) else "float32"

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks; they must be picklable."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found
