"""What ends a training: the finished policies' accuracy against their NFE."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.evaluation import bootstrap
from unmask.evaluation.contents import weights_digest
from unmask.policies import LearnedPolicy
from unmask.tasks import Example
from unmask.training.alpha import alpha_grid
from unmask.training.session import Session

BETAS = (0.5, 0.7, 1.0, 1.5, 2.0)
# A policy for a range of α is measured on at least so many prompts: users look up a target NFE.
RANGE_PROMPTS = 256
# How hard these happen to be is the same error at every α (sudoku: 2.6 % of the passes). So the
# passes at one α are counted on this many times as many.
LEVEL = 4


def calibrate(session: Session, out: Path) -> None:
    """Adds to the finished policies of a run, `best` and `last`, their front on validation prompts,
    where they have none yet. Equal weights are measured once.

    The front is over β, or over α where the policy serves a range; then also what a target NFE is
    looked up in.
    """
    fronts: dict[str, list[dict[str, Any]]] = {}
    for name in ("best", "last"):
        with torch.random.fork_rng(devices=[]):  # a new network draws weights, then loads its own
            policy = LearnedPolicy.from_pretrained(out / name, device=session.processes.device)
        weights = weights_digest(policy)
        if "pareto" in policy.metadata:
            fronts[weights] = policy.metadata["pareto"]
            continue
        if weights not in fronts:
            print(
                f"measuring {out / name} on validation problems; it can be used already", flush=True
            )
            fronts[weights] = measure_front(session, policy)
        metadata = {**policy.metadata, "pareto": fronts[weights]}
        replace(policy, metadata=metadata).save_pretrained(out / name)


def measure_front(session: Session, policy: LearnedPolicy) -> list[dict[str, Any]]:
    """Accuracy, its interval and mean NFE of each variant of a policy, on validation prompts. For a
    range of α, NFE is corrected for how hard these prompts are (`passes_of_more`)."""
    count, rewards = session.config.evaluation.eval_prompts, session.config.rewards
    if rewards.alpha_range is None:
        variants = [(f"@beta={beta:g}", {"beta": beta}) for beta in BETAS]
    else:
        variants = [(f"@alpha={a:.3g}", {"alpha": a}) for a in alpha_grid(rewards, 9)]
        count = max(RANGE_PROMPTS, count)
    examples = validation_examples(session, count)
    front, passes = [], []
    for name, changes in variants:
        generation = session.decode(examples, replace(policy, **changes), seed=0)
        correct = session.score(generation, examples, "calibration").cpu().numpy()
        low, high = bootstrap(correct)
        passes.append(generation.nfe.double())
        front.append(
            {
                "sampler": name,
                **changes,
                "accuracy": float(correct.mean()),
                "accuracy_low": low,
                "accuracy_high": high,
                "nfe": float(passes[-1].mean()),
                "prompts": len(examples),
            }
        )
    if rewards.alpha_range is not None:
        middle = len(variants) // 2
        more = passes_of_more(session, replace(policy, **variants[middle][1]), passes[middle])
        level = more / front[middle]["nfe"]
        front = [{**entry, "nfe": level * entry["nfe"]} for entry in front]
    return front


def validation_examples(session: Session, count: int) -> list[Example]:
    """So many validation problems, or all where the task has fewer; nobody asked for so many, so
    this is no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "task .* has .* were asked for")
        return session.task.examples("validation", count)


def passes_of_more(session: Session, policy: LearnedPolicy, passes: Float[Tensor, " N"]) -> float:
    """Mean NFE of a policy on `LEVEL` times N validation prompts, or all where the task has fewer;
    those of the first N are known."""
    count = len(passes)
    examples = validation_examples(session, LEVEL * count)[count:]
    if examples:
        passes = torch.cat([passes, session.decode(examples, policy, seed=0).nfe.double()])
    return float(passes.mean())
