"""Which evaluations may stand side by side."""

import json

import pytest

from unmask import DecodeOptions, UnmaskError
from unmask.analysis import read_points
from unmask.analysis.results import differing_settings
from unmask.cli import main
from unmask.models.head import CONFIDENCE_RULE

POINT = {"sampler": "threshold:0.9", "block_length": 8, "prompts": 4, "seeds": 1}
POINT |= dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), 0.5)
POINT |= dict.fromkeys(("nfe", "nfe_low", "nfe_high"), 3.0)
SETTINGS = {
    **vars(DecodeOptions(max_new_tokens=8)),
    "model": "m",
    "task": "chain",
    "template": "chain 1",
    "split": "test",
    "dtype": "bfloat16",
    "model_contents": "0123",
}


@pytest.fixture
def results(tmp_path):
    """Two evaluations, the second with other settings; None leaves one out."""

    def results(**changes):
        for name, settings in (("first", SETTINGS), ("second", SETTINGS | changes)):
            kept = {k: v for k, v in settings.items() if k not in changes or v is not None}
            for option in ("block_length", "seed"):
                kept.pop(option)
            (tmp_path / name).mkdir(exist_ok=True)
            text = json.dumps({**kept, "seeds": [len(changes)], "points": [POINT]})
            (tmp_path / name / "summary.json").write_text(text, encoding="utf-8")
        return [tmp_path / "first", tmp_path / "second"]

    return results


def test_results_of_two_dtypes_may_be_compared_and_it_is_said(results, recwarn):
    """The contents of the model are of its dtype."""
    for changes in ({}, {"dtype": None}):
        read_points(results(**changes))
        assert not recwarn
    with pytest.warns(UserWarning, match="first/summary.json is of the model in bfloat16 and .*32"):
        read_points(results(dtype="float32", model_contents="4567"))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"task": "sudoku"},
        {"template": "chain 2"},
        {"split": "validation"},
        {"max_new_tokens": 9},
        {"model_contents": "4567"},
        {"temperature": 0.7, "cache": "dual"},
        {"eos": "never"},
        {"stop_at_eos": True},
        {"choices": ["a"]},
    ],
)
def test_results_of_other_settings_are_refused_and_named(results, changes, capsys):
    paths = results(**changes)
    with pytest.raises(UnmaskError, match=f"differ in {', '.join(changes)}; give"):
        read_points(paths)
    if "eos" not in changes:
        return
    for command in (
        ["plot", "--results", *map(str, paths)],
        ["compare", "--first", "a", "--second", "b", "--results", *map(str, paths)],
        ["compare-fronts", *map(str, paths)],
    ):
        assert main(command) == 2 and "differ in eos" in capsys.readouterr().err


def test_above_temperature_0_confidences_must_mean_the_same(results):
    """Older versions wrote nothing of it, and theirs were the largest probability."""
    rule, older = {"confidence": CONFIDENCE_RULE}, {"confidence": None}
    for changes, differ in ((rule, []), (older, ["confidence"]), ({"confidence": "x"}, None)):
        first = SETTINGS | {"temperature": 0.8} | rule
        second = {k: v for k, v in (first | changes).items() if v is not None}
        assert differing_settings(first, second) == (["confidence"] if differ is None else differ)
        assert differing_settings(second, first) == (["confidence"] if differ is None else differ)
    old, new = SETTINGS | {"temperature": 0.8}, SETTINGS | {"temperature": 0.8}
    assert differing_settings(old, new) == [], "two old ones"


@pytest.mark.filterwarnings("ignore:.* is of the model in bfloat16")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": None, "cache": None},  # an older version had the default
        {"template": None, "model_contents": None},
        {"dtype": "float32", "model_contents": "89ab"},
        {"samplers": {"a/best": "1"}, "prompts": "45ef", "batch_size": 3},
    ],
)
def test_runs_seeds_and_older_versions_stand_side_by_side(results, changes):
    points, settings, length = read_points(results(**changes))
    assert (len(points), settings, length) == (2, ["m", "chain", "test"], 8)


def test_orders_are_of_one_setting(results, capsys):
    paths = results(cfg_scale=1.0)
    trace = {"prompt": "p", "correct": 1.0, "nfe": 2, "reveal_step": [0, 1], "tokens": ["a", "b"]}
    for path, sampler in zip(paths, ("one", "two"), strict=True):
        line = {"sampler": sampler, "block_length": 2, "seed": 0, **trace}
        (path / "results.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert main(["analyze", "--results", *map(str, paths), "--out", str(paths[0] / "out")]) == 2
    assert "differ in cfg_scale" in capsys.readouterr().err and not (paths[0] / "out").exists()
