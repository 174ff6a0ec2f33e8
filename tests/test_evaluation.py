"""Intervals, summaries and files of evaluations."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kills import command, killed_and_resumed
from unmask import UnmaskError, evaluate, load_task
from unmask.evaluation import (
    Point,
    area,
    bootstrap,
    compare,
    family,
    fronts,
    pareto,
    run,
    summarise,
)
from unmask.evaluation.ledger import Ledger
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork


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
        (["confidence:1"], {"cache": "half"}),
    ):
        with pytest.raises(UnmaskError):
            evaluate(
                tiny_model,
                task,
                samplers,
                **({"block_lengths": [48], "out": tmp_path / "out"} | options),
            )
        assert not (tmp_path / "out").exists()


def lines(directory):
    return (directory / "results.jsonl").read_text().splitlines()


def test_killed_evaluations_end_as_uninterrupted_ones(tmp_path, tiny_dir):
    samplers = ("--samplers", "confidence:1", "random:2", "--seeds", 0, 1)
    added, whole, cut = killed_and_resumed(
        tmp_path, 3, 1, "--model", tiny_dir, *samplers, "--prompts", 24, "--batch-size", 2
    )
    assert sum(added) > 0 and whole == cut and len(whole.splitlines()) == 2 * 2 * 24


def test_two_processes_write_what_one_writes(tmp_path, tiny_dir):
    options = (
        "--model",
        tiny_dir,
        "--samplers",
        "confidence:8",
        "random:16",
        "--prompts",
        10,
        "--batch-size",
        1,
        "--temperature",
        1.0,
    )
    subprocess.run(command(tmp_path / "one", *options), check=True, capture_output=True)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, *command(tmp_path / "two", *options)[1:]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert done.stdout.count("written to") == 1
    assert (
        json.loads((tmp_path / "two" / "summary.json").read_text())["provenance"]["processes"] == 2
    )


@pytest.fixture
def begun(tiny_model, tmp_path):
    """A directory as a kill leaves it: three of six pieces, the last of them torn."""
    options = {"block_lengths": [48], "prompts": 12, "batch_size": 1, "out": tmp_path / "out"}
    samplers = ["confidence:8", "random:16"]
    evaluate(tiny_model, load_task("chain"), samplers, **(options | {"out": tmp_path / "whole"}))
    kept = []
    with pytest.MonkeyPatch.context() as patch:

        def writer(self, rank):
            write = ledger_writer(self, rank)

            def stop_after_three(piece):
                write(piece)
                kept.append(piece)
                if len(kept) == 3:
                    raise KeyboardInterrupt

            return stop_after_three

        ledger_writer = Ledger.writer
        patch.setattr(Ledger, "writer", writer)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tiny_model, load_task("chain"), samplers, **options)
    file = tmp_path / "out" / "partial" / "0.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    return samplers, options, tmp_path


def test_resuming_drops_a_torn_line_and_repeats_nothing_else(begun, tiny_model, monkeypatch):
    samplers, options, tmp_path = begun
    measured = []
    original = run.measure
    monkeypatch.setattr(
        run,
        "measure",
        lambda *args, **kwargs: measured.append(args[2]) or original(*args, **kwargs),
    )
    evaluate(tiny_model, load_task("chain"), samplers, **options, resume=True)
    assert len(measured) == 4
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    measured.clear()
    points = evaluate(tiny_model, load_task("chain"), samplers, **options, resume=True)
    assert not measured and [point.sampler for point in points] == samplers


def test_only_the_same_evaluation_is_resumed(begun, tiny_model):
    samplers, options, tmp_path = begun
    task = load_task("chain")
    for changed, says in (
        ({"prompts": 11}, "prompts"),
        ({"batch_size": 2}, "batch_size"),
        ({"seeds": (1,)}, "seeds"),
        ({"traces": True}, "traces"),
    ):
        with pytest.raises(UnmaskError, match=f"other settings .*{says}"):
            evaluate(tiny_model, task, samplers, **(options | changed), resume=True)
    with pytest.raises(UnmaskError, match="samplers"):
        evaluate(tiny_model, task, samplers[:1], **options, resume=True)
    with pytest.raises(UnmaskError, match=r"already holds files.*resume"):
        evaluate(tiny_model, task, samplers, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(UnmaskError, match="already holds files"):
        evaluate(tiny_model, task, samplers, **(options | {"out": tmp_path / "mine"}), resume=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(UnmaskError, match="out is missing"):
        evaluate(tiny_model, task, samplers, **(options | {"out": None}), resume=True)


def test_a_policy_that_was_trained_on_is_another_policy(tiny_model, tmp_path):
    task = load_task("chain")
    options = {"block_lengths": [48], "prompts": 2, "out": tmp_path / "out"}
    LearnedPolicy(PolicyNetwork(NetworkConfig(width=16, mlp=16))).save_pretrained(
        tmp_path / "policy"
    )
    evaluate(tiny_model, task, [str(tmp_path / "policy")], **options)
    LearnedPolicy(PolicyNetwork(NetworkConfig(width=16, mlp=16))).save_pretrained(
        tmp_path / "policy"
    )
    with pytest.raises(UnmaskError, match="samplers"):
        evaluate(tiny_model, task, [str(tmp_path / "policy")], **options, resume=True)


def test_batch_size_and_company_do_not_change_results(tiny_model, tmp_path):
    """Random numbers belong to a prompt, whatever piece it is decoded in."""
    for batch_size in (1, 3, 64):
        options = {
            "block_lengths": [48],
            "prompts": 14,
            "temperature": 1.0,
            "out": tmp_path / str(batch_size),
        }
        evaluate(tiny_model, load_task("chain"), ["random:4"], batch_size=batch_size, **options)
    assert lines(tmp_path / "1") == lines(tmp_path / "3") == lines(tmp_path / "64")


def test_what_an_evaluation_costs_is_reported(tiny_model, tmp_path):
    evaluate(
        tiny_model,
        load_task("chain"),
        ["confidence:8"],
        block_lengths=[48],
        prompts=9,
        batch_size=2,
        out=tmp_path / "out",
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (speed,) = summary["speed"]
    assert speed["seconds"] > 0 and speed["seconds_per_prompt"] == pytest.approx(
        speed["seconds"] / 9
    )
    assert (
        speed["model_calls"] == 6 * 5
    )  # eight prompts in four batches of two, and one more: six passes each
    assert 0 < speed["padding_share"] < 0.5 and speed["positions_per_second"] > 0
    records = [json.loads(line) for line in lines(tmp_path / "out")]
    (point,) = summary["points"]
    assert point["tokens_per_forward"] == pytest.approx(
        sum(r["answer_tokens"] for r in records) / (6 * 9)
    )
    assert [row["family"] for row in summary["fronts"]] == ["all", "confidence"]


def point(sampler, nfe, accuracy, block_length=8):
    return Point(sampler, block_length, 10, 1, accuracy, accuracy, accuracy, nfe, nfe, nfe)


def test_families_are_heuristics_with_their_settings_and_runs():
    names = [
        "threshold:0.9",
        "threshold",
        "threshold:0.5@block_length=16",
        "threshold@block_length=16",
        "runs/a/last@beta=2",
    ]
    expected = [
        "threshold",
        "threshold",
        "threshold@block_length=16",
        "threshold@block_length=16",
        "policy a",
    ]
    assert [family(name) for name in names] == expected


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


def test_comparison_needs_the_same_prompts_and_a_shared_block_length():
    first, second = paired(20, 0.1, 0)
    with pytest.raises(UnmaskError, match="different prompts"):
        compare(first, second[1:])
    with pytest.raises(UnmaskError, match="no block length"):
        compare(first, [row | {"block_length": 16} for row in second])
