"""What a decode takes in memory is computed, and refused when it cannot fit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.training.runs import Killed, kill_before_round, tiny_run
from unmask import UnmaskError
from unmask.cli import main
from unmask.decoding import DecodeOptions, Engine, Recorder, decode
from unmask.decoding.canvas import padded_width
from unmask.decoding.footprint import decode_bytes, footprint_of, group_shapes
from unmask.decoding.proposer import group_by_width
from unmask.decoding.request import Request
from unmask.evaluation.plan import EvalPlan, Prompts, check_requests
from unmask.memory import GIB, free_memory
from unmask.policies import load_policy
from unmask.tasks.mixture import mixture
from unmask.tasks.sources import DatasetSource


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are Linux's")
def test_what_is_computed_is_at_least_what_is_taken_and_at_most_four_times_what_is_held():
    """The process takes more than its tensors hold at once: the allocator keeps freed memory for
    later, how much differs from run to run. What is held is exact, with an allocator that gives
    everything back at once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.decoding.peaks"], capture_output=True, text=True, check=True
    )
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    taken, held = cases[:15], cases[15:]
    names = [name for name, *_ in taken]
    assert len(set(names)) == 15 and [name for name, *_ in held] == names[:6]
    too_little = [case for case in taken if case[1] < case[2]]
    too_much = [case for case in held if case[1] > 4 * case[2]]
    assert (too_little, too_much) == ([], [])


def ask(model, tokens=8, length=16, policy="threshold:0.9", **options):
    settings = DecodeOptions(max_new_tokens=length, **options)
    return Request(tuple([5] * tokens), load_policy(policy), settings)


def test_what_restricts_answers_is_counted(tiny_model):
    def bytes_of(rows, **settings):
        allowed = settings.pop("allowed", None)
        request = replace(ask(tiny_model, 2, **settings), allowed=allowed)
        return decode_bytes(tiny_model, footprint_of(tiny_model, request), rows)

    plain = bytes_of(2)
    sets = [[i] for i in range(5, 15)]
    assert bytes_of(2, allowed=sets) - plain >= 2 * 10 * tiny_model.vocabulary
    assert bytes_of(2, allowed=sets) == bytes_of(2, allowed=sets[::-1])
    choices = tuple(f"7 {word}" for word in ("a", "b", "c"))
    assert bytes_of(2, choices=choices) - plain >= 2 * 3 * 16 * 48
    both = footprint_of(tiny_model, replace(ask(tiny_model), allowed=sets[:3])) | footprint_of(
        tiny_model, replace(ask(tiny_model), allowed=sets[2:6])
    )
    assert both.sets == {(i,) for i in range(5, 11)}


WIDTHS = st.lists(st.integers(1, 80).map(lambda n: 16 * n), min_size=1, max_size=40)


@given(WIDTHS | st.lists(st.integers(380, 660), min_size=1, max_size=40), st.data())
def test_no_group_is_larger_than_what_is_computed_for(widths, data):
    """Whichever rows are in flight."""
    flying = data.draw(st.lists(st.sampled_from(range(len(widths))), min_size=1, unique=True))
    shapes = group_shapes(widths, len(flying))
    for group in group_by_width(sorted(flying, key=lambda row: -widths[row]), widths):
        count, widest = len(group), widths[group[0]]
        assert any(count <= rows and widest <= width for rows, width in shapes)


def all_at_once(model):
    """The model as it is on a GPU, which forwards all rows of a group at once."""
    model = replace(model)
    vars(model)["positions_at_once"] = 2**62
    return model


def test_a_long_prompt_is_charged_for_itself(tiny_model, monkeypatch):
    """And not for each row beside it, which are forwarded apart."""
    model, rows = all_at_once(tiny_model), 64
    prompts = [[5] * 1000] + [[5] * 8] * (rows - 1)
    widths = [padded_width(model, len(prompt) + 16) for prompt in prompts]
    footprint = footprint_of(model, ask(model, 1000))
    long = decode_bytes(model, footprint, rows)
    assert decode_bytes(model, footprint, rows, widths) < long / 3
    cached = footprint_of(model, ask(model, 1000, cache="dual", block_length=8))
    assert decode_bytes(model, cached, rows, widths) == decode_bytes(model, cached, rows)
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: long // 2)
    unmask.generate(model, prompts, "threshold:0", max_new_tokens=16)
    policy, options = load_policy("threshold:0"), DecodeOptions(max_new_tokens=16)
    plan = EvalPlan({"one": policy}, (16,), decode=options)
    check_requests(model, plan, Prompts([], prompts, {}))
    engine = Engine(model, slots=rows)
    for tokens in [8] * (rows - 1) + [1000]:
        engine.submit(ask(model, tokens))
    with pytest.raises(UnmaskError, match="canvases of 1016 tokens"):
        unmask.generate(model, [prompts[0]] * rows, policy, options)
    with pytest.raises(UnmaskError, match="canvases of 1016 tokens"):
        check_requests(model, plan, Prompts([], [prompts[0]] * rows, {}))
    with pytest.raises(UnmaskError, match="canvases of up to 1016 tokens"):
        for _ in range(rows):
            engine.submit(ask(model, 1000))


def test_rows_that_come_later_are_looked_at_where_not_all_may_be_long(tiny_model, monkeypatch):
    """A row that leaves makes room for one of another length."""
    model, looks = all_at_once(tiny_model), []
    long = decode_bytes(model, footprint_of(model, ask(model, 1000)), 16)
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: looks.append(1) or long // 2)
    engine = Engine(model, slots=16)
    tickets = [engine.submit(ask(model, tokens)) for tokens in (1000, *[8] * 15)]
    before = len(looks)
    engine.step()
    for ticket in tickets[1:5]:
        engine.cancel(ticket)
    for _ in range(4):
        engine.submit(ask(model))
    assert len(looks) == before, "it is known that they fit"
    for ticket in tickets[5:]:
        engine.cancel(ticket)
    with pytest.raises(UnmaskError, match="side by side, with canvases of up to 1016 tokens"):
        for _ in range(11):
            engine.submit(ask(model, 1000))


def test_a_call_that_cannot_fit_is_refused_at_the_call(tiny_model, monkeypatch):
    """In every way to decode, before anything is run; one that fits is not."""
    footprint = footprint_of(tiny_model, ask(tiny_model, 2))
    least = decode_bytes(tiny_model, footprint, 2)
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: least)
    says = r"decoding 3 prompts, 3 at a time, with canvases of 18 tokens takes .* batch_size"
    for run in (unmask.generate, unmask.stream, decode):
        with pytest.raises(UnmaskError, match=says):
            run(tiny_model, [[5, 6]] * 3, load_policy("threshold:0.9"), max_new_tokens=16)
    with pytest.raises(UnmaskError, match="1 at a time, with canvases of 4000 tokens"):
        unmask.infill(tiny_model, [[5] * 3999 + [tiny_model.mask_id]], "threshold:0.9")
    engine = Engine(tiny_model, slots=8)
    for _ in range(2):
        engine.submit(ask(tiny_model, 2))
    with pytest.raises(UnmaskError, match="3 rows side by side, with canvases of 18 tokens"):
        engine.submit(ask(tiny_model, 2))
    steps = [engine.step() for _ in iter(lambda: engine.idle, True)]
    assert sum(len(step.results) for step in steps) == 2
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: None)
    engine.submit(ask(tiny_model, 3000))


def test_more_rows_than_are_in_flight_take_no_more_but_their_answers(tiny_model, monkeypatch):
    footprint = footprint_of(tiny_model, ask(tiny_model, 2))
    free = decode_bytes(tiny_model, footprint, 2) + 100_000
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: free)
    settings = {"max_new_tokens": 16, "batch_size": 2}
    unmask.generate(tiny_model, [[5, 6]] * 100, "threshold:0", **settings)
    with pytest.raises(UnmaskError, match="decoding 200 prompts, 2 at a time"):
        unmask.generate(tiny_model, [[5, 6]] * 200, "threshold:0", **settings)


def test_what_is_free_is_looked_up_a_few_times_only(tiny_model, monkeypatch):
    looks = []
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: looks.append(1) or 2**40)
    engine = Engine(tiny_model, slots=64)
    for _ in range(64):
        engine.submit(ask(tiny_model))
    assert len(looks) == 1
    engine.submit(ask(tiny_model, 200))
    assert len(looks) == 2


def test_decisions_that_cannot_be_put_together_are_refused(tiny_model, monkeypatch):
    monkeypatch.setattr("unmask.decoding.recorder.LOOK", 1000)
    looks = []

    def look(device):
        looks.append(1)
        return 2**40 if len(looks) < 8 else 1000

    monkeypatch.setattr("unmask.memory.free_memory", look)
    with pytest.raises(UnmaskError, match=r"decisions that were recorded so far takes .* rollouts"):
        decode(
            tiny_model,
            [[5, 6]] * 4,
            load_policy("confidence:1"),
            max_new_tokens=16,
            recorder=Recorder(),
        )
    assert len(looks) == 8


def test_training_and_evaluations_that_cannot_fit_leave_nothing(tiny_dir, tmp_path, monkeypatch):
    """With the memory that this machine really has."""
    huge = {"max_new_tokens": 4000, "block_length": 4000, "batch_size": 2**17}
    with pytest.raises(UnmaskError, match=r"decoding 131072 prompts, .* prompts or rollouts"):
        unmask.train(tiny_run(tmp_path / "a", tiny_dir, prompts=2**14, rollouts=8, **huge))
    with pytest.raises(UnmaskError, match="fewer eval_prompts"):
        unmask.train(tiny_run(tmp_path / "b", tiny_dir, eval_prompts=100_000, **huge))
    model, chain = unmask.load_model(tiny_dir), unmask.load_task("chain")
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: 2**20)
    with pytest.raises(UnmaskError, match="decoding 3 prompts, 3 at a time"):
        unmask.evaluate(model, chain, ["random:1"], prompts=3, out=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def long_task(split, tokens=3000):
    """Problems of a data set, of which the last one in a split is long."""
    chain = unmask.load_task("chain")
    parts = {name: chain.examples(name, 20) for name in ("train", "validation")}
    last = parts[split][-1]
    parts[split][-1] = replace(last, prompt=" ".join(last.prompt.split()[:1] * tokens))
    return replace(chain, source=DatasetSource(parts.__getitem__))


def mixed_task():
    """A mixture of a data set whose last training problem is long and a generator."""
    long = replace(long_task("train"), name="long")
    return mixture("both", [unmask.load_task("chain"), long], [3, 1])


@pytest.mark.parametrize(
    ("make_task", "fewer"),
    [
        (lambda: long_task("train"), "rollouts"),
        (lambda: long_task("validation"), "eval_prompts"),
        (mixed_task, "rollouts"),
    ],
)
def test_the_longest_problem_of_a_data_set_is_looked_at_before_the_first_round(
    tiny_dir, tmp_path, monkeypatch, make_task, fewer
):
    """In the round that it is in it would end the run."""
    task, settings = make_task(), {"eval_prompts": 20, "rollouts": 8}
    kill_before_round(monkeypatch, 0)
    with pytest.raises(Killed):
        unmask.train(tiny_run(tmp_path / "a", tiny_dir, **settings), task=task)
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: 2**26)
    with pytest.raises(UnmaskError, match=rf"canvases of up to 3006 tokens .* {fewer}$"):
        unmask.train(tiny_run(tmp_path / "b", tiny_dir, **settings), task=task)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_update_that_cannot_fit_is_refused(tiny_dir, tmp_path, monkeypatch, any_digit):
    import unmask.training.update as update

    monkeypatch.setattr(update, "micro_bytes", lambda *arguments: 2**60)
    with pytest.raises(UnmaskError, match=r"micro-batches of 128 .* give a smaller micro_batch"):
        unmask.train(tiny_run(tmp_path / "run", tiny_dir, rounds=1))


def test_the_command_says_it_in_one_sentence(tiny_dir, tmp_path, capsys):
    words = ["--prompts", "16384", "--rollouts", "8", "--max-new-tokens", "4000"]
    command = ["train", "--model", str(tiny_dir), *words]
    assert main([*command, "--batch-size", "131072", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "131072 at a time" in said and list(tmp_path.iterdir()) == []


def test_a_cpu_has_some_memory_and_a_container_no_more_than_its_limit(tmp_path, monkeypatch):
    free = free_memory("cpu")
    assert free is not None and free > 2**20
    (tmp_path / "memory.max").write_text(str(GIB))
    (tmp_path / "memory.current").write_text(str(GIB - 5))
    monkeypatch.setattr("unmask.memory.CGROUP", tmp_path)
    assert free_memory("cpu") == 5
