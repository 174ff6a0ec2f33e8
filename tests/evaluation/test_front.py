"""Families, the Pareto front and the area under it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.evaluation import Point, area, families, family, fronts, pareto


def point(sampler, nfe, accuracy, block_length=8):
    return Point(sampler, block_length, 10, 1, accuracy, accuracy, accuracy, nfe, nfe, nfe)


def test_families_are_heuristics_with_their_settings_and_runs():
    names = [
        "threshold:0.9",
        "threshold",
        "threshold:0.5@block_length=16",
        "threshold@block_length=16",
        "runs/a/last@beta=2",
        "runs/a/policy/best",
        "runs/policy-3",
    ]
    expected = [
        "threshold",
        "threshold",
        "threshold@block_length=16",
        "threshold@block_length=16",
        "policy a",
        "policy",
        "policy-3",
    ]
    assert [family(name) for name in names] == expected


def test_policies_of_different_directories_are_different_families():
    names = ["a/s0/last@alpha=1", "b/s0/last@alpha=1", "b/s0/best", "b/s1/last", "threshold:0.9"]
    expected = ["policy a/s0", "policy b/s0", "policy b/s0", "policy s1", "threshold"]
    assert list(families(names).values()) == expected
    rows = fronts([point(name, 4.0, 0.5) for name in names], 64)
    assert [row["family"] for row in rows] == ["all", *dict.fromkeys(expected)]


def test_front_and_area():
    points = [
        point("confidence:1", 16.0, 0.9),
        point("confidence:4", 4.0, 0.5),
        point("threshold:0.5", 4.0, 0.6),
        point("margin:2", 8.0, 0.4),
    ]
    assert [p.sampler for p in pareto(points)] == ["threshold:0.5", "confidence:1"]
    # From 1 to 4 passes nothing, from 4 to 16 0.6, from 16 to 64 0.9: two doublings each of six.
    assert area(points, 64) == pytest.approx((2 * 0.6 + 2 * 0.9) / 6)
    assert area([], 64) == 0
    assert area([point("a", 1.0, 1.0)], 64) == pytest.approx(1)
    assert area([point("a", 64.0, 1.0)], 64) == pytest.approx(0)
    rows = fronts([*points, point("confidence:2", 2.0, 1.0, block_length=64)], 64)
    assert [(row["block_length"], row["family"]) for row in rows] == [
        *((8, name) for name in ("all", "confidence", "threshold", "margin")),
        *((64, name) for name in ("all", "confidence")),
    ]
    assert rows[0]["front"] == ["threshold:0.5", "confidence:1"] and rows[0][
        "area"
    ] == pytest.approx(0.5)


@given(
    st.lists(st.tuples(st.floats(1, 64), st.floats(0, 1)), min_size=1, max_size=8),
    st.tuples(st.floats(1, 64), st.floats(0, 1)),
)
def test_a_further_sampler_never_makes_a_front_worse(values, more):
    points = [point(f"s{i}", nfe, accuracy) for i, (nfe, accuracy) in enumerate(values)]
    assert 0 <= area(points, 64) <= area([*points, point("more", *more)], 64) + 1e-12 <= 1 + 2e-12
    front = pareto(points)
    assert all(a.nfe < b.nfe and a.accuracy < b.accuracy for a, b in pairwise(front))
    assert all(any(f.nfe <= p.nfe and f.accuracy >= p.accuracy for f in front) for p in points)
