"""An evaluation that is killed (SIGKILL) at random moments and resumed each time: `python tests/kills.py [KILLS] [SEED]`.

The final results.jsonl must be that of an uninterrupted evaluation, byte for byte.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLERS = ("threshold:0.9", "threshold:0.7", "confidence:2", "random:4")


def command(out, *options):
    return [sys.executable, "-m", "unmask.cli", "evaluate", "--out", str(out), *map(str, options)]


def killed_and_resumed(directory, kills, seed, *options):
    """Runs both evaluations; returns how many pieces each killed run had added, and the two files."""
    began = time.perf_counter()
    subprocess.run(command(directory / "whole", *options), check=True, capture_output=True)
    seconds = time.perf_counter() - began
    rng, added, before = random.Random(seed), [], 0
    start = 0.4 * seconds  # imports and the model take a good part of so short a run
    for _ in range(kills):
        process = subprocess.Popen(command(directory / "cut", "--resume", *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            process.wait(rng.uniform(0.5 * start, start + (seconds - start) * 2 / kills + 1))
        except subprocess.TimeoutExpired:
            process.kill()
        assert process.wait() in (0, -9), process.stderr.read().decode()
        after = sum(path.read_bytes().count(b"\n") for path in (directory / "cut" / "partial").glob("*.jsonl"))
        added.append(after - before)
        before = after
    subprocess.run(command(directory / "cut", "--resume", *options), check=True, capture_output=True)
    left = sorted(path.name for path in (directory / "cut").iterdir())
    assert left == ["results.jsonl", "summary.json"], left
    return added, *((directory / name / "results.jsonl").read_bytes() for name in ("whole", "cut"))


if __name__ == "__main__":
    kills, seed = (int(argument) for argument in (*sys.argv[1:], "20", "0")[:2]) if len(sys.argv) != 2 else (int(sys.argv[1]), 0)
    with tempfile.TemporaryDirectory() as name:
        options = ("--samplers", *SAMPLERS, "--block-lengths", 16, 48, "--prompts", 200, "--batch-size", 4)
        added, whole, cut = killed_and_resumed(Path(name), kills, seed, *options)
    print(f"{kills} kills; lines added before each: {added}; {len(whole.splitlines())} results; equal: {whole == cut}")
    sys.exit(whole != cut)
