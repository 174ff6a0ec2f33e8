"""Dynamic Plackett–Luce sampling (paper App. E), draw by draw in plain Python."""

import itertools
import math


def orders(eligible):
    """Every ordered action that can be drawn: tuples of positions, at least one."""
    return [
        order for n in range(1, len(eligible) + 1) for order in itertools.permutations(eligible, n)
    ]


def probability(logits, eligible, order):
    left, p = list(eligible), 1.0
    for stage, position in enumerate(order):
        total = sum(math.exp(logits[i]) for i in left) + (1 if stage else 0)
        p *= math.exp(logits[position]) / total
        left.remove(position)
    return p / (1 + sum(math.exp(logits[i]) for i in left))


def entropy(logits, eligible, action):
    """The entropies of the draws along an action (places from 1, or 0), summed."""
    order = sorted((i for i in eligible if action[i]), key=lambda i: action[i])
    total, left = 0.0, list(eligible)
    for stage in range(len(order) + 1):
        weights = [math.exp(logits[i]) for i in left] + ([1.0] if stage else [])
        shares = [w / sum(weights) for w in weights]
        total -= sum(p * math.log(p) for p in shares if p)
        if stage < len(order):
            left.remove(order[stage])
    return total
