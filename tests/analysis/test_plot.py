"""Figures, and what drawing them leaves alone."""

import subprocess
import sys

import pytest

from tests.disk import full_disk
from unmask import UnmaskError
from unmask.analysis import plot_pareto
from unmask.analysis.plot import costs_against
from unmask.evaluation import Point

BACKEND = """
import matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
mine = plt.figure()
import unmask.analysis
from unmask.analysis import plot_pareto
from unmask.evaluation import Point
points = [Point("confidence:1", 8, 10, 1, 0.5, 0.4, 0.6, 4.0, 3.0, 5.0)]
plot_pareto(points, 8, "title", "figure.png")
assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
assert plt.get_fignums() == [mine.number] and plt.gcf() is mine
"""


def test_the_callers_backend_and_figures_stay(tmp_path):
    """As in a notebook, which has a backend of its own."""
    done = subprocess.run(
        [sys.executable, "-c", BACKEND], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_ending_decides_the_format(tmp_path, suffix, begins):
    points = [
        Point(sampler, block_length, 10, 1, 0.5, 0.4, 0.6, 4.0, 3.0, 5.0, seconds=0.1)
        for sampler in ("threshold:0.9", "runs/a/best")
        for block_length in (8, 16)
    ]
    for against in ("nfe", "seconds"):
        out = tmp_path / f"{against}.{suffix}"
        plot_pareto(points, 16, "title", out, against=against)
        assert out.read_bytes().startswith(begins)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_full_disk_leaves_the_figure_that_was_there(tmp_path, suffix):
    points = [Point("confidence:1", 8, 10, 1, 0.5, 0.4, 0.6, 4.0, 3.0, 5.0)]
    out = tmp_path / f"a.{suffix}"
    out.write_text("before")
    with full_disk(100), pytest.raises(UnmaskError, match="too large"):
        plot_pareto(points, 8, "title", out)
    assert out.read_text() == "before" and list(tmp_path.iterdir()) == [out]


def test_figures_that_cannot_be_written_or_drawn_are_refused(tmp_path):
    points = [Point("confidence:1", 8, 10, 1, 0.5, 0.4, 0.6, 4.0, 3.0, 5.0)]
    with pytest.raises(UnmaskError, match="no image file"):
        plot_pareto(points, 8, "title", tmp_path)
    with pytest.raises(UnmaskError, match="cannot be written"):
        plot_pareto(points, 8, "title", tmp_path / "figure.nothing")
    with pytest.raises(UnmaskError, match="seconds"):
        plot_pareto(points, 8, "title", tmp_path / "figure.png", against="seconds")


def test_equal_samplers_of_two_evaluations_are_drawn_at_their_own_costs(tmp_path):
    """As with and without an option that changes the cost."""
    points = [Point("threshold:0.9", 8, 9, 1, 0.5, 0.4, 0.6, nfe, nfe, nfe) for nfe in (15.0, 7.0)]
    assert [costs_against(points, "nfe")(point) for point in points] == [15.0, 7.0]
