"""A task of your own: a generator of problems and a verifier, no network, no files."""

import random

import unmask
from unmask.tasks import Example, Task
from unmask.tasks.sources import GeneratedSource


def draw(rng: random.Random) -> Example:
    """A chain of one step: the language of `embedded/chain`, with shorter problems."""
    a, b = rng.randrange(10), rng.randrange(10)
    return Example(prompt=f"{a} a +{b} =", answer="", data=(a + b) % 10)


def score(completion: str, example: Example) -> float:
    """1 if the last digit that was written is the sum's last digit."""
    digits = [c for c in completion if c.isdigit()]
    return float(bool(digits) and int(digits[-1]) == example.data)


task = Task(name="one-step", source=GeneratedSource(draw), score=score, max_new_tokens=48)
model = unmask.load_model("embedded/chain")
for point in unmask.evaluate(model, task, ["threshold:0.9", "confidence:1"], prompts=32):
    print(f"{point.sampler:<16} {100 * point.accuracy:5.1f} % in {point.nfe:4.1f} passes")
