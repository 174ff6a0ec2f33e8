"""Word problems: what is drawn, how it is split, what is scored."""

import random
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
    is_true,
    problems_of,
    reword_solution,
    split_key,
    swap_operands,
    write_functions,
)

TASK = load_task("word-problems")


def test_a_solution_is_right_and_its_numbers_are_small():
    for example in TASK.examples("train", 300):
        assert TASK.score(example.answer, example) == 1.0
        assert example.prompt.endswith(("?", ".")) and "final answer" not in example.prompt
        assert all(int(n) <= LARGEST for n in re.findall(r"\d+", example.prompt + example.answer))
        assert example.answer.splitlines()[-1] == f"#### {example.data[1]}"


def test_questions_and_solutions_are_short():
    for example in TASK.examples("train", 1000):
        assert len(example.prompt.split()) <= 100 and len(example.answer.split()) <= 95


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

    example = dataclasses.replace(TASK.examples("test", 1)[0], data=(0, "5"))
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
        ("16/2=8", True),
        ("16/2", False),
        ("€5 and $5", False),
        ("€5 and €6", True),
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
    for _ in range(2000):
        next(stream)
    assert set(drawn) == set(TEMPLATES)
    assert max(drawn.values()) < 2.2 * min(drawn.values())


def test_templates_that_are_held_out_come_in_tests_alone():
    task = load_task("word-problems:templates")
    assert {example.data[0] for example in task.examples("test", 100)} == set(HELD_OUT)
    kept = set(TEMPLATES) - set(HELD_OUT)
    for split in ("train", "validation"):
        assert {example.data[0] for example in task.examples(split, 400)} == kept
    assert not {example.data[0] for example in task.batch(40, seed=0, step=0)} & set(HELD_OUT)
    # A model that learned from `word-problems` has not met these problems either.
    assert all(split_of(split_key(example)) == "test" for example in task.examples("test", 40))


def test_numbers_of_a_test_problem_do_not_come_in_training():
    """Not even under other names: the same template with the same numbers is one problem."""
    keys = {split: {split_key(e) for e in TASK.examples(split, 500)} for split in SPLITS}
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["validation"]


def test_the_words_of_a_solution_vary_and_its_numbers_do_not():
    entry = write_functions()[48](random.Random(3), 1.0)  # two steps that need not each other
    solution = entry["metadata"]["answer_cot"].strip()
    wordings = {reword_solution(random.Random(i), solution) for i in range(200)}
    assert len(wordings) > 100
    for wording in wordings:
        steps = wording.split("\n")
        numbers = [n for step in steps for n in re.findall(r"\d+", step) if "answer" not in step]
        assert sorted(numbers) == sorted(re.findall(r"\d+", solution))
        assert steps[-1] == solution.split("\n")[-1] and is_true(wording)
        assert "more" in steps[2]  # the step that needs both others stays behind them


@pytest.mark.parametrize(
    ("solution", "true"),
    [
        ("2 + 3 = 5\n#### 5", True),
        ("2 + 3 = 6\n#### 6", False),
        ("She needs 32 / 24 = 1 pans.\n#### 1", False),
        ("3 cups * €2 = €6, and 2 * €6 + 1 = €13\n#### 13", True),
        ("14 - 2 * 3 = 8\n#### 8", True),
        ("4 / 0 = 4\n#### 4", False),
        ("2 + 3 = 5", False),
        ("1 + 2 + 3 = 6\n#### 6", True),
        ("1 + 2 + 3 + 4 = 10\n#### 10", False),
    ],
)
def test_what_is_true(solution, true):
    assert is_true(solution) is true


def test_operands_change_places_in_sums_and_products_of_two_numbers_alone():
    def all_wordings(step):
        return {swap_operands(random.Random(i), step) for i in range(20)}

    assert all_wordings("2 + 3 = 5") == {"2 + 3 = 5", "3 + 2 = 5"}
    assert all_wordings("4 * €5 = €20") == {"4 * €5 = €20", "€5 * 4 = €20"}
    for step in ("5 - 3 = 2", "6 / 3 = 2", "2 + 3 + 4 = 9", "10 - 2 + 3 = 11", "1 + 2 * 3 = 7"):
        assert all_wordings(step) == {step}


def test_unseen_problems_are_of_no_problem_that_the_model_was_trained_on():
    task = load_task("word-problems:unseen")
    examples = {split: task.examples(split, 60) for split in SPLITS}
    examples["batch"] = task.batch(60, seed=0, step=0)
    keys = {name: {split_key(e) for e in found} for name, found in examples.items()}
    texts = {name: {e.prompt for e in found} for name, found in examples.items()}
    for name in ("train", "batch", "validation"):
        assert {split_of(key) for key in keys[name]} == {"validation"}
    assert {split_of(key) for key in keys["test"]} == {"test"}
    assert not (texts["train"] | texts["batch"]) & texts["validation"]
    assert len(texts["batch"]) == len(texts["validation"]) == 60 and len(keys["batch"]) > 20


def test_unseen_problems_are_of_all_templates_alike():
    """A policy whose training or validation lacks a template takes more passes on the tests than
    its calibration says."""
    task = load_task("word-problems:unseen")
    for examples in (task.examples("validation", 92), task.batch(92, seed=0, step=3)):
        counts = Counter(example.data[0] for example in examples)
        assert set(counts) == set(TEMPLATES) and max(counts.values()) <= 5


def test_an_unknown_variant_is_refused():
    with pytest.raises(UnmaskError, match="word-problems:hard"):
        load_task("word-problems:hard")


def test_in_a_mixture():
    task = load_task("chain+word-problems:3")
    names = Counter(example.task for example in task.examples("train", 80))
    assert names["word-problems"] > names["chain"] > 0
