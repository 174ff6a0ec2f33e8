"""Policies that ship with the package, by name."""

import tomllib
from pathlib import Path

import pytest

import unmask
from unmask.errors import UnmaskError
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork, load

ROOT = Path(__file__).parents[2]


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
    with pytest.raises(UnmaskError, match=r"those that do: embedded/chain\. Give one"):
        unmask.load_policy("embedded/sudoku")
    with pytest.raises(UnmaskError, match="ships with this package"):
        unmask.load_policy("embedded/chain", revision="main")


@pytest.mark.parametrize("name", unmask.embedded_policies())
def test_a_shipped_policy_is_small_and_does_what_its_card_says(name):
    directory, policy = load.find_policy(name), unmask.load_policy(name)
    assert isinstance(policy, LearnedPolicy) and policy.metadata["trained"]["model"] == name
    assert sum(file.stat().st_size for file in directory.iterdir()) <= load.MOST_BYTES
    card, measured = (directory / "README.md").read_text("utf-8"), policy.metadata["measured"]
    assert f'"{name}"' in card and measured["command"] in card
    model, trained = unmask.load_model(name), policy.metadata["trained"]
    found = next(p for p in measured["points"] if p["sampler"].startswith(name))
    prompts = [e.prompt for e in unmask.load_task(trained["task"]).examples("test", 24)]
    length = policy.metadata["length"]
    nfe = unmask.generate(model, prompts, found["sampler"], max_new_tokens=length).nfe
    assert float(nfe.double().mean()) == pytest.approx(found["nfe"], rel=0.35)


def test_the_package_carries_policies_and_the_page():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)["tool"]["setuptools"]["package-data"]["unmask"]
    assert {"policies/embedded/*/*", "serving/playground/*"} <= set(data)
