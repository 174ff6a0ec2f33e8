"""One step of a block outside of the engine, for programs with a decode loop of their own: which
proposals a policy accepts, from logits that the program has computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import Model
from unmask.models.head import GREEDY, GivenLogits, Sampling
from unmask.policies.base import Needs, Observation, PolicyLike, decide, needs_of
from unmask.policies.heuristics import rank_positions, top_positions
from unmask.rng import RowGenerator


@dataclass(frozen=True)
class BlockStep:
    """What one step did to the blocks of B rows.

    Attributes:
        tokens: int64 [B, b], the blocks after the step.
        done: bool [B], whether nothing is masked any more.
        revealed: bool [B, b], where the step revealed a token.
        proposals: int64 [B, b], the proposed tokens; the mask token where none was needed.
        confidence: fp32 [B, b], the proposals' confidence; 0 where none was needed.
    """

    tokens: Int[Tensor, "B b"]
    done: Bool[Tensor, " B"]
    revealed: Bool[Tensor, "B b"]
    proposals: Int[Tensor, "B b"]
    confidence: Float[Tensor, "B b"]


@torch.no_grad()
def reveal(
    policy: PolicyLike,
    tokens: Int[Tensor, "B b"],
    logits: Float[Tensor, "B b V"],
    masked: Bool[Tensor, "B b"],
    step: Int[Tensor, " B"],
    generator: RowGenerator,
    *,
    mask_id: int,
    never_ids: tuple[int, ...] = (),
    eos_ids: tuple[int, ...] = (),
    alpha: Float[Tensor, " B"] | None = None,
    sampling: Sampling = GREEDY,
) -> BlockStep:
    """One step of the blocks of B rows; it decides what the engine decides.

    The policy sees the block and nothing else: its buffer is the block, and its time is step / b.
    Only masked positions are revealed, and at least one in each row that has any. A pure function:
    it changes none of its arguments.

    Args:
        policy: decides what to reveal.
        tokens: int64 [B, b], the blocks, prompt tokens included.
        logits: of the same positions, of any float type; probabilities are computed in fp32.
        masked: bool [B, b], where nothing is revealed yet. A prompt may hold the mask token, so
            this does not follow from `tokens`.
        step: int64 [B], how many steps each row's block has behind it.
        generator: draws for the policy and for τ > 0, one key a row. Draws depend on step
            and place in the block, so a row's blocks should have different keys
            (`unmask.rng.block_keys`).
        mask_id: the mask token; it is never proposed.
        never_ids: other tokens that are never proposed.
        eos_ids: tokens that end a text, for `sampling.eos` "never" and "last".
        alpha: fp32 [B], α for a policy that is one for every α; None is the policy's own.
        sampling: how tokens are drawn.

    Raises:
        UnmaskError: if the policy reads hidden states, returns no valid action, or is not told its
            α; for more probabilities than there are tokens; for guidance.
    """
    needs = check_needs(policy)
    if sampling.cfg_scale:
        raise UnmaskError("cfg_scale is guidance, which takes a second forward pass; leave it out")
    model = model_of_logits(logits.shape[-1], mask_id, never_ids, eos_ids)
    proposal = model.proposal(
        logits,
        sampling,
        needs=needs.features,
        k=needs.top_k,
        needed=None if needs.everywhere else masked,
        generator=generator if sampling.temperature > 0 else None,
    )
    width = tokens.shape[1]
    seen = Observation(proposal.confidence, masked, masked, step, width, proposal.features, alpha)
    action = (decide(policy, seen, generator) > 0) & masked
    confidence = proposal.confidence[..., 0]
    best = top_positions(1, rank_positions(confidence, masked), masked)
    action = action | (best & ~action.any(1, keepdim=True))
    revealed = torch.where(action, proposal.tokens, tokens)
    done = ~(masked & ~action).any(1)
    return BlockStep(revealed, done, action, proposal.tokens, confidence)


def check_needs(policy: PolicyLike) -> Needs:
    """What a policy needs, if it can be had from logits.

    Raises:
        UnmaskError: if it is no policy, or reads hidden states.
    """
    needs = needs_of(policy)
    if "hidden" in needs.features:
        raise UnmaskError(
            "the policy reads the model's hidden states, and only logits can be had here; use a "
            "policy that was trained without --hidden"
        )
    return needs


@lru_cache(maxsize=16)
def model_of_logits(
    vocabulary: int, mask_id: int, never_ids: tuple[int, ...], eos_ids: tuple[int, ...]
) -> Model:
    """A model without layers: its hidden states are logits, and `proposal` treats them as those of
    any other model."""
    if not 0 <= mask_id < vocabulary:
        raise UnmaskError(
            f"mask_id is {mask_id}, and there are logits of {vocabulary} tokens; give the model's "
            "mask token"
        )
    given = GivenLogits(vocabulary)
    never = tuple(sorted({mask_id, *never_ids}))
    return Model(given, None, mask_id, eos_ids, never, "logits", head=given)
