"""`python -m tests.fuzz --cases 1000`, or `--minutes 60`: every kind in turn, and a table."""

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

OUTCOMES = ("refused", "accepted", "tracebacks", "hangs", "leftovers", "signals")
LIMIT = 20.0  # seconds of a processor for one case
OUTSIDE = 200.0  # seconds of a processor outside of cases: imports, the choice of the next case
PATIENCE = 120.0  # seconds by the clock for a process that waits
PART = 200  # cases of one process


def run_imports(root: Path) -> None:
    """Loads what the first case would otherwise wait for."""
    import contextlib
    import io

    from tests.fuzz.kinds import call, tiny_model

    with contextlib.redirect_stdout(io.StringIO()):
        model = str(root / "good" / "tiny")
        tiny_model(model)
        call("generate", "7 a =", "--model", model, "--max-new-tokens", "2")


def work(root: Path, name: str, seed: int, examples: int) -> None:
    """Runs cases of a kind; a line of JSON for the begin and the end of each."""
    import hypothesis

    from tests.fuzz.kinds import KINDS, run_case

    kind = KINDS[name]
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(kind.cases(root / "good"))
    def run(case):
        channel.write(json.dumps({"begin": ascii(case)[:3000]}) + "\n")
        try:
            channel.write(json.dumps({"end": run_case(root, kind, case)}) + "\n")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            lines = traceback.format_exc().splitlines()
            channel.write(json.dumps({"end": "tracebacks", "text": lines[-12:]}) + "\n")

    run_imports(root)
    run()


def processor_seconds(process: int) -> float:
    """What a process has used of the processors."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watch:
    """When a process hangs: what it works too long at, and that it waits too long.

    A machine that has other work makes a process slow, which is no hang. So the clock counts only
    while the process hardly uses a processor, and work counts in seconds of a processor.
    """

    def __init__(self, process: int, limit: float, outside: float, patience: float) -> None:
        self.process, self.limit, self.outside, self.patience = process, limit, outside, patience
        self.began = self.used = 0.0  # seconds of a processor
        self.awake = time.monotonic()

    def begin(self) -> None:
        """A case begins or ends here."""
        self.began = self.used = processor_seconds(self.process)
        self.awake = time.monotonic()

    def hangs(self, in_case: bool) -> bool:
        """Whether the process has worked or waited too long."""
        used = processor_seconds(self.process)
        if used - self.used >= 0.01 * self.patience:
            self.used, self.awake = used, time.monotonic()
        busy = used - self.began > (self.limit if in_case else self.outside)
        return busy or time.monotonic() - self.awake > self.patience


def watch(
    words: list[str],
    name: str,
    counts: Counter,
    log,
    limits: tuple[float, float, float] = (LIMIT, OUTSIDE, PATIENCE),
) -> None:
    """Runs a process of cases and counts how they end; one that hangs is killed."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    case, rest, said = None, b"", None
    patience = Watch(process.pid, *limits)
    while True:
        ready, _, _ = select.select([process.stdout], [], [], min(2.0, limits[2] / 4))
        if not ready and patience.hangs(case is not None):
            process.kill()
            said = "hangs"
            break
        if not ready:
            continue
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            entry = json.loads(line)
            patience.begin()
            if "begin" in entry:
                case = entry["begin"]
                continue
            counts[entry["end"]] += 1
            if entry["end"] not in ("refused", "accepted"):
                log.write(json.dumps({"kind": name, "case": case, **entry}) + "\n")
                log.flush()
            case = None
    code = process.wait()
    if said is None and (code or case is not None):
        said = "signals" if code < 0 else "tracebacks"
    if said is not None:
        counts[said] += 1
        log.write(json.dumps({"kind": name, "case": case, "end": said, "code": code}) + "\n")
        log.flush()


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=0, help="cases of each kind")
    parser.add_argument("--minutes", type=float, default=0, help="or: go on for so long")
    parser.add_argument("--kinds", nargs="*", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", default="fuzz.jsonl", help="gets every case that went wrong")
    options = parser.parse_args()
    from tests.fuzz.kinds import KINDS, make_good_files

    root = Path(tempfile.mkdtemp(prefix="unmask-fuzz-"))
    (root / "good").mkdir()
    make_good_files(root / "good")
    end = time.monotonic() + 60 * options.minutes
    tables = {name: Counter() for name in options.kinds or KINDS}
    part = 0
    with open(options.log, "w", encoding="utf-8") as log:
        while part * PART < options.cases or time.monotonic() < end:
            for name, counts in tables.items():
                examples = min(PART, options.cases - part * PART) if options.cases else PART
                words = [sys.executable, "-m", "tests.fuzz", "--work", str(root), name]
                words += [str(options.seed * 10_000 + part), str(examples)]
                watch(words, name, counts, log)
            part += 1
    shutil.rmtree(root)
    print("| kind | tried | " + " | ".join(OUTCOMES) + " |\n|---" + "|---:" * 7 + "|")
    tables["all"] = sum(tables.values(), Counter())
    for name, counts in tables.items():
        cells = [sum(counts.values()), *(counts[outcome] for outcome in OUTCOMES)]
        print(f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
