"""Evaluations from end to end: what they refuse, write and count."""

import dataclasses
import json
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

import unmask.cli
from tests.evaluation.kills import killed_and_resumed
from tests.forks import run_code, run_two
from tests.typechecks import check_types
from unmask import UnmaskError, evaluate, load_task
from unmask.decoding import decode, encode_prompt
from unmask.decoding.options import DecodeOptions
from unmask.evaluation import EvalPlan, MemoryStore, evaluate_plan
from unmask.evaluation.plan import Piece
from unmask.evaluation.runs import CellsMissing, open_store
from unmask.policies import Needs, Threshold
from unmask.processes import Processes
from unmask.tasks import Task, Verdict


def test_everything_is_checked_before_anything_is_written(tiny_model, tmp_path):
    task = load_task("chain")
    for samplers, options in (
        ([], {}),
        (["confidence:1", "nonsense"], {}),
        (["confidence:1"], {"block_lengths": [49]}),
        (["confidence:1"], {"prompts": 0}),
        (["confidence:1"], {"seeds": ()}),
        (["confidence:1"], {"seeds": (0, 0)}),
        (["confidence:1"], {"block_lengths": [8, 16, 8]}),
        (["confidence:1"], {"block_length": 8}),
        (["confidence:1"], {"seeds": (1,), "seed": 2}),
        (["confidence:1"], {"speed": 3}),
        (["confidence:1"], {"out": None, "resume": True}),
    ):
        with pytest.raises(UnmaskError):
            evaluate(
                tiny_model,
                task,
                samplers,
                **({"block_lengths": [48], "out": tmp_path / "out"} | options),
            )
        assert not (tmp_path / "out").exists()


def test_choices_say_how_long_answers_are(tiny_model, tiny_dir, tmp_path):
    choices = ("# 7", "a then 3")
    for given, length in ((None, 3), (5, 5)):
        (point,) = evaluate(
            tiny_model,
            load_task("chain"),
            ["confidence:1"],
            prompts=2,
            choices=choices,
            max_new_tokens=given,
        )
        assert point.block_length == length and point.nfe <= length
    points = evaluate(
        tiny_model,
        load_task("chain"),
        ["confidence:1"],
        prompts=2,
        choices=choices,
        block_lengths=[2, 16, 48],
    )
    assert [point.block_length for point in points] == [2, 3]
    for wrong in ("16", 0, 2.0):
        with pytest.raises(UnmaskError, match=r"block_length is .*; give a whole number"):
            evaluate(
                tiny_model,
                load_task("chain"),
                ["confidence:1"],
                prompts=2,
                choices=choices,
                block_lengths=[wrong],
            )
    words = ["record", "--model", str(tiny_dir), "--samplers", "confidence:1", "--prompts", "2"]
    words += ["--choices", *choices, "--out", str(tmp_path / "traces")]
    assert unmask.cli.main(words) == 0
    manifest = json.loads((tmp_path / "traces" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["max_new_tokens"] == 3


def lines(directory):
    return (directory / "results.jsonl").read_text(encoding="utf-8").splitlines()


def test_killed_evaluations_end_as_uninterrupted_ones(tmp_path, tiny_dir):
    check_types(False)  # in the whole run only: the killed ones are forks of this process
    samplers = ("--samplers", "confidence:1", "random:2", "--seeds", 0, 1)
    added, whole, cut = killed_and_resumed(
        tmp_path, 3, 1, "--model", tiny_dir, *samplers, "--prompts", 12, "--batch-size", 2
    )
    assert sum(added) > 0 and whole == cut and len(whole.splitlines()) == 2 * 2 * 12


def test_two_processes_write_what_one_writes(tmp_path, tiny_dir):
    words = ("evaluate", "--model", tiny_dir, "--samplers", "confidence:8", "random:16")
    words = (*words, "--prompts", 10, "--batch-size", 1, "--temperature", 1.0, "--out")
    assert unmask.cli.main([*map(str, words), str(tmp_path / "one")]) == 0
    printed = run_two(tmp_path / "log", *words, tmp_path / "two")
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert printed.count("written to") == 1
    assert (
        json.loads((tmp_path / "two" / "summary.json").read_text())["provenance"]["processes"] == 2
    )


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


WRONG = """
import unmask
from unmask import UnmaskError
from unmask.policies import Needs, Threshold

model, task = unmask.load_model("embedded/chain"), unmask.load_task("chain")
good = {"model": model, "task": task, "samplers": ["confidence:16"], "block_lengths": [16]}
for change in (
    {"model": "embedded/chain"},
    {"model": None},
    {"task": "chain"},
    {"samplers": "confidence:16"},
    {"samplers": 3},
    {"samplers": [3]},
    {"samplers": [Threshold(0.5)]},
    {"samplers": {"mine": 3}},
    {"samplers": {3: "confidence:16"}},
    {"block_lengths": 16},
    {"block_lengths": "16"},
    {"block_lengths": [16.0]},
    {"block_lengths": [None]},
    {"block_lengths": [True]},
    {"prompts": 2.5},
    {"prompts": "2"},
    {"prompts": None},
    {"seeds": 0},
    {"seeds": ["0"]},
    {"seeds": [-1]},
    {"split": "dev"},
    {"split": None},
    {"batch_size": 0},
    {"batch_size": 2.0},
    {"traces": "yes"},
    {"resume": 1},
    {"progress": None},
    {"out": 3},
    {"options": {"temperature": 1.0}},
    {"max_new_tokens": 8.0},
    {"temperature": "hot"},
    {"temperature": float("nan")},
    {"cfg_scale": -1},
    {"eos": "sometimes"},
    {"cache": "half"},
    {"stop": "abc"},
):
    try:
        unmask.evaluate(**(good | change))
    except UnmaskError as error:
        assert str(next(iter(change))).rstrip("s") in str(error), (change, error)
    else:
        raise AssertionError(change)
"""


def test_every_wrong_argument_is_an_error_that_names_it():
    """In a fork, in which no other type checker looks at arguments first."""
    done = run_code(WRONG)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "settings",
    [
        {"stop_at_eos": True},
        {"cfg_scale": 0.5, "eos": "last"},
        {"eos": "never"},
        {"cache": "dual", "cache_refresh": 2},
    ],
)
def test_evaluate_decodes_with_every_option(tiny_model, settings):
    task = load_task("chain")
    prompts = [encode_prompt(tiny_model, each.prompt) for each in task.examples("test", 5)]
    options = DecodeOptions(max_new_tokens=24, block_length=8, **settings)
    expected = decode(tiny_model, prompts, Threshold(0.5), options)
    for given in (
        {"options": options},
        {"block_lengths": [8], "max_new_tokens": 24, **settings},
    ):
        (point,) = evaluate(tiny_model, task, ["threshold:0.5"], prompts=5, **given)
        assert point.block_length == 8
        assert point.nfe == pytest.approx(float(expected.nfe.float().mean()))
        assert point.tokens_per_forward == pytest.approx(
            float(expected.answer_tokens.sum() / expected.nfe.sum())
        )


def test_the_command_takes_one_block_length_and_seed_or_several(tiny_dir, tmp_path, capsys):
    common = ["evaluate", "--model", str(tiny_dir), "--prompts", "3", "--samplers", "random:9"]
    options = ["--temperature", "1", "--stop-at-eos", "--max-new-tokens", "12"]
    single = ["--block-length", "6", "--seed", "4", "--out", str(tmp_path / "single")]
    assert unmask.cli.main([*common, *options, *single]) == 0
    several = ["--block-lengths", "6", "--seeds", "4", "--out", str(tmp_path / "several")]
    assert unmask.cli.main([*common, *options, *several]) == 0
    assert lines(tmp_path / "single") == lines(tmp_path / "several")
    record = json.loads(lines(tmp_path / "single")[0])
    assert (record["block_length"], record["seed"]) == (6, 4)
    summary = json.loads((tmp_path / "single" / "summary.json").read_text(encoding="utf-8"))
    assert summary["stop_at_eos"] is True and summary["seeds"] == [4]
    both = ["--block-length", "6", "--block-lengths", "6", "--out", str(tmp_path / "both")]
    assert unmask.cli.main([*common, *both]) == 2
    assert "block_lengths and block_length" in capsys.readouterr().err


class Named(NamedTuple):
    """A user's own policy: reveals everything at once."""

    name: str
    needs: Needs = Needs()

    def act(self, observation, generator):
        return observation.eligible


def test_policies_of_the_caller_are_samplers(tiny_model, tmp_path):
    task = load_task("chain")
    (own,) = evaluate(tiny_model, task, [Named("greedy")], block_lengths=[16], prompts=3)
    assert (own.sampler, own.nfe) == ("greedy", 3)
    mapping = {"first": Threshold(0.5), "second": "threshold:0.5"}
    options = {"block_lengths": [16], "prompts": 6, "out": tmp_path / "out"}
    first, second = evaluate(tiny_model, task, mapping, **options)
    assert (first.sampler, second.sampler) == ("first", "second") and first.nfe == second.nfe
    with pytest.raises(UnmaskError, match=r"other settings .*policies"):
        evaluate(tiny_model, task, mapping | {"first": Threshold(0.6)}, **options, resume=True)
    assert evaluate(tiny_model, task, mapping, **options, resume=True) == [first, second]


@dataclasses.dataclass(frozen=True)
class Slow(Task):
    """Every answer whose prompt has an even length takes too long to check."""

    def verdicts(self, completions, examples):
        return [Verdict(0.0, len(example.prompt) % 2 == 0) for example in examples]


def test_verdicts_of_a_time_limit_are_counted_and_shown(tiny_model, tmp_path, capsys):
    chain = load_task("chain")
    slow = Slow(**{each.name: getattr(chain, each.name) for each in dataclasses.fields(chain)})
    options = {"block_lengths": [48], "prompts": 8, "progress": True}
    points = evaluate(tiny_model, slow, ["random:16"], out=tmp_path / "out", **options)
    records = [json.loads(line) for line in lines(tmp_path / "out")]
    late = [record for record in records if len(record["prompt"]) % 2 == 0]
    assert 0 < len(late) < 8
    assert all(record.get("timed_out") is True for record in late)
    assert sum("timed_out" in record for record in records) == len(late)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["timed_out"] == summary["points"][0]["timed_out"] == len(late)
    assert points[0].timed_out == len(late)
    assert f"{len(late)} of 8 answers" in capsys.readouterr().out
    evaluate(tiny_model, chain, ["random:16"], **options)
    assert "time limit" not in capsys.readouterr().out


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.5, -0.5])
def test_correctness_outside_0_to_1_is_an_error(tiny_model, tmp_path, value):
    task = dataclasses.replace(load_task("chain"), score=lambda text, example: value)
    with pytest.raises(UnmaskError, match=f"chain .*{value}"):
        evaluate(
            tiny_model, task, ["random:16"], block_lengths=[48], prompts=2, out=tmp_path / "out"
        )
    assert not (tmp_path / "out" / "summary.json").exists()


def test_an_answer_that_is_no_text_ends_the_first_piece(tiny_model, tmp_path):
    """Its line could not be read back when all is decoded."""
    task = dataclasses.replace(load_task("chain"), find_answer=lambda *_: 7)
    options = {"block_lengths": [48], "prompts": 2, "out": tmp_path / "out"}
    with pytest.raises(UnmaskError, match="find_answer of task chain gave 7"):
        evaluate(tiny_model, task, ["random:16"], **options)
    assert not (tmp_path / "out" / "partial" / "0.jsonl").exists()
    unmask.evaluate(tiny_model, load_task("chain"), ["random:16"], **options, resume=True)


def test_a_refusal_of_the_first_process_ends_all(tiny_model, monkeypatch):
    """The others would otherwise wait for it."""
    other = Processes(1, 2, torch.device("cpu"))
    monkeypatch.setattr(Processes, "gather", lambda self, value: ["directory is full", value])
    with pytest.raises(UnmaskError, match="directory is full"):
        open_store(MemoryStore(), {}, tiny_model, other)


def test_processes_are_joined_before_the_model_is_loaded(tiny_dir, tmp_path, monkeypatch):
    events = []
    join, load = Processes.join, unmask.models.load_model
    monkeypatch.setattr(
        Processes,
        "join",
        staticmethod(lambda device, **more: events.append(("join", device)) or join(device)),
    )
    monkeypatch.setattr(
        unmask.models,
        "load_model",
        lambda *args, **more: events.append(("load", more["device"])) or load(*args, **more),
    )
    arguments = ["--model", str(tiny_dir), "--prompts", "1", "--out", str(tmp_path / "out")]
    assert unmask.cli.main(["evaluate", "--samplers", "random:48", *arguments]) == 0
    assert events == [("join", "cpu"), ("load", torch.device("cpu"))]


def test_a_plan_may_be_run_by_itself(tiny_model):
    decode = DecodeOptions(max_new_tokens=24)
    plan = EvalPlan({"mine": Threshold(0.5)}, (8, 24), prompts=4, decode=decode, batch_size=1)
    processes = Processes(0, 1, torch.device("cpu"))
    points = evaluate_plan(tiny_model, load_task("chain"), plan, MemoryStore(), processes)
    assert [(p.sampler, p.block_length) for p in points] == [("mine", 8), ("mine", 24)]
    with pytest.raises(UnmaskError, match="block_length is 25"):
        dataclasses.replace(plan, block_lengths=(8, 25))
    with pytest.raises(UnmaskError, match="max_new_tokens is missing"):
        dataclasses.replace(plan, decode=DecodeOptions())


def test_cells_are_complete_when_their_last_piece_is_done():
    """Each piece is looked at once, however many there are."""
    work = [Piece(i // 4, f"s{i // 4}", 8, 0, (i,)) for i in range(40_000)]
    order = np.random.default_rng(0).permutation(len(work)).tolist()
    before, after = order[:10_000], order[10_000:]
    missing = CellsMissing(work, dict.fromkeys(before))
    complete = [missing.remove(number) for number in after]
    last = {work[number].cell: i for i, number in enumerate(after)}
    assert all(
        (cell is not None) == (last[work[n].cell] == i)
        for i, (cell, n) in enumerate(zip(complete, after, strict=True))
    )
