"""Verdicts: limits on time, how many are found side by side, answers of mixtures."""

import json
import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from unmask import UnmaskError, load_task
from unmask.tasks import Example, Task, Verdict
from unmask.tasks.base import TimedScore
from unmask.tasks.sources import GeneratedSource


def draw_nothing(rng):
    return Example("p", "a")


def timed_task(**changes):
    def judge(completion, example):
        return Verdict(float(completion == "yes"), timed_out=completion == "late")

    return replace(Task("timed", GeneratedSource(draw_nothing), TimedScore(judge)), **changes)


@pytest.mark.parametrize("waits", [False, True])
def test_verdicts_and_scores_agree(waits):
    task, examples = timed_task(waits=waits), [Example("p", "a")] * 3
    found = task.verdicts(["yes", "no", "late"], examples)
    assert found == [Verdict(1.0), Verdict(0.0), Verdict(0.0, timed_out=True)]
    assert task.score_all(["yes", "no", "late"], examples) == [1.0, 0.0, 0.0]
    assert task.score("yes", examples[0]) == 1.0
    plain = replace(task, score=lambda completion, example: 0.5)
    assert plain.verdicts(["yes"], examples[:1]) == [Verdict(0.5)]


def test_a_mixture_passes_on_what_a_time_limit_decided():
    from unmask.tasks.mixture import mixture

    mixed = mixture("timed+chain", [timed_task(), load_task("chain")], [1.0, 1.0])
    examples = [Example("p", "a", task="timed"), Example("1 a +1 =", "# 2", task="chain")]
    assert mixed.verdicts(["late", "# 2"], examples) == [Verdict(0.0, True), Verdict(1.0)]


def test_only_so_many_are_checked_side_by_side(monkeypatch):
    """The processes of a run on one machine share its CPUs."""
    running, most, lock = [0], [0], threading.Lock()

    def score(completion, example):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return 1.0

    task = Task("waiting", GeneratedSource(draw_nothing), score, waits=True)
    texts, examples = ["x"] * 8, [Example("p", "a")] * 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for world, allowed in (("1", 4), ("2", 2), ("64", 1)):
        most[0] = 0
        monkeypatch.setenv("WORLD_SIZE", world)
        task.score_all(texts, examples)
        assert most[0] <= allowed
    most[0] = 0
    task.verdicts(texts, examples, workers=3)
    assert most[0] <= 3


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize(
    "score",
    [float("nan"), -0.1, 1.5, float("inf"), 10**400, None, "1", "right", [1.0], torch.ones(2)],
)
def test_a_score_that_is_no_number_from_0_to_1_is_refused(score, timed):
    score_it = TimedScore(lambda *_: Verdict(score)) if timed else lambda *_: score
    task = Task("own", GeneratedSource(draw_nothing), score_it)
    with pytest.raises(
        UnmaskError, match=r"own gave the score .* for the prompt 'p'; a score must"
    ):
        task.score_all(["x"], [Example("p", "a")])


def test_a_judge_that_gives_no_verdict_is_refused():
    task = timed_task(score=TimedScore(lambda *_: 1.0))
    with pytest.raises(UnmaskError, match=r"judge of task timed gave 1.0 for .* return a Verdict"):
        task.verdicts(["x"], [Example("p", "a")])


@pytest.mark.parametrize("number", [True, 1, np.float32(1), np.bool_(True), torch.ones(1)])
def test_scores_of_any_library_become_numbers_that_can_be_written(number):
    task = timed_task(score=TimedScore(lambda *_: Verdict(number, timed_out=True)))
    plain = timed_task(score=lambda *_: number)
    for each, late in ((task, True), (plain, False)):
        (verdict,) = each.verdicts(["x"], [Example("p", "a")])
        assert verdict == Verdict(1.0, late) and type(verdict.correct) is float


def test_bad_requests_for_verdicts():
    with pytest.raises(UnmaskError, match="completions has 1 entry for 2 examples"):
        timed_task().score_all(["yes"], [Example("p", "a")] * 2)
    with pytest.raises(UnmaskError, match="workers is 0"):
        timed_task().verdicts([], [], workers=0)


def test_answers_of_a_mixture_are_read_by_the_examples_own_task():
    """Votes over samples count these."""
    assert load_task("chain").answer("a b # 7") == "7"
    mixed = load_task("chain+sudoku")
    chain, sudoku = Example("1 a +1 =", "", task="chain"), Example("_", "", task="sudoku")
    assert mixed.answer("a b # 7", chain) == "7"
    assert mixed.answer(" 1 2 3 ", sudoku) == "1 2 3"
    with pytest.raises(UnmaskError, match="give the example"):
        mixed.answer("a b # 7")
    with pytest.raises(UnmaskError, match="is of task 'other'"):
        mixed.answer("a b # 7", Example("p", "a", task="other"))


@pytest.mark.parametrize("answer", [7, b"7", ("7",)])
def test_an_answer_that_is_no_text_is_refused(answer):
    task = timed_task(find_answer=lambda *_: answer)
    with pytest.raises(UnmaskError, match=r"find_answer of task timed gave .* 'so 7'; let it"):
        task.answer("so 7")
    assert timed_task(find_answer=lambda *_: None).answer("so 7") is None


@pytest.mark.parametrize(
    ("verifier", "texts", "votes"),
    [
        ("number", ["The answer is 3.", "So x = 3", "#### 3.0", r"\boxed{9}"], ["3"] * 3 + ["9"]),
        ("math", [r"\boxed{\frac12}", r"\boxed{\frac{1}{2}}", "#### 0.5"], ["1/2"] * 3),
        ("math", [r"\boxed{x + 1}", r"So $\boxed{x+1}$."], ["x+1"] * 2),
        (
            "math",
            [
                "The answer is a+b.",
                "Final answer: $a + b$",
                "**Answer:** a+b",
                "<answer>so it is a+b</answer>",
                r"\boxed{\text{The answer is } a+b}",
                "#### Answer = a+b",
            ],
            ["a+b"] * 6,
        ),
        ("math", [r"\boxed{an+b}", "The answer is an + b."], ["an+b"] * 2),
        (
            "text",
            ["<answer>red\n hat</answer>", "I see.\n#### red hat", " red  hat"],
            ["red hat"] * 3,
        ),
    ],
)
def test_samples_of_your_own_problems_vote_by_what_their_verifier_reads(
    verifier, texts, votes, tmp_path
):
    line = json.dumps({"prompt": "q", "answer": "3", "verifier": verifier})
    (tmp_path / "mine.jsonl").write_text(line + "\n", "utf-8")
    task = load_task(f"jsonl:{tmp_path}/mine.jsonl@split=test")
    (example,) = task.examples("test", 1)
    assert [task.answer(text, example) for text in texts] == votes
    assert task.answer("I do not know", example) != task.answer("no idea", example)
    assert task.answer(r"\boxed{10^5000}", example) != task.answer(r"\boxed{10^5001}", example)
    apart = [(r"50\%", "50"), (r"5\text{ cm}", r"5\text{ m}"), ("101_2", "5"), ("x=5", "y=5")]
    for pair in apart if verifier == "math" else ():
        assert len({task.answer(rf"\boxed{{{text}}}", example) for text in pair}) == 2, pair
