"""Evaluations that go on where an earlier one stopped, and those that must not."""

import dataclasses
import json

import pytest
import torch

from unmask import UnmaskError, evaluate, load_model, load_task
from unmask.evaluation import read_records, runs
from unmask.evaluation.stores import Ledger, read_summary
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork


def lines(directory):
    return (directory / "results.jsonl").read_text(encoding="utf-8").splitlines()


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
    original = runs.measure
    monkeypatch.setattr(
        runs,
        "measure",
        lambda *args: measured.append(args[3]) or original(*args),
    )
    evaluate(tiny_model, load_task("chain"), samplers, **options, resume=True)
    assert len(measured) == 4
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    measured.clear()
    points = evaluate(tiny_model, load_task("chain"), samplers, **options, resume=True)
    assert not measured and [point.sampler for point in points] == samplers
    again = evaluate(tiny_model, load_task("chain"), samplers[::-1], **options, resume=True)
    assert again == points  # of a finished evaluation their order does not count


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
    with pytest.raises(UnmaskError, match=r"other settings \(samplers in their order differ\)"):
        evaluate(tiny_model, task, samplers[::-1], **options, resume=True)
    with pytest.raises(UnmaskError, match=r"already holds files.*resume"):
        evaluate(tiny_model, task, samplers, **options)
    for read in (read_records, lambda directory: read_summary(directory / "summary.json")):
        with pytest.raises(UnmaskError, match="is not finished; go on with `unmask evaluate --res"):
            read(options["out"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    (tmp_path / "mine" / ".film.part").write_text("keep")
    with pytest.raises(UnmaskError, match="mine holds no evaluation of unmask; name its direct"):
        evaluate(tiny_model, task, samplers, **(options | {"out": tmp_path / "mine"}), resume=True)
    assert len(list((tmp_path / "mine").iterdir())) == 2
    (tmp_path / "mine" / "summary.json").write_text("{}")
    with pytest.raises(UnmaskError, match=r"summary\.json, read as a summary"):
        evaluate(tiny_model, task, samplers, **(options | {"out": tmp_path / "mine"}), resume=True)
    assert len(list((tmp_path / "mine").iterdir())) == 3
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


def test_decode_time_settings_of_a_policy_are_part_of_it(tiny_model, tmp_path):
    """They are in the policy's directory, so that its name and its weights do not say them."""
    task, policy = load_task("chain"), tmp_path / "policy"
    options = {"block_lengths": [48], "prompts": 2, "out": tmp_path / "out"}
    LearnedPolicy(PolicyNetwork(NetworkConfig(width=16, mlp=16))).save_pretrained(policy)
    evaluate(tiny_model, task, [str(policy)], **options)
    config = json.loads((policy / "config.json").read_text(encoding="utf-8"))
    for change in ({"temperature": 0.5}, {"beta": 2.0}, {"fallback": False}, {"zero": ["time"]}):
        (policy / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(UnmaskError, match="policies"):
            evaluate(tiny_model, task, [str(policy)], **options, resume=True)
    (policy / "config.json").write_text(
        json.dumps(config | {"metadata": {"note": "read by nobody"}}), encoding="utf-8"
    )
    evaluate(tiny_model, task, [str(policy)], **options, resume=True)


def test_a_model_that_was_trained_on_is_another_model(tiny_dir, tmp_path):
    task = load_task("chain")
    options = {"block_lengths": [48], "prompts": 2, "out": tmp_path / "out"}
    evaluate(load_model(tiny_dir), task, ["random:16"], **options)
    evaluate(load_model(tiny_dir), task, ["random:16"], **options, resume=True)
    changed = load_model(tiny_dir)
    with torch.no_grad():
        next(iter(changed.network.parameters())).view(-1)[-1] += 1
    with pytest.raises(UnmaskError, match="model_contents"):
        evaluate(changed, task, ["random:16"], **options, resume=True)
    other_end = dataclasses.replace(load_model(tiny_dir), never_ids=(0, 2))
    with pytest.raises(UnmaskError, match="model_contents"):
        evaluate(other_end, task, ["random:16"], **options, resume=True)


# What evaluations wrote before they knew other decode options and hashes.
OLD = ["model", "task", "template", "split", "max_new_tokens", "seeds", "temperature", "cache"]
OLD += ["samplers", "block_lengths", "prompts", "batch_size", "traces", "dtype"]


def test_older_directories_go_on_and_stay_readable(begun, tiny_model):
    samplers, options, tmp_path = begun
    task, file = load_task("chain"), tmp_path / "out" / "partial" / "settings.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    old = {name: written["settings"][name] for name in OLD}
    file.write_text(json.dumps(written | {"settings": old}), encoding="utf-8")
    for changed in ({"cfg_scale": 0.5}, {"eos": "last"}, {"stop_at_eos": True}, {"stop": ("a",)}):
        with pytest.raises(UnmaskError, match=f"other settings .*{next(iter(changed))}"):
            evaluate(tiny_model, task, samplers, **options, **changed, resume=True)
    evaluate(tiny_model, task, samplers, **options, resume=True)
    assert lines(tmp_path / "out") == lines(tmp_path / "whole")
    file = tmp_path / "out" / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8"))
    points = [{k: v for k, v in p.items() if k != "timed_out"} for p in summary["points"]]
    shorter = {name: summary[name] for name in (*OLD, "fronts", "speed")} | {"points": points}
    file.write_text(json.dumps(shorter), encoding="utf-8")
    again = evaluate(tiny_model, task, samplers, **options, resume=True)
    assert [point.sampler for point in again] == samplers
    assert len(read_records(tmp_path / "out")) == 24
