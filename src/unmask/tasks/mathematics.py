"""Whether two mathematical answers are equal, by `math-verify` in processes of its own: with a time
limit that nothing can outsit, and a memory limit."""

from __future__ import annotations

import atexit
import json
import queue
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.tasks.answers import final_text
from unmask.tasks.data import needed

SECONDS = 5.0
WORKER = Path(__file__).with_name("math_worker.py")
idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
working: set[subprocess.Popen[str]] = set()
lock = threading.Lock()


def same_mathematics(completion: str, truth: str, seconds: float = SECONDS) -> bool:
    r"""Whether a completion's answer equals `truth` (LaTeX or plain text) as mathematics.

    The answer is what the last `<answer>` tag, else the last `\boxed{}`, else the last `####`
    holds, else what `math-verify` finds in the text. Equal texts are equal at once. Everything that
    cannot be read, or not be decided in `seconds`, is wrong.

    Raises:
        UnmaskError: if math-verify is not installed.
    """
    answer = final_text(completion)
    if answer is not None and plain(answer) == plain(truth) != "":
        return True
    needed("math_verify", "checking mathematics")
    request = {
        "truth": truth[:2000],
        "answer": completion[-10_000:] if answer is None else answer[:2000],
        "found": answer is not None,
    }
    return bool(ask(request, seconds))


def plain(text: str) -> str:
    """Without spaces and the dollars around."""
    return "".join(text.split()).strip("$").rstrip(".")


def ask(request: dict[str, Any], seconds: float) -> bool:
    """A worker's answer; a worker that has none in time is killed, and the answer is no."""
    try:
        worker = idle.get_nowait()
    except queue.Empty:
        worker = start()
    assert worker.stdin and worker.stdout
    try:
        worker.stdin.write(json.dumps(request) + "\n")
        worker.stdin.flush()
        ready = select.select([worker.stdout], [], [], seconds)[0]
        reply = worker.stdout.readline() if ready else ""
    except OSError:
        reply = ""
    if not reply.endswith("\n"):
        stop(worker)
        return False
    idle.put(worker)
    return reply == "yes\n"


def start() -> subprocess.Popen[str]:
    """A new worker, ready to answer."""
    environment = {"PYTHONHASHSEED": "0"}
    command = [sys.executable, "-I", str(WORKER)]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    worker = subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes)
    with lock:
        working.add(worker)
    assert worker.stdout
    if worker.stdout.readline() != "ready\n":
        stop(worker)
        raise UnmaskError(
            "the process that checks mathematics does not start; see that math-verify imports, "
            "with pip install 'unmask[tasks]'"
        )
    return worker


def stop(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()
    with lock:
        working.discard(worker)


@atexit.register
def stop_all() -> None:
    for worker in list(working):
        stop(worker)
