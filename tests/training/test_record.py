"""Recording: what is stored is what the decode saw, and what was asked of the model afterwards."""

import json
import os
import shutil

import pytest
import torch

import unmask
from tests.forks import run_two
from tests.policies.test_policies import perturbed
from unmask import DecodeOptions, LearnedPolicy, UnmaskError
from unmask.cli import main
from unmask.decoding import Recorder, decode
from unmask.evaluation.plan import EvalPlan
from unmask.policies import load_policy
from unmask.policies.base import Needs
from unmask.processes import Processes
from unmask.rng import row_keys
from unmask.tasks import prompt_tokens
from unmask.tensors import read_tensors, write_tensors
from unmask.training.labels import rejoins
from unmask.training.record import Recording, record_traces
from unmask.training.traces import Traces, pack_bits, unpack_bits

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


def record(model, out, sampler="threshold:0.5", n=5, batch_size=2, decode=None, **settings):
    options = {"max_new_tokens": 8, "block_length": None} | (decode or {})
    block_length = options.pop("block_length") or options["max_new_tokens"]
    plan = EvalPlan(
        samplers={sampler: load_policy(sampler)},
        block_lengths=(block_length,),
        prompts=n,
        split="train",
        decode=DecodeOptions(**options),
        batch_size=batch_size,
    )
    task = unmask.load_task("chain")
    record_traces(model, task, Recording(plan, **settings), out, processes=ALONE)
    return Traces.open(out)


def all_steps(traces):
    return traces.gather(torch.arange(len(traces)), CPU)


def decoded_again(model, traces, sampler, needs, **options):
    """The same decode, recorded by the engine: steps by problem and pass."""
    examples = unmask.load_task("chain").examples("train", 5)
    ids = [prompt_tokens(model, example) for example in examples]
    keys = row_keys(ids, 0)
    policy = load_policy(sampler)
    return decode(model, ids, policy, DecodeOptions(**options), keys=keys, recorder=Recorder(needs))


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("threshold:0.5", {}),
        ("entropy:0.5", {"block_length": 3}),
        ("random:2", {"temperature": 0.7, "stop_at_eos": True}),
        ("confidence:1", {"max_passes": 3}),
    ],
)
def test_steps_are_those_of_the_decode(tiny_model, tmp_path, sampler, options):
    traces = record(
        tiny_model, tmp_path / "t", sampler, decode=options, inputs=3, hidden=True, batch_size=1
    )
    found = all_steps(traces)
    needs = Needs(frozenset({"hidden"}), 3)
    again = decoded_again(tiny_model, traces, sampler, needs, max_new_tokens=8, **options)
    seen = again.transitions
    order = {
        (row, step): place
        for place, (row, step) in enumerate(
            zip(seen.row.tolist(), seen.passes.tolist(), strict=True)
        )
    }
    rows = torch.tensor(
        [
            order[pair]
            for pair in zip(traces.prompt.tolist(), found.observation.step.tolist(), strict=True)
        ]
    )
    assert sorted(rows.tolist()) == list(range(len(seen.row)))
    expected = seen.observation[rows]
    assert (found.observation.masked == expected.masked).all()
    assert (found.observation.eligible == expected.eligible).all()
    assert (found.action == (seen.action[rows] > 0)).all()
    assert torch.equal(
        found.observation.features["hidden"].float(), expected.features["hidden"].bfloat16().float()
    )
    close = (found.observation.confidence.logit() - expected.confidence.logit()).abs()
    assert (close / expected.confidence.logit().abs().clamp(min=1))[
        expected.confidence.logit().abs() < 15
    ].max() < 2e-3
    assert torch.equal(found.final, again.tokens[seen.row[rows]])
    assert torch.equal(found.nfe, again.nfe[seen.row[rows]])
    assert (found.proposal == found.final)[found.action].all()
    assert traces.forwards == again.cost.rows or traces.forwards >= again.cost.rows


def test_bits_are_packed_and_unpacked():
    bits = torch.rand(7, 19) > 0.5
    assert pack_bits(bits).shape == (7, 3)
    assert torch.equal(unpack_bits(pack_bits(bits), 19), bits)


def test_worked_answers_are_forced_and_their_margins_are_the_models(tiny_model, tmp_path):
    traces = record(tiny_model, tmp_path / "t", decode={"max_new_tokens": 48}, n=3, truth=True)
    found = all_steps(traces)
    examples = unmask.load_task("chain").examples("train", 3)
    for place in range(0, len(traces), 7):
        example = examples[int(traces.prompt[place])]
        ids = prompt_tokens(tiny_model, example)
        truth = tiny_model.tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        truth = torch.tensor([*truth, *[tiny_model.eos_ids[0]] * (48 - len(truth))])
        assert torch.equal(found.final[place], truth) and found.correct[place] == 1
        masked = found.observation.masked[place]
        canvas = torch.tensor([*ids, *truth.masked_fill(masked, tiny_model.mask_id).tolist()])
        logits = tiny_model.logits(canvas[None], torch.ones(1, len(canvas)).long()).clone()
        logits[..., list(tiny_model.never_ids)] = -torch.inf
        chances = logits[0, len(ids) :].softmax(-1)
        own = chances.gather(1, truth[:, None])[:, 0]
        rival = chances.scatter(1, truth[:, None], 0).max(1).values
        assert (found.margin[place] - (own - rival)).abs().max() < 1e-3
        assert torch.equal(found.proposal[place], chances.argmax(1))


def test_one_more_reveal_is_decoded_on_to_its_verdict(tiny_model, tmp_path, any_digit):
    traces = record(tiny_model, tmp_path / "t", n=8, judge=0.7)
    found, task = all_steps(traces), unmask.load_task("chain")
    examples = task.examples("train", 8)
    tried = (found.tried >= 0).nonzero()[:, 0].tolist()
    assert 3 <= len(tried) < len(traces) and len(set(found.rejoined[tried].tolist())) == 2
    for place in tried:
        position, seen = int(found.tried[place]), found.observation
        assert found.correct[place] == 1 and seen.masked[place, position]
        assert not found.action[place, position]
        assert found.proposal[place, position] != found.final[place, position]
        example = examples[int(traces.prompt[place])]
        ids = prompt_tokens(tiny_model, example)
        shown = found.final[place].clone()
        shown[position] = found.proposal[place, position]
        left = seen.masked[place] & ~found.action[place]
        left[position] = False
        canvas = [*ids, *shown.masked_fill(left, tiny_model.mask_id).tolist()]
        if left.any():
            filled = unmask.infill(tiny_model, [canvas], "threshold:0.5")
            shown[left] = filled.tokens[0]
        end = tiny_model.eos_ids[0]
        words = shown.tolist()
        words = words[: words.index(end)] if end in words else words
        text = tiny_model.tokenizer.decode(words, skip_special_tokens=True)
        assert found.rejoined[place] == task.verdict(text, example).correct


def test_steps_with_nothing_to_try_are_drawn_as_others_are(tiny_model, tmp_path, any_digit):
    """Else the label rejoins would see too many of them."""
    drawn = []
    for share in (0.5, 1.0):
        traces = record(tiny_model, tmp_path / f"{share}", n=8, judge=share)
        found = all_steps(traces)
        others = found.observation.eligible & (found.proposal != found.final)
        easy = (found.correct > 0.5) & ~others.any(1)
        assert easy.any() and (found.tried[easy] < 0).all()
        assert not found.rejoined[(found.tried < 0) & ~easy].any()
        drawn.append(found.rejoined[easy])
        known = rejoins(found).weight.sum(1) > 0
        assert torch.equal(known[easy], found.rejoined[easy] > 0)
    assert set(drawn[0].tolist()) == {0, 1} and drawn[1].all()


def test_what_does_not_fit_together_is_refused(tiny_model, tmp_path, capsys, monkeypatch):
    def refusal(*words):
        out = tmp_path / "refused"
        assert main(["record", "--out", str(out), "--prompts", "4", *words]) == 2
        assert not out.exists() or not any(out.iterdir())
        return capsys.readouterr().err

    assert "truth and judge were both given" in refusal("--truth", "--judge", "0.5")
    assert "full diffusion only" in refusal("--judge", "0.5", "--block-length", "4")
    assert "share of the steps" in refusal("--judge", "1.5")
    LearnedPolicy(perturbed()).save_pretrained(tmp_path / "policy")
    for sampler in ("threshold:0.9@block_length=16", str(tmp_path / "policy")):
        words = ("--judge", "0.5", "--samplers", "threshold:0.9", sampler)
        assert f"with the sampler {sampler}, which is learned or has blocks" in refusal(*words)
    assert "give 1 to" in refusal("--inputs", "0")
    for name, *values in (("temperature", "0.5"), ("cfg-scale", "1"), ("choices", "7", "3")):
        said = refusal("--truth", f"--{name}", *values)
        assert f"so leave out {name.replace('-', '_')}" in said
    for rule in ("last", "never"):
        assert "truth was given with eos;" in refusal("--truth", "--eos", rule)
    both = refusal("--truth", "--temperature", "0.5", "--eos", "last")
    assert "with temperature, eos; the worked answer's margins" in both
    assert "no worked answer fits into 4 tokens" in refusal("--truth", "--max-new-tokens", "4")
    for name, value in (("cfg-scale", "1"), ("stop", "x"), ("choices", "7"), ("max-passes", "3")):
        said = refusal("--judge", "0.5", f"--{name}", value)
        assert f"judge was given with {name.replace('-', '_')};" in said
    assert "block-causal" in refusal("--model", "embedded/chain-blocks")
    monkeypatch.setattr("unmask.memory.free_disk", lambda path: 1000)
    said = refusal("--samplers", "confidence:1")
    assert "may take" in said and "are free there" in said


def test_what_may_not_fit_into_memory_is_refused_before_anything_is_written(
    tiny_model, tmp_path, monkeypatch
):
    """With hidden states a piece takes many times what its decode takes."""
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: 90 * 2**20)
    says = r"recording 64 answers of up to 48 passes side by side .* batch_size or max_passes, or"
    settings = {"decode": {"max_new_tokens": 48}, "n": 64}
    with pytest.raises(UnmaskError, match=says):
        record(tiny_model, tmp_path / "a", batch_size=16, hidden=True, **settings)
    with pytest.raises(UnmaskError, match=r"passes side by side .* or max_passes$"):
        record(tiny_model, tmp_path / "a", batch_size=64, inputs=50, **settings)
    assert not (tmp_path / "a").exists()
    few = settings | {"decode": {"max_new_tokens": 48, "max_passes": 2}, "n": 4}
    assert len(record(tiny_model, tmp_path / "b", batch_size=16, hidden=True, **few)) > 0


@pytest.fixture(scope="module")
def recorded(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("traces") / "t"
    record(tiny_model, out, judge=0.5)
    return out


def test_damaged_traces_are_refused(recorded, tmp_path):
    def damaged(change, name="manifest.json"):
        out = tmp_path / "d"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(recorded, out)
        change(out / name)
        with pytest.raises(UnmaskError) as refused:
            Traces.open(out)
        return str(refused.value)

    def without_shards(path):
        manifest = json.loads(path.read_text())
        del manifest["shards"]
        path.write_text(json.dumps(manifest))

    def with_shape(**changes):
        def change(path):
            manifest = json.loads(path.read_text())
            manifest["shape"] |= changes
            path.write_text(json.dumps(manifest))

        return change

    assert "holds no manifest.json" in damaged(os.unlink)
    assert "are not finished" in damaged(without_shards)
    assert "shape.length" in damaged(with_shape(length=0))
    assert "has the shape" in damaged(with_shape(length=9))
    assert "missing: margin" in damaged(with_shape(truth=True))
    assert "has the type I16, not I32" in damaged(with_shape(wide_tokens=True))
    shard = "shard-00000.safetensors"
    assert "truncated" in damaged(lambda p: p.write_bytes(p.read_bytes()[:-3]), shard)
    assert "does not exist" in damaged(os.unlink, shard)

    def with_row(path):
        tensors = {name: value.clone() for name, value in read_tensors(path).items()}
        tensors["row"][0] = 10_000
        write_tensors(path, tensors)

    assert "no recording writes" in damaged(with_row, shard)


def test_a_recording_goes_on_with_its_own_settings_only(tiny_dir, tmp_path, capsys):
    words = ["record", "--model", str(tiny_dir), "--prompts", "9", "--batch-size", "1"]
    words += ["--max-new-tokens", "6", "--samplers", "threshold:0.5", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert main([*words, str(tmp_path / "cut")]) == 0
    capsys.readouterr()
    (tmp_path / "cut" / "shard-00001.safetensors").unlink()
    (tmp_path / "cut" / ".shard-00001.safetensors.part").write_bytes(b"x")
    assert main([*words, str(tmp_path / "cut")]) == 2
    assert "or go on with --resume" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "cut"), "--resume", "--seed", "1"]) == 2
    assert "seeds differ" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "cut"), "--resume"]) == 0
    assert "2/3" in capsys.readouterr().out
    for path in (tmp_path / "whole").iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
    assert len(list((tmp_path / "cut").iterdir())) == 7
    (tmp_path / "mine").mkdir()
    for name in ("thesis.txt", ".film.part"):
        (tmp_path / "mine" / name).write_text("keep")
    assert main([*words, str(tmp_path / "mine"), "--resume"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'mine'} holds no recording of unmask; name its directory" in said
    assert len(list((tmp_path / "mine").iterdir())) == 2


def test_two_processes_record_and_learn_what_one_does(tiny_dir, tmp_path):
    for name in ("one", "two"):
        out = tmp_path / name
        common = ["--model", tiny_dir, "--out"]
        record = ["record", "--samplers", "threshold:0.5", "--prompts", 9, "--batch-size", 1]
        record += ["--max-new-tokens", 6, *common, out / "traces"]
        train = ["train", "--from-traces", out / "traces", "--rounds", 2, "--width", 16]
        train += ["--trace-batch", 7, "--eval-prompts", 2, "--max-grad-norm", 100]
        train += [*common, out / "run"]
        for words in (record, train):
            if name == "one":
                assert main([*map(str, words)]) == 0
            else:
                run_two(tmp_path / f"log-{words[0]}", *words)
    shards = sorted((tmp_path / "one" / "traces").glob("shard-*"))
    assert len(shards) == 6
    for path in shards:
        assert path.read_bytes() == (tmp_path / "two" / "traces" / path.name).read_bytes()
    one, two = (read_tensors(tmp_path / n / "run/last/model.safetensors") for n in ("one", "two"))
    for name, value in one.items():  # sums over processes are in another order
        assert (value - two[name]).abs().max() < 2e-3, name
    rows = [
        [json.loads(line) for line in (tmp_path / n / "run/metrics.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    ]
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
        assert a["held_out_loss"] == pytest.approx(b["held_out_loss"], abs=1e-3)
