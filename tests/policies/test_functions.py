"""Plain functions as policies, arrays as actions, and policies that reveal nothing."""

import numpy as np
import pytest
import torch

import unmask
from unmask import UnmaskError
from unmask.evaluation import evaluate
from unmask.policies import Needs
from unmask.rng import RowGenerator

PROMPTS = [[5, 6, 7], [9, 4], [8, 8, 8, 8]]
OPTIONS = {"max_new_tokens": 9, "block_length": 3}


def most_confident(observation):
    c = observation.confidence[..., 0].masked_fill(~observation.eligible, -1.0)
    return c == c.max(1, keepdim=True).values


def with_generator(observation, generator):
    drawn = generator.uniform(observation.step, observation.eligible.shape[1], 0) < 0.5
    return drawn | torch.from_numpy(in_numpy(observation))


def in_numpy(observation):
    c = np.where(observation.eligible.numpy(), observation.confidence[..., 0].numpy(), -1.0)
    return c == c.max(1, keepdims=True)


def places_in_numpy(observation):
    return in_numpy(observation).astype(np.int32)


class Module(torch.nn.Module):
    def forward(self, observation):
        return most_confident(observation)


class Calls:
    def __call__(self, observation):
        return most_confident(observation)


@pytest.mark.parametrize("policy", [most_confident, in_numpy, places_in_numpy, Calls(), Module()])
def test_a_plain_function_is_a_policy(tiny_model, policy):
    found = unmask.generate(tiny_model, PROMPTS, policy, **OPTIONS)
    same = unmask.generate(tiny_model, PROMPTS, "confidence:1", **OPTIONS)
    assert torch.equal(found.tokens, same.tokens)
    assert torch.equal(found.reveal_step, same.reveal_step)


def test_a_function_of_two_gets_the_rows_own_generator(tiny_model):
    whole = unmask.generate(tiny_model, PROMPTS * 4, with_generator, **OPTIONS)
    alone = unmask.generate(tiny_model, PROMPTS * 4, with_generator, batch_size=1, **OPTIONS)
    assert torch.equal(whole.reveal_step, alone.reveal_step)


def test_a_default_of_a_function_is_its_own(tiny_model):
    def by_share(observation, share=1.0):
        return observation.eligible & (observation.confidence[..., 0] > 1 - share)

    def drawn(observation, generator=None):
        assert isinstance(generator, RowGenerator)
        return observation.eligible

    for policy in (by_share, drawn):
        assert unmask.generate(tiny_model, PROMPTS, policy, **OPTIONS).nfe.max() == 3, policy


def test_a_function_may_say_what_it_needs(tiny_model):
    def by_margin(observation):
        margin = observation.features["margin"].masked_fill(~observation.eligible, -1.0)
        return margin == margin.max(1, keepdim=True).values

    by_margin.needs = Needs(frozenset({"margin"}), everywhere=False)
    found = unmask.generate(tiny_model, PROMPTS, by_margin, **OPTIONS)
    same = unmask.generate(tiny_model, PROMPTS, "margin:1", **OPTIONS)
    assert torch.equal(found.reveal_step, same.reveal_step)


def test_a_function_is_evaluated_under_its_name(tiny_model):
    task = unmask.load_task("chain")
    points = evaluate(
        tiny_model, task, [most_confident, "confidence:1"], prompts=4, max_new_tokens=6
    )
    assert [point.sampler for point in points] == ["most_confident", "confidence:1"]
    assert points[0].nfe == points[1].nfe == 6


@pytest.mark.parametrize("bad", [lambda o: None, lambda o: o.eligible.float().numpy(), dict])
def test_what_is_no_policy_is_refused(tiny_model, bad):
    with pytest.raises(UnmaskError, match=r"return a bool or integer tensor|policy is"):
        unmask.decoding.decode(tiny_model, PROMPTS, bad, **OPTIONS)


def test_a_policy_that_reveals_nothing_is_told(tiny_model):
    def lazy(observation):
        return torch.zeros_like(observation.eligible)

    with pytest.warns(UserWarning, match="3 of 3 answers still hold masks"):
        unmask.generate(tiny_model, PROMPTS, lazy, **OPTIONS)
