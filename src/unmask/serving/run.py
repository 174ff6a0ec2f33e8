"""Runs the server until a signal ends it."""

from __future__ import annotations

import gc
import math
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

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
# Seconds that a stop waits for what was accepted, beyond the time that a request may take: then
# only clients are left that do not read or do not send.
GRACE = 5
BACKLOG = 2048  # connections that wait to be accepted


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket, before anything slow begins; port 0 is any free one. It has to listen:
    one that is only bound leaves its port to other servers that start now.

    Raises:
        UnmaskError: if the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
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
    """Serves until SIGTERM, SIGHUP or SIGINT (Ctrl-C); then finishes every request that was
    accepted, as long as its client takes the answer in time. A second Ctrl-C ends it at once.

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
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(catalog.limits.timeout) + GRACE,
    )
    server = AnnouncingServer(config, started)

    # This handler is for signals that come before uvicorn has its own. uvicorn finishes what runs
    # and then raises the signal once more for the handler that was there before: for this one,
    # which does nothing then, since that the server was stopped is no failure.
    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn has none for SIGHUP, which `nohup` ignores: there it does what this one says.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
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
        if self.started and not self.should_exit:
            self.announce()
