import pytest
import torch

import unmask
from tests.serving.server import start_server
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork


def save_policy(directory, table=((0.3, 12.0), (1.0, 9.0), (10.0, 4.0)), blocks=None, **config):
    """A policy with random weights, trained in blocks if their length is given; one for a range of
    α has this table of α and NFE."""
    torch.manual_seed(3)
    network = PolicyNetwork(NetworkConfig(**config))
    metadata = {"trained": {"model": "embedded/chain", "block_length": blocks}}
    alpha = None
    if network.config.conditioned:
        accuracy = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0}
        metadata["pareto"] = [
            {"sampler": f"α = {a}", "alpha": a, "nfe": nfe} | accuracy for a, nfe in table
        ]
        alpha = 1.0
    LearnedPolicy(network, alpha=alpha, metadata=metadata).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def policy_dirs(tmp_path_factory):
    """A policy for one α, one for a range, one whose passes are the same at all of them, one whose
    table is noisy, and one that was trained in blocks."""
    root = tmp_path_factory.mktemp("policies")
    return {
        "single": save_policy(root / "single"),
        "range": save_policy(root / "range", conditioned=True),
        "flat": save_policy(root / "flat", ((0.3, 5.13), (1.0, 5.12)), conditioned=True),
        "noisy": save_policy(
            root / "noisy", ((0.3, 12.0), (1.0, 4.0), (10.0, 9.0)), conditioned=True
        ),
        "blocks": save_policy(root / "blocks", blocks=16),
    }


@pytest.fixture(scope="session")
def server(policy_dirs):
    """The URL of `unmask serve` with embedded/chain and these policies."""
    named = [f"{name}={directory}" for name, directory in policy_dirs.items()]
    options = [word for name in ("threshold:0.9", *named) for word in ("--policy", name)]
    with start_server("--model", "embedded/chain", *options) as (url, _):
        yield url


@pytest.fixture(scope="session")
def chain():
    return unmask.load_model("embedded/chain")
