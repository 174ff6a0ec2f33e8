"""Word problems: what is drawn, how it is split, what is scored."""

import re
from collections import Counter

import pytest

from unmask import UnmaskError, load_task
from unmask.tasks.examples import SPLITS, split_of
from unmask.tasks.word_problems import (
    HELD_OUT,
    LARGEST,
    TEMPLATES,
    draw_problem,
    is_simple,
    problems_of,
)

TASK = load_task("word-problems")


def opening(text):
    """The words of a text without names and numbers, as far as templates repeat them."""
    return set(re.findall(r"[a-z]{4,}", text))


def test_a_solution_is_right_and_its_numbers_are_small():
    for example in TASK.examples("train", 300):
        assert TASK.score(example.answer, example) == 1.0
        assert example.prompt.endswith(("?", ".")) and "final answer" not in example.prompt
        assert all(int(n) <= LARGEST for n in re.findall(r"\d+", example.prompt + example.answer))
        assert example.answer.splitlines()[-1] == f"#### {example.data}"


def test_questions_and_solutions_are_short():
    for example in TASK.examples("train", 1000):
        assert len(example.prompt.split()) <= 70 and len(example.answer.split()) <= 60


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("2 + 3 = 5\n#### 5", 1.0),
        ("#### 5", 1.0),
        ("####5\n", 1.0),
        ("#### 05", 0.0),
        ("#### 6", 0.0),
        ("#### 5 apples", 0.0),
        ("#### 5\n#### 6", 0.0),
        ("5", 0.0),
        ("####", 0.0),
        ("", 0.0),
    ],
)
def test_verifier(text, right):
    import dataclasses

    example = dataclasses.replace(TASK.examples("test", 1)[0], data="5")
    assert TASK.score(text, example) == right
    if right:
        assert TASK.answer(text) == "5"


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("He has 100 apples.", True),
        ("He has 101 apples.", False),
        ("It costs $2.50.", False),
        ("It costs $2. He has 3.", True),
        ("1,000 apples", False),
        ("1/2 of them", False),
        ("16 / 2 = 8", True),
        ("5% of them", False),
        ("five percent", False),
    ],
)
def test_what_is_simple(text, simple):
    assert is_simple(text) is simple


def test_the_same_problems_for_a_seed_and_none_in_two_splits():
    found = {split: {e.prompt for e in TASK.examples(split, 200)} for split in SPLITS}
    assert all(len(prompts) == 200 for prompts in found.values())
    assert not found["train"] & found["test"] and not found["train"] & found["validation"]
    assert TASK.examples("test", 20) == load_task("word-problems").examples("test", 20)
    assert TASK.batch(4, seed=0, step=1) != TASK.batch(4, seed=0, step=2)


def test_templates_are_drawn_equally_often(monkeypatch):
    drawn = Counter()
    monkeypatch.setattr(
        "unmask.tasks.word_problems.draw_problem",
        lambda rng, template: drawn.update([template]) or draw_problem(rng, template),
    )
    stream = problems_of(TEMPLATES).stream("word-problems", "train", 0)
    for _ in range(1000):
        next(stream)
    assert set(drawn) == set(TEMPLATES)
    assert max(drawn.values()) < 1.8 * min(drawn.values())


def test_templates_that_are_held_out_come_in_tests_alone():
    task = load_task("word-problems:templates")
    held_out = problems_of(HELD_OUT).stream("any", "train", 0)
    wordings = [opening(next(held_out).prompt) for _ in range(60)]

    def is_held_out(example):
        words = opening(example.prompt)
        return max(len(words & other) / len(words | other) for other in wordings) > 0.6

    assert all(is_held_out(example) for example in task.examples("test", 40))
    for split in ("train", "validation"):
        assert not any(is_held_out(example) for example in task.examples(split, 40))
    assert not any(is_held_out(example) for example in task.batch(40, seed=0, step=0))
    # A model that learned from `word-problems` has not met these problems either.
    assert all(split_of(example.prompt) == "test" for example in task.examples("test", 40))


def test_an_unknown_variant_is_refused():
    with pytest.raises(UnmaskError, match="word-problems:hard"):
        load_task("word-problems:hard")


def test_in_a_mixture():
    task = load_task("chain+word-problems:3")
    names = Counter(example.task for example in task.examples("train", 80))
    assert names["word-problems"] > names["chain"] > 0
