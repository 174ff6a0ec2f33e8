"""The GRPO objective of paper §3.3, rollout by rollout and step by step in plain Python
(float64)."""

import math


def log_prob(logits, eligible, action):
    total = 0.0
    for b, e, u in zip(logits, eligible, action, strict=True):
        if e:
            s = 1 / (1 + math.exp(-b))
            total += math.log(s) if u else math.log(1 - s)
    return total


def objective(groups, epsilon):
    """`groups`: lists of rollouts; a rollout is {"reward": R, "steps": [(logits, old_logits,
    eligible, action), …]}."""
    values = []
    for group in groups:
        mean = sum(rollout["reward"] for rollout in group) / len(group)
        for rollout in group:
            advantage = rollout["reward"] - mean
            total = 0.0
            for logits, old_logits, eligible, action in rollout["steps"]:
                ratio = math.exp(
                    log_prob(logits, eligible, action) - log_prob(old_logits, eligible, action)
                )
                clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
                total += min(ratio * advantage, clipped * advantage)
            values.append(total / len(rollout["steps"]))
    return sum(values) / len(values)
