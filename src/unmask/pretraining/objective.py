"""What is learned: masks to fill in, and the loss on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

# Weight of the end-of-sequence tokens behind the first one, where answers are padded to many
# lengths: they are easily learned, and would outnumber the answer's own tokens.
PADDING_WEIGHT = 0.1


def draw_masks(n: int, length: int, suffix_share: float, generator: torch.Generator) -> Tensor:
    """Which answer positions are hidden: bool [n, length], at least one in each row.

    Random rows draw a mask ratio t ~ U(0, 1) (stratified over the batch) and hide each position
    with probability t; the first `suffix_share` of the rows hide everything from a uniformly drawn
    position on.
    """
    t = (
        torch.arange(n)[torch.randperm(n, generator=generator)] + torch.rand(n, generator=generator)
    ) / n
    masks = torch.rand(n, length, generator=generator) < t[:, None]
    suffixes = torch.arange(length) >= (t * length).long()[:, None]
    masks = torch.where((torch.arange(n) < round(suffix_share * n))[:, None], suffixes, masks)
    forced = torch.randint(length, (n, 1), generator=generator)
    return masks | ((torch.arange(length) == forced) & ~masks.any(1, keepdim=True))


def draw_masks_within(
    starts: Tensor, ends: Tensor, length: int, suffix_share: float, generator: torch.Generator
) -> Tensor:
    """`draw_masks` for answers that lie anywhere in a row, and rows that may be sorted by length:
    which of them hide a suffix is drawn too.

    Mask ratios and suffixes concern the answer proper, from `starts` to `ends`; the padding behind
    it is hidden with it in suffixes, and in the other rows with the same probability.

    Args:
        starts: [n], the first position of each answer.
        ends: [n], the position behind each answer and its first end-of-sequence token.
        length: of the rows; padding reaches to the end.
        suffix_share: as in `draw_masks`.

    Returns:
        bool [n, length], at least one position of each answer.
    """
    n = len(starts)
    t = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    where = torch.arange(length)
    masks = torch.rand(n, length, generator=generator) < t[:, None]
    first = starts + (t * (ends - starts)).long()
    suffix = (torch.randperm(n, generator=generator) < round(suffix_share * n))[:, None]
    masks = torch.where(suffix, where >= first[:, None], masks & (where >= starts[:, None]))
    inside = masks & (where < ends[:, None])
    forced = starts + (torch.rand(n, generator=generator) * (ends - starts)).long()
    return masks | ((where == forced[:, None]) & ~inside.any(1, keepdim=True))


def diffusion_loss(
    model: Any, tokens: Tensor, prompt_lengths: Tensor, masks: Tensor, mask_id: int, shift: int = 0
) -> Tensor:
    """Cross-entropy on the hidden answer tokens, each sequence weighted by 1/t with t the share
    that is really hidden.

    Args:
        model: maps tokens and attention mask to logits.
        tokens: [B, S] from `encode`.
        prompt_lengths: [B].
        masks: bool [B, L], hidden answer positions.
        mask_id: the mask token.
        shift: the logits at position i predict token i + shift.

    Returns:
        A scalar; with the 1/t weight, a bound on the negative log-likelihood per answer token in
        nats.
    """
    length = masks.shape[1]
    where = prompt_lengths[:, None] + torch.arange(length, device=tokens.device)
    answers = tokens.gather(1, where)
    corrupted = tokens.scatter(1, where, torch.where(masks, mask_id, answers))
    attention_mask = (
        torch.arange(tokens.shape[1], device=tokens.device) < (prompt_lengths + length)[:, None]
    )
    logits = model(
        input_ids=corrupted, attention_mask=attention_mask.long(), use_cache=False
    ).logits
    logits = logits.gather(1, (where - shift)[:, :, None].expand(-1, -1, logits.shape[-1]))
    nll = cross_entropy(logits.float().transpose(1, 2), answers, reduction="none")
    return ((nll * masks).sum(1) / masks.sum(1)).mean()


def hidden_loss(
    model: Any, tokens: Tensor, masks: Tensor, ends: Tensor, mask_id: int, shift: int = 0
) -> Tensor:
    """`diffusion_loss` of rows without padding tokens, with the head on hidden positions alone.

    Args:
        model: maps tokens to hidden states (`.model`) and these to logits (`.lm_head`).
        tokens: [B, S], prompt, answer and end-of-sequence tokens up to S.
        masks: bool [B, S], hidden positions.
        ends: [B], from where on a row is padding, which counts `PADDING_WEIGHT`.
        mask_id: the mask token.
        shift: the logits at position i predict token i + shift.

    Returns:
        A scalar.
    """
    corrupted = torch.where(masks, mask_id, tokens)
    states = model.model(input_ids=corrupted, use_cache=False).last_hidden_state
    rows, columns = masks.nonzero(as_tuple=True)
    logits = model.lm_head(states[rows, columns - shift])
    nll = cross_entropy(logits.float(), tokens[rows, columns], reduction="none")
    weight = torch.where(columns < ends[rows], 1.0, PADDING_WEIGHT)
    per_row = torch.zeros(2, len(tokens), device=tokens.device)
    sums = per_row.index_add(1, rows, torch.stack((nll * weight, weight)))
    return (sums[0] / sums[1]).mean()


def block_mask(length: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Who sees whom in a sequence of noised blocks followed by the same blocks clean: bool [2S, 2S]
    for S = `length` (Arriola et al. 2025, Block Diffusion).

    A noised position sees its own noised block and the clean blocks before it; a clean position
    sees the clean blocks up to its own.
    """
    block = torch.arange(length, device=device) // size
    own, before = block[:, None] == block, block[:, None] > block
    nothing = torch.zeros_like(own)
    return torch.cat([torch.cat([own, before], 1), torch.cat([nothing, own | before], 1)])


def block_loss(
    model: Any, tokens: Tensor, masks: Tensor, mask_id: int, shift: int = 0, *, size: int
) -> Tensor:
    """`diffusion_loss` of a block-causal model, each block weighted by 1/t with t the share of it
    that is really hidden: every block is predicted from itself and the clean blocks before it, all
    in one forward pass.

    Args:
        model: maps tokens to hidden states (`.model`) and these to logits (`.lm_head`).
        tokens: [B, S], S a multiple of the block size; padding is behind, where no block before it
            can see it.
        masks: bool [B, S], hidden positions.
        mask_id: the mask token.
        shift: 0; a block's first token has nothing of its own block before it.
        size: b, positions in a block.

    Returns:
        A scalar.
    """
    length, device = tokens.shape[1], tokens.device
    both = torch.cat([torch.where(masks, mask_id, tokens), tokens], 1)
    seen = block_mask(length, size, device)
    added = torch.zeros(seen.shape, device=device).masked_fill(~seen, torch.finfo(torch.float).min)
    where = torch.arange(length, device=device).repeat(2).expand_as(both)
    states = model.model(
        input_ids=both,
        attention_mask=added.expand(len(both), 1, -1, -1),
        position_ids=where,
        use_cache=False,
    ).last_hidden_state
    rows, columns = masks.nonzero(as_tuple=True)
    logits = model.lm_head(states[rows, columns])
    nll = cross_entropy(logits.float(), tokens[rows, columns], reduction="none")
    blocks = length // size
    sums = torch.zeros(2, len(tokens) * blocks, device=device).index_add(
        1, rows * blocks + columns // size, torch.stack((nll, torch.ones_like(nll)))
    )
    hidden = sums[1] > 0
    return (sums[0] / sums[1].clamp(min=1)).sum() / hidden.sum()
