"""Fronts against each other: over which range of passes one is above."""

import json
import random
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask import UnmaskError
from unmask.cli import main
from unmask.evaluation import Point, accuracy_under_parallelism, compare_fronts, join_verdicts


def records(samplers, prompts=200, seed=0, block_length=8):
    """Results of samplers of given mean NFE and accuracy; the same prompt is hard for all."""
    rng = random.Random(seed)
    difficulty = [rng.random() for _ in range(prompts)]
    return [
        {
            "sampler": name,
            "block_length": block_length,
            "prompt": f"p{i}",
            "seed": 0,
            "correct": float(hard < accuracy),
            "nfe": nfe,
        }
        for name, (nfe, accuracy) in samplers.items()
        for i, hard in enumerate(difficulty)
    ]


def naive_afford(found, budget):
    """Prompt by prompt: the mixture of two samplers that is best on all prompts but a tenth answers
    that tenth. Of equally good mixtures it is that of neighbours among the samplers that no other
    sampler and no mixture equals with as few passes; of equal samplers the first by name stays."""
    passes = {r["sampler"]: r["nfe"] for r in found}
    names = sorted(passes, key=lambda name: (passes[name], name))
    correct = {n: [r["correct"] for r in found if r["sampler"] == n] for n in names}
    count = len(correct[names[0]])
    total = 0.0
    for i in range(count):
        others = [j for j in range(count) if j % 10 != i % 10]
        score = {n: sum(correct[n][j] for j in others) for n in names}

        def mixed(values, low, high, n):
            share = (n - passes[low]) / (passes[high] - passes[low])
            return (1 - share) * values[low] + share * values[high]

        kept = []
        for n in names:
            rivals = [score[m] for m in names if passes[m] < passes[n] or m in kept]
            rivals += [score[m] - 1e-6 for m in names if passes[m] == passes[n] and m != n]
            rivals += [
                mixed(score, low, high, passes[n])
                for low in names
                for high in names
                if passes[low] < passes[n] < passes[high]
            ]
            if score[n] > max(rivals, default=-1) + 1e-7:
                kept.append(n)
        low = [n for n in kept if passes[n] <= budget][-1]
        high = ([n for n in kept if passes[n] > budget] or [low])[0]
        values = {n: correct[n][i] for n in names}
        total += values[low] if low == high else mixed(values, low, high, budget)
    return total / count


def test_the_range_where_a_front_is_above():
    fast = records({"a": (2, 0.5), "b": (4, 0.6)})
    right = records({"c": (3, 0.3), "d": (8, 0.95)})
    ranges = join_verdicts(compare_fronts([fast], [right]))
    assert [(verdict, begin, end) for verdict, begin, end, *_ in ranges] == [
        ("above", 3, 4),
        ("below", 8, float("inf")),
    ]
    turned = join_verdicts(compare_fronts([right], [fast]))
    assert [verdict for verdict, *_ in turned] == ["below", "above"]
    assert turned[0][3] == pytest.approx(-ranges[0][4])


def test_a_coarse_grid_is_not_a_poor_one():
    """Half of the prompts at 2 passes and half at 8 are as good as one sampler between them."""
    coarse = records({"fast": (2, 0.4), "slow": (8, 0.8)}, prompts=1000)
    fine = records({"fast": (2, 0.4), "middle": (5, 0.6), "slow": (8, 0.8)}, prompts=1000)
    gaps = compare_fronts([fine], [coarse], resamples=200)
    assert [gap.nfe for gap in gaps] == [2, 5, 8]
    assert all(gap.verdict == "undecided" for gap in gaps)
    assert [gap.difference for gap in gaps] == pytest.approx([0, 0, 0], abs=0.02)


GRIDS = st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=4)


@given(GRIDS, GRIDS, GRIDS, st.sampled_from([2, 5, 9, 23]), st.booleans())
def test_differences_are_those_of_the_best_mixture_within_the_budget(
    one, again, other, prompts, nested
):
    """Two runs against one; samplers fail on the same prompts (`nested`) or on any."""
    runs = []
    for number, grid in enumerate((one, again, other)):
        runs.append([])
        for i, point in enumerate(grid):
            seed = 0 if nested else 10 * number + i
            runs[-1] += records({f"s{i}": point}, prompts=prompts, seed=seed)
    gaps = compare_fronts(runs[:2], runs[2:], resamples=20)
    assert gaps[0].nfe == max(min(nfe for nfe, _ in grid) for grid in (one, again, other))
    every = {n for n, _ in one + again + other}
    assert {gap.nfe for gap in gaps} == {n for n in every if n >= gaps[0].nfe}
    for gap in gaps:
        mine = (naive_afford(runs[0], gap.nfe) + naive_afford(runs[1], gap.nfe)) / 2
        assert gap.difference == pytest.approx(mine - naive_afford(runs[2], gap.nfe))


@pytest.mark.parametrize("accuracy", [0.1, 0.3, 0.7, 0.9])
def test_rounding_is_no_difference(accuracy):
    """A sampler on the line between two others; all resamples differ by the same last bits."""
    line = records({"a": (2, 0.0), "b": (4, 1.1)}, prompts=60)
    on_it = records({"c": (2 + 2 * accuracy, 1.1)}, prompts=60)
    for record in on_it:
        record["correct"] = accuracy
    assert {gap.verdict for gap in compare_fronts([line], [on_it], resamples=50)[:1]} == {
        "undecided"
    }


@pytest.mark.parametrize("passes", [{"b": 3, "a": 3, "c": 2}, {"b": 2, "a": 2}])
def test_the_order_of_samplers_changes_nothing(passes):
    """Only b is right on the first prompt. On the nine tenths without it all samplers are equal, so
    the fewest passes decide, and then the name."""
    side = records({name: (nfe, 1.0) for name, nfe in passes.items()}, prompts=24)
    for i, record in enumerate(side):
        record["correct"] = float(i % 3 > 0 or i == 0)
    never = records({"never": (2, 0.0)}, prompts=24)
    turned = sorted(side, key=lambda record: record["sampler"])
    gaps, again = (compare_fronts([each], [never], resamples=50) for each in (side, turned))
    assert gaps == again
    assert [gap.difference for gap in gaps] == pytest.approx([16 / 24] * len(gaps))


def test_seeds_are_part_of_the_uncertainty():
    """One good and one bad run against one in the middle: prompts alone would say "above"."""
    runs = [records({"p": (2, accuracy)}) for accuracy in (0.9, 0.5)]
    rival = [records({"h": (2, 0.6)})]
    assert join_verdicts(compare_fronts(runs, rival))[0][0] == "undecided"
    assert join_verdicts(compare_fronts(runs[:1], rival))[0][0] == "above"
    alike = [records({"p": (2, accuracy)}) for accuracy in (0.9, 0.88, 0.91)]
    assert join_verdicts(compare_fronts(alike, rival))[0][0] == "above"


def test_equal_fronts_are_seldom_told_apart():
    """Independent draws of equally good samplers: about 5 in 100 intervals leave out 0."""
    apart = 0
    for trial in range(60):
        rng = random.Random(trial)
        sides = []
        for _ in range(2):
            side = records({"x": (2, 1.0)}, prompts=100)
            for record in side:
                record["correct"] = float(rng.random() < 0.7)
            sides.append([side])
        apart += compare_fronts(*sides, resamples=300)[0].verdict != "undecided"
    assert apart <= 9


def count_apart(trials, draw, resamples=200):
    """How often the two sides that `draw` makes are told apart at their smallest budget."""
    found = [compare_fronts(*draw(np.random.default_rng(i)), resamples=resamples) for i in trials]
    return sum(gaps[0].verdict != "undecided" for gaps in found)


@pytest.mark.parametrize("runs", [2, 3])
def test_few_runs_of_a_recipe_are_seldom_told_apart_from_its_equal(runs):
    """Runs differ by 6 points, and their mean is what the rival has. Drawn with replacement, two
    runs that lie on one side of it would say so in every resample: one time in two."""

    def draw(random):
        levels = 0.6 + 0.06 * random.standard_normal(runs)
        rival = records({"h": (2, 0.6)}, prompts=400)
        return [records({"p": (2, level)}, prompts=400) for level in levels], [rival]

    assert count_apart(range(60), draw) <= 8


def test_passes_are_uncertain_too():
    """Two samplers on one steep line of accuracy by passes. How many passes a prompt takes differs
    from prompt to prompt, so where on the line a sampler lies is uncertain."""

    def draw(random):
        sides = []
        for name in "ab":
            ends = {f"{name}-fast": 4.0, f"{name}-slow": 8.0}
            side = records({end: (nfe, nfe / 10) for end, nfe in ends.items()}, prompts=400)
            for record in side:
                mean = record["nfe"]
                record["nfe"] = mean * (0.2 if random.random() < 0.5 else 1.8)
            sides.append([side])
        return sides

    assert count_apart(range(60), draw) <= 8


@pytest.mark.parametrize(
    ("differing", "verdict"), [(3, "undecided"), (5, "undecided"), (6, "above")]
)
def test_few_prompts_that_differ_say_nothing(differing, verdict):
    for prompts in (differing, 200):
        one, other = (records({"s": (2, 0.0)}, prompts=prompts) for _ in range(2))
        for record in one[:differing]:
            record["correct"] = 1.0
        (gap,) = compare_fronts([one], [other])
        assert gap.verdict == verdict
        assert gap.difference == pytest.approx(differing / prompts)


def test_more_samplers_alone_do_not_make_a_front_better():
    """One sampler against 25 that are as good: chosen on the prompts that score it, the best of 25
    would be above the one nearly always."""
    apart = 0
    for trial in range(20):
        draw = np.random.default_rng(trial)
        sides = [records({f"s{i}": (2, 1.0) for i in range(n)}, prompts=300) for n in (1, 25)]
        for side in sides:
            for record, right in zip(side, draw.random(len(side)) < 0.8, strict=True):
                record["correct"] = float(right)
        apart += compare_fronts(*([side] for side in sides), resamples=200)[0].verdict == "below"
    assert apart <= 3


def test_other_prompts_and_empty_runs_are_refused():
    with pytest.raises(UnmaskError, match="same prompts"):
        compare_fronts([records({"a": (2, 0.5)})], [records({"b": (2, 0.5)}, prompts=100)])
    with pytest.raises(UnmaskError, match="no results"):
        compare_fronts([[]], [records({"b": (2, 0.5)})])
    with pytest.raises(UnmaskError, match="no runs"):
        compare_fronts([], [records({"b": (2, 0.5)})])


def point(rate, accuracy):
    return Point("s", 8, 10, 1, accuracy, 0.0, 1.0, 8 / rate, 0.0, 9.0, tokens_per_forward=rate)


def test_aup_by_hand():
    points = [point(4.0, 0.76), point(1.0, 0.8), point(2.0, 0.8), point(8.0, 0.5)]
    # The last is more than 5 percent below the slowest one and left out.
    w = np.exp(-3 * (1 - 76 / 80))
    by_hand = 1 * 80 + (2 - 1) * (80 + 80) / 2 + (4 - 2) * (76 * w + 80) / 2
    assert accuracy_under_parallelism(points) == pytest.approx(by_hand)
    # A better rival on the task makes every loss count more, but for the first term.
    assert accuracy_under_parallelism(points, best=0.9) < by_hand
    assert accuracy_under_parallelism([point(3.0, 0.5)]) == pytest.approx(150)
    assert accuracy_under_parallelism([]) is None
    assert accuracy_under_parallelism([point(2.0, 0.0), point(3.0, 0.0)]) == 0


def test_the_command(tmp_path, capsys):
    """Evaluates an embedded model twice and compares the fronts."""
    options = ["--model", "embedded/chain", "--prompts", "40", "--block-lengths", "48"]
    for name, samplers in (("slow", ["threshold:0.9"]), ("fast", ["confidence:48"])):
        out = str(tmp_path / name)
        assert main(["evaluate", *options, "--samplers", *samplers, "--out", out]) == 0
    capsys.readouterr()
    slow, fast, out = str(tmp_path / "slow"), str(tmp_path / "f*"), tmp_path / "new" / "gaps.json"
    assert main(["compare-fronts", slow, fast, "--out", str(out)]) == 0
    assert "passes on: above" in capsys.readouterr().out
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["gaps"][0]["verdict"] == "above" and len(written["gaps"]) == 1
    written = {"p": {"a": (2, 0.5)}, "q": {"c": (3, 0), "d": (8, 1)}, "r": {"c": (3, 0)}}
    written["r"] |= {"d": (4, 0), "e": (8, 1)}
    for name, samplers in written.items():
        copy = shutil.copytree(tmp_path / "fast", tmp_path / name)
        lines = [json.dumps(record) + "\n" for record in records(samplers, prompts=50)]
        (copy / "results.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, first in (("q", "at 3.00 passes"), ("r", "from 3.00 to 4.00 passes")):
        assert main(["compare-fronts", str(tmp_path / "p"), str(tmp_path / name)]) == 0
        said = [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines()[1:]]
        assert said == [first, "from 8.00 passes on"]
    odd = shutil.copytree(tmp_path / "p", tmp_path / "p[1]")
    assert main(["compare-fronts", str(odd), fast, "--block-length", "8"]) == 2
    assert f"{tmp_path / 'fast'} has no results of block length 8" in capsys.readouterr().err
    assert main(["compare-fronts", slow, str(tmp_path / "none")]) == 2
    assert "is no directory" in capsys.readouterr().err
    for names in (f"{slow},", f",{slow}", ""):
        assert main(["compare-fronts", names, fast]) == 2
        assert "names no directory before, between or behind its commas" in capsys.readouterr().err
    assert main(["compare-fronts", slow, str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert f"output file {tmp_path} is a directory; name a file" in capsys.readouterr().err
    assert main(["compare-fronts", slow, fast, "--block-length", "7"]) == 2
    assert "block length 7; it has 48" in capsys.readouterr().err
