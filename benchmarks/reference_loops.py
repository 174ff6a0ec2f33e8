"""The loops as the literature writes them, re-stated plainly; slow on purpose, and never used but
to compare with.

What they have in common, and what ours avoids: all rows of a batch go through every forward pass
until the slowest is done; a block ends for all rows at once; the head runs at every position,
prompt included; the softmax over the whole vocabulary is materialised. They differ from their
originals only where the same decisions demand it: ids that a text never holds are excluded, prompts
are padded on the right to a multiple of 16 (bit-equal attention), confidences are fp32 or better,
and "reveal at least one" is decided row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.models import Model
from unmask.policies import LearnedPolicy, Observation
from unmask.rng import ACTION, RowGenerator, row_keys
from unmask.training.config import TrainConfig
from unmask.training.grpo import group_advantages, grpo_loss


@dataclass(frozen=True)
class Canvas:
    """A batch as the loops see it: tokens [B, S], attention mask [B, S], and where each row's
    answer is [B, L]."""

    tokens: Tensor
    mask: Tensor
    where: Tensor


def canvas_of(model: Model, prompts: Sequence[Sequence[int]], length: int) -> Canvas:
    sizes = torch.tensor([len(prompt) + length for prompt in prompts])
    tokens = torch.full((len(prompts), -(-int(sizes.max()) // 16) * 16), model.pad_id)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
        tokens[row, len(prompt) : len(prompt) + length] = model.mask_id
    return Canvas(
        tokens,
        (torch.arange(tokens.shape[1]) < sizes[:, None]).long(),
        sizes[:, None] - length + torch.arange(length),
    )


def all_logits(model: Model, canvas: Canvas) -> Tensor:
    """The stock class' own forward: logits at every position [B, S, V]."""
    logits = model.network(
        input_ids=canvas.tokens, attention_mask=model.prepared(canvas.mask), use_cache=False
    ).logits
    logits[..., list(model.never_ids)] = -torch.inf
    return logits


def proposals(model: Model, canvas: Canvas, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The best token of each answer position and its probability, through the softmax over [B, S,
    V]."""
    logits = all_logits(model, canvas)
    best = logits.argmax(-1)
    p = logits.to(dtype).softmax(-1)
    confidence = p.gather(-1, best[..., None])[..., 0]
    return best.gather(1, canvas.where), confidence.gather(1, canvas.where)


@torch.inference_mode()
def llada(
    model: Model, prompts: Sequence[Sequence[int]], length: int, block_length: int, k: int
) -> Tensor:
    """LLaDA's sampler with low-confidence remasking: in every block, BL / k passes that each reveal
    the k most confident. Tokens [B, L]."""
    canvas = canvas_of(model, prompts, length)
    position = torch.arange(length)
    for start in range(0, length, block_length):
        for _ in range(-(-min(block_length, length - start) // k)):
            best, confidence = proposals(model, canvas, torch.float32)
            answer = canvas.tokens.gather(1, canvas.where)
            allowed = (
                (answer == model.mask_id) & (position >= start) & (position < start + block_length)
            )
            score = confidence.masked_fill(~allowed, -torch.inf)
            for row in range(len(prompts)):
                chosen = score[row].topk(min(k, int(allowed[row].sum()))).indices
                answer[row, chosen] = best[row, chosen]
            canvas.tokens.scatter_(1, canvas.where, answer)
    return canvas.tokens.gather(1, canvas.where)


@torch.inference_mode()
def fast_dllm(
    model: Model, prompts: Sequence[Sequence[int]], length: int, block_length: int, threshold: float
) -> Tensor:
    """Fast-dLLM's parallel decoding without cache: each pass reveals what is at least as confident
    as λ, or the best. Tokens [B, L]."""
    canvas = canvas_of(model, prompts, length)
    position = torch.arange(length)
    for start in range(0, length, block_length):
        inside = (position >= start) & (position < start + block_length)
        while ((canvas.tokens.gather(1, canvas.where) == model.mask_id) & inside).any():
            best, confidence = proposals(model, canvas, torch.float64)
            answer = canvas.tokens.gather(1, canvas.where)
            score = confidence.masked_fill(~(inside & (answer == model.mask_id)), -torch.inf)
            for row in range(len(prompts)):
                if score[row].max() > -torch.inf:
                    chosen = score[row] >= min(threshold, float(score[row].max()))
                    answer[row, chosen] = best[row, chosen]
            canvas.tokens.scatter_(1, canvas.where, answer)
    return canvas.tokens.gather(1, canvas.where)


@dataclass(frozen=True)
class Rollouts:
    """What the update needs: tokens [B, L], NFE [B], and of each of T steps the observation, the
    action and the row mask [B]."""

    tokens: Tensor
    nfe: Tensor
    observations: list[Observation]
    actions: list[Tensor]
    acted: list[Tensor]


@torch.no_grad()
def rollouts(
    model: Model,
    prompts: Sequence[Sequence[int]],
    policy: LearnedPolicy,
    length: int,
    block_length: int,
    seed: int = 0,
) -> Rollouts:
    """The paper's training rollouts: each prompt is repeated G times, and the policy draws an
    action in every pass until all rows are done.

    A row's step and NFE count only passes in which it had something to reveal, so that the
    decisions are those of `unmask.generate`.
    """
    canvas = canvas_of(model, prompts, length)
    generator = RowGenerator(torch.tensor(row_keys(prompts, seed)))
    position = torch.arange(length)
    nfe = torch.zeros(len(prompts), dtype=torch.long)
    observations, actions, acted = [], [], []
    for start in range(0, length, block_length):
        inside = (position >= start) & (position < start + block_length)
        while True:
            masked = canvas.tokens.gather(1, canvas.where) == model.mask_id
            eligible = masked & inside & (nfe < length)[:, None]
            if not eligible.any():
                break
            best, confidence = proposals(model, canvas, torch.float32)
            observation = Observation(confidence, masked, eligible, nfe.clone(), length)
            action = (
                policy.distribution(observation).sample(generator.uniform(nfe, length, ACTION))
                & eligible
            )
            answer = torch.where(action, best, canvas.tokens.gather(1, canvas.where))
            canvas.tokens.scatter_(1, canvas.where, answer)
            observations.append(observation)
            actions.append(action)
            acted.append(eligible.any(1))
            nfe += eligible.any(1)
    return Rollouts(canvas.tokens.gather(1, canvas.where), nfe, observations, actions, acted)


def update(
    policy: LearnedPolicy,
    done: Rollouts,
    rewards: Tensor,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
) -> None:
    """GRPO on the rollouts, step by step: each epoch runs the policy on the whole batch at every
    step; rows that are done have weight 0."""
    advantage = group_advantages(rewards.view(-1, config.rollout.rollouts)).flatten()
    weight = 1 / (done.nfe * len(rewards))
    with torch.no_grad():
        old = [
            policy.distribution(o).log_prob(a)
            for o, a in zip(done.observations, done.actions, strict=True)
        ]
    for _ in range(config.optim.epochs):
        optimizer.zero_grad()
        for observation, action, before, acted in zip(
            done.observations, done.actions, old, done.acted, strict=True
        ):
            log_prob = policy.distribution(observation).log_prob(action)
            grpo_loss(log_prob, before, advantage, weight * acted, config.optim.epsilon).backward()
        torch.nn.utils.clip_grad_norm_(policy.network.parameters(), config.optim.max_grad_norm)
        optimizer.step()
