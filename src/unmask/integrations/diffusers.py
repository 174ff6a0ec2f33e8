"""A scheduler for the pipeline `LLaDA2Pipeline` of diffusers: it reveals what a policy of ours
accepts. Written for diffusers 0.42.1.

    pipeline = LLaDA2Pipeline(model, UnmaskScheduler("runs/first/best"), tokenizer)
    pipeline("7 a +5 b *3 =", gen_length=64, temperature=0.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.integrations.blocks import BlockDecoder, BlockSettings, named_key
from unmask.models.head import Sampling

try:  # by name, so that type checkers need no diffusers
    theirs: Any = import_module("diffusers.schedulers.scheduling_block_refinement")
    register_to_config: Any = import_module("diffusers.configuration_utils").register_to_config
    base: Any = theirs.BlockRefinementScheduler
except (ImportError, AttributeError) as error:
    raise UnmaskError(
        f"diffusers has no BlockRefinementScheduler here ({error}); install diffusers 0.42.1"
    ) from None


class UnmaskScheduler(base):
    """Reveals what a policy of ours accepts.

    The pipeline's temperature, top_p and top_k count. Its threshold, minimal_topk and number of
    steps do not: the policy decides, until the block holds no masks. Revealed tokens are not
    edited. The pipeline runs up to one pass a block more than our NFE, to see that it is whole.

    Args:
        policy: as `unmask.load_policy` takes it.
        block_length: b; the pipeline's own argument wins.
        alpha: α, for a policy that was trained for many; None is the policy's own.
        seed: of everything random; a generator that the pipeline is given replaces it.
        never_ids: tokens that are never proposed, beside the mask token.

    Raises:
        UnmaskError: if the policy cannot be used.
    """

    @register_to_config
    def __init__(
        self,
        policy: str = "threshold:0.9",
        block_length: int = 32,
        alpha: float | None = None,
        seed: int = 0,
        never_ids: Sequence[int] = (),
    ) -> None:
        settings = BlockSettings(policy, alpha, seed=seed, never_ids=tuple(never_ids))
        self.decoder = BlockDecoder.load(settings)
        self.set_timesteps(block_length, block_length=block_length)

    def set_timesteps(
        self, num_inference_steps: int, device: Any = None, block_length: int | None = None
    ) -> None:
        """As many steps as a block has positions: a policy reveals at least one in each."""
        steps = block_length or self.config.block_length
        super().set_timesteps(steps, device, steps)
        self._block = -1  # the number of the current block

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        **unused: Any,
    ) -> Any:
        """One step of a block, with the arguments and the answer of `BlockRefinementScheduler`.

        Raises:
            UnmaskError: without a mask token, for logits that are not finite, or as `reveal`.
        """
        if mask_token_id is None:
            raise UnmaskError(
                "mask_token_id is missing; give the model's mask token (models that refine random "
                "tokens instead of masks are not supported)"
            )
        self._block += int(timestep) == 0
        masked = sample == mask_token_id
        if prompt_mask is not None:
            masked = masked & ~prompt_mask
        rows = len(sample)
        seed = self.decoder.settings.seed if generator is None else generator.initial_seed()
        keys = [named_key(seed, f"row {i}") for i in range(rows)]
        decided = self.decoder.step(
            sample,
            model_output,
            masked,
            torch.full((rows,), int(timestep), device=sample.device),
            torch.tensor(keys, device=sample.device),
            torch.full((rows,), self._block, device=sample.device),
            mask_token_id,
            Sampling(0.0 if sampling_method == "greedy" else temperature, top_p or 1.0, top_k or 0),
        )
        if not decided.confidence.isfinite().all():
            raise UnmaskError(
                "the model's logits are not finite (NaN or infinite); load it with dtype bfloat16 "
                "or float32, or check its weights"
            )
        answer = (
            decided.tokens,
            decided.revealed,
            torch.zeros_like(decided.revealed),
            decided.proposals,
            decided.confidence,
            model_output,
        )
        return theirs.BlockRefinementSchedulerOutput(*answer) if return_dict else answer
