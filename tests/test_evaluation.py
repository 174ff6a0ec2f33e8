"""Intervals, summaries and files of evaluations."""

import numpy as np
import pytest

from unmask import UnmaskError, evaluate, load_task
from unmask.evaluation import bootstrap, summarise


def records(n=60, seeds=(0,)):
    rng = np.random.default_rng(1)
    return [
        {
            "sampler": s,
            "block_length": 8,
            "seed": seed,
            "prompt": f"p{i}",
            "correct": float(rng.random() < 0.7),
            "nfe": int(rng.integers(3, 9)),
        }
        for s in ("a", "b")
        for seed in seeds
        for i in range(n)
    ]


def test_bootstrap_covers_the_mean_and_shrinks_with_more_prompts():
    rng = np.random.default_rng(0)
    covered, widths = 0, {}
    for n in (50, 800):
        intervals = [bootstrap((rng.random(n) < 0.3).astype(float), 500) for _ in range(60)]
        covered += sum(low <= 0.3 <= high for low, high in intervals)
        widths[n] = np.mean([high - low for low, high in intervals])
    assert covered >= 0.88 * 120
    assert 3 < widths[50] / widths[800] < 5


def test_summary_equals_direct_means_in_order():
    found = records(seeds=(0, 1))
    points = summarise(found)
    assert [(p.sampler, p.prompts, p.seeds) for p in points] == [("a", 60, 2), ("b", 60, 2)]
    for p in points:
        mine = [r for r in found if r["sampler"] == p.sampler]
        assert p.accuracy == pytest.approx(np.mean([r["correct"] for r in mine]))
        assert p.nfe == pytest.approx(np.mean([r["nfe"] for r in mine]))
        assert p.accuracy_low <= p.accuracy <= p.accuracy_high and p.nfe_low <= p.nfe <= p.nfe_high


def test_more_seeds_of_the_same_results_do_not_narrow_the_interval():
    once = records()
    twice = once + [{**r, "seed": 1} for r in once]
    for a, b in zip(summarise(once), summarise(twice), strict=True):
        assert (a.accuracy_low, a.accuracy_high) == pytest.approx((b.accuracy_low, b.accuracy_high))


def test_everything_is_checked_before_anything_is_written(tiny_model, tmp_path):
    task = load_task("chain")
    for samplers, options in (
        ([], {}),
        (["confidence:1", "nonsense"], {}),
        (["confidence:1"], {"block_lengths": [49]}),
        (["confidence:1"], {"prompts": 0}),
        (["confidence:1"], {"seeds": ()}),
    ):
        with pytest.raises(UnmaskError):
            evaluate(tiny_model, task, samplers, **({"block_lengths": [48], "out": tmp_path / "out"} | options))
        assert not (tmp_path / "out").exists()
