"""Labels: which reveals in a stored step are good.

A label is a function of `TraceSteps`, t steps of L positions, that gives `Labels`. To add one of
your own, write such a function and hand it to `train(config, label=function)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.training.traces import RIGHT, TraceSteps


@dataclass(frozen=True)
class Labels:
    """What is said of the reveals in t steps.

    Attributes:
        good: fp32 [t, L], 1 where a reveal is good, 0 where it is wrong; numbers between are taken
            as chances.
        weight: fp32 [t, L], not negative: how much it counts; 0 where nothing is known. What is not
            eligible counts nothing, whatever it says.
        rank: fp32 [t, L]; positions are to be revealed in the order in which it falls. None says
            nothing of an order.
    """

    good: Float[Tensor, "t L"]
    weight: Float[Tensor, "t L"]
    rank: Float[Tensor, "t L"] | None = None


Label = Callable[[TraceSteps], Labels]


def survives(steps: TraceSteps) -> Labels:
    """Good is a proposal that equals the final text's token.

    Learn2PD (arXiv 2509.25188) trains its filter so, and TraceLock (arXiv 2605.24697) its lock
    policy. Neither asks whether the answer is right; all traces count. Where a limit of passes came
    before a position was revealed nobody knows what its final token is: it counts nothing.
    """
    good = (steps.proposal == steps.final).float()
    return Labels(good, steps.known.float())


def rejoins(steps: TraceSteps) -> Labels:
    """Good is a reveal from which a right answer is still reached.

    OnTrack learns from right decodes of a heuristic, and calls a reveal good if the trajectory is
    joined again. Here a proposal that is the final token is good, since the answer is right with
    it. Of the others in a step one was drawn at random when the traces were recorded (`judge`), was
    revealed, and the verdict on the decode that followed says whether it is good; it counts for all
    others of its step. Steps of wrong answers, and steps that were not drawn to be judged, count
    nothing: those without others are drawn as often as those with some. (Older traces do not say
    which steps without others were drawn; there none of them counts.)
    """
    if steps.tried is None or steps.rejoined is None:
        raise UnmaskError(
            "the label rejoins needs traces with verdicts on one more reveal; record them with "
            "--judge 0.25"
        )
    eligible = steps.observation.eligible
    same = steps.proposal == steps.final
    others = (eligible & ~same).sum(1)
    place = torch.arange(same.shape[1], device=same.device)
    tried = place == steps.tried[:, None]
    drawn = (steps.tried >= 0) | ((others == 0) & (steps.rejoined > 0))
    known = (steps.correct > RIGHT) & drawn
    good = torch.where(tried, steps.rejoined[:, None], same.float())
    weight = torch.where(tried, others[:, None].float(), (same & eligible).float())
    return Labels(good, weight * known[:, None])


def truth_margin(steps: TraceSteps) -> Labels:
    """Positions are ordered by the margin by which the worked answer's token wins: its probability
    less that of its best rival. Good is a margin above 0.

    Where-to-Unmask (arXiv 2602.09501): easy positions first, an order that only an oracle knows and
    that a planner learns to rank by. That a reveal is good where the true token wins is our
    addition: a policy must also know how many positions to reveal.
    """
    if steps.margin is None:
        raise UnmaskError(
            "the label truth-margin needs traces with the worked answers; record them with --truth"
        )
    good = (steps.margin > 0).float()
    return Labels(good, torch.ones_like(good), steps.margin)


LABELS: Mapping[str, Label] = {
    "survives": survives,
    "rejoins": rejoins,
    "truth-margin": truth_margin,
}


def check_labels(labels: object, steps: TraceSteps, name: str) -> Labels:
    """What a label gave, if it can be used; its weights are 0 where nothing is eligible.

    Raises:
        UnmaskError: naming the label and what is wrong.
    """
    if not isinstance(labels, Labels):
        raise UnmaskError(
            f"the label {name} gave a {type(labels).__name__}; let it return an "
            "unmask.training.Labels"
        )
    shape = steps.proposal.shape
    for what in ("good", "weight", "rank"):
        value = getattr(labels, what)
        if what == "rank" and value is None:
            continue
        if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UnmaskError(
                f"{what} of the label {name} is {found}; let it be a tensor {list(shape)} of "
                "floating-point numbers"
            )
        if not bool(value.isfinite().all()):
            raise UnmaskError(f"{what} of the label {name} holds what is no finite number")
    if bool((labels.weight < 0).any() | (labels.good < 0).any() | (labels.good > 1).any()):
        raise UnmaskError(
            f"the label {name} gave a negative weight, or `good` outside 0 to 1; correct it"
        )
    eligible = steps.observation.eligible
    return Labels(labels.good, labels.weight * eligible, labels.rank)
