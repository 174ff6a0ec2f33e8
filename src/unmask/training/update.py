"""From a round's rollouts to the policy's next weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from unmask.decoding import Generation
from unmask.policies import LearnedPolicy, Observation
from unmask.training.config import TrainConfig
from unmask.training.grpo import group_advantages, grpo_loss, steered_log_prob

SILENT = 1e-6  # advantages up to this are rounding


@dataclass(frozen=True)
class Batch:
    """Decisions that carry signal; T in all.

    Attributes:
        observation: T rows.
        action: int64 [T, L].
        advantage: fp32 [T].
        weight: fp32 [T], 1 / (T_g · rollouts of the round in this process).
        steered: bool [T], True where an expert decided.
    """

    observation: Observation
    action: Tensor
    advantage: Tensor
    weight: Tensor
    steered: Tensor

    @staticmethod
    def cat(parts: list[Batch]) -> Batch:
        observation = Observation.cat([part.observation for part in parts])
        return Batch(
            observation,
            *(
                torch.cat([getattr(p, name) for p in parts])
                for name in ("action", "advantage", "weight", "steered")
            ),
        )


def decisions(
    policy: LearnedPolicy,
    generation: Generation,
    advantage: Tensor,
    kept: Tensor,
    rollouts: int,
    steered: bool,
) -> Batch | None:
    """The decisions of the rows `kept`; None if there are none.

    Args:
        policy: whose likelihoods will be asked for; features it does not read are dropped.
        generation: N rows with their transitions.
        advantage: fp32 [N], or [T] for every decision.
        kept: bool [N].
        rollouts: of the round in this process, experts' included.
        steered: whether an expert decided.
    """
    assert generation.transitions is not None
    chosen = kept[generation.transitions.row].nonzero()[:, 0]
    if not len(chosen):
        return None
    rows = generation.transitions.row[chosen]
    observation = generation.transitions.observation[chosen]
    observation = replace(
        observation, features={name: observation.features[name] for name in policy.needs.features}
    )
    action = generation.transitions.action[chosen]
    if (
        steered and policy.action == "plackett-luce"
    ):  # an expert's set as the order of falling confidence
        ranked = (
            observation.confidence[..., 0]
            .masked_fill(action == 0, -1)
            .argsort(dim=1, descending=True, stable=True)
            .argsort(dim=1)
        )
        action = torch.where(action > 0, ranked + 1, 0)
    advantage = (
        advantage[chosen] if len(advantage) == len(generation.transitions.row) else advantage[rows]
    )
    weight = 1 / (generation.nfe[rows] * rollouts)
    return Batch(
        observation, action, advantage, weight, torch.full_like(rows, steered, dtype=torch.bool)
    )


def likelihood_to_go(generation: Generation) -> tuple[Tensor, Tensor]:
    """The frozen model's own log-probability of what is still to be committed, of each rollout and
    from each decision on.

    Returns:
        fp32 [N] and [T]: Σ log c over the tokens committed in all, and from that decision on,
            divided by L (greedy decoding: the
        probability of a committed token is its confidence).
    """
    assert generation.transitions is not None
    observation, row = generation.transitions.observation, generation.transitions.row
    gain = (
        observation.confidence[..., 0]
        .clamp(min=1e-6)
        .log()
        .masked_fill(generation.transitions.action == 0, 0)
        .sum(1)
        / observation.length
    )
    whole = torch.zeros(len(generation.nfe), device=gain.device).index_add(0, row, gain)
    order = row.argsort(stable=True)  # rollout by rollout, each in the order of its steps
    before = gain[order].cumsum(0) - gain[order]
    start = torch.cat([before.new_zeros(1), whole.cumsum(0)[:-1]])
    to_go = torch.empty_like(gain)
    to_go[order] = whole[row[order]] - (before - start[row[order]])
    return whole, to_go


def signal_batch(
    policy: LearnedPolicy,
    generation: Generation,
    rewards: Tensor,
    experts: list[tuple[Generation, Tensor]],
    rollouts: int,
    dense: float,
    scaled: bool = False,
) -> Batch | None:
    """Every decision of the groups that carry signal, with advantages and weights; None if there
    are none.

    Args:
        policy: that acted.
        generation: P · G rows, the G rollouts of a prompt next to each other.
        rewards: fp32 [P · G].
        experts: of each expert its P rollouts and their rewards [P].
        rollouts: G.
        dense: weight of the dense reward; 0 is none.
        scaled: divide terminal advantages by their group's standard deviation.
    """
    table = torch.cat([rewards.view(-1, rollouts), *(r[:, None] for _, r in experts)], 1)
    advantages = group_advantages(table, scaled)
    loud = (group_advantages(table).abs().amax(1) > SILENT) | (dense > 0)
    sources = [
        (generation, advantages[:, :rollouts].flatten(), loud.repeat_interleave(rollouts), False)
    ]
    sources += [
        (expert, advantages[:, rollouts + i], loud, True) for i, (expert, _) in enumerate(experts)
    ]
    mean = likelihood_to_go(generation)[0].view(-1, rollouts).mean(1) if dense else None
    parts = []
    for source, advantage, kept, steered in sources:
        if mean is not None:  # reward to go, less the group's mean for as much as is still masked
            assert source.transitions is not None
            masked = source.transitions.observation.masked.float().mean(1)
            of_group = mean if steered else mean.repeat_interleave(rollouts)
            row = source.transitions.row
            advantage = advantage[row] + dense * (
                likelihood_to_go(source)[1] - masked * of_group[row]
            )
        parts.append(decisions(policy, source, advantage, kept, table.numel(), steered))
    filled = [part for part in parts if part is not None]
    return Batch.cat(filled) if filled else None


def update(
    policy: LearnedPolicy,
    batch: Batch | None,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    accelerator: Accelerator,
    seed: int,
    imitate: bool = False,
) -> dict[str, float]:
    """`config.epochs` passes over one round's decisions, each cut at random into
    `config.minibatches` optimiser steps.

    With `imitate` the loss is the decisions' mean negative log-likelihood instead of GRPO's.
    """
    parameters = list(policy.network.parameters())
    size = 0 if batch is None else len(batch.advantage)
    generator = torch.Generator().manual_seed(seed)
    # Kept on the device until the end: a float() in the loop would make a GPU wait for every
    # micro-batch.
    totals = {
        name: torch.zeros((), device=accelerator.device)
        for name in ("entropy", "clipped", "grad_norm")
    }
    if not size and accelerator.num_processes == 1:
        return dict.fromkeys(
            totals, 0.0
        )  # no group has signal: no step at all, so that weight decay and momentum do not drift

    # Decisions by how many positions are eligible: the policy network runs at those alone, so
    # micro-batches of like ones waste the least.
    counts, ranked = (
        (torch.zeros(0, dtype=torch.long),) * 2
        if batch is None
        else batch.observation.eligible.sum(1).cpu().sort(stable=True)
    )
    old = torch.zeros(size, device=accelerator.device)

    def evaluate(chosen: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Log-likelihood and entropy of decisions, none of which has more eligible positions than
        `most`."""
        assert batch is not None
        with torch.autocast(
            accelerator.device.type, torch.bfloat16, enabled=config.mixed_precision
        ):
            distribution = policy.distribution(batch.observation[chosen], most)
        log_prob = distribution.log_prob(batch.action[chosen])
        if config.experts and not imitate:
            log_prob = steered_log_prob(
                log_prob, batch.steered[chosen], config.rollouts, len(config.experts)
            )
        return log_prob, distribution.entropy(batch.action[chosen])

    def micro_batches(places: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Decisions at these places of `ranked`, on the device (one copy for all), each time with
        their `most`."""
        places = places.sort().values
        most = (
            [int(counts[part[-1]]) for part in places.split(config.micro_batch)]
            if len(places)
            else []
        )
        return zip(
            ranked[places].to(accelerator.device).split(config.micro_batch), most, strict=False
        )

    steps = [
        part
        for _ in range(config.epochs)
        for part in torch.randperm(size, generator=generator).tensor_split(config.minibatches)
    ]
    # the policy that acted; what the first step evaluates anyway, before anything is updated, is
    # left to it
    with torch.no_grad():
        for chosen, most in (
            micro_batches(torch.cat(steps[1 : config.minibatches]))
            if config.minibatches > 1 and not imitate
            else ()
        ):
            old[chosen] = evaluate(chosen, most)[0]
    for step, minibatch in enumerate(steps):
        optimizer.zero_grad(set_to_none=False)
        for chosen, most in micro_batches(minibatch):
            assert batch is not None
            log_prob, entropy = evaluate(chosen, most)
            if step == 0:
                old[chosen] = log_prob.detach()
            weight = batch.weight[chosen] * config.minibatches
            if imitate:
                loss = -(weight * log_prob).sum()
            else:
                loss = grpo_loss(
                    log_prob, old[chosen], batch.advantage[chosen], weight, config.epsilon
                )
                totals["clipped"] += (
                    ((log_prob.detach() - old[chosen]).exp() - 1).abs() > config.epsilon
                ).sum() / (size * config.epochs)
            (
                loss - config.entropy_bonus * (weight * entropy).sum()
                if config.entropy_bonus
                else loss
            ).backward()
            totals["entropy"] += entropy.detach().sum() / (size * config.epochs)
        if accelerator.num_processes > 1:
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
            )
            mean = accelerator.reduce(flat, reduction="mean")
            assert isinstance(mean, Tensor)
            for p, grad in zip(
                parameters, mean.split([p.numel() for p in parameters]), strict=True
            ):
                p.grad = grad.view_as(p).clone()
        totals["grad_norm"] += torch.nn.utils.clip_grad_norm_(
            parameters, config.max_grad_norm
        ) / len(steps)
        optimizer.step()
    return {name: float(total) for name, total in totals.items()}


def learning_rate(config: TrainConfig, round_: int) -> float:
    """Constant during the warm start by imitation; then linear warm-up and a cosine to zero."""
    start = config.imitation_rounds if config.imitate else 0
    if round_ < start:
        return config.imitation_lr
    if round_ - start < config.warmup:
        return config.lr * (round_ - start + 1) / config.warmup
    done = (round_ - start - config.warmup) / max(1, config.rounds - start - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))
