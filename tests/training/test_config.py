"""The settings: flat names, groups, checks, and that reading them loads nothing heavy."""

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from unmask import TrainConfig, UnmaskError
from unmask.cli import evaluate, generate, lm_eval, record, serve
from unmask.decoding.options import DecodeOptions
from unmask.policies.learned import ACTIONS
from unmask.policies.network import CHOICES
from unmask.settings import change_settings, flat_settings, option_types
from unmask.training.config import (
    ActionName,
    LabelName,
    OptimConfig,
    RewardName,
    Transform,
    paper_settings,
)
from unmask.training.labels import LABELS
from unmask.training.rewards import REWARDS


def test_options_are_given_flat_or_in_their_group():
    config = TrainConfig(alpha=3.0, rounds=2, block_length=8, optim=OptimConfig(lr=0.1, epochs=3))
    assert (config.rewards.alpha, config.rollout.rounds, config.decode.block_length) == (3.0, 2, 8)
    assert (config.optim.lr, config.optim.epochs) == (0.1, 3)
    assert TrainConfig(optim=OptimConfig(lr=0.1), lr=0.2).optim.lr == 0.2
    assert config == TrainConfig(**flat_settings(config))
    whole_group = set(flat_settings(OptimConfig()))
    assert config.given == {"alpha", "rounds", "block_length"} | whole_group


def test_the_papers_preset_gives_way_to_what_is_given():
    config = TrainConfig(preset="paper", width=32, rounds=100)
    assert (config.policy.width, config.policy.transform) == (32, "probability")
    assert (config.policy.initial_bias, config.policy.context) == (-2.0, False)
    assert (config.optim.epsilon, config.optim.minibatches) == (0.5, 1)
    assert config.optim.lr == pytest.approx(3e-5 * 936 / 100) and config.optim.warmup == 5
    assert config.evaluation.eval_temperature == 1.0
    assert config.given == {"preset", "width", "rounds"}
    assert TrainConfig(preset="paper", block_length=16).evaluation.eval_temperature == 0.5
    assert TrainConfig(preset="paper", optim=OptimConfig(lr=0.1)).optim.minibatches == 4
    # The paper's own number of rounds gives its own learning rate and warm-up.
    paper = TrainConfig(preset="paper", rounds=936).optim
    steered = TrainConfig(preset="paper", experts=("threshold:0.9",)).optim
    assert (paper.epsilon, steered.epsilon) == (0.5, 0.2)
    assert (paper.lr, paper.warmup) == (pytest.approx(3e-5), 50)
    # What a run wrote down is taken as it is.
    saved = change_settings(config, {"lr": 0.25})
    assert TrainConfig(**flat_settings(saved)) == saved
    # On the command line every group is whole, and only named options count as given.
    named = TrainConfig(**flat_settings(TrainConfig(lr=0.5)) | {"preset": "paper"})
    named = named.with_given({"preset", "lr"})
    assert (named.optim.lr, named.optim.epsilon, named.policy.width) == (0.5, 0.5, 128)


def test_a_range_of_alpha_brings_its_recipe_unless_something_else_is_given():
    config = TrainConfig(alpha_range=(0.1, 10.0))
    assert (config.policy.hidden, config.policy.joint) == (True, True)
    assert config.evaluation.eval_temperature == 0.5
    assert config.imitation.imitate == ("entropy:0.3", "entropy:0.3@block_length=16")
    assert config.policy.initial_slope == 0
    # In blocks it follows confidence from the beginning, without a warm start.
    blocks = TrainConfig(alpha_range=(0.1, 10.0), block_length=16)
    assert (blocks.imitation.imitate, blocks.policy.initial_slope) == ((), 0.5)
    # A block-causal model decodes in blocks without being told.
    causal = TrainConfig(alpha_range=(0.1, 10.0), lr=0.1).in_blocks()
    assert causal.settings() == blocks.settings() | {"lr": 0.1, "block_length": None}
    assert causal.given == {"alpha_range", "lr"}
    plain = TrainConfig(lr=0.1)
    assert plain.in_blocks() == plain
    own = TrainConfig(alpha_range=(0.1, 10.0), rounds=7, hidden=False, imitate=())
    assert (own.rollout.rounds, own.policy.hidden, own.imitation.imitate) == (7, False, ())
    for other in ({}, {"preset": "paper"}, {"start": "a"}, {"from_traces": "b"}):
        settings = other | ({"alpha_range": (0.1, 10.0)} if other else {})
        plain = TrainConfig(**settings)
        assert (plain.policy.hidden, plain.imitation.imitate) == (False, ()), settings


def test_the_preset_agrees_with_the_file_for_llada():
    lines = Path("experiments/llada-8b.yaml").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("#")[0].split(": ") for line in lines if ": " in line.split("#")[0]]
    file = {name: value.strip() for name, value in pairs}
    preset = paper_settings(936, in_blocks=True)
    shared = sorted(set(file) & set(preset))
    assert len(shared) > 12
    for name in shared:
        value = preset[name]
        words = str(value).lower() if isinstance(value, bool | str) else value
        assert words == (float(file[name]) if isinstance(words, float | int) else file[name]), name


def test_every_option_has_one_name():
    names = option_types(TrainConfig)
    assert len(names) == len(flat_settings(TrainConfig()))
    assert set(flat_settings(DecodeOptions())) <= set(names)


def test_names_agree_with_what_they_name():
    assert get_args(RewardName) == tuple(REWARDS)
    assert get_args(ActionName) == tuple(ACTIONS)
    assert get_args(LabelName) == tuple(LABELS)
    for command in (evaluate, generate, lm_eval, record, serve):
        assert get_type_hints(command.Config)["dtype"] == option_types(TrainConfig)["dtype"]
    assert set(get_args(Transform)) == set(CHOICES["transform"])


def test_changed_settings_are_checked_by_their_group():
    config = change_settings(TrainConfig(alpha=2.0), {"lr": 0.5, "alpha": 3.0})
    assert (config.optim.lr, config.rewards.alpha) == (0.5, 3.0)
    with pytest.raises(UnmaskError, match="lr is -1; give a number, 0 or more"):
        change_settings(config, {"lr": -1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1; give a number, 0 or more"),
        ({"alpha": float("nan")}, "alpha is nan; give"),
        ({"rollouts": 1}, "rollouts is 1; give a whole number, 2 or more"),
        ({"rounds": 0}, "rounds is 0; give"),
        ({"epsilon": -0.1}, "epsilon is -0.1; give"),
        ({"eval_temperature": 0.0}, "eval_temperature is 0; give a number above 0"),
        ({"initial_bias": float("nan")}, "initial_bias is nan; give a number"),
        ({"initial_slope": 1e9}, "initial_slope is .*; give -1e6 to 1e6"),
        ({"width": 0}, "width is 0; give"),
        ({"width": 6}, "multiple of 4"),
        ({"seed": 2**32}, "seed is 4294967296; give 0 to 4294967295"),
        ({"seed": -1}, "seed is -1; give"),
        ({"max_new_tokens": 4, "block_length": 8}, "block_length is 8; give"),
        ({"alpha_range": (3.0, 1.0)}, "the smaller first"),
        ({"alpha_range": (2.0, 3.0)}, "default α"),
        ({"alpha_range": (1e-31, 3.0)}, "from 1e-30 to 1e6"),
        ({"lr": 10**400}, "lr is a huge number; give a number, 0 or more"),
        ({"rounds": 10**5000}, "rounds is a huge number; give a whole number"),
        ({"alpha_start": 3.0, "alpha": 0.0}, "both above 0"),
        ({"alpha_start": 3.0, "alpha_range": (0.1, 3.0)}, "give one of them"),
        ({"learning_rate": 1.0}, "option 'learning_rate' is not known"),
        ({"roundz": 1}, "perhaps rounds is meant"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UnmaskError, match=message):
        TrainConfig(**change)


def test_a_path_may_stand_for_a_name():
    traces = TrainConfig(from_traces=Path("a/b"), model=Path("c"))
    assert traces == TrainConfig(from_traces="a/b", model="c")
    assert TrainConfig(out="runs/x") == TrainConfig(out=Path("runs/x"))


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_values_of_the_wrong_type_are_refused_and_nothing_heavy_is_loaded():
    """In a process of its own: here, the import hook of the tests would refuse the types first."""
    cases = {
        "rounds": ("'3'", "a whole number, 1 or more"),
        "prompts": ("2.0", "a whole number"),
        "epochs": ("True", "a whole number"),
        "lr": ("'fast'", "a number, 0 or more"),
        "context": ("1", "True or False"),
        "model": ("7", "a string"),
        "reward": ("'speed'", "one of multiplicative, additive, accuracy"),
        "action": ("'greedy'", "one of bernoulli, plackett-luce"),
        "experts": ("'threshold:0.9'", "a tuple of strings"),
        "alpha_range": ("(1.0,)", "a tuple of a number and a number"),
        "optim": ("3", "give a OptimConfig"),
    }
    lines = ["import sys", "from unmask import UnmaskError", "from unmask import TrainConfig"]
    for name, (value, _) in cases.items():
        lines += [
            "try:",
            f"    TrainConfig({name}={value})",
            "    print('accepted')",
            "except UnmaskError as error: print(error)",
        ]
    lines += [
        "c = TrainConfig(out='runs/x', experts=['threshold:0.9'], alpha=3)",
        "print(repr(c.run.out), c.rollout.experts)",
        "print([m for m in ('torch', 'transformers', 'accelerate') if m in sys.modules])",
    ]
    *found, made, heavy = run_python("\n".join(lines)).splitlines()
    for (name, (_, accepted)), line in zip(cases.items(), found, strict=True):
        assert line.startswith(f"{name} is ") and accepted in line, line
    assert made == f"{Path('runs/x')!r} ('threshold:0.9',)" and heavy == "[]"


def test_help_shows_groups_and_flags_without_prefixes():
    code = (
        "import sys\nfrom unmask.cli import main\ntry: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'accelerate') if m in sys.modules])"
    )
    text = run_python(code)
    for heading in ("run options", "decode options", "optim options", "rewards options"):
        assert heading in text
    for name in option_types(TrainConfig):
        assert f"--{name.replace('_', '-')}" in text
    assert text.endswith("[]\n") and "--optim." not in text
