"""What a good order can reach on embedded/chain: `python experiments/first_uncertain.py OUT.json`.

A hand-written rule that no policy is trained on: reveal, from the left, everything up to and
including the first position whose confidence is below 0.9. It knows that this task is written from
left to right; it bounds what a policy could learn, and is no baseline.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

import unmask
from unmask.decoding import decode, encode_prompt
from unmask.evaluation import bootstrap
from unmask.files import write_json
from unmask.policies import Needs, Observation
from unmask.provenance import provenance
from unmask.rng import RowGenerator


@dataclass(frozen=True)
class FirstUncertain:
    """Reveals the eligible positions before the first uncertain one, and that one."""

    limit: float = 0.9
    needs: ClassVar[Needs] = Needs()

    def act(self, observation: Observation, generator: RowGenerator) -> Tensor:
        unsure = observation.eligible & (observation.confidence[..., 0] < self.limit)
        before = unsure.long().cumsum(1) - unsure.long()  # uncertain positions to the left
        return observation.eligible & (before == 0)


def main(out: Path) -> None:
    model, task = unmask.load_model("embedded/chain"), unmask.load_task("chain")
    examples = task.examples("test", 1000)
    ids = [encode_prompt(model, example.prompt) for example in examples]
    points = []
    for block_length in (task.max_new_tokens, task.block_length):
        generation = decode(
            model,
            ids,
            FirstUncertain(),
            max_new_tokens=task.max_new_tokens,
            block_length=block_length,
            batch_size=128,
        )
        correct = np.array(
            [
                task.score(text, example)
                for text, example in zip(generation.text, examples, strict=True)
            ]
        )
        low, high = bootstrap(correct)
        cost = float(generation.nfe.double().mean())
        points.append(
            {
                "block_length": block_length,
                "accuracy": correct.mean(),
                "accuracy_low": low,
                "accuracy_high": high,
                "nfe": cost,
            }
        )
    command = {"command": f"python experiments/first_uncertain.py {out}"}
    write_json(
        out,
        {
            "prompts": len(examples),
            "points": points,
            "provenance": provenance(model.device, model.dtype) | command,
        },
    )
    print(json.dumps(points, indent=1))


main(Path(sys.argv[1]))
