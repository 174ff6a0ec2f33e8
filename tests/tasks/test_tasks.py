"""Tasks: splits, lengths, verifiers."""

import inspect
import random
import subprocess
import sys
from pathlib import Path

import pytest

import unmask
from unmask import UnmaskError, load_task
from unmask.models.tokenizer import word_tokenizer
from unmask.tasks import EMBEDDED, Example, Task
from unmask.tasks.examples import SPLITS, split_of
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


# 6×6 grids that break one kind of unit only (found by a solver), so each of the three rules must be
# checked by itself.
ONE_RULE_BROKEN = {
    "row": "315514624326563645142231456153231462",
    "column": "315624426531241536536412651234324615",
    "box": "315624536241264513123465641352452136",
}
NO_CLUES = Example(" ".join("_" * 36 + "="), "")


def units():
    """The rows, columns and boxes (2 rows of 3 cells) of a sudoku."""
    rows = [[6 * r + c for c in range(6)] for r in range(6)]
    columns = [[6 * r + c for r in range(6)] for c in range(6)]
    boxes = [
        [6 * (top + r) + left + c for r in range(2) for c in range(3)]
        for top in (0, 2, 4)
        for left in (0, 3)
    ]
    return {"row": rows, "column": columns, "box": boxes}


@pytest.mark.parametrize("kind", ONE_RULE_BROKEN)
def test_sudoku_checks_each_rule_by_itself(kind):
    grid = ONE_RULE_BROKEN[kind]
    assert {
        name
        for name, group in units().items()
        if any(len({grid[c] for c in unit}) < 6 for unit in group)
    } == {kind}
    assert load_task("sudoku").score(" ".join(grid), NO_CLUES) == 0.0


def test_sudoku_refuses_a_valid_grid_of_another_puzzle():
    task = load_task("sudoku")
    example = task.examples("train", 1)[0]
    renamed = example.answer.translate(
        str.maketrans("123456", "234561")
    )  # valid, but no clue is kept
    assert task.score(renamed, NO_CLUES) == 1.0
    assert task.score(renamed, example) == 0.0


def test_chain_answers_by_arithmetic():
    for example in load_task("chain").examples("train", 100):
        value, *rest = example.prompt.split()[:-1]
        for operation in rest[1::2]:
            value = str(eval(f"{value} {operation[0]} {operation[1:]}") % 10)
        assert example.answer.split()[-2:] == ["#", value]


@pytest.mark.parametrize("name", EMBEDDED)
def test_unknown_splits_are_refused(name):
    with pytest.raises(UnmaskError, match="'dev' is not known"):
        next(
            inspect.unwrap(Task.stream)(EMBEDDED[name], "dev")
        )  # unwrapped: in tests, beartype would be first to complain


CHEAP = """
import sys, types
package = types.ModuleType("unmask")
package.__path__ = [sys.argv[1]]
sys.modules["unmask"] = package
from unmask.tasks import Example, Split
heavy = {"torch", "transformers", "numpy", "datasets", "unmask.decoding", "unmask.models"}
print(sorted(heavy & set(sys.modules)))
from unmask.tasks import load_task
load_task("chain+sudoku")
print(sorted((heavy - {"numpy"}) & set(sys.modules)))
"""


def test_types_and_tasks_are_loaded_without_models():
    """A command that only names a split must answer at once. The package itself is left out here:
    what it imports is another matter."""
    package = Path(unmask.__file__).parent
    command = [sys.executable, "-c", CHEAP, str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
