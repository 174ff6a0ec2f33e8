"""From a round's rollouts to the decisions that the policy learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding import Generation, Transitions
from unmask.policies import LearnedPolicy, Observation
from unmask.training.grpo import group_advantages

# Advantages up to this are rounding: the group carries no signal.
SILENT = 1e-6


@dataclass(frozen=True)
class Decisions:
    """Decisions to learn from; T in all.

    Attributes:
        observation: T rows.
        action: int16 [T, L].
        advantage: fp32 [T].
        weight: fp32 [T], 1 / (T_g · rollouts of the round in this process).
        steered: bool [T], True where an expert decided.
        prompt: int64 [T], the number of the prompt in the round.
    """

    observation: Observation
    action: Int[Tensor, "T L"]
    advantage: Float[Tensor, " T"]
    weight: Float[Tensor, " T"]
    steered: Bool[Tensor, " T"]
    prompt: Int[Tensor, " T"]

    def __len__(self) -> int:
        return len(self.advantage)

    def __getitem__(self, chosen: Tensor) -> Decisions:
        """Some of them, by index."""
        return Decisions(
            self.observation[chosen],
            self.action[chosen],
            self.advantage[chosen],
            self.weight[chosen],
            self.steered[chosen],
            self.prompt[chosen],
        )


@dataclass(frozen=True)
class Source:
    """Rollouts of one policy, and which of their decisions are to be learned from.

    Attributes:
        transitions: T decisions of some of the N rollouts.
        nfe: int64 [N].
        reveal_step: int64 [N, L], the step that revealed each position.
        kept: bool [N], the rows whose decisions are taken.
        advantage: fp32 [T].
        steered: whether an expert decided.
        copies: how many rows next to each other are of the same prompt.
    """

    transitions: Transitions
    nfe: Int[Tensor, " N"]
    reveal_step: Int[Tensor, "N L"]
    kept: Bool[Tensor, " N"]
    advantage: Float[Tensor, " T"]
    steered: bool
    copies: int = 1


def make_source(
    generation: Generation,
    kept: Bool[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    steered: bool,
    copies: int = 1,
) -> list[Source]:
    """Rollouts all of whose decisions have the advantage of their row, as a list of one source; an
    empty list if no decision was recorded."""
    found = generation.transitions
    if found is None:
        return []
    nfe, reveal_step = generation.nfe, generation.reveal_step
    return [Source(found, nfe, reveal_step, kept, advantage[found.row], steered, copies)]


def collect_decisions(
    policy: LearnedPolicy, sources: Sequence[Source], rollouts: int
) -> Decisions | None:
    """The kept decisions of all sources, one source after the other; None if there are none.

    Each tensor is allocated once, at its final size, and filled source by source. A single source
    whose decisions are all kept is taken as it is, without a copy.

    Args:
        policy: whose likelihoods will be asked for; what it does not read is left out (features,
            further probabilities, α), for sources may differ in it.
        sources: rollouts with transitions, recorded for this policy.
        rollouts: of the round in this process, experts' included.
    """
    chosen = [order_decisions(source) for source in sources]
    total = sum(map(len, chosen))
    if not total:
        return None
    parts = list(zip(sources, chosen, strict=True))
    whole = len(parts) == 1 and bool((chosen[0] == torch.arange(total).to(chosen[0])).all())
    whole = whole and total == len(sources[0].transitions.row)

    def gather(read: Callable[[Transitions], Tensor]) -> Tensor:
        first = read(sources[0].transitions)
        if whole:
            return first
        out, end = first.new_empty(total, *first.shape[1:]), 0
        for source, index in parts:
            begin, end = end, end + len(index)
            torch.index_select(read(source.transitions), 0, index, out=out[begin:end])
        return out

    observation = sources[0].transitions.observation
    names = ["masked", "eligible", "step", "length"]
    if policy.network.config.conditioned:
        names.append("alpha")
    given: dict[str, Any] = {
        name: gather(lambda t, name=name: getattr(t.observation, name))
        for name in names
        if isinstance(getattr(observation, name), Tensor)
    }
    given["confidence"] = gather(lambda t: t.observation.confidence[..., : policy.needs.top_k])
    features = {
        name: gather(lambda t, name=name: t.observation.features[name])
        for name in policy.needs.features
    }
    rows = [source.transitions.row[index] for source, index in parts]
    found = Decisions(
        observation=Observation(**({"length": observation.length} | given), features=features),
        action=gather(lambda t: t.action),
        advantage=torch.cat([source.advantage[index] for source, index in parts]),
        weight=torch.cat([1 / (s.nfe[r] * rollouts) for s, r in zip(sources, rows, strict=True)]),
        steered=torch.cat(
            [torch.full_like(i, source.steered, dtype=torch.bool) for source, i in parts]
        ),
        prompt=torch.cat([r // s.copies for s, r in zip(sources, rows, strict=True)]),
    )
    if policy.action == "plackett-luce" and any(source.steered for source in sources):
        found = replace(found, action=order_expert_sets(found))
    return found


def order_decisions(source: Source) -> Int[Tensor, " t"]:
    """The kept decisions, sorted by step and, within a step, by when their row was begun.

    This is the order in which a batch that holds all rows takes them. So which minibatch a decision
    falls into does not depend on how many rows were decoded side by side.
    """
    row, step = source.transitions.row, source.transitions.passes
    begun, n = row[step == 0], len(source.kept)
    place = torch.zeros(n, dtype=torch.long, device=row.device)
    place[begun] = torch.arange(len(begun), device=row.device)
    order = (step * n + place[row]).argsort(stable=True)
    return order[source.kept[row[order]]]


def order_expert_sets(decisions: Decisions) -> Int[Tensor, "T L"]:
    """Actions in which an expert's sets have become orders: by falling confidence. An expert that
    has an order of its own keeps it."""
    action = decisions.action
    unordered = decisions.steered & (action.amax(1) <= 1)
    ranked = (
        decisions.observation.confidence[..., 0]
        .masked_fill(action == 0, -1)
        .argsort(dim=1, descending=True, stable=True)
        .argsort(dim=1)
    )
    ordered = torch.where(action > 0, ranked + 1, 0).to(action.dtype)
    return torch.where(unordered[:, None], ordered, action)


def likelihood_to_go(
    generation: Generation,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " T"]]:
    """`likelihood_of` a generation whose decisions were all recorded."""
    assert generation.transitions is not None, "rollouts are decoded with a recorder"
    return likelihood_of(generation.transitions, generation.reveal_step)


def likelihood_of(
    transitions: Transitions, reveal_step: Int[Tensor, "N L"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " T"]]:
    """The frozen model's own log-probability of what is still to be committed, of each of N
    rollouts and from each decision on.

    Args:
        transitions: T decisions.
        reveal_step: the step that revealed each position. With choices a decision may name
            positions that were not revealed.

    Returns:
        fp32 [N] and [T]: Σ log c over the tokens committed in all, and from that decision on,
            divided by L. (The confidence is the probability of the token that is committed. Where
            it is 0 the model was told to put the end of text last (`eos`), and the token counts
            nothing.)
    """
    observation, row = transitions.observation, transitions.row
    confidence = observation.confidence[..., 0]
    committed = reveal_step[row] == transitions.passes[:, None]
    without = ~committed | (confidence == 0)
    gain = confidence.clamp(min=1e-6).log().masked_fill(without, 0).sum(1) / observation.length
    whole = torch.zeros(len(reveal_step), device=gain.device).index_add(0, row, gain)
    order = row.argsort(stable=True)  # rollout by rollout, each in the order of its steps
    before = gain[order].cumsum(0) - gain[order]
    start = torch.cat([before.new_zeros(1), whole.cumsum(0)[:-1]])
    to_go = torch.empty_like(gain)
    to_go[order] = whole[row[order]] - (before - start[row[order]])
    return whole, to_go


def signal_batch(
    policy: LearnedPolicy,
    generation: Generation,
    rewards: Float[Tensor, " R"],
    experts: Sequence[tuple[Generation, Float[Tensor, " P"]]],
    rollouts: int,
    dense: float,
    scaled: bool = False,
    every: bool = False,
) -> Decisions | None:
    """Every decision of the groups that carry signal, with advantages and weights; None if there
    are none. Groups without signal are dropped before anything is copied, unless `every` says that
    they are learned from too.

    Args:
        policy: that acted.
        generation: R = P · G rows, the G rollouts of a prompt next to each other.
        rewards: fp32 [P · G].
        experts: of each expert its P rollouts and their rewards [P].
        rollouts: G.
        dense: weight of the dense reward; 0 is none.
        scaled: divide terminal advantages by their group's standard deviation.
        every: keep groups without signal too, with an advantage of 0: the entropy of their
            decisions, or how far they are from another policy's, has a gradient.
    """
    table = stack_groups(rewards, [gained for _, gained in experts], rollouts)
    loud = groups_with_signal(table, dense)
    kept = loud | every
    advantages = group_advantages(table, scaled).masked_fill(~loud[:, None], 0)
    sources = make_source(
        generation,
        kept.repeat_interleave(rollouts),
        advantages[:, :rollouts].flatten(),
        False,
        rollouts,
    )
    for i, (expert, _) in enumerate(experts):
        sources += make_source(expert, kept, advantages[:, rollouts + i], True)
    if dense:
        mean = likelihood_to_go(generation)[0].view(-1, rollouts).mean(1)
        sources = [add_dense_reward(source, mean, dense) for source in sources]
    return collect_decisions(policy, sources, table.numel())


def stack_groups(
    rewards: Float[Tensor, " R"], experts: Sequence[Float[Tensor, " P"]], rollouts: int
) -> Float[Tensor, "P group"]:
    """The rewards of each prompt in a row: those of its G rollouts, then each expert's."""
    return torch.cat([rewards.view(-1, rollouts), *(gained[:, None] for gained in experts)], 1)


def groups_with_signal(table: Float[Tensor, "P group"], dense: float) -> Bool[Tensor, " P"]:
    """Which prompts' rewards differ within their group; all, if there is a dense reward."""
    return (group_advantages(table).abs().amax(1) > SILENT) | (dense > 0)


def add_dense_reward(source: Source, mean: Float[Tensor, " P"], dense: float) -> Source:
    """Adds the dense reward to go to each decision's advantage, less the group's mean for as much
    as is still masked.

    Args:
        source: whose advantages hold the terminal reward alone.
        mean: of each group of the policy's rollouts, the likelihood of all that they commit.
        dense: weight.
    """
    masked = source.transitions.observation.masked.float().mean(1)
    of_group = mean.repeat_interleave(source.copies)
    to_go = likelihood_of(source.transitions, source.reveal_step)[1]
    dense_part = dense * (to_go - masked * of_group[source.transitions.row])
    return replace(source, advantage=source.advantage + dense_part)
