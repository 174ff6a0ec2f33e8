"""Measures of reveal orders against a plain statement of them, and the command for them."""

import json
import math
import random
import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.analysis import (
    Trace,
    adjacent_share,
    analyse,
    mean_reveal_time,
    nfe_per_block,
    order_correlation,
    plot_order,
    plot_tokens,
    read_traces,
    text_nfe,
)
from unmask.cli import main


def steps(seed, rows=4, length=9):
    rng = random.Random(seed)
    return np.array([[rng.randrange(5) for _ in range(length)] for _ in range(rows)])


@given(seed=st.integers(0, 10**6), block_length=st.sampled_from([2, 3, 9]))
def test_measures_are_what_they_say(seed, block_length):
    a = steps(seed)
    expected = [
        np.mean([len({*row[i : i + block_length]}) for row in a.tolist()])
        for i in range(0, 9, block_length)
    ]
    assert np.allclose(nfe_per_block(a, block_length), expected)
    pairs = [x == y for row in a.tolist() for x, y in pairwise(row)]
    assert math.isclose(adjacent_share(a), sum(pairs) / len(pairs))
    times = [np.mean([row[i] / max(1, max(row)) for row in a.tolist()]) for i in range(9)]
    assert np.allclose(mean_reveal_time(a), times)


def ranks(values):
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


@given(seed=st.integers(0, 10**6))
def test_order_correlation_is_pearsons_of_the_ranks(seed):
    a, b = steps(seed), steps(seed + 1)
    for i, value in enumerate(order_correlation(a, b, 3)):
        block = slice(3 * i, 3 * i + 3)
        pairs = [
            (x, y)
            for x, y in zip(a[:, block].tolist(), b[:, block].tolist(), strict=True)
            if len({*x}) > 1 and len({*y}) > 1
        ]
        expected = [np.corrcoef(ranks(x), ranks(y))[0, 1] for x, y in pairs]
        assert (math.isnan(value) and not pairs) or math.isclose(
            value, np.mean(expected), abs_tol=1e-9
        )


def test_positions_never_revealed_do_not_count():
    a = np.array([[0, 1, -1], [0, 0, 1]])
    assert adjacent_share(a) == pytest.approx(1 / 3)
    assert mean_reveal_time(a).tolist() == [0.0, 0.5, 1.0]
    assert nfe_per_block(a, 3).tolist() == [2.0]
    assert text_nfe(a, np.array([3, 2])) == 1.5
    # What neither revealed is no agreement, and what one revealed at once has no order.
    one, other = np.array([[0, 1, 2, -1, -1, -1]]), np.array([[2, 1, 0, -1, -1, -1]])
    assert order_correlation(one, other, 6).tolist() == [-1.0]
    assert order_correlation(one, np.arange(6)[None], 6).tolist() == [1.0]
    assert np.isnan(order_correlation(np.array([[0, 0, 0, -1]]), np.arange(4)[None], 4)).all()


def test_passes_that_reveal_only_what_is_cut_off_are_passes(tmp_path):
    """A block-causal model denoises its last block whole, and the text is cut to L."""
    where, out = tmp_path / "results", tmp_path / "analysis"
    command = ["evaluate", "--model", "embedded/chain-blocks", "--prompts", "8", "--traces"]
    command += ["--samplers", "confidence:1", "--max-new-tokens", "18", "--out", str(where)]
    assert main(command) == 0
    (trace,) = read_traces(where)
    assert (trace.nfe > trace.reveal_step.max(1) + 1).any()
    assert main(["analyze", "--results", str(where), "--out", str(out)]) == 0
    (row,) = strict_json(out / "analysis.json")
    assert row["nfe"] == strict_json(where / "summary.json")["points"][0]["nfe"]


def test_passes_behind_the_text_are_told_apart():
    a = np.array([[2, 0, 1, 3], [0, 1, 2, 3], [4, 4, 4, 4]])
    assert text_nfe(a, np.array([4, 4, 4])) == pytest.approx((4 + 4 + 5) / 3)
    assert text_nfe(a, np.array([3, 2, 1])) == pytest.approx((3 + 2 + 5) / 3)
    assert text_nfe(a, np.array([0, 0, 0])) == 1.0  # an empty text takes the pass that says so


def test_what_a_limit_of_passes_left_masked_counts_nothing_in_the_text():
    """The end is at position 3; before it one position was never revealed, so that the text has two
    tokens, the second of them from the last pass."""
    a = np.array([[0, -1, 4, 1, 2, -1]])
    assert text_nfe(a, np.array([2])) == 5.0
    assert text_nfe(a, np.array([6])) == 5.0


def strict_json(path):
    """A file's contents; nan, which JSON has not, is an error."""

    def refuse(name):
        raise AssertionError(f"{path} holds {name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_what_is_not_defined_is_null(tmp_path, tiny_dir):
    """A block that is revealed in one pass has no order; one position has no neighbour."""
    common = ["evaluate", "--model", str(tiny_dir), "--prompts", "2", "--traces"]
    common += ["--samplers", "confidence:9", "confidence:2"]
    for length in ("9", "1"):
        where, out = tmp_path / f"results-{length}", tmp_path / f"analysis-{length}"
        assert main([*common, "--max-new-tokens", length, "--out", str(where)]) == 0
        assert main(["analyze", "--results", str(where), "--out", str(out)]) == 0
        one, _ = strict_json(out / "analysis.json")
        assert set(one["order_correlation"][f"confidence:2 BL {length}"]) == {None}
        assert (one["adjacent_share"] is None) == (length == "1")
    one = np.array([1.0])
    never = Trace("a", 3, ["p"], np.array([[0, -1, 1]]), [["x"] * 3], one, one, np.array([3]))
    (row,) = analyse([never])
    assert row["mean_reveal_time"] == [0.0, None, 1.0]
    assert plot_order([row], tmp_path / "order.png").exists()


def test_evaluate_with_samples_and_traces_then_analyze(tmp_path, tiny_dir, capsys):
    where, out = str(tmp_path / "results"), tmp_path / "analysis"
    command = [
        "evaluate",
        "--model",
        str(tiny_dir),
        "--prompts",
        "3",
        "--max-new-tokens",
        "9",
        "--block-lengths",
        "9",
        "3",
        "--out",
        where,
    ]
    command += [
        "--samplers",
        "threshold:0.5",
        "confidence:2",
        "--temperature",
        "0.7",
        "--seeds",
        "0",
        "1",
        "--pass-k",
        "1",
        "2",
        "--traces",
    ]
    assert main(command) == 0
    rows = json.loads((tmp_path / "results" / "sampling.json").read_text(encoding="utf-8"))
    assert len(rows) == 4 and {"pass@1", "pass@2", "majority"} <= set(rows[0])
    assert (
        json.loads((tmp_path / "results" / "summary.json").read_text(encoding="utf-8"))[
            "temperature"
        ]
        == 0.7
    )
    assert main(["analyze", "--results", where, "--out", str(out), "--prompt", "2"]) == 0
    found = json.loads((out / "analysis.json").read_text(encoding="utf-8"))
    assert len(found) == 4 and len(found[0]["order_correlation"]) == 3
    assert {path.name for path in out.iterdir()} == {"analysis.json", "order.png", "tokens.png"}
    lines = [
        json.loads(line)
        for line in (tmp_path / "results" / "results.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert math.isclose(found[0]["nfe"], np.mean([line["nfe"] for line in lines[:6]]))
    ends = [max([0, *line["reveal_step"][: line["answer_tokens"]]]) + 1 for line in lines[:6]]
    assert math.isclose(found[0]["text_nfe"], np.mean(ends))
    trace = read_traces(where)[0]
    assert trace.reveal_step.shape == (6, 9) and len(trace.tokens[0]) == 9


def test_dollar_signs_of_prompts_and_tokens_are_no_mathematics(tmp_path):
    prompt = r"Compute $\begin{pmatrix} 1 \\ 2 \end{pmatrix}$ of $5 and $6."
    one = np.array([1.0])
    trace = Trace(
        "a", 3, [prompt], np.array([[0, 1, 1]]), [["$\\x$", "$", "y"]], one, one, np.array([3])
    )
    assert plot_tokens([trace], 0, tmp_path / "tokens.png").exists()


def test_what_cannot_be_analysed_is_refused(tmp_path, tiny_dir, capsys):
    where = tmp_path / "plain"
    command = [
        "evaluate",
        "--model",
        str(tiny_dir),
        "--prompts",
        "2",
        "--max-new-tokens",
        "4",
        "--samplers",
        "confidence:2",
    ]
    assert main([*command, "--out", str(where)]) == 0
    assert main([*command, "--out", str(tmp_path / "x"), "--pass-k", "2"]) == 2
    assert not (tmp_path / "x").exists()
    traced = [tmp_path / "chain", tmp_path / "other"]
    assert main([*command, "--traces", "--out", str(traced[0])]) == 0
    shutil.copytree(*traced)
    lines = (traced[0] / "results.jsonl").read_text(encoding="utf-8")
    (traced[1] / "results.jsonl").write_text(lines.replace(" =", " ?"), encoding="utf-8")
    for arguments, message in (
        (["--results", *map(str, traced)], "different prompts"),
        ([], "no results"),
        (["--results", str(traced[0]), str(traced[0])], "confidence:2 BL 4 is there twice"),
        (["--results", str(where)], "--traces"),
        (["--results", str(tmp_path / "none")], "give a directory that"),
    ):
        capsys.readouterr()
        assert main(["analyze", *arguments, "--out", str(tmp_path / "a")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "a").exists()
