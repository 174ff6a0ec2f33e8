"""What is seen of data before it is used, and what reading it leaves behind."""

import json
import warnings

import datasets
import pytest

from unmask import UnmaskError, load_task
from unmask.tasks import Example
from unmask.tasks.data import drop_unsolvable


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_rows(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_task(directory, name, answers):
    """Test files of a task with these true answers."""
    rows = {
        "gsm8k": [{"question": f"q{i}", "answer": f"so\n#### {a}"} for i, a in enumerate(answers)],
        "math500": [
            {"problem": f"q{i}", "solution": f"so {a}", "answer": a} for i, a in enumerate(answers)
        ],
        "math": [
            {"problem": f"q{i}", "level": "1", "type": "t", "solution": rf"so \boxed{{{a}}}"}
            for i, a in enumerate(answers)
        ],
    }[name]
    write_rows(directory / name / "test.jsonl", rows)


UNREADABLE = {"gsm8k": "none", "math": "", "math500": "  "}


@pytest.mark.parametrize("name", UNREADABLE)
def test_problems_without_a_readable_answer_are_named_and_left_out(name, tmp_path):
    write_task(tmp_path, name, ["1", UNREADABLE[name], "3"])
    with pytest.warns(UserWarning, match=rf"task {name}: 1 of 3 test examples .*'q1") as caught:
        examples = load_task(name, data_dir=tmp_path).examples("test", 10)
    assert [e.prompt[:2] for e in examples] == ["q0", "q2"]
    assert sum(name in str(w.message) for w in caught) == 1
    write_task(tmp_path, name, [UNREADABLE[name]])
    with pytest.raises(UnmaskError, match="1 of 1 test examples"):
        load_task(name, data_dir=tmp_path).examples("test", 10)


@pytest.mark.parametrize(("verifier", "answer"), [("number", "many"), ("math", " ")])
def test_own_problems_without_a_readable_answer_are_left_out(verifier, answer, tmp_path):
    right = {"number": "5", "math": r"\pi"}[verifier]
    rows = [
        {"prompt": f"q{i}", "answer": answer if i == 7 else right, "verifier": verifier}
        for i in range(40)
    ]
    rows.append({"prompt": "say nothing", "answer": "", "verifier": "text"})
    write_rows(tmp_path / "mine.jsonl", rows)
    task = load_task(f"jsonl:{tmp_path}/mine.jsonl")
    with pytest.warns(UserWarning, match="1 of 41"):
        found = [e for s in ("train", "validation", "test") for e in task.examples(s, 100)]
    assert {e.prompt for e in found} == {row["prompt"] for row in rows} - {"q7"}


def test_problems_that_can_be_solved_stay_without_a_word():
    examples = [Example("p", "1")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drop_unsolvable("t", "train", examples, lambda e: True) == examples


@pytest.mark.parametrize("hidden", [False, True])
def test_progress_bars_are_as_they_were_before(hidden, tmp_path):
    switch = datasets.disable_progress_bars if hidden else datasets.enable_progress_bars
    switch()
    try:
        write_task(tmp_path, "gsm8k", ["1"])
        load_task("gsm8k", data_dir=tmp_path).examples("test", 1)
        assert datasets.are_progress_bars_disabled() == hidden
        with pytest.raises(UnmaskError, match="cannot be read"):
            (tmp_path / "gsm8k" / "test.jsonl").write_text("{broken", "utf-8")
            load_task("gsm8k", data_dir=tmp_path).examples("test", 1)
        assert datasets.are_progress_bars_disabled() == hidden
    finally:
        datasets.enable_progress_bars()


def raise_error(*_):
    raise KeyError("changed")


@pytest.mark.parametrize("score", [lambda *_: 0.0, lambda *_: float("nan"), raise_error])
def test_a_generator_whose_verifier_refuses_its_own_answer_is_refused(monkeypatch, score):
    """A changed library must not look like a model that is always wrong."""
    from reasoning_gym.arithmetic.lcm import LCMDataset

    load_task("reasoning_gym:lcm")
    monkeypatch.setattr(LCMDataset, "score_answer", lambda self, answer, entry: score())
    with pytest.raises(UnmaskError, match="reasoning_gym:lcm does not take the generator's own"):
        load_task("reasoning_gym:lcm")


def test_a_generator_without_answers_of_its_own_is_let_in():
    assert load_task("reasoning_gym:rush_hour").examples("train", 1)[0].answer == ""
