"""Policies that ship with the package, by name."""

import tomllib
from pathlib import Path

import pytest

import unmask
from unmask.errors import UnmaskError
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork, load

ROOT = Path(__file__).parents[2]
MOST_BYTES = 500_000


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package that ships one policy, `embedded/chain`."""
    policy = LearnedPolicy(PolicyNetwork(NetworkConfig(width=16, mlp=16)), beta=0.7)
    policy.save_pretrained(tmp_path / "chain")
    monkeypatch.setattr(load, "EMBEDDED", tmp_path)
    return policy


def test_an_embedded_policy_is_loaded_by_name_with_settings(shipped):
    assert unmask.embedded_policies() == ["embedded/chain"]
    assert unmask.load_policy("embedded/chain").beta == 0.7
    assert unmask.load_policy("embedded/chain@beta=2").beta == 2.0


def test_unknown_names_and_revisions_are_refused(shipped):
    with pytest.raises(UnmaskError, match="embedded are embedded/chain"):
        unmask.load_policy("embedded/other")
    with pytest.raises(UnmaskError, match="ships with this package"):
        unmask.load_policy("embedded/chain", revision="main")


def test_every_shipped_policy_loads_is_small_and_has_a_card():
    for name in unmask.embedded_policies():
        directory = load.find_policy(name)
        policy = unmask.load_policy(name)
        assert isinstance(policy, LearnedPolicy) and name in unmask.embedded_models()
        assert sum(file.stat().st_size for file in directory.iterdir()) <= MOST_BYTES
        assert (directory / "README.md").exists()


def test_the_package_carries_policies_and_the_page():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)["tool"]["setuptools"]["package-data"]["unmask"]
    assert {"policies/embedded/*/*", "serving/playground/*"} <= set(data)
