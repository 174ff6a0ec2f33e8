"""Ordered actions: probabilities by enumeration, draws, entropies."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.reference import plackett_luce as reference
from unmask.policies import PlackettLuce
from unmask.rng import RowGenerator


def ranks(order, length):
    """An ordered draw as the action that the code uses."""
    return [order.index(i) + 1 if i in order else 0 for i in range(length)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_plackett_luce_probabilities_sum_to_one_and_sampling_matches(n):
    torch.manual_seed(n)
    length = n + 1
    logits, eligible = torch.randn(1, length), torch.ones(1, length, dtype=torch.bool)
    eligible[0, n // 2] = False
    orders = reference.orders(eligible[0].nonzero()[:, 0].tolist())
    expected = [
        reference.probability(logits[0].tolist(), eligible[0].nonzero()[:, 0].tolist(), order)
        for order in orders
    ]
    actions = torch.tensor([ranks(order, length) for order in orders])
    distribution = PlackettLuce(
        logits.expand(len(actions), length), eligible.expand(len(actions), length)
    )
    p = distribution.log_prob(actions).exp()
    assert math.isclose(p.sum(), 1, abs_tol=1e-5)
    assert torch.allclose(p, torch.tensor(expected), atol=1e-6)
    assert math.isclose(
        (p * distribution.entropy(actions)).sum(), -(p * p.log()).sum(), abs_tol=1e-4
    )
    draws = 40_000
    many = PlackettLuce(logits.expand(draws, length), eligible.expand(draws, length))
    drawn = many.sample(RowGenerator(torch.arange(draws)).uniform(0, many.numbers, 0))
    code = (drawn * (length + 1) ** torch.arange(length)).sum(1)
    frequency = torch.stack(
        [
            (code == c).float().mean()
            for c in (actions * (length + 1) ** torch.arange(length)).sum(1)
        ]
    )
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / draws).sqrt() + 1e-3).all()


def test_plackett_luce_always_reveals_and_beta_reveals_more():
    logits, eligible = torch.full((5000, 6), -1.0), torch.ones(5000, 6, dtype=torch.bool)
    distribution = PlackettLuce(logits, eligible)
    uniform = RowGenerator(torch.arange(5000)).uniform(3, distribution.numbers, 0)
    few, some, many = (
        distribution.sample(uniform, beta).count_nonzero(1).float() for beta in (1e-6, 1.0, 1e6)
    )
    assert (few == 1).all() and (many == 6).all() and 1.5 < some.mean() < 5.5


def test_the_largest_uniform_number_still_reveals_an_eligible_position():
    distribution = PlackettLuce(torch.zeros(1, 4), torch.tensor([[True, True, True, False]]))
    uniform = torch.full((1, distribution.numbers), 0.5)
    uniform[0, [3, 7]] = 1 - 2.0**-24
    action = distribution.sample(uniform)[0]
    assert action[3] == 0 and action.max() >= 1


def draws(rows, length, scale, seed=0):
    """Some ordered actions of a distribution, and the same with all positions drawn in order."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, length, generator=generator)
    eligible = torch.rand(rows, length, generator=generator) < 0.7
    eligible[:, 0] = True
    distribution = PlackettLuce(logits, eligible)
    uniform = torch.rand(rows, distribution.numbers, generator=generator)
    return distribution, distribution.sample(uniform)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 20.0])
def test_the_entropy_equals_that_of_every_draw_written_out(scale):
    distribution, action = draws(12, 9, scale)
    expected = [
        reference.entropy(logits.tolist(), eligible.nonzero()[:, 0].tolist(), row.tolist())
        for logits, eligible, row in zip(
            distribution.logits.double(), distribution.eligible, action, strict=True
        )
    ]
    found = distribution.entropy(action)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


class LargestResult(TorchDispatchMode):
    """Remembers how many numbers the largest result of any operation has."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), others=None):
        result = function(*arguments, **(others or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_likelihood_and_entropy_need_memory_of_the_order_of_the_buffer():
    distribution, action = draws(4, 64, 1.0)
    with LargestResult() as largest:
        distribution.log_prob(action)
        distribution.entropy(action)
    assert largest.numbers <= 4 * 65
