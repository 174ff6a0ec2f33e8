"""Rewards of single rollouts, by hand."""

import torch

from unmask.training.rewards import REWARDS, multiplicative


def test_reward_ends():
    r = multiplicative(
        torch.tensor([1.0, 1.0, 1.0, 0.0, 0.5]), torch.tensor([1, 10, 11, 1, 1]), 10, 2.0
    )
    assert torch.allclose(r, torch.tensor([1.0, 0.01, 0.01, 0.0, 0.5]))
    assert torch.equal(
        multiplicative(torch.tensor([1.0]), torch.tensor([7]), 10, 0.0), torch.ones(1)
    )


def test_rewards():
    r, n = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([5, 1, 10])
    assert torch.allclose(REWARDS["additive"](r, n, 10, 2.0), torch.tensor([0.0, -0.2, -1.5]))
    assert torch.equal(REWARDS["accuracy"](r, n, 10, 2.0), r)
    per_row = REWARDS["multiplicative"](r, n, 10, torch.tensor([0.0, 1.0, 1.0]))
    assert torch.allclose(per_row, torch.tensor([1.0, 0.0, 0.05]))
