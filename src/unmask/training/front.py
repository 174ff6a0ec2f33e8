"""What ends a training: the finished policies' accuracy against their NFE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from unmask.evaluation import bootstrap
from unmask.policies import LearnedPolicy
from unmask.training.alpha import alpha_grid
from unmask.training.session import Session

BETAS = (0.5, 0.7, 1.0, 1.5, 2.0)
# A policy for a range of α is measured on at least so many prompts: users look up a target NFE.
RANGE_PROMPTS = 256


def calibrate(session: Session, directory: Path) -> None:
    """Adds to a finished policy its front on validation prompts, unless it is there already.

    The front is over β, or over α where the policy serves a range; then also what a target NFE is
    looked up in.
    """
    with torch.random.fork_rng(devices=[]):  # a new network draws weights before it loads its own
        policy = LearnedPolicy.from_pretrained(directory, device=session.processes.device)
    if "pareto" in policy.metadata:
        return
    count, rewards = session.config.evaluation.eval_prompts, session.config.rewards
    if rewards.alpha_range is None:
        variants = [(f"@beta={beta:g}", {"beta": beta}) for beta in BETAS]
    else:
        variants = [(f"@alpha={a:.3g}", {"alpha": a}) for a in alpha_grid(rewards, 9)]
        count = max(RANGE_PROMPTS, count)
    examples = session.task.examples("validation", count)
    front = []
    for name, changes in variants:
        generation = session.decode(examples, replace(policy, **changes), seed=0)
        correct = session.score(generation, examples, "calibration").cpu().numpy()
        low, high = bootstrap(correct)
        front.append(
            {
                "sampler": name,
                **changes,
                "accuracy": float(correct.mean()),
                "accuracy_low": low,
                "accuracy_high": high,
                "nfe": float(generation.nfe.double().mean()),
                "prompts": len(examples),
            }
        )
    replace(policy, metadata={**policy.metadata, "pareto": front}).save_pretrained(directory)
