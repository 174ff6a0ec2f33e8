"""How the server itself starts and stops, on the main thread of this process."""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from types import SimpleNamespace

import pytest

from tests.serving.test_limits import catalog_of
from unmask import UnmaskError
from unmask.serving.run import open_socket, serve

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def process_settings():
    """Afterwards this process is set up as it was before; SIGHUP, which `nohup` ignores, works."""
    handlers, interval = {n: signal.getsignal(n) for n in SIGNALS}, sys.getswitchinterval()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.setswitchinterval(interval)
    gc.unfreeze()


@contextlib.contextmanager
def rescue(release=lambda: None, seconds=60):
    """Ends the server if the body takes so long; yields a list that is empty if it did not."""
    late = []

    def end():
        late.append(seconds)
        release()
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def test_a_port_belongs_to_the_first_server_before_it_answers():
    with open_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UnmaskError, match=f"127.0.0.1:{port} cannot be listened on"):
            open_socket("127.0.0.1", port)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_server_answers_ends_it(tiny_dir, monkeypatch, number):
    early = SimpleNamespace(collect=lambda: signal.raise_signal(number), freeze=lambda: None)
    monkeypatch.setattr("unmask.serving.run.gc", early)
    catalog, started = catalog_of(tiny_dir), []
    with rescue() as late:
        serve(catalog, open_socket("127.0.0.1", 0), started=lambda: started.append(1))
    assert not late and not started
    assert not catalog.models["tiny"].worker.thread.is_alive()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_it(tiny_dir, number):
    catalog = catalog_of(tiny_dir)
    with rescue() as late:
        bound = open_socket("127.0.0.1", 0)
        serve(catalog, bound, started=lambda: signal.raise_signal(number))
    assert not late and not catalog.models["tiny"].worker.thread.is_alive()


def test_a_stop_does_not_wait_for_ever_for_a_client(tiny_dir, monkeypatch):
    monkeypatch.setattr("unmask.serving.run.GRACE", 0)
    monkeypatch.setattr("unmask.serving.gate.BODY_SECONDS", 3600.0)
    catalog, bound = catalog_of(tiny_dir, timeout=0.1), open_socket("127.0.0.1", 0)
    client = socket.socket()
    head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"

    def hold():
        client.connect(bound.getsockname())
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert b"100 Continue" in client.recv(100)  # the server waits for a body
        os.kill(os.getpid(), signal.SIGTERM)

    with rescue(client.close) as late, client:
        serve(catalog, bound, started=threading.Thread(target=hold).start)
    assert not late
