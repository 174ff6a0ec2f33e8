"""Runs the server until a signal ends it."""

from __future__ import annotations

import gc
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import uvicorn

from unmask.errors import UnmaskError, short_error
from unmask.serving.app import build_app
from unmask.serving.catalog import Catalog

# Seconds after which a thread that computes in Python lets another one in. PyTorch gives Python's
# lock up in every operation; with Python's own 5 ms the engine then often waited that long for
# what answers requests.
SWITCH_INTERVAL = 0.0005
# Seconds that an idle connection stays open: more than clients and proxies usually keep theirs, as
# a request that is sent while the server closes is lost.
KEEP_ALIVE = 120


def open_socket(host: str, port: int) -> socket.socket:
    """A bound socket, before anything slow begins; port 0 is any free one.

    Raises:
        UnmaskError: if the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        raise UnmaskError(
            f"{host}:{port} cannot be listened on ({short_error(error)}); give another --port "
            "(0 is any free one) or --host"
        ) from None
    return bound


def serve(
    catalog: Catalog,
    bound: socket.socket,
    *,
    key: str | None = None,
    cors: Sequence[str] = (),
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM or SIGINT (Ctrl-C); then finishes every request that was accepted. A
    second Ctrl-C ends it at once.

    Args:
        catalog: models and policies.
        bound: a socket from `open_socket`.
        key: the API key; None asks for none.
        cors: origins of other pages that browsers may call this server from.
        started: is called once the server answers.
    """
    config = uvicorn.Config(
        build_app(catalog, key=key, cors=cors),
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE,
    )
    server = AnnouncingServer(config, started)
    # uvicorn finishes what runs and then raises the signal once more for the handler that was
    # there before; that the server was stopped is no failure, so that one does nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    sys.setswitchinterval(SWITCH_INTERVAL)
    # What is loaded by now stays; a full collection would look at all of it, which takes some
    # hundred milliseconds in which nothing is answered.
    gc.collect()
    gc.freeze()
    server.run(sockets=[bound])


class AnnouncingServer(uvicorn.Server):
    """Calls a function once the server answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.announce = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announce()
