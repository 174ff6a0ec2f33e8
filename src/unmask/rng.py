"""Counter-based random numbers, keyed by row.

Each row of a batch has a 64-bit key; a draw is a pure function of (key, stream, counter, index). So
a row's randomness does not depend on its batch-mates, its place in the batch or the batch size,
nothing has to be advanced or saved, and no draw waits for the host. The mixing function is
SplitMix64 (Steele, Lea & Flood 2014).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64-bit: torch has no full unsigned arithmetic
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; arithmetic wraps, and shifts are made logical by masking the
    sign bits."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def mix_int(x: int) -> int:
    """`mix` of one number on the host: a constant never has to travel to a device."""
    whole = (1 << 64) - 1
    x &= whole
    x = ((x ^ (x >> 30)) * _MIX_1) & whole
    x = ((x ^ (x >> 27)) * _MIX_2) & whole
    x ^= x >> 31
    return x - (1 << 64) if x >> 63 else x


@dataclass(frozen=True)
class RowGenerator:
    """Independent random streams, one for each row.

    Attributes:
        keys: int64 [B]; rows with equal keys draw equal numbers.
    """

    keys: Int[Tensor, " B"]

    def __getitem__(self, rows: Tensor) -> RowGenerator:
        """The generator of some rows, by index."""
        return RowGenerator(self.keys[rows])

    def uniform(
        self,
        counter: Int[Tensor, " B"] | int,
        n: int,
        stream: int,
        start: Int[Tensor, " B"] | int = 0,
    ) -> Float[Tensor, "B n"]:
        """Uniform numbers in [0, 1), fp32 (24 bits).

        Args:
            counter: which draw of the row, for instance the step; int64 [B] or one number for all.
            n: how many numbers.
            stream: what they are for; different streams are independent.
            start: how many numbers of the draw to skip; int64 [B] or one number for all.
        """
        draw = counter + _GOLDEN
        key = mix(self.keys ^ mix_int(stream + _GOLDEN))
        key = mix(key ^ (mix_int(draw) if isinstance(draw, int) else mix(draw)))
        first = start if isinstance(start, int) else start.view(-1, 1)
        index = first + torch.arange(1, n + 1, device=key.device)
        bits = mix(key[:, None] + _GOLDEN * index)
        return ((bits >> 40) & ((1 << 24) - 1)).float() * 2.0**-24


def gumbel_noise(uniform: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Gumbel noise from uniform numbers of 24 bits: finite, from about −2.9 to 16.6."""
    # The largest number plus half a step rounds to 1, whose noise would be infinite.
    middle = (uniform + 2.0**-25).clamp(max=1 - 2.0**-24)
    return -(-middle.log()).log()


def block_keys(keys: Int[Tensor, " B"], block: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """What the random numbers of a block depend on, of rows with these keys; int64 [B]. Blocks are
    counted from the beginning of the prompt, and the first one has the row's own key."""
    return keys ^ mix(block)


# Streams: the policy's decisions, and the frozen model's token draws at temperature > 0.
ACTION, TOKEN = 0, 1


def row_keys(rows: Sequence[Sequence[int]], seed: int) -> list[int]:
    """A key for each row from the seed, its tokens, and how many equal rows come before it; so
    order and batch-mates do not matter."""
    seen: dict[tuple[int, ...], int] = {}
    keys = []
    for row in rows:
        row = tuple(row)
        seen[row] = seen.get(row, -1) + 1
        text = f"{seed}/{seen[row]}/{row}".encode()
        keys.append(
            (zlib.crc32(text) << 31) ^ zlib.adler32(text[::-1]) ^ (zlib.crc32(text[::-1]) << 8)
        )
    return keys
