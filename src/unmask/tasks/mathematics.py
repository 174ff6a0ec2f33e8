"""Whether two mathematical answers are equal, by `math-verify` in separate worker processes with a
hard timeout and a memory limit."""

from __future__ import annotations

import atexit
import json
import queue
import select
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from unmask.errors import UnmaskError
from unmask.tasks.answers import final_text
from unmask.tasks.base import Verdict
from unmask.tasks.data import require_package

SECONDS = 5.0
WORKER = Path(__file__).with_name("math_worker.py")
# Nothing of the caller's Python is inherited. -I would do that too, but it ignores PYTHONHASHSEED,
# and what sympy finds can depend on the order of its sets.
PYTHON_FLAGS = ("-P", "-s")
ENVIRONMENT = {"PYTHONHASHSEED": "0"}

Reply = Literal["yes", "no", "unreadable", "late", "dead"]

idle_workers: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
all_workers: set[subprocess.Popen[str]] = set()
unreadable_truths: set[str] = set()
lock = threading.Lock()


def judge_mathematics(completion: str, truth: str, seconds: float = SECONDS) -> Verdict:
    r"""Whether a completion's answer equals `truth` (LaTeX or plain text) as mathematics.

    The answer is what the last `<answer>` tag, else the last `\boxed{}`, else the last `####`
    holds, else what `math-verify` finds in the text. Equal texts are equal at once. Everything that
    cannot be read is wrong. What is not decided in `seconds`, or by a worker that died, is tried
    once more by a new worker, and then wrong too.

    Raises:
        UnmaskError: if math-verify is not installed.
    """
    answer = final_text(completion)
    if answer is not None and plain(answer) == plain(truth) != "":
        return Verdict(1.0)
    require_package("math_verify", "checking mathematics")
    request = {
        "truth": truth[:2000],
        "answer": completion[-10_000:] if answer is None else answer[:2000],
        "found": answer is not None,
    }
    reply = ask_worker(take_worker(), request, seconds)
    if reply in ("late", "dead"):
        reply = ask_worker(start_worker(), request, seconds)
    if reply == "unreadable":
        warn_unreadable(truth)
    return Verdict(float(reply == "yes"), timed_out=reply == "late")


def same_mathematics(completion: str, truth: str, seconds: float = SECONDS) -> bool:
    """The verdict of `judge_mathematics` as yes or no."""
    return judge_mathematics(completion, truth, seconds).correct == 1.0


def plain(text: str) -> str:
    """Without spaces and the dollars around."""
    return "".join(text.split()).strip("$").rstrip(".")


def warn_unreadable(truth: str) -> None:
    """Says once of each true answer that math-verify cannot read it."""
    with lock:
        if truth in unreadable_truths:
            return
        unreadable_truths.add(truth)
        count = len(unreadable_truths)
    warnings.warn(
        f"math-verify cannot read the true answer {truth[:80]!r} (number {count} of this kind); "
        "only completions with the same text count as right",
        stacklevel=2,
    )


def take_worker() -> subprocess.Popen[str]:
    """A worker that has nothing to do, or a new one."""
    try:
        return idle_workers.get_nowait()
    except queue.Empty:
        return start_worker()


def ask_worker(worker: subprocess.Popen[str], request: dict[str, Any], seconds: float) -> Reply:
    """What a worker says; one that says nothing in time ("late"), or is gone ("dead"), is ended."""
    assert worker.stdin and worker.stdout
    in_time, reply = True, ""
    try:
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        in_time = bool(select.select([worker.stdout], [], [], seconds)[0])
        reply = worker.stdout.readline() if in_time else ""
    except OSError:
        pass
    if reply in ("yes\n", "no\n", "unreadable\n"):
        idle_workers.put(worker)
        return reply.strip()  # pyright: ignore[reportReturnType]
    stop_worker(worker)
    return "dead" if in_time else "late"


def start_worker() -> subprocess.Popen[str]:
    """A new worker, ready to answer.

    Raises:
        UnmaskError: if it does not start.
    """
    worker = subprocess.Popen(
        [sys.executable, *PYTHON_FLAGS, str(WORKER)],
        text=True,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with lock:
        all_workers.add(worker)
    assert worker.stdout
    if worker.stdout.readline() != "ready\n":
        stop_worker(worker)
        raise UnmaskError(
            "the process that checks mathematics does not start; see that math-verify imports, "
            "with pip install 'unmask[tasks]'"
        )
    return worker


def stop_worker(worker: subprocess.Popen[str]) -> None:
    """Ends a worker and closes its pipes."""
    worker.kill()
    with suppress(OSError):
        worker.communicate()
    with lock:
        all_workers.discard(worker)


@atexit.register
def stop_all_workers() -> None:
    for worker in list(all_workers):
        stop_worker(worker)
