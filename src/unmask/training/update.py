"""From a round's decisions to the policy's next weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.memory import check_memory
from unmask.policies import Bernoulli, LearnedPolicy, PlackettLuce
from unmask.policies.network import activation_bytes
from unmask.processes import Processes, bf16_autocast
from unmask.training.config import OptimConfig
from unmask.training.decisions import Decisions
from unmask.training.finite import check_finite, check_weights
from unmask.training.phases import Phase, Round


@dataclass(frozen=True)
class MicroBatch:
    """Decisions whose likelihoods are computed at once.

    Attributes:
        index: int64 [t], which decisions.
        most: none of them has more eligible positions than this.
    """

    index: Int[Tensor, " t"]
    most: int


@dataclass(frozen=True)
class Minibatches:
    """A round's decisions, cut into optimiser steps and those into micro-batches.

    The policy network computes the eligible positions alone. So micro-batches hold decisions that
    have about equally many of them: the least is wasted.

    Attributes:
        ranked: int64 [T] on the CPU, the decisions by their number of eligible positions.
        counts: int64 [T] on the CPU, those numbers.
        size: decisions in a micro-batch.
        device: where the indices go.
    """

    ranked: Int[Tensor, " T"]
    counts: Int[Tensor, " T"]
    size: int
    device: torch.device

    @staticmethod
    def of(decisions: Decisions | None, size: int, device: torch.device) -> Minibatches:
        """Of some decisions, or of none."""
        if decisions is None:
            nothing = torch.zeros(0, dtype=torch.long)
            return Minibatches(nothing, nothing, size, device)
        counts, ranked = decisions.observation.eligible.sum(1).cpu().sort(stable=True)
        return Minibatches(ranked, counts, size, device)

    def draw(self, parts: int, generator: torch.Generator) -> tuple[Int[Tensor, " t"], ...]:
        """Places in the ranking, cut at random into the minibatches of one epoch."""
        return torch.randperm(len(self.ranked), generator=generator).tensor_split(parts)

    def split(self, places: Int[Tensor, " t"]) -> Iterator[MicroBatch]:
        """The micro-batches of a minibatch; the indices travel to the device in one copy."""
        places = places.sort().values
        index = self.ranked[places].to(self.device)
        for part, where in zip(index.split(self.size), places.split(self.size), strict=True):
            if len(part):
                yield MicroBatch(part, int(self.counts[where[-1]]))


@dataclass(frozen=True)
class Anchor:
    """A policy that an update stays near to.

    Attributes:
        policy: with independent reveals; it is not changed.
        weight: of KL(anchor ‖ policy) in the loss, in nats a decision.
    """

    policy: LearnedPolicy
    weight: float


@dataclass(frozen=True)
class Updated:
    """What an update says about itself.

    Attributes:
        metrics: entropy (nats a decision) and clipped (share of decisions), means over the
            decisions of all processes; grad_norm (mean over steps).
        log_prob: fp32 [T], the likelihoods of the decisions when they were first computed.
    """

    metrics: dict[str, float]
    log_prob: Float[Tensor, " T"]


def update(
    policy: LearnedPolicy,
    decisions: Decisions | None,
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    config: OptimConfig,
    processes: Processes,
    seed: int,
    anchor: Anchor | None = None,
) -> Updated:
    """Some epochs over one round's decisions, each cut at random into optimiser steps.

    Every process takes the same steps, with the mean of all gradients. A step for which no process
    has decisions is left out, so that weight decay and momentum do not move weights without a
    reason; so is the whole update if no process has any.

    Args:
        policy: that acted; its network is changed.
        decisions: of this process; None if it has none.
        optimizer: of the network's parameters.
        phase: whose loss is minimised.
        config: epochs, minibatches and so on.
        processes: the group, every process of which calls this.
        seed: of the cuts.
        anchor: a policy to stay near to.
    """
    if not phase.compares:  # a teacher's set is learned as a draw, not left to the fallback
        policy = replace(policy, fallback=False)
    size, device = len(decisions) if decisions else 0, processes.device
    parameters = list(policy.network.parameters())
    if decisions is not None:
        check_room(policy, decisions, config)
    generator = torch.Generator().manual_seed(seed)
    cuts = Minibatches.of(decisions, config.micro_batch, device)
    epochs = [cuts.draw(config.minibatches, generator) for _ in range(config.epochs)]
    # Part i of an epoch holds a decision in the processes that have more than i.
    held = processes.total((torch.arange(config.minibatches) < size).long()).tolist()
    steps = [part for parts in epochs for i, part in enumerate(parts) if held[i]]
    # The sums stay on the device until the end: a float() in the loop would make a GPU wait.
    sums = {name: torch.zeros((), device=device) for name in ("entropy", "clipped", "grad_norm")}
    old = torch.zeros(size, device=device)
    if not steps:
        return Updated(dict.fromkeys(sums, 0.0), old)
    if decisions is not None:  # each step's loss is a mean over its own minibatch
        decisions = replace(decisions, weight=decisions.weight * config.minibatches)

    # Likelihoods under the policy that acted. The first step computes its own before anything has
    # changed, so those are left to it.
    if phase.compares and decisions is not None:
        with torch.no_grad():
            for micro in cuts.split(torch.cat(epochs[0][1:])) if config.minibatches > 1 else ():
                batch = decisions[micro.index]
                acting = act_again(policy, batch, micro, config)
                old[micro.index] = log_probs(acting, batch, config)[0]
    for number, places in enumerate(steps):
        optimizer.zero_grad(set_to_none=False)
        for micro in cuts.split(places):
            assert decisions is not None
            batch = decisions[micro.index]
            distribution = act_again(policy, batch, micro, config)
            log_prob, entropy = log_probs(distribution, batch, config)
            if number == 0 or (number < config.minibatches and not phase.compares):
                old[micro.index] = log_prob.detach()
            loss, clipped = phase.loss(log_prob, old[micro.index], batch)
            if anchor is not None:
                with torch.no_grad():
                    anchored = act_again(anchor.policy, batch, micro, config)
                assert isinstance(distribution, Bernoulli) and isinstance(anchored, Bernoulli)
                apart = distribution.kl_from(anchored)
                loss = loss + anchor.weight * (batch.weight * apart).sum()
            if config.entropy_bonus:
                loss = loss - config.entropy_bonus * (batch.weight * entropy).sum()
            loss.backward()
            sums["entropy"] += entropy.detach().sum()
            sums["clipped"] += clipped
        processes.mean_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        sums["grad_norm"] += norm / len(steps)
        optimizer.step()
    norm = float(sums.pop("grad_norm"))
    means = processes.means({name: float(x) for name, x in sums.items()}, size * config.epochs)
    return Updated({**means, "grad_norm": norm}, old)


def micro_bytes(policy: LearnedPolicy, decisions: Decisions, config: OptimConfig) -> int:
    """The most that the likelihoods of a micro-batch and their gradients take: what the network
    keeps for each position of each of its decisions."""
    positions = min(config.micro_batch, -(-len(decisions) // config.minibatches))
    positions *= decisions.action.shape[1]
    return positions * activation_bytes(policy.network.config, trained=True)


def check_room(policy: LearnedPolicy, decisions: Decisions, config: OptimConfig) -> None:
    """Refuses micro-batches that cannot fit into memory.

    Raises:
        UnmaskError: if the largest takes more than is free.
    """
    wanted, decision = micro_bytes(policy, decisions, config), decisions.action.shape[1]
    check_memory(
        wanted,
        f"an update with micro-batches of {config.micro_batch} decisions on {decision} positions",
        "give a smaller micro_batch",
        decisions.action.device,
    )


def act_again(
    policy: LearnedPolicy, batch: Decisions, micro: MicroBatch, config: OptimConfig
) -> Bernoulli | PlackettLuce:
    """A policy's distribution of actions in the states of a micro-batch's decisions."""
    with bf16_autocast(batch.advantage.device, config.mixed_precision):
        return policy.distribution(batch.observation, micro.most)


def log_probs(
    distribution: Bernoulli | PlackettLuce, batch: Decisions, config: OptimConfig
) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
    """Log-likelihood and entropy of a micro-batch's actions. The entropy has a gradient only where
    the objective asks for it."""
    log_prob = distribution.log_prob(batch.action)
    with torch.set_grad_enabled(torch.is_grad_enabled() and config.entropy_bonus > 0):
        return log_prob, distribution.entropy(batch.action)


def check_update(updated: Updated, round_: Round, network: nn.Module, moment: str) -> None:
    """Refuses what an update with numbers that are not finite has left.

    Raises:
        UnmaskError: naming what, the prompt where one is to blame, and the round.
    """
    decisions = round_.decisions
    if decisions is not None:
        for what, values in (
            ("an advantage", decisions.advantage),
            ("a decision's weight", decisions.weight),
            ("a decision's log-likelihood", updated.log_prob),
        ):
            check_finite(what, values, round_.prompts, moment, decisions.prompt)
    check_weights(network, moment)
