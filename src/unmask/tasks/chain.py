"""Arithmetic chains: `7 a +5 b *3 =`, solved step by step modulo 10, each step in one of three
phrasings.

Operations carry letters, so that a step can find its operation by name, and an operation with its
number is one token. Without the two, half an hour of training taught a model of this size the form
of a solution, but not its digits.

The phrasing is free. Before a step is begun, the best tokens of its positions may belong to
different phrasings: to reveal them together spoils the step, although their low confidence may be
harmless. Steps depend on the results before them.
"""

from __future__ import annotations

import random

from unmask.tasks.base import Task
from unmask.tasks.examples import Example
from unmask.tasks.sources import GeneratedSource

OPERATIONS = {
    "+": lambda a, b: (a + b) % 10,
    "-": lambda a, b: (a - b) % 10,
    "*": lambda a, b: (a * b) % 10,
}
PHRASINGS = (
    "{name} {a} {op}{b} = {r} ;",
    "{name} then {a} {op}{b} gives {r} .",
    "{name} so {r} is {a} {op}{b} !",
)
NAMES = "abcdef"


def draw(rng: random.Random) -> Example:
    """A chain of 2 to 6 operations, worked from left to right (no operator precedence)."""
    result = rng.randrange(10)
    prompt, steps = [str(result)], []
    for name in NAMES[: rng.randint(2, len(NAMES))]:
        op, b = rng.choice("+-*"), rng.randrange(10)
        a, result = result, OPERATIONS[op](result, b)
        prompt += [name, f"{op}{b}"]
        steps.append(rng.choice(PHRASINGS).format(name=name, a=a, op=op, b=b, r=result))
    return Example(prompt=" ".join([*prompt, "="]), answer=" ".join([*steps, "#", str(result)]))


def final_answer(prompt: str) -> str:
    """The result of a chain, computed from its prompt."""
    first, *rest = prompt.split()[:-1]
    result = int(first)
    for operation in rest[1::2]:
        result = OPERATIONS[operation[0]](result, int(operation[1:]))
    return str(result)


def score(completion: str, example: Example) -> float:
    """1.0 if the text ends in `# d` with the right digit, and this is its only `#`; else 0.0."""
    words = completion.split()
    return float(words.count("#") == 1 and words[-2:] == ["#", final_answer(example.prompt)])


def last_word(completion: str, example: Example | None = None) -> str:
    """What a completion gives as the result: its last word."""
    return completion.split()[-1] if completion.split() else ""


TASK = Task(
    name="chain",
    source=GeneratedSource(draw),
    score=score,
    words=(
        *"0123456789",
        *(op + b for op in OPERATIONS for b in "0123456789"),
        *NAMES,
        *"=;.!#",
        "then",
        "gives",
        "so",
        "is",
    ),
    max_new_tokens=48,
    max_prompt_tokens=14,
    block_length=16,
    find_answer=last_word,
)
