"""Masks and losses."""

import torch
from torch.nn.functional import cross_entropy

from unmask import load_task
from unmask.models import Model
from unmask.models.tokenizer import word_tokenizer
from unmask.pretraining import PretrainConfig
from unmask.pretraining.network import new_model
from unmask.pretraining.objective import (
    PADDING_WEIGHT,
    block_loss,
    diffusion_loss,
    draw_masks,
    draw_masks_within,
    hidden_loss,
)


def test_masks_hide_every_share_and_always_something():
    masks = draw_masks(4000, 48, 0.3, torch.Generator().manual_seed(0))
    assert masks.any(1).all()
    assert torch.histc(masks[1200:].float().mean(1), 10, 0, 1).min() > 0.07 * 2800
    suffixes = masks[:1200]
    assert (suffixes[:, 1:] >= suffixes[:, :-1]).all()


def test_masks_within_hide_something_of_each_answer_and_nothing_of_a_prompt():
    n, length = 4000, 60
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(1, 20, (n,), generator=generator)
    ends = starts + torch.randint(1, 30, (n,), generator=generator)
    masks = draw_masks_within(starts, ends, length, 0.3, generator)
    where = torch.arange(length)
    assert not (masks & (where < starts[:, None])).any()
    inside = masks & (where < ends[:, None])
    assert inside.any(1).all()
    assert torch.histc(inside.sum(1) / (ends - starts), 5, 0, 1).min() > 0.1 * n


def test_suffixes_fall_on_rows_of_any_length():
    """Where rows are sorted, the first ones are the shortest."""
    n, length = 4000, 60
    starts = torch.full((n,), 20)
    ends = starts + 20 + torch.arange(n) * 20 // n
    masks = draw_masks_within(starts, ends, length, 0.3, torch.Generator().manual_seed(0))
    answers = masks[:, 20:]
    suffix = (answers[:, 1:] >= answers[:, :-1]).all(1)
    middle = (answers.sum(1) > 8) & (answers.sum(1) < 32)  # there it is no accident
    share = (suffix & middle).view(4, -1).sum(1) / middle.view(4, -1).sum(1)
    assert share.min() > 0.2 and share.max() < 0.4


def small_model():
    task = load_task("chain")
    tokenizer = word_tokenizer(task.words)
    config = PretrainConfig(width=32, layers=2, heads=2)
    model = new_model(config, tokenizer, 14, 48)
    model.set_attn_implementation("eager")
    return model, tokenizer


def test_losses_agree_where_both_can_be_computed():
    model, tokenizer = small_model()
    generator = torch.Generator().manual_seed(0)
    n, prompt, length = 6, 5, 12
    tokens = torch.randint(4, len(tokenizer), (n, prompt + length), generator=generator)
    masks = draw_masks(n, length, 0.3, generator)
    for shift in (0, 1):
        fixed = diffusion_loss(
            model, tokens, torch.full((n,), prompt), masks, tokenizer.mask_token_id, shift
        )
        whole = torch.cat((torch.zeros(n, prompt, dtype=torch.bool), masks), 1)
        ends = torch.full((n,), prompt + length)
        varied = hidden_loss(model, tokens, whole, ends, tokenizer.mask_token_id, shift)
        torch.testing.assert_close(fixed, varied)


def test_padding_counts_less():
    model, tokenizer = small_model()
    tokens = torch.randint(4, len(tokenizer), (1, 9), generator=torch.Generator().manual_seed(0))
    masks = torch.tensor([[False] * 4 + [True] * 5])
    loss = hidden_loss(model, tokens, masks, torch.tensor([6]), tokenizer.mask_token_id)
    corrupted = torch.where(masks, tokenizer.mask_token_id, tokens)
    logits = model(input_ids=corrupted).logits[0, 4:]
    nll = cross_entropy(logits, tokens[0, 4:], reduction="none")
    weight = torch.tensor([1.0, 1.0, *[PADDING_WEIGHT] * 3])
    torch.testing.assert_close(loss, (nll * weight).sum() / weight.sum())


def test_the_loss_of_blocks_is_that_of_each_block_behind_clean_ones():
    """One pass over noised and clean blocks gives what a pass for each block gives, through the
    model's own attention."""
    network, tokenizer = small_model()
    size, mask_id = 4, tokenizer.mask_token_id
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, len(tokenizer), (5, 3 * size), generator=generator)
    masks = draw_masks(15, size, 0.3, generator).view(5, -1)
    masks[:2, :5] = False  # prompts
    found = block_loss(network, tokens, masks, mask_id, size=size)
    network.set_attn_implementation("sdpa")
    special = {"mask_id": mask_id, "eos_ids": (1,), "never_ids": (mask_id,)}
    model = Model(network.eval(), tokenizer, **special, name="small", attention_block=size)
    losses = []
    for begin in range(0, 3 * size, size):
        hidden, own = masks[:, begin : begin + size], tokens[:, begin : begin + size]
        corrupted = tokens.clone()
        corrupted[:, begin : begin + size][hidden] = mask_id
        corrupted[:, begin + size :] = mask_id
        logits = model.logits(corrupted, torch.ones_like(tokens))[:, begin : begin + size]
        nll = cross_entropy(logits.transpose(1, 2), own, reduction="none")
        losses += [row[m].mean() for row, m in zip(nll, hidden, strict=True) if m.any()]
    torch.testing.assert_close(found.detach(), torch.stack(losses).mean())
