"""Observations of rows whose buffers have different lengths."""

import pytest
import torch

from unmask import UnmaskError
from unmask.policies import LearnedPolicy, NetworkConfig, Observation, PolicyNetwork

LENGTHS = (12, 5, 9, 1)


def policy(**network):
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkConfig(width=16, heads=2, mlp=32, context=True, **network))
    torch.nn.init.normal_(network.modulation.weight, std=0.3)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return LearnedPolicy(network, alpha=2.0 if network.config.conditioned else None)


def observation():
    torch.manual_seed(1)
    inside = torch.arange(12) < torch.tensor(LENGTHS)[:, None]
    masked = (torch.rand(4, 12) < 0.7) & inside
    confidence, step = torch.rand(4, 12, 1) * inside[..., None], torch.tensor([3, 0, 8, 0])
    return Observation(confidence, masked, masked, step, torch.tensor(LENGTHS))


@pytest.mark.parametrize(
    "network", [{}, {"conditioned": True}, {"joint": True, "time": "released"}]
)
@pytest.mark.parametrize("most", [None, 12])
def test_a_row_beside_longer_ones_has_the_logits_that_it_has_alone(network, most):
    together, learned = observation(), policy(**network)
    logits = learned.logits(together, most)
    for row, length in enumerate(LENGTHS):
        alone = Observation(
            together.confidence[row : row + 1, :length],
            together.masked[row : row + 1, :length],
            together.eligible[row : row + 1, :length],
            together.step[row : row + 1],
            length,
        )
        expected = learned.logits(alone, None if most is None else length)
        chosen = alone.eligible if most is not None else torch.ones_like(alone.eligible)
        difference = (logits[row : row + 1, :length] - expected)[chosen].abs()
        assert not difference.numel() or difference.max() < 1e-5


def test_observations_of_one_length_do_not_mix_with_those_of_another():
    tensors = {name: torch.zeros(2, 4, dtype=torch.bool) for name in ("masked", "eligible")}
    make = lambda length: Observation(  # noqa: E731
        torch.zeros(2, 4), **tensors, step=torch.zeros(2, dtype=torch.long), length=length
    )
    assert Observation.cat([make(4), make(4)]).length == 4
    each = torch.full_like(make(4).step, 4)
    assert Observation.cat([make(each), make(each)]).length.tolist() == [4] * 4
    with pytest.raises(UnmaskError, match="different lengths"):
        Observation.cat([make(4), make(each)])
    with pytest.raises(UnmaskError, match="different lengths"):
        Observation.cat([make(4), make(3)])
