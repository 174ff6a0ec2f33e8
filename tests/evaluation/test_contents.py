"""Hashes that tell models and policies apart."""

import dataclasses
import datetime
import functools
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unmask import load_model
from unmask.evaluation import contents
from unmask.evaluation.contents import (
    model_contents,
    model_revision,
    policy_contents,
    tensor_digest,
)
from unmask.policies import (
    LearnedPolicy,
    Needs,
    NetworkConfig,
    PolicyNetwork,
    load_policy,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_every_byte_of_a_tensor_counts(dtype, monkeypatch):
    monkeypatch.setattr(contents, "CHUNK", 16)  # several sums, and a tail of less than 8 bytes
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randint(0, 2, (331,), generator=generator).to(dtype)
    found = {tensor_digest(tensor)}
    assert tensor_digest(tensor.clone()) in found
    for i in range(len(tensor)):
        changed = tensor.clone()
        changed[i] = 1 - changed[i].float()
        found.add(tensor_digest(changed))
    assert len(found) == 1 + len(tensor)
    for i in range(len(tensor) - 8):
        swapped = tensor.clone()
        swapped[[i, i + 8]] = swapped[[i + 8, i]]
        assert (tensor_digest(swapped) == tensor_digest(tensor)) == torch.equal(swapped, tensor)


def test_how_many_chunks_are_read_at_once_does_not_count(monkeypatch):
    """GPUs read many: a digest is the same on every device."""
    monkeypatch.setattr(contents, "CHUNK", 16)
    tensor = torch.randn(1203, generator=torch.Generator().manual_seed(0))
    one = tensor_digest(tensor)
    for at_once in (2, 7, 64):
        monkeypatch.setattr(contents, "AT_ONCE", {"cpu": at_once})
        assert tensor_digest(tensor) == one


def test_two_signs_do_not_cancel():
    tensor = torch.ones(64)
    found = {tensor_digest(tensor)}
    for i in range(1, 64):
        changed = tensor.clone()
        changed[[0, i]] = -1
        found.add(tensor_digest(changed))
    assert len(found) == 64


def test_where_a_tensor_lies_does_not_count_and_its_shape_does():
    whole = torch.arange(1003, dtype=torch.int16)
    assert tensor_digest(whole[3:]) == tensor_digest(whole[3:].clone())
    grid = whole[:1000].view(10, 100)
    assert tensor_digest(grid) != tensor_digest(grid.view(100, 10))
    assert tensor_digest(grid.T) == tensor_digest(grid.T.contiguous())
    assert tensor_digest(grid) != tensor_digest(grid.view(torch.bfloat16))
    assert tensor_digest(torch.zeros(0)) != tensor_digest(torch.zeros(0, 2))
    assert tensor_digest(torch.tensor(1.0)) != tensor_digest(torch.tensor(2.0))
    assert tensor_digest(torch.empty(3, device="meta"))


def test_models_are_told_apart_by_weights_configuration_and_vocabulary(tiny_dir):
    model, same, other = load_model(tiny_dir), load_model(tiny_dir), load_model("embedded/chain")
    assert model_contents(model) == model_contents(same) != model_contents(other)
    same.network.config.rope_theta = 7.0
    assert model_contents(model) != model_contents(same)
    assert model_contents(model) != model_contents(dataclasses.replace(model, shift=True))
    assert model_revision(model) is None and model_revision(other) is None


def test_a_revision_is_that_of_the_local_snapshot(tiny_model, tmp_path, monkeypatch):
    import huggingface_hub

    seen = []

    def snapshot(name, **options):
        seen.append((name, options))
        return str(tmp_path / "snapshots" / "abc123")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert model_revision(dataclasses.replace(tiny_model, name="org/model")) == "abc123"
    assert seen == [("org/model", {"local_files_only": True})]


class Custom:
    """A policy with weights, a table and a function."""

    needs = Needs()

    def __init__(self, scale, table):
        self.net = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(self.net.weight, scale)
        torch.nn.init.zeros_(self.net.bias)
        self.table, self.mode = table, torch.relu

    def act(self, observation, generator):
        return observation.eligible


def test_policies_are_told_apart_by_all_that_they_hold():
    network = PolicyNetwork(NetworkConfig(width=16, mlp=16))
    policies = [
        load_policy("threshold:0.9"),
        load_policy("threshold:0.8"),
        load_policy("confidence:1"),
        load_policy("random:1"),
        load_policy("confidence:1@block_length=4"),
        load_policy("confidence:1@block_length=5"),
        LearnedPolicy(network),
        LearnedPolicy(network, temperature=0.5),
        LearnedPolicy(network, zero=("time",)),
        Custom(1.0, [1, 2]),
        Custom(2.0, [1, 2]),
        Custom(1.0, [1, 3]),
    ]
    found = [str(policy_contents(policy)) for policy in policies]
    assert len(set(found)) == len(found)
    assert policy_contents(Custom(1.0, [1, 2])) == policy_contents(Custom(1.0, [1, 2]))
    assert policy_contents(load_policy("threshold")) == policy_contents(policies[0])
    noted = LearnedPolicy(network, metadata={"rounds": 3})
    assert policy_contents(noted) == policy_contents(LearnedPolicy(network))


def test_a_function_of_no_module_has_a_name():
    """As one that `exec` made, from a string or a page of documentation."""
    space = {}
    exec("def sure(observation): return observation.eligible", space)
    assert space["sure"].__module__ in (None, "builtins")
    space["sure"].__module__ = None
    assert policy_contents(space["sure"]).startswith("__main__.sure ")


def limited(observation, limit=0.9, *, most=4):
    return observation.confidence > limit


def make_limited(limit):
    def act(observation):
        return observation.confidence > limit

    return act


def make_weighted(weights):
    return lambda observation: observation.confidence > weights.mean()


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k):
        self.k = k

    def reveal(self, observation):
        return observation.eligible


def with_attribute(limit):
    def act(observation):
        return observation.eligible

    act.limit = limit
    return act


def with_defaults(limit, most):
    def act(observation, limit=limit, *, most=most):
        return observation.eligible

    return act


def make_functions():
    """Policies of one's own that have the same name and differ in what they hold."""
    lambdas = [lambda o: o.confidence > 0.8, lambda o: o.confidence > 0.9, lambda o: o.margin > 0.9]
    return [
        functools.partial(limited, limit=0.8),
        functools.partial(limited, limit=0.9),
        functools.partial(limited, most=4),
        make_limited(0.8),
        make_limited(0.9),
        make_limited(make_limited(0.8)),
        make_limited(make_limited(0.9)),
        make_weighted(np.array([0.8, 0.9])),
        make_weighted(np.array([0.9, 0.8])),
        make_weighted(np.array([0.9, 0.8], dtype=np.float32)),
        make_weighted(np.array([[0.9, 0.8]])),
        make_weighted(np.array([Slotted(1)])),
        make_weighted(np.array([Slotted(2)])),
        make_weighted(np.float32(0.9)),
        make_weighted(np.float32(0.8)),
        make_weighted(torch.bfloat16),
        make_weighted(torch.float16),
        make_weighted(datetime.date(2026, 1, 1)),
        make_weighted(datetime.date(2026, 1, 2)),
        make_weighted(Path("one")),
        make_weighted(Path("two")),
        make_weighted(np),
        make_weighted(torch),
        with_attribute(0.8),
        with_attribute(0.9),
        with_defaults(0.8, 4),
        with_defaults(0.9, 4),
        with_defaults(0.9, 5),
        Slotted(1).reveal,
        Slotted(2).reveal,
        *lambdas,
    ]


def test_functions_are_told_apart_by_all_that_they_hold():
    found = [policy_contents(function) for function in make_functions()]
    assert len(set(map(str, found))) == len(found)
    assert found == [policy_contents(function) for function in make_functions()]
    assert json.loads(json.dumps(found)) == found


def test_functions_are_the_same_in_another_process():
    """Where texts and sets have other hashes, and objects other addresses."""
    source = (
        "from tests.evaluation.test_contents import make_functions, policy_contents\n"
        "print([policy_contents(function) for function in make_functions()])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.stdout.strip() == str([policy_contents(each) for each in make_functions()])


def test_a_function_that_calls_itself_has_an_end():
    def again(observation):
        return again(observation)

    assert policy_contents(again) == policy_contents(again)


class Tracing:
    """A policy that holds a logger, and a list that holds the policy and itself."""

    def __init__(self, name):
        self.log, self.parts = logging.getLogger(name), [1, self]
        self.parts.append(self.parts)

    def act(self, observation, generator):
        return observation.eligible


def test_values_that_hold_themselves_and_loggers_are_described_once():
    found = [json.dumps(policy_contents(Tracing(name))) for name in ("one", "one", "two")]
    assert found[0] == found[1] != found[2]
    assert len(found[0]) < 500
    logging.getLogger("another, in another process")
    assert json.dumps(policy_contents(Tracing("one"))) == found[0]
