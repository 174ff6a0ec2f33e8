"""Imitating a pool of teachers."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from tests.policies.test_conditioned import conditioned
from tests.policies.test_policies import generator, observation
from tests.training.runs import read_metrics, tiny_run
from unmask import TrainConfig, UnmaskError, load_policy
from unmask.policies import needs_of
from unmask.policies.load import expand_grid
from unmask.processes import Processes
from unmask.training import train
from unmask.training.phases import load_phases
from unmask.training.pool import PROBES, Pool, fix_alpha, probe_teachers
from unmask.training.session import prepare_session


@pytest.fixture
def session(tmp_path, tiny_dir, any_digit):
    return prepare_session(tiny_run(tmp_path / "run", tiny_dir), Processes.join("cpu"), None)


def test_each_alpha_has_the_teacher_whose_mean_reward_is_largest(session):
    # L is 6. Speeds are 1/6 for the slow teacher, 1/2 and 1 for the others.
    teachers = (
        load_policy("confidence:1"),
        load_policy("confidence:2"),
        load_policy("confidence:6"),
    )
    correctness = torch.tensor([[1.0, 1.0], [1.0, 0.75], [1.0, 0.0]])
    examples = session.task.batch(2, 0, 0)
    pool = Pool(teachers, examples, correctness, torch.tensor([[6, 6], [4, 4], [1, 1]]))
    alpha = torch.tensor([0.01, 0.25, 5.0, 0.01])
    speeds = ((1 / 6, 1 / 6), (1 / 2, 1 / 2), (1.0, 1.0))
    best = []
    for a in alpha.tolist():
        rewards = [
            sum(r * v**a for r, v in zip(row, speed, strict=True))
            for row, speed in zip(correctness.tolist(), speeds, strict=True)
        ]
        best.append(rewards.index(max(rewards)))
    assert pool.choose(session, alpha).tolist() == best == [0, 1, 2, 0]


def test_teachers_are_compared_on_the_same_problems_and_one_alone_is_not_tried(session):
    pool = probe_teachers(session, (load_policy("confidence:1"), load_policy("confidence:6")))
    assert pool.nfe.tolist() == [[6] * PROBES, [2] * PROBES]  # blocks of 3
    again = probe_teachers(session, (load_policy("confidence:1"), load_policy("confidence:6")))
    assert pool.correctness.equal(again.correctness)
    alone = probe_teachers(session, (load_policy("confidence:2"),))
    assert alone.nfe.numel() == 0 and alone.choose(session, torch.ones(3)).tolist() == [0, 0, 0]


def test_a_reward_of_ones_own_that_is_no_number_a_row_is_refused(session):
    teachers = (load_policy("confidence:1"), load_policy("confidence:6"))
    for reward, says in (
        (lambda r, n, length, alpha: None, "one for each row"),
        (lambda r, n, length, alpha: r[:1], "one for each row"),
        (lambda r, n, length, alpha: r / 0, "finite numbers"),
    ):
        wrong = replace(session, reward=reward)
        with pytest.raises(UnmaskError, match=says):
            probe_teachers(wrong, teachers).choose(wrong, torch.ones(3))


def test_a_teacher_with_an_alpha_acts_for_it_and_not_for_its_pupils():
    policy, seen = conditioned(), observation()
    fixed, told = fix_alpha(policy), replace(seen, alpha=torch.full((3,), 1e-6))
    alone = policy.act(seen, generator())
    assert fixed.act(told, generator()).equal(alone)
    assert not policy.act(told, generator()).equal(alone), "the test sees no difference"
    assert needs_of(fixed) == needs_of(policy)
    plain = load_policy("confidence:2")
    assert fix_alpha(plain) is plain


def test_an_expert_with_an_alpha_acts_for_it_too(session, tmp_path):
    conditioned().save_pretrained(tmp_path / "p")
    for spec, fixed in ((f"{tmp_path}/p@alpha=0.3", 0.3), (f"{tmp_path}/p", 1.0)):
        rollout = replace(session.config.rollout, experts=(spec,))
        (phase,) = load_phases(TrainConfig(rollout=rollout), session.processes.device)
        assert getattr(phase.others[0], "alpha", None) == fixed


def test_a_range_in_a_spec_stands_for_several_policies():
    assert expand_grid("threshold:0.5") == ["threshold:0.5"]
    assert expand_grid("../runs/a..b/best") == ["../runs/a..b/best"]
    found = expand_grid("entropy:0.05..1:8@block_length=16")
    assert len(found) == 8 and found[0] == "entropy:0.05@block_length=16"
    assert found[-1] == "entropy:1@block_length=16"
    bounds = [float(spec.partition("@")[0].removeprefix("entropy:")) for spec in found]
    ratios = [b / a for a, b in itertools.pairwise(bounds)]
    assert load_policy(found[1]) == load_policy(f"entropy:{bounds[1]}@block_length=16")
    assert max(ratios) - min(ratios) < 1e-4
    assert expand_grid("runs/x@alpha=0.1..10:3")[1] == "runs/x@alpha=1"
    for wrong in ("entropy:1..0.5:3", "entropy:0..1:3", "entropy:0.1..1:1", "entropy:0.1..1:9999"):
        with pytest.raises(UnmaskError, match=r"LOW..HIGH:COUNT"):
            expand_grid(wrong)


def test_learned_policies_and_heuristics_teach_together(tmp_path, tiny_dir, any_digit, monkeypatch):
    monkeypatch.setattr("unmask.training.front.RANGE_PROMPTS", 4)
    monkeypatch.setattr("unmask.training.pool.PROBES", 8)
    changes = {"alpha_range": (0.1, 10.0), "rounds": 2}
    first = train(tiny_run(tmp_path / "first", tiny_dir, **changes))
    teachers = (f"{first}/last@alpha=0.1..10:2", "confidence:1", "threshold:0.1..0.9:2")
    changes |= {"rounds": 3, "imitate": teachers, "imitation_rounds": 2}
    run = train(tiny_run(tmp_path / "second", tiny_dir, **changes))
    metrics = read_metrics(run)
    assert len(metrics) == 3 and all(entry["grad_norm"] > 0 for entry in metrics[:2])
    saved = json.loads((run / "run.json").read_text())
    assert saved["settings"]["imitate"] == list(teachers)
