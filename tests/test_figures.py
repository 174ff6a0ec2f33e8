"""Figures in the documents are those of results that are checked in."""

import json
import re
from bisect import bisect_left
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The lab book also tells of experiments whose results were not kept.
PAGES = sorted({*(ROOT / "docs").glob("*.md"), ROOT / "README.md"} - {ROOT / "docs/lab-book.md"})
# "92.4 @ 3.8", "92.4 [90.7, 94.0] @ 3.8" or "92.4 % @ 3.8"; "+17 @ 5.6" is a difference, and of
# "76 to 80 @ 4.1 to 5.6" the parts belong to several points.
FIGURE = re.compile(
    r"(?<![\d.+−–])(?<!to )(\d+(?:\.\d+)?)\**(?: \[[^\]]*\])?(?: %)? @ (\d+(?:\.\d+)?)(?! to)"
)


def points_in(value):
    """Accuracy in percent and NFE of every point within a JSON value."""
    if isinstance(value, dict):
        pair = value.get("accuracy"), value.get("nfe")
        if all(isinstance(number, int | float) for number in pair):
            yield 100 * pair[0], pair[1]
        for part in value.values():
            yield from points_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from points_in(part)


@cache
def measured():
    """The points of all results, in order."""
    files = (ROOT / "docs/results").rglob("*.json")
    return sorted(p for file in files for p in points_in(json.loads(file.read_text("utf-8"))))


def rounds_to(number, text):
    """Whether a number, rounded as a text is, gives that text."""
    last = 10.0 ** -len(text.partition(".")[2])
    return abs(number - float(text)) <= last / 2 + 1e-6


def is_measured(accuracy, nfe):
    points = measured()
    near = points[bisect_left(points, (float(accuracy) - 1,)) :]
    for point in near:
        if point[0] > float(accuracy) + 1:
            return False
        if rounds_to(point[0], accuracy) and rounds_to(point[1], nfe):
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_accuracy_at_nfe_is_a_point_of_some_result(page):
    figures = list(FIGURE.finditer(page.read_text("utf-8")))
    assert [f.group() for f in figures if not is_measured(*f.groups())] == []


def test_a_figure_that_nothing_measured_is_found():
    (found,) = FIGURE.findall("12.3 [11, 13] @ 4.5; +17 @ 5.6; 31 to 46 @ 6.6 to 10.2")
    assert found == ("12.3", "4.5") and not is_measured(*found)
    assert is_measured("86.5", "15.5")  # README's, of its own JSON
    assert len(measured()) > 2000
