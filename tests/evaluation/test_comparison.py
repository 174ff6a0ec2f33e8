"""Comparisons of two samplers on the same prompts."""

import json

import numpy as np
import pytest

from unmask import UnmaskError
from unmask.cli import main
from unmask.evaluation import compare


def paired(n, gain, seed):
    """Two samplers on the same prompts, hard and easy ones; the second is right a share `gain` more
    often."""
    rng = np.random.default_rng(seed)
    easy = rng.random(n) < 0.7
    rows = []
    for more in (0.0, gain):
        correct = rng.random(n) < np.where(easy, 0.95, 0.05 + more)
        rows.append(
            [
                {
                    "block_length": 8,
                    "prompt": f"p{i}",
                    "seed": 0,
                    "sampler": "s",
                    "correct": float(c),
                    "nfe": 5,
                }
                for i, c in enumerate(correct)
            ]
        )
    return rows


def test_comparison_finds_a_difference_and_no_difference():
    (d,) = compare(*paired(500, 0.3, 0), resamples=2000)
    assert d.accuracy_low > 0 and d.p_accuracy < 0.01 and d.prompts == 500
    assert (d.nfe, d.p_nfe) == (0, 1)
    hits = [
        compare(*paired(200, 0.0, seed), resamples=400)[0].p_accuracy < 0.05 for seed in range(100)
    ]
    assert sum(hits) <= 12  # 5 are expected
    first, second = paired(300, 0.3, 1)
    (there,), (back,) = compare(first, second, resamples=500), compare(second, first, resamples=500)
    assert there.accuracy == pytest.approx(-back.accuracy) and there.accuracy_low == pytest.approx(
        -back.accuracy_high
    )


@pytest.mark.parametrize(("n", "differ", "least"), [(1, 1, 1.0), (4, 4, 0.125), (300, 3, 0.25)])
def test_a_few_prompts_prove_nothing(n, differ, least):
    """The p-value is not below the least that signs of the prompts that differ can have."""
    first, second = ([dict(row) for row in paired(n, 0.0, 0)[0]] for _ in range(2))
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        one["correct"], other["correct"], other["nfe"] = 0.0, float(i < differ), 5 + (i < differ)
    (d,) = compare(first, second, resamples=400)
    assert (d.p_accuracy, d.p_nfe) == (least, least)


def test_comparison_needs_the_same_prompts_and_a_shared_block_length():
    first, second = paired(20, 0.1, 0)
    with pytest.raises(UnmaskError, match="different prompts"):
        compare(first, second[1:])
    with pytest.raises(UnmaskError, match="no block length"):
        compare(first, [row | {"block_length": 16} for row in second])


def test_directories_that_hold_the_same_answers_are_not_pooled(tmp_path, tiny_dir, capsys):
    """`compare` would take their mean."""
    common = ["evaluate", "--model", str(tiny_dir), "--prompts", "2", "--samplers", "confidence:1"]
    for name, options in (("a", []), ("b", []), ("c", ["--seed", "1"])):
        out = str(tmp_path / name)
        assert main([*common, "confidence:2", *options, "--out", out]) == 0
    words = ["compare", "--first", "confidence:1", "--second", "confidence:2", "--results"]
    assert main([*words, str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "both hold confidence:" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "b"), str(tmp_path / "c")]) == 0
    # What is not compared may be in both.
    lines = (tmp_path / "b" / "results.jsonl").read_text().splitlines(keepends=True)
    for name, gone in (("a", "confidence:1"), ("b", "confidence:2")):
        kept = "".join(line for line in lines if json.loads(line)["sampler"] != gone)
        extra = "".join(line.replace(gone, "random:1") for line in lines if gone in line)
        (tmp_path / name / "results.jsonl").write_text(kept + extra)
    assert main([*words, str(tmp_path / "a"), str(tmp_path / "b")]) == 0
