"""How texts about word problems end, by sampler: `python experiments/closings.py OUT.json
DIRECTORY...`, directories of `unmask evaluate --traces --task word-problems`.

A solution that the model learned from ends in "The answer is 26.", in "So the answer is 26." or in
neither, each in a third of the problems, before the line with the answer. So a sampler has a
choice. The share of each choice and its accuracy are written, with the lengths of the texts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from unmask.analysis import Trace, read_traces
from unmask.files import write_json
from unmask.provenance import provenance


def closing(tokens: list[str]) -> str:
    """Which sentence stands before the line with the answer; "none" if there is neither."""
    lines = " ".join(tokens).split("####")[0].strip("↵ ").split("↵")
    words = lines[-1].split()
    return ("so" if words[0] == "So" else "the") if "answer" in words else "none"


def measure(trace: Trace) -> dict[str, object]:
    """The shares and accuracies of a sampler's texts."""
    found = np.array([closing(t) for t in trace.tokens])
    parts = {name: found == name for name in ("none", "the", "so")}
    return {
        "sampler": trace.sampler,
        "block_length": trace.block_length,
        "prompts": len(found),
        "accuracy": float(trace.correct.mean()),
        "nfe": float(trace.nfe.mean()),
        "answer_tokens": float(trace.answer_tokens.mean()),
        "share": {name: float(part.mean()) for name, part in parts.items()},
        "accuracy_of": {
            name: float(trace.correct[part].mean()) for name, part in parts.items() if part.any()
        },
    }


def main(out: Path, directories: list[Path]) -> None:
    points = [measure(trace) for directory in directories for trace in read_traces(directory)]
    write_json(out, {"points": points, "provenance": provenance()})
    print(json.dumps(points, indent=1))


main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
