"""A decoder for dInfer: an object with the methods of its `ParallelDecoder`, which reveals what a
policy of ours accepts. Written for dInfer's sources of November 2025; it imports nothing of it.

    decoder = UnmaskDecoder("threshold:0.9", mask_id=126336, eos_id=126081)
    llm = BlockWiseDiffusionLLM(model, decoder, BlockIteratorFactory())
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unmask.integrations.blocks import BlockDecoder, BlockSettings, named_key


class UnmaskDecoder:
    """Reveals what a policy of ours accepts in dInfer's current block.

    A policy sees the block alone, as dInfer hands over no more: so with a model of full attention
    a learned policy should have been trained with L = b, one block.

    Args:
        policy: as `unmask.load_policy` takes it.
        mask_id: the mask token; a prompt must not hold it, as dInfer does not tell them apart.
        eos_id: the end-of-text token, which dInfer's loops read.
        temperature: τ; 0 is greedy.
        alpha: α, for a policy that was trained for many; None is the policy's own.
        seed: of everything random.
        never_ids: tokens that are never proposed, beside the mask token.

    Raises:
        UnmaskError: if the policy cannot be used.
    """

    def __init__(
        self,
        policy: str,
        mask_id: int,
        eos_id: int,
        *,
        temperature: float = 0.0,
        alpha: float | None = None,
        seed: int = 0,
        never_ids: Sequence[int] = (),
    ) -> None:
        settings = BlockSettings(
            policy, alpha, temperature=temperature, seed=seed, never_ids=tuple(never_ids)
        )
        self.decoder = BlockDecoder.load(settings)
        self.mask_id, self.eos_id, self.temperature = mask_id, eos_id, temperature
        self.block = 0  # the number of the current block
        self.passes: Tensor | None = None  # int64 [B], of each row in it

    def block_init(self, block_x: Any, block_id: int) -> None:
        """A new block begins."""
        self.passes, self.block = None, block_id

    def decode(self, logits: Tensor, block_start: int, block_end: int, x: Any) -> None:
        """One step: writes what is revealed into `x`.

        Args:
            logits: [B, b, V], of the block.
            block_start: where the block starts in `x`.
            block_end: where it ends.
            x: the tokens [B, S], a tensor or dInfer's `TokenArray`.

        Raises:
            UnmaskError: as `unmask.decoding.reveal.reveal`.
        """
        tokens = x[:, block_start:block_end]
        masked = tokens == self.mask_id
        if not masked.any():  # dInfer may go on for a few passes after a block is whole
            return
        rows = len(tokens)
        if self.passes is None:
            self.passes = torch.zeros(rows, dtype=torch.long, device=tokens.device)
        seed = self.decoder.settings.seed
        keys = [named_key(seed, f"row {i}") for i in range(rows)]
        decided = self.decoder.step(
            tokens,
            logits,
            masked,
            self.passes,
            torch.tensor(keys, device=tokens.device),
            torch.full((rows,), self.block, device=tokens.device),
            self.mask_id,
        )
        self.passes = self.passes + masked.any(1)
        x[:, block_start:block_end] = decided.tokens
