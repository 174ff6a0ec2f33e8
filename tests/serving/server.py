"""A server as a process of its own, and one on a thread of this process, for tests."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def read_url(process, seconds=90):
    """The URL that a starting server prints."""
    said, pipe = "", process.stdout.fileno()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # Read from the pipe itself: a line that Python had buffered would not wake `select`.
        if select.select([pipe], [], [], 1)[0]:
            data = os.read(pipe, 65536).decode()
            said += data
            if found := re.search(r"API (http://[^\s,]+)/v1", said):
                return found[1]
            if not data:
                break
    raise AssertionError(f"no server came up: {said}{process.stderr.read()}")


@contextlib.contextmanager
def start_server(*options, command="serve", environment=None):
    """`unmask serve` with these options; yields its URL and the process, which is ended
    afterwards."""
    words = [sys.executable, "-m", "unmask.cli", command, "--port", "0", *options]
    own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | (environment or {})
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own, cwd=ROOT
    )
    try:
        yield read_url(process), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()
        process.stderr.close()


@contextlib.contextmanager
def serve_here(catalog, **options):
    """A catalog behind a real socket, on a thread of this process; yields its URL."""
    import uvicorn

    from unmask.serving.app import build_app
    from unmask.serving.run import open_socket

    bound = open_socket("127.0.0.1", 0)
    app = build_app(catalog, **options)
    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_keep_alive=120)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
