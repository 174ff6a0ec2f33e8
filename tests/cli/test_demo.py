"""`unmask demo`: the settings of its trainings, what it refuses, and a whole small one."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import unmask
import unmask.training.pool
import unmask.training.trainer
from unmask.cli import demo, main, train
from unmask.cli.arguments import parse
from unmask.errors import UnmaskError
from unmask.policies import LearnedPolicy
from unmask.policies.load import find_policy
from unmask.training import TrainConfig
from unmask.training import train as run_training


@pytest.mark.parametrize(
    ("length", "expected"), [(48, (0.05, 16.0)), (36, (0.05, 12.0)), (128, (0.1, 40.0))]
)
def test_range_of_alpha_follows_from_the_length(length, expected):
    assert demo.choose_alpha_range(length) == expected


def test_every_length_has_a_range():
    for length in range(12, 5000):
        low, high = demo.choose_alpha_range(length)
        assert length / 1600 < low < length / 600 and length / 3 - 4 < high <= length / 3


@pytest.mark.parametrize(("task", "block_length"), [("chain", 16), ("sudoku", 18)])
def test_policies_are_trained_as_alpha_range_does_by_itself(task, block_length):
    config = demo.Config(task=task, seed=3)
    runs = demo.training_settings(config, 48, block_length)
    assert list(runs) == ["full", "semi"]
    for name, settings in runs.items():
        own = {"block_length": block_length} if name == "semi" else {}
        usual = TrainConfig(
            model=f"embedded/{task}",
            task=task,
            alpha_range=(0.05, 16.0),
            rounds=100,
            seed=3,
            mixed_precision=True,
            **own,
        )
        assert TrainConfig(**settings).settings() == usual.settings()
        assert usual.rollout.prompts == 32 and usual.policy.hidden
        assert bool(usual.imitation.imitate) == (name == "full") == (not usual.policy.initial_slope)
        words = demo.command_arguments(settings)
        parsed, given = parse(train.Config, "train", words)
        assert parsed.with_given(given).settings() == usual.settings()
        assert parsed.run.out == Path("demo") / name


def test_word_problems_take_one_short_training_on_unseen_problems():
    runs = demo.training_settings(demo.Config(task="word-problems"), 128, 32)
    (settings,) = runs.values()
    config = TrainConfig(**settings)
    assert config.data.task == "word-problems:unseen" and config.decode.block_length is None
    assert (config.rollout.rounds, config.rollout.prompts) == (40, 16)
    assert config.rewards.alpha_range == (0.1, 40.0)


def test_options_win_over_the_recipe():
    config = demo.Config(rounds=7, round_prompts=5, alpha_range=(2.0, 8.0))
    settings = TrainConfig(**demo.training_settings(config, 48, 16)["semi"])
    assert (settings.rollout.rounds, settings.rollout.prompts) == (7, 5)
    assert settings.rewards.alpha_range == (2.0, 8.0) and settings.rewards.alpha == 4.0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--task", "chess"), "chess"),
        (("--rounds", "0"), "rounds is 0"),
        (("--rounds", "1" + "0" * 12), "rounds is 1"),
        (("--prompts", "0"), "prompts is 0"),
        (("--round-prompts", "1" + "0" * 9), "prompts"),
        (("--alpha-range", "3", "1"), "alpha_range is 3 to 1"),
        (("--alpha-range", "-3", "-1"), "alpha_range is -3 to -1"),
        (("--alpha-range", "nan", "1"), "alpha_range"),
        (("--seed", "-1"), "seed"),
        (("--out", "a@b"), "a@b"),
        (("--out", "embedded"), "embedded"),
        (("--out", "mine"), "already holds files"),
    ],
)
def test_bad_options_are_refused_before_anything_is_removed(
    words, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("demo/demo.json", "demo/full/best/config.json", "mine/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    before = sorted(Path().rglob("*"))
    assert main(["demo", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unmask demo: ") and error.count("\n") == 1 and says in error
    assert sorted(Path().rglob("*")) == before


def test_a_training_that_fails_ends_the_demo(tmp_path, capfd):
    bad = {"out": tmp_path / "full", "rounds": 0}
    with pytest.raises(UnmaskError, match="training of full failed"):
        demo.train_in_parallel({"full": bad})
    assert "full │ unmask train: rounds is 0" in capfd.readouterr().out.replace("  ", " ")


def test_a_whole_small_demo(tmp_path, monkeypatch, capsys):
    """Its trainings run in this process, one after the other, and end without their own
    measurement; there are two heuristics; all else is as it is."""
    monkeypatch.setattr(unmask.training.trainer, "calibrate", lambda session, directory: None)
    monkeypatch.setattr(unmask.training.pool, "PROBES", 4)
    few = replace(demo.RECIPES["chain"], heuristics=("threshold:0.9", "entropy:1"))
    monkeypatch.setitem(demo.RECIPES, "chain", few)

    def run_trainings(runs):
        for settings in runs.values():
            run_training(TrainConfig(**settings, eval_prompts=2))

    monkeypatch.setattr(demo, "train_in_parallel", run_trainings)
    out = tmp_path / "demo"
    (out / "old").mkdir(parents=True)
    (out / "demo.json").write_text("{}")
    words = ("--rounds", "1", "--round-prompts", "2", "--prompts", "2", "--out", str(out))
    assert main(["demo", *words]) == 0
    printed = capsys.readouterr().out
    assert not (out / "old").exists() and (out / "pareto.png").stat().st_size > 10_000
    record = json.loads((out / "demo.json").read_text())
    assert record["task"] == "chain" and record["rounds"] == 1 and record["seed"] == 0
    assert record["alpha_range"] == [0.05, 16.0] and record["seconds"] > 0
    assert {"commit", "versions"} <= set(record)
    for name, length in (("full", 48), ("semi", 16)):
        points = json.loads((out / f"results-{length}/summary.json").read_text())["points"]
        samplers = [point["sampler"] for point in points]
        assert {"threshold:0.9", "entropy:1"} < set(samplers)
        learned = [sampler for sampler in samplers if "@alpha=" in sampler]
        alphas = [0.05, 0.211, 0.894, 3.78, 16]
        assert sorted(learned) == sorted(f"{out}/{name}/best@alpha={a:g}" for a in alphas)
    assert "held-out prompts" in printed and "threshold heuristic" in printed
    assert f"learned policy ({out}/semi/best), block length 16" in printed.replace("\n", "")


def test_shipped_policy_is_compared_at_its_own_range():
    samplers = demo.shipped_samplers("embedded/word-problems")
    assert len(samplers) == demo.SHIPPED_ALPHAS
    policy = LearnedPolicy.from_pretrained(find_policy("embedded/word-problems"))
    low, high = policy.metadata["trained"]["alpha_range"]
    alphas = [float(sampler.partition("@alpha=")[2]) for sampler in samplers]
    assert alphas[0] == pytest.approx(low) and alphas[-1] == pytest.approx(high)
    assert all(unmask.load_policy(sampler) for sampler in samplers)


def test_a_word_problem_is_solved_by_both(tmp_path):
    model, task = unmask.load_model("embedded/word-problems"), unmask.load_task("word-problems")
    out = io.StringIO()
    demo.show_example(model, task, "embedded/word-problems", 128, 128, Console(file=out, width=130))
    printed = out.getvalue()
    example = demo.choose_example(task)
    assert example.prompt in " ".join(printed.split())
    assert printed.count("forward passes") == 2
    assert "learned policy (embedded/word-problems), full diffusion" in printed
    assert all(len(line) <= 130 for line in printed.splitlines())
