"""What a round of a phase brings in."""

from dataclasses import replace

import pytest
import torch

import unmask.training.phases as phases
from tests.training.runs import tiny_run
from unmask import LearnedPolicy, load_policy
from unmask.processes import Processes
from unmask.tasks import Example
from unmask.training.phases import load_phases, roll_out
from unmask.training.session import new_network, prepare_session


@pytest.fixture
def begin(tmp_path, tiny_dir, any_digit):
    """Makes the session of a run, its only phase and its policy."""

    def begin(reward=None, **changes):
        config = tiny_run(tmp_path / "run", tiny_dir, **changes)
        session = prepare_session(config, Processes.join("cpu"), reward)
        (phase,) = load_phases(session.config, session.processes.device)
        return session, phase, LearnedPolicy(new_network(session, None), fallback=False)

    return begin


def test_experts_draw_random_numbers_of_their_own(begin, monkeypatch):
    """Neither those of each other nor those of the policy's own rollouts."""
    session, phase, policy = begin(experts=("random:1", "random:1"))
    examples, alpha = session.task.batch(6, 0, 0), torch.ones(6)
    random = load_policy("random:1")
    own, expert = (
        roll_out(session, random, policy, examples, alpha, 0, number).generation.reveal_step
        for number in (0, 1)
    )
    assert not torch.equal(own, expert)
    told = session.decode(examples, random, session.round_seed(0), alpha)
    assert torch.equal(own, told.reveal_step), "the policy's own numbers are the round's"
    seen = []

    def kept(*arguments):
        seen.append(roll_out(*arguments))
        return seen[-1]

    monkeypatch.setattr(phases, "roll_out", kept)
    phase.collect(session, policy, 0)
    _, one, other = (done.generation.reveal_step for done in seen)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("keeps", [{}, {"entropy_bonus": 0.1}, {"kl_penalty": 0.1, "kl_rounds": 1}])
def test_an_entropy_bonus_and_a_kl_penalty_keep_groups_without_signal(begin, keeps):
    """A policy that has collapsed has no others, and its entropy is what the bonus is for. The
    penalty is a mean over all decisions, as long as it has a weight."""
    session, phase, policy = begin(
        reward=lambda correctness, nfe, length, alpha: torch.ones_like(correctness),
        experts=("confidence:2",),
    )
    optim = replace(phase.config.optim, **keeps)
    phase = replace(phase, config=replace(phase.config, optim=optim))
    if "kl_penalty" in keeps:
        assert phase.kl_weight(0) == 0.1
        assert phase.collect(session, policy, 1).decisions is None
    done = phase.collect(session, policy, 0)
    assert done.silent == len(done.reward) == 12
    if not keeps:
        assert done.decisions is None
        return
    assert done.decisions.prompt.unique().tolist() == [0, 1, 2]
    assert not done.decisions.advantage.any()
    assert float(done.decisions.weight.sum()) == pytest.approx(1)


def test_examples_of_one_question_may_begin_their_answers_differently(begin):
    session, _, _ = begin()
    ways = [Example("7 a +5 =", "", prefill=prefill) for prefill in ("", "a then", "b", "a then")]
    policy = load_policy("confidence:1")
    together = session.decode(ways, policy, 0)
    alone = [session.decode([way], policy, 0).tokens[0] for way in ways]
    assert torch.equal(together.tokens, torch.stack(alone))
    assert not torch.equal(alone[1], alone[2])
