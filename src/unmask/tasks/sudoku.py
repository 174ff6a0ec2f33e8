"""6×6 sudoku with few clues: any valid completion counts, so there is no natural order and cells
depend on each other.

Rows, columns and boxes of 2×3 cells hold each digit once. With 8 to 16 clues most puzzles have many
solutions: each cell's own distribution is spread, and revealing cells together that exclude one
another breaks the grid.
"""

from __future__ import annotations

import random
from functools import cache

from unmask.tasks.base import Task
from unmask.tasks.examples import Example
from unmask.tasks.sources import GeneratedSource

SIZE, BOX_ROWS, BOX_COLUMNS = 6, 2, 3
CELLS = SIZE * SIZE
DIGITS = "123456"
BLANK = "_"


@cache
def peers(cell: int) -> tuple[int, ...]:
    """The cells that share a row, a column or a box with `cell` (numbered in reading order)."""
    row, column = divmod(cell, SIZE)

    def sees(other: int) -> bool:
        r, c = divmod(other, SIZE)
        same_box = (r // BOX_ROWS, c // BOX_COLUMNS) == (row // BOX_ROWS, column // BOX_COLUMNS)
        return other != cell and (r == row or c == column or same_box)

    return tuple(filter(sees, range(CELLS)))


def random_grid(rng: random.Random) -> list[str]:
    """A valid full grid, by randomised backtracking on the cell with the fewest candidates."""
    grid = [BLANK] * CELLS

    def fill() -> bool:
        blanks = [cell for cell in range(CELLS) if grid[cell] == BLANK]
        if not blanks:
            return True
        options = {
            cell: [d for d in DIGITS if all(grid[p] != d for p in peers(cell))] for cell in blanks
        }
        cell = min(blanks, key=lambda c: len(options[c]))
        for digit in rng.sample(options[cell], len(options[cell])):
            grid[cell] = digit
            if fill():
                return True
        grid[cell] = BLANK
        return False

    fill()
    return grid


@cache
def base_grids() -> tuple[tuple[str, ...], ...]:
    """500 grids by backtracking; `draw` varies them by the symmetries of sudoku, which is 50 times
    as fast."""
    rng = random.Random("sudoku base grids")
    return tuple(tuple(random_grid(rng)) for _ in range(500))


def draw(rng: random.Random) -> Example:
    """A puzzle of 8 to 16 clues."""
    grid = rng.choice(base_grids())
    rename = dict(zip(DIGITS, rng.sample(DIGITS, SIZE), strict=True))

    def shuffled(group: int) -> list[int]:  # permutes bands (stacks), and the lines inside each
        return [
            b * group + i
            for b in rng.sample(range(SIZE // group), SIZE // group)
            for i in rng.sample(range(group), group)
        ]

    rows, columns = shuffled(BOX_ROWS), shuffled(BOX_COLUMNS)
    solution = [rename[grid[r * SIZE + c]] for r in rows for c in columns]
    clues = set(rng.sample(range(CELLS), rng.randint(8, 16)))
    puzzle = [digit if cell in clues else BLANK for cell, digit in enumerate(solution)]
    return Example(prompt=" ".join([*puzzle, "="]), answer=" ".join(solution))


def score(completion: str, example: Example) -> float:
    """1.0 if the text is a full grid that keeps the clues and breaks no rule; else 0.0."""
    cells = completion.split()
    if len(cells) != CELLS or not set(cells) <= set(DIGITS):
        return 0.0
    keeps = all(
        clue in (BLANK, cell) for clue, cell in zip(example.prompt.split(), cells, strict=False)
    )
    return float(keeps and all(cells[p] != cells[c] for c in range(CELLS) for p in peers(c)))


TASK = Task(
    name="sudoku",
    source=GeneratedSource(draw),
    score=score,
    words=(*DIGITS, BLANK, "="),
    max_new_tokens=36,
    max_prompt_tokens=37,
    block_length=18,
)
