"""Puts a trained policy into the package: `python experiments/ship.py embedded/NAME DIRECTORY
[EVALUATION]`.

DIRECTORY is what `unmask train` saved (`best`). EVALUATION is what `unmask evaluate` wrote for this
policy, by the name that it ships under, and for heuristics; its points go into the model card.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

from unmask.analysis import read_points
from unmask.errors import UnmaskError
from unmask.evaluation.plan import weights_digest
from unmask.files import read_json
from unmask.models import embedded_models
from unmask.policies import LearnedPolicy
from unmask.policies.load import EMBEDDED, MOST_BYTES


def read_measured(evaluation: Path, name: str, policy: LearnedPolicy) -> dict:
    """The points of an evaluation, for the card.

    Raises:
        UnmaskError: if they are not those of this policy.
    """
    summary = read_json(evaluation / "summary.json")
    digests = {d for s, d in summary["samplers"].items() if s.partition("@")[0] == name}
    if digests != {weights_digest(policy)}:
        raise UnmaskError(f"{evaluation} has not measured the weights of {name}; evaluate it again")
    points, _, _ = read_points([evaluation])
    return {
        "prompts": points[0].prompts,
        "split": summary["split"],
        "command": summary["provenance"]["command"],
        "points": [asdict(point) for point in points],
    }


def main(name: str, source: Path, evaluation: Path | None = None) -> None:
    if name not in embedded_models():
        raise UnmaskError(
            f"{name} is no embedded model; give one of {', '.join(embedded_models())}"
        )
    policy = LearnedPolicy.from_pretrained(source)
    metadata = {**policy.metadata, "name": name}
    if evaluation is not None:
        metadata["measured"] = read_measured(evaluation, name, policy)
    target = EMBEDDED / name.removeprefix("embedded/")
    replace(policy, metadata=metadata).save_pretrained(target)
    size = sum(file.stat().st_size for file in target.iterdir())
    if size > MOST_BYTES:
        raise UnmaskError(
            f"{target} has {size} bytes; a policy that ships has at most {MOST_BYTES}"
        )
    print(f"{target}: {size} bytes")


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
