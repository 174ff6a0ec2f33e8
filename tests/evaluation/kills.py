"""An evaluation that is killed (SIGKILL) at random moments and resumed each time: `python
tests/evaluation/kills.py [KILLS] [SEED]`.

The final results.jsonl must be that of an uninterrupted evaluation, byte for byte.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from unmask.cli import main

SAMPLERS = ("threshold:0.9", "threshold:0.7", "confidence:2", "random:4")


def command(out, *options):
    return [sys.executable, "-m", "unmask.cli", "evaluate", "--out", str(out), *map(str, options)]


def killed_and_resumed(directory, kills, seed, *options):
    """Runs both evaluations; returns how many pieces each killed run had written, and the two
    files.

    A run is killed a random time after it wrote a random number of pieces: at a quarter of the runs
    while it still starts.
    """
    assert main(command(directory / "whole", *options)[3:]) == 0
    rng, added, before, cut = random.Random(seed), [], 0, directory / "cut"

    def written():
        return sum(path.read_bytes().count(b"\n") for path in (cut / "partial").glob("*.jsonl"))

    for _ in range(kills):
        process = subprocess.Popen(
            command(cut, "--resume", *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wanted = rng.randint(0, 3)
        while wanted and written() < before + wanted and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 5 if wanted == 0 else 0.2))
        process.kill()
        assert process.wait() == -9, (
            f"not killed but ended by itself: give it more to do {process.stderr.read().decode()}"
        )
        added.append(written() - before)
        before = written()
    assert main(command(cut, "--resume", *options)[3:]) == 0
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
