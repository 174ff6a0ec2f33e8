"""Whole training runs: what they write, each method, and what they leave alone."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import unmask.training.front as front
import unmask.training.session as session
import unmask.training.trainer as trainer
from tests.policies.test_conditioned import conditioned
from tests.training.runs import (
    Killed,
    assert_equal_weights,
    kill_before_round,
    read_metrics,
    tiny_run,
)
from tests.typechecks import check_types
from unmask import (
    LearnedPolicy,
    TrainConfig,
    UnmaskError,
    evaluate,
    load_model,
    load_policy,
    load_task,
    train,
)
from unmask.cli import main
from unmask.files import read_json
from unmask.processes import Processes
from unmask.tasks.sources import GeneratedSource
from unmask.tensors import read_tensors
from unmask.training.config import ImitationConfig, OptimConfig, PolicyConfig, RewardConfig


def test_training_moves_the_weights_and_writes_what_it_promises(tmp_path, tiny_dir, any_digit):
    run = train(tiny_run(tmp_path / "run", tiny_dir))
    metrics = read_metrics(run)
    assert [entry["round"] for entry in metrics] == [1, 2, 3, 4, 5, 6]
    assert {"reward", "accuracy", "nfe", "entropy", "silent", "grad_norm"} <= set(metrics[0])
    assert [entry["round"] for entry in metrics if "eval_reward" in entry] == [2, 4, 6]
    assert any(entry["grad_norm"] > 0 for entry in metrics)
    for name in ("best", "last"):
        config = json.loads((run / name / "config.json").read_text())
        assert config["metadata"]["trained"]["alpha"] == 1.0 and config["fallback"] is True
    assert list(run.rglob("events.out.tfevents*"))


METHODS = {
    "steered": {"experts": ("threshold:0.5", "confidence:2")},
    "ordered": {"action": "plackett-luce", "experts": ("threshold:0.5",)},
    "warm": {
        "imitate": ("entropy:1", "threshold:0.1"),
        "imitation_rounds": 2,
        "fallback": True,
        "entropy_bonus": 0.01,
    },
    "annealed": {"alpha_start": 10.0},
    "anchored": {
        "imitate": ("confidence:2",),
        "imitation_rounds": 1,
        "kl_penalty": 0.1,
        "kl_rounds": 2,
    },
    "every α": {"alpha_range": (0.1, 10.0), "dense": 0.1},
    "richer inputs": {"inputs": 3, "hidden": True, "reward": "additive"},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_and_resumes_bit_for_bit(
    tmp_path, tiny_dir, any_digit, monkeypatch, name
):
    monkeypatch.setattr(front, "RANGE_PROMPTS", 4)
    changes = {"rounds": 4} | METHODS[name]
    whole = train(tiny_run(tmp_path / "whole", tiny_dir, **changes))
    check_types(False)  # the same calls follow
    kill_before_round(monkeypatch, 3)
    with pytest.raises(Killed):
        train(tiny_run(tmp_path / "cut", tiny_dir, **changes))
    kill_before_round(monkeypatch, -1)
    train(TrainConfig(resume=tmp_path / "cut"))
    assert_equal_weights(whole, tmp_path / "cut")
    metrics = read_metrics(whole)
    assert any(entry["grad_norm"] > 0 for entry in metrics)
    assert ("expert_accuracy" in metrics[-1]) is bool(changes.get("experts"))
    saved = json.loads((whole / "last" / "config.json").read_text())
    assert len(saved["metadata"]["pareto"]) == (9 if "alpha_range" in changes else 5)
    assert "## Accuracy against NFE" in (whole / "last" / "README.md").read_text()


def test_the_anchor_is_what_grpo_begins_with_and_falls_to_zero(tmp_path, tiny_dir, any_digit):
    seen = []

    class Spied(trainer.Anchor):
        def __init__(self, policy, weight):
            super().__init__(policy, weight)
            seen.append((weight, {k: v.clone() for k, v in policy.network.state_dict().items()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Anchor", Spied)
        changes = {"imitate": ("confidence:2",), "imitation_rounds": 2, "save_every": 1}
        changes |= {"rounds": 6, "kl_penalty": 0.4, "kl_rounds": 2}
        run = train(tiny_run(tmp_path / "run", tiny_dir, **changes))
    assert [weight for weight, _ in seen] == [0.4, 0.2]
    (_, first), (_, second) = seen
    assert all(first[name].equal(second[name]) for name in first)
    names = read_tensors(run / "checkpoint.safetensors")
    assert not any(name.startswith("first/") for name in names), "it is not needed any more"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "give imitate or start"),
        ({"imitate": ("confidence:2",), "action": "plackett-luce"}, "action is plackett-luce"),
    ],
)
def test_a_kl_penalty_needs_a_policy_to_stay_near_to(tmp_path, tiny_dir, changes, says):
    with pytest.raises(UnmaskError, match=says):
        train(tiny_run(tmp_path / "run", tiny_dir, kl_penalty=0.1, **changes))
    assert not (tmp_path / "run").exists()


def test_equal_weights_are_measured_once(tmp_path, tiny_dir, any_digit, monkeypatch):
    measured, measure = [], front.measure_front
    monkeypatch.setattr(front, "measure_front", lambda *a: measured.append(a) or measure(*a))
    run = train(tiny_run(tmp_path / "run", tiny_dir, rounds=1))
    assert len(measured) == 1, "after one round `best` is `last`"
    best, last = (read_json(run / name / "config.json")["metadata"] for name in ("best", "last"))
    assert best["pareto"] == last["pareto"]


def test_passes_of_a_range_are_those_of_more_prompts(tmp_path, tiny_dir, any_digit, monkeypatch):
    """At the middle α the mean over four times as many; elsewhere the same factor."""
    monkeypatch.setattr(front, "RANGE_PROMPTS", 4)
    # In bf16 the passes of four prompts differ from those of sixteen on any CPU.
    dtype = {"dtype": "bfloat16"}
    changes = {"rounds": 1, "alpha_range": (0.1, 10.0), "eval_prompts": 4, **dtype}
    last = train(tiny_run(tmp_path / "run", tiny_dir, **changes)) / "last"
    entries = read_json(last / "config.json")["metadata"]["pareto"]

    def passes(entry, prompts):
        samplers, settings = [f"{last}{entry['sampler']}"], {"split": "validation"}
        settings |= {"prompts": prompts, "block_lengths": [3], "max_new_tokens": 6}
        model = load_model(tiny_dir, **dtype)
        return evaluate(model, load_task("chain"), samplers, **settings)[0].nfe

    assert passes(entries[4], 16) == pytest.approx(entries[4]["nfe"])
    level = entries[4]["nfe"] / passes(entries[4], 4)
    assert level != 1
    assert passes(entries[0], 4) * level == pytest.approx(entries[0]["nfe"])


def test_imitation_learns_the_experts_decisions(tmp_path, tiny_dir, any_digit):
    changes = {
        "rounds": 30,
        "imitate": ("confidence:3",),
        "imitation_rounds": 30,
        "prompts": 8,
        "eval_every": 30,
        "initial_bias": -2.0,
    }
    run = train(tiny_run(tmp_path / "run", tiny_dir, **changes | {"block_length": 6}))
    metrics = read_metrics(run)
    assert metrics[0]["nfe"] == 2, "the expert's"
    assert metrics[-1]["eval_nfe"] < 3.2, "a policy that starts at a bias of −2 needs about five"


def test_decode_options_reach_rollouts_and_evaluations(tmp_path, tiny_dir, any_digit, monkeypatch):
    seen, original = [], session.decode

    def decode(model, prompts, policy, options, **others):
        seen.append(options)
        return original(model, prompts, policy, options, **others)

    monkeypatch.setattr(session, "decode", decode)
    train(
        tiny_run(
            tmp_path / "run", tiny_dir, rounds=1, temperature=0.5, stop_at_eos=True, cfg_scale=0.5
        )
    )
    assert len(seen) == 1 + 1 + 5, "a round, an evaluation, and one front: `best` is `last`"
    for options in seen:
        assert (options.temperature, options.stop_at_eos, options.cfg_scale) == (0.5, True, 0.5)
        assert (options.max_new_tokens, options.block_length) == (6, 3)


def test_a_run_may_start_from_a_policy_of_the_same_shape_only(tmp_path, tiny_dir, any_digit):
    first = tiny_run(tmp_path / "first", tiny_dir, rounds=2, initial_slope=0.5)
    start = str(train(first) / "last")  # where its untrained weights began does not count
    train(tiny_run(tmp_path / "second", tiny_dir, rounds=1, lr=0.0, start=start))
    a, b = (
        read_tensors(tmp_path / run / "last" / "model.safetensors") for run in ("first", "second")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    for changes, says in (
        ({"width": 32}, "its width is 16, here 32"),
        ({"start": "threshold:0.9"}, "it is no learned policy"),
        ({"action": "plackett-luce"}, "its action is bernoulli, here plackett-luce"),
    ):
        with pytest.raises(UnmaskError, match=f"does not fit: {says}.*; train with"):
            train(tiny_run(tmp_path / "third", tiny_dir, **({"start": start} | changes)))
        assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"imitation_rounds": 4}, "imitation_rounds was given and has no effect without imitate"),
        ({"imitation_lr": 0.1}, "without imitate"),
        ({"kl_rounds": 4}, "without kl_penalty"),
        ({"initial_bias": -2.0, "start": "a"}, "with start"),
        ({"initial_slope": 1.0, "start": "a"}, "with start"),
        ({"alpha": 3.0, "reward": "accuracy"}, "alpha was given and .* with reward accuracy"),
        ({"alpha_start": 3.0, "reward": "accuracy"}, "with reward accuracy"),
        ({"alpha_range": (0.1, 3.0), "reward": "accuracy"}, "with reward accuracy"),
    ],
)
def test_options_without_an_effect_are_refused(tmp_path, tiny_dir, changes, says):
    with pytest.raises(UnmaskError, match=f"{says}.*; leave .* out"):
        train(tiny_run(tmp_path / "run", tiny_dir, **changes))
    assert not (tmp_path / "run").exists()


def test_only_what_was_given_needs_an_effect(tmp_path):
    """Neither defaults, nor what a preset or a range puts there, nor the rest of a group."""
    for changes in (
        {"preset": "paper", "start": "a"},
        {"optim": OptimConfig(lr=0.1), "policy": PolicyConfig(start="a")},
        {"rewards": RewardConfig(reward="accuracy"), "imitation": ImitationConfig()},
        {"alpha_range": (0.1, 3.0), "imitation_rounds": 4},
        {"alpha": 3.0, "reward": "accuracy", "experts": ("threshold:0.9",)},
    ):
        session.check_effects(TrainConfig(**changes), None)
    session.check_effects(TrainConfig(alpha=3.0, reward="accuracy"), lambda *_: torch.ones(1))


def test_passes_that_are_known_are_not_counted_again(tmp_path, tiny_dir, monkeypatch):
    alone = Processes.join("cpu")
    made = session.prepare_session(tiny_run(tmp_path / "run", tiny_dir), alone, None)
    policy = LearnedPolicy(session.new_network(made, None))
    examples, asked = made.task.examples("validation", 12), []
    every = made.decode(examples, policy, seed=0).nfe.double()
    original = session.Session.decode

    def decode(self, some, *others, **options):
        asked.append(len(some))
        return original(self, some, *others, **options)

    monkeypatch.setattr(session.Session, "decode", decode)
    assert front.passes_of_more(made, policy, every[:3]) == float(every.mean())
    assert asked == [9] and every.unique().numel() > 1


@pytest.mark.filterwarnings("error:task .* were asked for")
def test_a_small_task_is_measured_on_what_it_has_without_a_warning(tmp_path, tiny_dir):
    """Nobody asked for as many problems as a range of α is measured on."""
    config = tiny_run(tmp_path / "run", tiny_dir, alpha_range=(0.1, 10.0), width=8)
    made = session.prepare_session(config, Processes.join("cpu"), None)
    few = made.task.examples("validation", 3)
    task = replace(made.task, source=GeneratedSource(lambda rng: rng.choice(few)))
    policy = LearnedPolicy(session.new_network(made, None))
    found = front.measure_front(replace(made, task=task), policy)
    assert [entry["prompts"] for entry in found] == [3] * 9


def test_a_start_that_does_not_fit_is_told_apart_by_the_options_names(tmp_path, tiny_dir):
    start = str(train(tiny_run(tmp_path / "first", tiny_dir, rounds=1)) / "last")
    with pytest.raises(UnmaskError, match="its use of alpha_range is False, here True"):
        train(tiny_run(tmp_path / "second", tiny_dir, start=start, alpha_range=(0.5, 2.0)))


@pytest.mark.parametrize(("rounds", "left"), [(2, False), (3, True)])
def test_a_run_says_which_rounds_imitate(tmp_path, tiny_dir, capsys, rounds, left):
    imitates = {"imitate": ("entropy:1", "threshold:0.1"), "imitation_rounds": 2}
    run = train(tiny_run(tmp_path / "run", tiny_dir, rounds=rounds, **imitates))
    said = capsys.readouterr().out
    assert said.startswith("rounds 1 to 2 imitate entropy:1 or threshold:0.1; their reward")
    assert ("no round is left for GRPO" in said) is not left
    train(TrainConfig(resume=run))
    assert "imitate" not in capsys.readouterr().out, "those rounds are over"


def test_the_task_is_the_models_own_unless_one_is_named(tmp_path, tiny_dir):
    tiny = {"rounds": 1, "prompts": 1, "rollouts": 2, "eval_prompts": 2}
    run = train(TrainConfig(out=tmp_path / "run", model="embedded/sudoku", **tiny))
    assert read_json(run / "run.json")["settings"]["task"] == "sudoku"
    assert load_policy(run / "last").metadata["trained"]["task"] == "sudoku"
    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_dir, foreign, ignore=shutil.ignore_patterns("recipe.json"))
    with pytest.raises(UnmaskError, match=f"model {foreign} does not say on which"):
        train(tiny_run(tmp_path / "other", foreign, task=None))
    assert not (tmp_path / "other").exists()


def test_alpha_moves_from_its_start_to_its_end_on_a_log_scale(tmp_path, tiny_dir):
    seen = []

    def reward(correctness, nfe, length, alpha):
        seen.append(float(alpha[0]))
        return correctness

    train(
        tiny_run(tmp_path / "run", tiny_dir, rounds=4, eval_every=4, alpha_start=16.0),
        reward=reward,
    )
    assert seen == pytest.approx([16, 4, 1, 1, 1]), "four rounds and an evaluation"


def test_with_alpha_0_speed_counts_nothing(tmp_path, tiny_dir, any_digit):
    """The paper has such policies. No policy is told an α of 0."""
    conditioned().save_pretrained(tmp_path / "p")
    experts = (f"{tmp_path}/p@alpha=0.3", "threshold:0.5")
    changes = {"alpha": 0.0, "rounds": 1, "experts": experts, "eval_every": 1}
    (entry,) = read_metrics(train(tiny_run(tmp_path / "run", tiny_dir, **changes)))
    assert entry["reward"] == entry["accuracy"] and entry["expert_nfe"] > 0
    assert entry["eval_reward"] == entry["eval_accuracy"]
    replace(conditioned(), alpha=None).save_pretrained(tmp_path / "p")
    with pytest.raises(UnmaskError, match="one for every α and was given none"):
        train(tiny_run(tmp_path / "other", tiny_dir, **changes | {"experts": (f"{tmp_path}/p",)}))


def test_an_expert_for_a_range_without_an_alpha_is_told_the_runs(
    tmp_path, tiny_dir, any_digit, monkeypatch
):
    told, original = {}, session.decode

    def decode(model, prompts, policy, options, **others):
        told.setdefault(type(policy).__name__ + str(getattr(policy, "alpha", "")), others["alpha"])
        return original(model, prompts, policy, options, **others)

    monkeypatch.setattr(session, "decode", decode)
    config = tiny_run(tmp_path / "run", tiny_dir, alpha=2.0)
    alone = Processes.join("cpu")
    made = session.prepare_session(config, alone, None)
    examples, alpha = made.task.examples("train", 2), torch.full((2,), 2.0)
    for policy in (
        replace(conditioned(), alpha=None),
        conditioned(),
        load_policy("confidence:3"),
    ):
        made.decode(examples, policy, 0, alpha)
    assert told["LearnedPolicyNone"].tolist() == [2, 2]
    assert told["LearnedPolicy1.0"] is None and told["Confidence"] is None


def test_groups_that_are_learned_from_are_not_called_silent(tmp_path, tiny_dir):
    """Their own rewards are all equal, but there is a dense one."""
    changes = {"rounds": 1, "eval_every": 9}

    def same(correctness, nfe, length, alpha):
        return 0 * correctness

    for dense, silent in ((0.1, 0), (0.0, 1)):
        run = train(tiny_run(tmp_path / f"{dense}", tiny_dir, dense=dense, **changes), reward=same)
        (entry,) = read_metrics(run)
        assert entry["silent"] == silent and (entry["grad_norm"] > 0) is (dense > 0)


def test_your_own_reward(tmp_path, tiny_dir):
    run = train(
        tiny_run(tmp_path / "run", tiny_dir, rounds=1),
        reward=lambda correctness, nfe, length, alpha: nfe.float(),
    )
    entry = read_metrics(run)[0]
    assert entry["reward"] == entry["nfe"]


POOL = {"imitate": ("threshold:0.5", "confidence:2")}
ROLLOUTS = 12  # of a round of tiny_run


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, r"round \d"),
        ({"dense": 3.0}, r"round \d"),
        (POOL, r"round \d"),
        (POOL, "the comparison of the teachers"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_names_the_prompt_and_the_round(
    tmp_path, tiny_dir, any_digit, value, settings, where
):
    calls = []

    def reward(correctness, nfe, length, alpha):
        if (len(nfe) == ROLLOUTS) != (where == r"round \d"):
            return correctness
        calls.append(1)
        good = 2 if where == r"round \d" else 0
        return correctness if len(calls) <= good else torch.full_like(correctness, value)

    config = tiny_run(tmp_path / "run", tiny_dir, eval_every=100, save_every=1, **settings)
    with pytest.raises(UnmaskError, match=rf"reward is (nan|inf) for the prompt '.+=' in {where}"):
        train(config, reward=reward)
    last = tmp_path / "run" / "last" / "model.safetensors"
    if last.exists():
        assert all(torch.isfinite(x).all() for x in read_tensors(last).values())
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_reward_of_the_wrong_shape_is_refused(tmp_path, tiny_dir):
    for value in (torch.zeros(1), 0.5):
        with pytest.raises(UnmaskError, match=r"a tensor of 12 numbers"):
            train(tiny_run(tmp_path / "run", tiny_dir), reward=lambda *_, value=value: value)
        for path in sorted((tmp_path / "run").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (tmp_path / "run").rmdir()


def test_weights_that_are_not_finite_are_not_saved(tmp_path, tiny_dir, any_digit, monkeypatch):
    original = torch.optim.AdamW.step
    count = []

    def step(self, *arguments, **others):
        result = original(self, *arguments, **others)
        count.append(1)
        if len(count) == 9:
            with torch.no_grad():
                self.param_groups[0]["params"][0][0] = float("nan")
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(UnmaskError, match=r"weight confidence.weight is not finite .* round \d"):
        train(tiny_run(tmp_path / "run", tiny_dir, save_every=1, eval_every=1))
    for path in (tmp_path / "run").rglob("*.safetensors"):
        tensors = read_tensors(path)
        assert all(torch.isfinite(x).all() for n, x in tensors.items() if n != "best"), path


def test_the_callers_random_generators_are_left_alone(tmp_path, tiny_dir, monkeypatch):
    def fails(*arguments):
        raise AssertionError("the generator of the module random was seeded")

    # The type checks of the tests draw from the module random, so only its seed is watched.
    monkeypatch.setattr(random, "seed", fails)
    start = str(train(tiny_run(tmp_path / "first", tiny_dir, rounds=1)) / "last")
    np.random.seed(2)
    torch.manual_seed(3)
    train(tiny_run(tmp_path / "run", tiny_dir, rounds=1, start=start))
    assert np.random.rand() == np.random.RandomState(2).rand()
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))


def test_a_failed_evaluation_costs_no_round(tmp_path, tiny_dir, any_digit, monkeypatch):
    whole = train(tiny_run(tmp_path / "whole", tiny_dir, save_every=100))
    original = trainer.evaluate_policy

    def fails(session, state):
        if state.round == 4:
            raise RuntimeError("out of memory")
        return original(session, state)

    monkeypatch.setattr(trainer, "evaluate_policy", fails)
    with pytest.raises(RuntimeError):
        train(tiny_run(tmp_path / "cut", tiny_dir, save_every=100))
    assert int(read_tensors(tmp_path / "cut" / "checkpoint.safetensors")["round"]) == 4
    monkeypatch.setattr(trainer, "evaluate_policy", original)
    train(TrainConfig(resume=tmp_path / "cut"))
    names = ("checkpoint.safetensors", "best/model.safetensors", "last/model.safetensors")
    assert_equal_weights(whole, tmp_path / "cut", names)
    left, right = read_metrics(whole), read_metrics(tmp_path / "cut")
    for entry in (*left, *right):
        entry.pop("rollout_seconds"), entry.pop("update_seconds")
    assert left == right


def test_a_task_without_validation_examples_is_refused_before_the_model_is_loaded(
    tmp_path, monkeypatch
):
    import dataclasses

    import unmask.tasks
    from unmask.tasks import EMBEDDED

    chain = EMBEDDED["chain"]

    class Source:
        def stream(self, name, split, seed):
            return chain.source.stream(name, split, seed) if split == "train" else iter(())

        def batch(self, name, start, stop, seed, group):
            return chain.source.batch(name, start, stop, seed, group)

    monkeypatch.setitem(unmask.tasks.EMBEDDED, "chain", dataclasses.replace(chain, source=Source()))
    with pytest.raises(UnmaskError, match="no validation examples"):
        train(TrainConfig(out=tmp_path / "run", model=str(tmp_path / "nowhere"), task="chain"))
    assert not (tmp_path / "run").exists()


def test_the_output_directory_is_checked_before_anything_is_loaded(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_text("kept")
    with pytest.raises(UnmaskError, match="already holds files"):
        train(TrainConfig(out=tmp_path / "run", model="nowhere", task="nothing"))
    with pytest.raises(UnmaskError, match="nothing"):
        train(TrainConfig(out=tmp_path / "new", model="nowhere", task="nothing"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"experts": ("nobody",)}, "nobody"), ({"imitate": ("threshold:2",)}, "λ")],
)
def test_heuristics_are_checked_before_anything_is_loaded(tmp_path, changes, message):
    with pytest.raises(UnmaskError, match=message):
        train(TrainConfig(out=tmp_path / "run", model="nowhere", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": ("embedded/word-problems@alpha=1",)}, "hidden states of width 192"),
        ({"imitate": ("embedded/word-problems@alpha=1",)}, "hidden states of width 192"),
        ({"inputs": 5000}, "reads the top 5000"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_is_written(
    tmp_path, tiny_dir, changes, message
):
    with pytest.raises(UnmaskError, match=message):
        train(tiny_run(tmp_path / "run", tiny_dir, **changes))
    assert not (tmp_path / "run").exists()


def test_rounds_without_signal_leave_every_weight_alone(tmp_path, tiny_dir):
    """Every reward is equal: neither weight decay nor momentum may move anything."""
    run = train(
        tiny_run(tmp_path / "run", tiny_dir, rounds=2),
        reward=lambda correctness, nfe, length, alpha: torch.ones_like(correctness),
    )
    assert {entry["silent"] for entry in read_metrics(run)} == {1.0}
    assert not [name for name in read_tensors(run / "checkpoint.safetensors") if "/step" in name]


def test_the_preset_on_the_command_line_is_written_down(tiny_dir, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--preset", "paper", "--width", "16", "--rounds", "2", "--out", str(out)]
    words += [
        "--model",
        str(tiny_dir),
        "--task",
        "chain",
        "--max-new-tokens",
        "6",
        "--prompts",
        "2",
    ]
    assert main([*words, "--rollouts", "2", "--eval-prompts", "2"]) == 0
    started = json.loads((out / "run.json").read_text())
    settings = started["settings"]
    assert settings["preset"] == "paper" and "--preset paper" in started["provenance"]["command"]
    assert (settings["width"], settings["epsilon"], settings["minibatches"]) == (16, 0.5, 1)
    assert settings["lr"] == pytest.approx(3e-5 * 936 / 2)
    assert load_policy(out / "last").network.config.transform == "probability"
    assert main(["train", "--resume", str(out)]) == 0
    assert json.loads((out / "run.json").read_text()) == started
