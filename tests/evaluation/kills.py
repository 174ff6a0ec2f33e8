"""An evaluation that is killed (SIGKILL) at random moments and resumed each time: `python -m
tests.evaluation.kills [KILLS] [SEED]`.

The final results.jsonl must be that of an uninterrupted evaluation, byte for byte.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.forks import has_ended, kill_fork, start_fork
from unmask.cli import main

SAMPLERS = ("threshold:0.9", "threshold:0.7", "confidence:2", "random:4")


def command(out, *options):
    return ["evaluate", "--out", str(out), *map(str, options)]


def killed_and_resumed(directory, kills, seed, *options):
    """Runs both evaluations; returns how many pieces each killed run had written, and the two
    files.

    A run is killed a random time after it wrote a random number of pieces: at a quarter of the runs
    while it still starts.
    """
    assert main(command(directory / "whole", *options)) == 0
    rng, added, before, cut = random.Random(seed), [], 0, directory / "cut"

    def written():
        return sum(path.read_bytes().count(b"\n") for path in (cut / "partial").glob("*.jsonl"))

    for _ in range(kills):
        child = start_fork(directory / "log", *command(cut, "--resume", *options))
        wanted = rng.randint(0, 3)
        while wanted and written() < before + wanted and not has_ended(child):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        said = (directory / "log").read_text(encoding="utf-8")
        assert kill_fork(child) == -9, f"it ended by itself: give it more to do. {said}"
        added.append(written() - before)
        before = written()
    assert main(command(cut, "--resume", *options)) == 0
    left = sorted(path.name for path in cut.iterdir())
    assert left == ["results.jsonl", "summary.json"], left
    return added, *((directory / name / "results.jsonl").read_bytes() for name in ("whole", "cut"))


if __name__ == "__main__":
    kills, seed = (
        int(dict(enumerate(sys.argv)).get(1, "20")),
        int(dict(enumerate(sys.argv)).get(2, "0")),
    )
    with tempfile.TemporaryDirectory() as name:
        options = (
            "--samplers",
            *SAMPLERS,
            "--block-lengths",
            16,
            48,
            "--prompts",
            200,
            "--batch-size",
            2,
        )
        added, whole, cut = killed_and_resumed(Path(name), kills, seed, *options)
    print(
        f"{kills} kills; pieces that each killed run wrote: {added}; {len(whole.splitlines())} "
        f"results; equal: {whole == cut}"
    )
    sys.exit(whole != cut)
