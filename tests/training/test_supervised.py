"""Learning from stored traces: labels, losses, and runs that are killed, resumed and refused."""

import json
import math
from dataclasses import replace

import pytest
import torch

import unmask
import unmask.training.supervised as supervised
from tests.training.test_record import record
from unmask import TrainConfig, UnmaskError, load_policy, train
from unmask.cli import main
from unmask.policies.base import Observation
from unmask.processes import Processes
from unmask.tensors import read_tensors
from unmask.training.checkpoint import new_state
from unmask.training.labels import LABELS, Labels, check_labels, rejoins, survives, truth_margin
from unmask.training.session import prepare_session
from unmask.training.supervised import (
    complete_config,
    label_parts,
    order_loss,
    part_loss,
    prepare_lesson,
)
from unmask.training.traces import Traces, TraceSteps


def some_steps(t=40, length=5):
    g = torch.Generator().manual_seed(1)
    masked = torch.rand(t, length, generator=g) > 0.3
    eligible = masked & (torch.rand(t, length, generator=g) > 0.2)
    confidence = torch.rand(t, length, generator=g)
    seen = Observation(confidence, masked, eligible, torch.arange(t) % 3, length)
    tried = torch.randint(-1, length, (t,), generator=g)
    proposal = torch.randint(0, 3, (t, length), generator=g)
    final = torch.randint(0, 3, (t, length), generator=g)
    for row in range(t):
        place = int(tried[row])
        if place >= 0 and (not eligible[row, place] or proposal[row, place] == final[row, place]):
            tried[row] = -1
    return TraceSteps(
        seen,
        proposal,
        eligible & (torch.rand(t, length, generator=g) > 0.5),
        final,
        torch.rand(t, length, generator=g) > 0.2,
        (torch.rand(t, generator=g) > 0.4).float(),
        torch.full((t,), 4),
        torch.rand(t, length, generator=g) * 2 - 1,
        tried,
        (torch.rand(t, generator=g) > 0.5).float(),
    )


def test_survives_and_truth_margin_say_what_their_sources_say():
    steps = some_steps()
    labels, ranked = (check_labels(f(steps), steps, "x") for f in (survives, truth_margin))
    for row in range(len(steps)):
        for i in range(5):
            eligible = float(steps.observation.eligible[row, i])
            same = float(steps.proposal[row, i] == steps.final[row, i])
            known = float(steps.known[row, i])
            assert labels.good[row, i] == same and labels.weight[row, i] == eligible * known
            margin = steps.margin[row, i]
            assert ranked.good[row, i] == float(margin > 0) and ranked.rank[row, i] == margin
            assert ranked.weight[row, i] == eligible
    assert labels.rank is None


def test_rejoins_counts_a_tried_reveal_for_all_that_were_not_tried():
    steps, used = some_steps(), 0
    labels = check_labels(rejoins(steps), steps, "rejoins")
    for row in range(len(steps)):
        eligible = [i for i in range(5) if steps.observation.eligible[row, i]]
        same = [i for i in eligible if steps.proposal[row, i] == steps.final[row, i]]
        others, place = len(eligible) - len(same), int(steps.tried[row])
        weights, good = [0.0] * 5, {}
        drawn = place >= 0 or (others == 0 and steps.rejoined[row] == 1)
        if steps.correct[row] == 1 and drawn:
            for i in same:
                weights[i], good[i] = 1.0, 1.0
            if place >= 0:
                weights[place], good[place] = float(others), float(steps.rejoined[row])
                used += 1
        assert labels.weight[row].tolist() == weights
        assert all(labels.good[row, i] == value for i, value in good.items())
        assert sum(weights) in (0, len(eligible))
    assert used > 3


@pytest.mark.parametrize("options", [{"max_passes": 3}, {"stop_at_eos": True, "max_passes": 7}])
def test_what_a_limit_of_passes_leaves_masked_counts_nothing_in_survives(
    tiny_model, tmp_path, options
):
    traces = record(tiny_model, tmp_path / "t", "random:1", decode=options)
    steps = traces.gather(torch.arange(len(traces)), torch.device("cpu"))
    masked = steps.final == tiny_model.mask_id
    assert masked.any() and not (steps.known & masked).any()
    assert (steps.known | masked)[steps.nfe < options["max_passes"]].all()
    assert torch.equal(survives(steps).weight, steps.known.float())


def test_the_ranking_loss_is_the_mean_over_pairs():
    steps = some_steps()
    labels = check_labels(truth_margin(steps), steps, "x")
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(2))
    found = order_loss(logits, labels)
    for row in range(40):
        each = [
            math.log1p(math.exp(float(logits[row, j] - logits[row, i])))
            for i in range(5)
            for j in range(5)
            if labels.weight[row, i] > 0
            and labels.weight[row, j] > 0
            and labels.rank[row, i] > labels.rank[row, j]
        ]
        assert float(found[row]) == pytest.approx(sum(each) / max(1, len(each)), abs=1e-5)


@pytest.fixture(scope="module")
def traces(tiny_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("traces") / "t"
    record(unmask.load_model(tiny_dir), out, "random:2", n=12, judge=0.5)
    return out


def run_config(out, traces, tiny_dir, **changes):
    settings = {"rounds": 3, "trace_batch": 16, "width": 16, "lr": 1e-2, "eval_prompts": 4}
    settings |= {"from_traces": str(traces), "model": str(tiny_dir), "out": out}
    return TrainConfig(**(settings | changes))


def metrics(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def only_certain(steps):
    good = (steps.observation.confidence[..., 0] > 0.5).float()
    return Labels(good, torch.ones_like(good))


def test_a_policy_learns_its_label(traces, tiny_dir, tmp_path):
    config = run_config(
        tmp_path / "run", traces, tiny_dir, rounds=25, patience=25, wrong_weight=1.0
    )
    out = train(config, label=only_certain)
    rows = metrics(out)
    assert rows[-1]["held_out_loss"] < 0.3 * rows[0]["held_out_loss"]
    policy = load_policy(out / "best")
    steps = Traces.open(traces).gather(torch.arange(40), torch.device("cpu"))
    eligible = steps.observation.eligible
    right = (policy.logits(steps.observation) > 0) == (only_certain(steps).good > 0.5)
    assert right[eligible].float().mean() > 0.95
    assert policy.metadata["trained"]["from_traces"] == str(traces) and policy.metadata["pareto"]
    card = (out / "best" / "README.md").read_text(encoding="utf-8")
    assert f"| traces | {traces} |" in card and "| α |" not in card
    assert policy.metadata["trained"]["label"].endswith("test_supervised.only_certain")


@pytest.mark.parametrize("changes", [{"label": "rejoins"}, {"alpha_range": (0.3, 3.0)}])
def test_micro_batches_do_not_change_what_is_learnt(
    traces, tiny_dir, tmp_path, monkeypatch, changes
):
    monkeypatch.setattr("unmask.training.front.RANGE_PROMPTS", 4)
    weights = []
    for size in (3, 128):
        out = tmp_path / f"{size}"
        train(run_config(out, traces, tiny_dir, micro_batch=size, rounds=1, **changes))
        weights.append(read_tensors(out / "last" / "model.safetensors"))
    for name, value in weights[0].items():
        assert (value - weights[1][name]).abs().max() < 2e-3, name


def test_each_step_has_the_same_alpha_however_many_processes_there_are(
    traces, tiny_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    config = run_config(tmp_path / "run", traces, tiny_dir, alpha_range=(0.3, 3.0), micro_batch=3)
    config = supervised.complete_config(config)

    def told(rank, world):
        processes = Processes(rank, world, torch.device("cpu"))
        lesson = prepare_lesson(prepare_session(config, processes, None), None)
        found = [part.steps for part, _ in label_parts(lesson, lesson.learn[:16], 7)]
        return [
            (alpha, step.tolist())
            for steps in found
            for alpha, step in zip(
                steps.observation.alpha.tolist(), steps.observation.confidence, strict=True
            )
        ]

    whole = told(0, 1)
    assert len({alpha for alpha, _ in whole}) == 16
    assert sorted(told(0, 2) + told(1, 2)) == sorted(whole)


def test_a_run_that_is_killed_and_resumed_is_the_same(traces, tiny_dir, tmp_path, monkeypatch):
    whole = train(run_config(tmp_path / "whole", traces, tiny_dir))

    class Killed(BaseException):
        pass

    original = supervised.learn_round

    def learn_round(lesson, state):
        if state.round == 2:
            raise Killed
        return original(lesson, state)

    monkeypatch.setattr(supervised, "learn_round", learn_round)
    with pytest.raises(Killed):
        train(run_config(tmp_path / "cut", traces, tiny_dir))
    monkeypatch.undo()
    train(TrainConfig(resume=tmp_path / "cut"))
    assert metrics(whole) == metrics(tmp_path / "cut")
    names = ("checkpoint.safetensors", "best/model.safetensors", "last/model.safetensors")
    for name in names:
        assert (whole / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_run_ends_when_the_held_out_loss_no_longer_falls(traces, tiny_dir, tmp_path):
    config = run_config(tmp_path / "run", traces, tiny_dir, rounds=30, lr=0.0, patience=2)
    rows = metrics(train(config))
    assert len(rows) == 3 and len({row["held_out_loss"] for row in rows}) == 1


def test_a_label_of_ones_own(traces, tiny_dir, tmp_path):
    config = run_config(tmp_path / "run", traces, tiny_dir, rounds=1)
    out = train(config, label=only_certain)
    named = json.loads((out / "run.json").read_text())["label_function"]
    assert named.endswith("test_supervised.only_certain")
    with pytest.raises(UnmaskError, match="give train\\(\\) label=only_certain"):
        train(TrainConfig(resume=out))
    train(TrainConfig(resume=out), label=only_certain)

    def refused(label):
        with pytest.raises(UnmaskError) as error:
            train(run_config(tmp_path / "refused", traces, tiny_dir), label=label)
        assert not (tmp_path / "refused").exists()
        return str(error.value)

    ones = torch.ones(3, 8)
    assert "gave a int; let it return an unmask.training.Labels" in refused(lambda steps: 3)
    assert "is [3, 8]; let it be" in refused(lambda steps: Labels(ones, ones))
    assert "no finite number" in refused(
        lambda steps: Labels(survives(steps).good * torch.nan, survives(steps).weight)
    )
    assert "negative weight" in refused(
        lambda steps: Labels(survives(steps).good, -survives(steps).weight)
    )


def test_what_traces_cannot_teach_is_refused(traces, tiny_dir, tmp_path, capsys):
    def refusal(*words):
        out = tmp_path / "refused"
        given = ["--from-traces", str(traces)] if "--from-traces" not in words else []
        assert main(["train", "--out", str(out), *given, *words]) == 2
        assert not out.exists()
        return capsys.readouterr().err

    assert "prompts has no use with from_traces" in refusal("--prompts", "3")
    assert "alpha has no use with from_traces" in refusal("--alpha", "3")
    other = replace(unmask.load_task("chain"), name="other")
    with pytest.raises(UnmaskError, match="recorded with task chain"):
        train(run_config(tmp_path / "refused", traces, tiny_dir), task=other)
    assert "leave it out" in refusal("--action", "plackett-luce")
    assert "recorded with task chain; leave task out" in refusal("--task", "sudoku")
    assert "recorded with block_length None" in refusal("--block-length", "4")
    assert "record them with --truth" in refusal("--label", "truth-margin")
    assert "record them with --inputs 3 --hidden" in refusal("--inputs", "3", "--hidden")
    assert "holds no manifest.json" in refusal("--from-traces", str(tmp_path))
    assert "invalid choice" in refusal("--label", "guess")
    assert main(["train", "--out", str(tmp_path / "r"), "--label", "rejoins"]) == 2
    assert "label was given without from_traces" in capsys.readouterr().err


def test_a_block_length_of_the_whole_answer_is_that_of_full_diffusion(traces, tiny_dir, tmp_path):
    config = run_config(tmp_path / "run", traces, tiny_dir, block_length=8)
    completed = complete_config(config)
    assert (completed.decode.block_length, completed.decode.max_new_tokens) == (8, 8)


def test_weights_below_one_in_all_do_not_shrink_the_loss(traces, tiny_dir, tmp_path):
    """It is Σ w · BCE / Σ w whatever the weights add up to."""
    session = prepare_session(
        run_config(tmp_path / "run", traces, tiny_dir), Processes.join("cpu"), None
    )
    state, losses = new_state(session), []
    for scale in (1.0, 1e-4, 0.0):

        def scaled(steps, scale=scale):
            found = survives(steps)
            return replace(found, weight=scale * found.weight)

        lesson = prepare_lesson(session, scaled)
        ((part, counts),) = label_parts(lesson, lesson.learn[:4], seed=0)
        losses.append(float(part_loss(lesson, state, part, counts).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0] > 0
    assert losses[2] == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_is_loaded_as_it_was_for_the_traces(tiny_dir, tmp_path, dtype):
    record(unmask.load_model(tiny_dir, dtype=dtype), tmp_path / "t", "confidence:3", n=4)
    for name, given in (("run", {}), ("auto", {"dtype": "auto"})):
        run = train(run_config(tmp_path / name, tmp_path / "t", tiny_dir, rounds=1, **given))
        assert json.loads((run / "run.json").read_text())["settings"]["dtype"] == dtype
    other = {"float32": "bfloat16", "bfloat16": "float32"}[dtype]
    with pytest.raises(UnmaskError, match=f"recorded with dtype {dtype}; leave dtype out"):
        train(run_config(tmp_path / "other", tmp_path / "t", tiny_dir, dtype=other))


def test_traces_of_another_model_are_refused(traces, tiny_dir, tmp_path):
    path = traces / "manifest.json"
    text = path.read_text()
    manifest = json.loads(text)
    manifest["settings"]["model_contents"] = "0" * 16
    path.write_text(json.dumps(manifest))
    with pytest.raises(UnmaskError, match="are of another model"):
        train(run_config(tmp_path / "run", traces, tiny_dir))
    path.write_text(text)
    assert set(LABELS) == {"survives", "rejoins", "truth-margin"}
