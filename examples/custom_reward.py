"""A reward of your own: a right answer within a budget of passes, and nothing else."""

import tempfile
from pathlib import Path

import unmask

BUDGET = 8


def within_budget(correctness, nfe, length, alpha):
    """1 for a right answer in at most BUDGET passes, less for each pass more; [N] as all others."""
    return correctness * (1 - (nfe - BUDGET).clamp(min=0) / length)


with tempfile.TemporaryDirectory() as directory:
    config = unmask.TrainConfig(
        out=Path(directory) / "run", rounds=3, prompts=4, rollouts=4, eval_prompts=16
    )
    run = unmask.train(config, within_budget)
    policy = unmask.load_policy(run / "last")
    model = unmask.load_model("embedded/chain")
    print(unmask.generate(model, ["7 a +5 b *3 ="], policy, max_new_tokens=48).text)
