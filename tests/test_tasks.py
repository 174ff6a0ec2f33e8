"""Tasks: splits, lengths, verifiers."""

import random

import pytest

from unmask import UnmaskError, load_task
from unmask.models.tokenizer import word_tokenizer
from unmask.tasks import EMBEDDED, Example
from unmask.tasks.base import SPLITS, split_of
from unmask.tasks.sudoku import CELLS, DIGITS, peers

CHAIN = Example("9 a +7 b *2 =", "a 9 +7 = 6 ; b 6 *2 = 2 ; # 2")


@pytest.mark.parametrize("task", EMBEDDED.values(), ids=EMBEDDED)
def test_reference_answers_are_right_fit_and_survive_the_tokenizer(task):
    tokenizer = word_tokenizer(task.words)
    for example in task.examples("train", 200, seed=3):
        prompt, answer = (tokenizer(text)["input_ids"] for text in (example.prompt, example.answer))
        assert len(prompt) <= task.max_prompt_tokens and len(answer) <= task.max_new_tokens
        assert tokenizer.unk_token_id not in prompt + answer
        assert tokenizer.decode(answer) == example.answer
        assert task.score(example.answer, example) == 1.0


@pytest.mark.parametrize("task", EMBEDDED.values(), ids=EMBEDDED)
def test_splits_are_disjoint_and_the_same_for_a_seed(task):
    found = {split: {e.prompt for e in task.examples(split, 300)} for split in SPLITS}
    assert all(len(prompts) == 300 for prompts in found.values())
    assert (
        not found["train"] & found["test"]
        and not found["train"] & found["validation"]
        and not found["validation"] & found["test"]
    )
    assert task.examples("test", 20) == task.examples("test", 40)[:20]
    assert task.examples("test", 20) != task.examples("test", 20, seed=1)
    assert all(split_of(e.prompt) == "train" for e in task.examples("train", 50, seed=9))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (CHAIN.answer, 1.0),
        ("# 2", 1.0),
        ("a so 6 is 9 +7 ! # 2", 1.0),
        ("a 9 +7 = 6 ; # 3", 0.0),
        ("a 9 +7 = 6 ; b 6 *2 = 2 ; 2", 0.0),
        ("# 2 # 2", 0.0),
        ("# 2 ;", 0.0),
        ("#", 0.0),
        ("", 0.0),
        ("2 #", 0.0),
    ],
)
def test_chain_verifier(text, right):
    assert load_task("chain").score(text, CHAIN) == right


def solutions(puzzle):
    """Every completion, by trying each digit in each blank: slow and obvious."""
    if "_" not in puzzle:
        return [puzzle]
    cell = puzzle.index("_")
    free = [d for d in DIGITS if all(puzzle[p] != d for p in peers(cell))]
    return [s for d in free for s in solutions([*puzzle[:cell], d, *puzzle[cell + 1 :]])]


def test_sudoku_verifier_takes_every_valid_completion_and_nothing_else():
    task = load_task("sudoku")
    example = next(e for e in task.examples("test", 200) if e.prompt.count("_") == 20)
    puzzle = example.prompt.split()[:CELLS]
    found = solutions(puzzle)
    assert example.answer.split() in found
    assert all(task.score(" ".join(s), example) == 1.0 for s in found)
    rng = random.Random(0)
    for _ in range(300):
        grid = rng.choice(found).copy()
        grid[rng.randrange(CELLS)] = rng.choice(DIGITS)
        assert task.score(" ".join(grid), example) == float(grid in found)
    answer = example.answer
    assert (
        task.score(answer[:-2], example)
        == task.score(answer + " 1", example)
        == task.score("", example)
        == 0.0
    )
    assert task.score(answer.replace("1", "7"), example) == 0.0


def test_some_sudokus_have_several_solutions():
    counts = [
        len(solutions(e.prompt.split()[:CELLS]))
        for e in load_task("sudoku").examples("test", 40)
        if e.prompt.count("_") <= 24
    ]
    assert max(counts) > 1


def test_bad_requests():
    for call in (
        lambda: load_task("nonsense"),
        lambda: load_task("chain").examples("test", 0),
        lambda: next(load_task("chain").stream("dev")),
    ):
        with pytest.raises(UnmaskError):
            call()
