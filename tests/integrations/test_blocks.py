"""The settings that the faces for other engines share."""

from dataclasses import replace

import pytest

from tests.decoding.test_engine import learned
from unmask import UnmaskError
from unmask.integrations.blocks import BlockSettings, policy_of, read_settings
from unmask.models import Sampling


def read(**values):
    return read_settings(values, "file")


def test_settings_are_read_by_name_and_type():
    settings = read(policy="threshold:0.9", temperature=1, top_k=5, never_ids=[3, 4], vocabulary=9)
    assert settings.sampling == Sampling(1.0, 1.0, 5)
    assert settings.never_of(11) == (3, 4, 9, 10)
    assert read(policy="margin").never_of(11) == ()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "file names no policy; add a line such as"),
        ({"policy": "margin", "treshold": 1}, "file sets 'treshold'; known settings are policy, "),
        ({"policy": "margin", 3: 1}, "file sets '3'"),
        ({"policy": 3}, "file: policy: Input should be a valid string"),
        ({"policy": "margin", "seed": "x"}, "file: seed: Input should be a valid integer"),
        ({"policy": "margin", "never_ids": [1, "x"]}, "file: never_ids.1: Input should be"),
        ({"policy": "margin", "never_ids": [-1]}, "never_ids hold -1; give token ids"),
        ({"policy": "margin", "temperature": -1}, "temperature is -1.0; give 0"),
        ({"policy": "margin", "top_p": 0}, "top_p is 0.0; give a share above 0"),
        ({"policy": "margin", "seed": -1}, "seed is -1; give a whole number"),
        ({"policy": "margin", "vocabulary": 0}, "vocabulary is 0; give a whole number"),
        ({"policy": "margin", "beta": 0}, "beta is 0.0; give a number above 0"),
        ({"policy": "margin", "alpha": 1, "nfe": 2}, "alpha and nfe were both given"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values, says):
    with pytest.raises(UnmaskError) as error:
        read_settings(values, "file")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_settings_of_learned_policies_reach_them(tmp_path):
    known = {"sampler": "s", "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0}
    table = [known | {"alpha": 0.5, "nfe": 8.0}, known | {"alpha": 2.0, "nfe": 4.0}]
    policy = replace(learned(0, conditioned=True), metadata={"pareto": table})
    policy.save_pretrained(tmp_path)
    found = policy_of(BlockSettings(str(tmp_path), nfe=8.0, beta=2.0, tau_pi=0.5))
    assert (found.alpha, found.beta, found.temperature) == (0.5, 2.0, 0.5)
    assert policy_of(BlockSettings(f"{tmp_path}@alpha=3,beta=4")).alpha == 3.0
    with pytest.raises(UnmaskError, match="target NFE is 99; this policy was calibrated"):
        policy_of(BlockSettings(str(tmp_path), nfe=99.0))


def test_policies_that_the_settings_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UnmaskError, match="beta is for learned policies, and margin:2 is a heur"):
        policy_of(BlockSettings("margin:2", beta=2.0))
    learned(0).save_pretrained(tmp_path / "one")
    with pytest.raises(UnmaskError, match="this policy was trained for one α"):
        policy_of(BlockSettings(str(tmp_path / "one"), alpha=2.0))
    # A policy for every α that does not say its own.
    policy = replace(learned(0, conditioned=True), alpha=None)
    policy.save_pretrained(tmp_path / "many")
    with pytest.raises(UnmaskError, match="one policy for every α and was given none; set alpha"):
        policy_of(BlockSettings(str(tmp_path / "many")))
    assert policy_of(BlockSettings(str(tmp_path / "many"), alpha=2.0)).alpha == 2.0
