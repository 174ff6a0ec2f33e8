"""Intervals and summaries."""

import tracemalloc

import numpy as np
import pytest

from unmask.evaluation import bootstrap, points, summarise


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


@pytest.mark.parametrize("n", [1, 2, 39, 1000])
def test_bootstrap_equals_resampling_all_at_once(n, monkeypatch):
    values = np.random.default_rng(n).random(n)
    picks = np.random.default_rng(0).integers(0, n, (300, n))
    expected = tuple(np.percentile(values[picks].mean(1), [2.5, 97.5]))
    assert bootstrap(values, 300) == expected
    monkeypatch.setattr(points, "DRAWN_AT_ONCE", 700)
    assert bootstrap(values, 300) == expected


def test_bootstrap_does_not_hold_all_resamples():
    tracemalloc.start()
    bootstrap(np.random.default_rng(0).random(20_000), 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20, "500 × 20,000 numbers are 80 MB"
