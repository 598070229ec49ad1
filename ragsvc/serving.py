"""Running the service: which address may be bound, and an orderly end. Several processes: workers.py."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI

from ragsvc.app import make_app
from ragsvc.bootstrap import Backstage, Service
from ragsvc.errors import Unsafe

DRAIN_S = 6
_BACKLOG = 2048
log = logging.getLogger("ragsvc")


def check_address(service: Service) -> None:
    """Refuse to be reachable from other machines without a key. Raises Unsafe."""
    if not service.settings.is_loopback and not service.catalog.keys.any():
        raise Unsafe(
            f"Refusing to listen on {service.settings.host} without an API key.",
            hint="Make one first: `ragsvc keys create --scope admin --principal user:me`.",
        )


def serve(service: Service, *, backstage: Backstage | None = None, ready: Callable[[str], None] | None = None) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish what is in flight, and stop the rest. Raises Unsafe."""
    check_address(service)
    listener = listen(service.settings.host, service.settings.port)
    server = uvicorn.Server(_config(make_app(service), backlog=_BACKLOG))
    with signals_to(server):
        try:
            if backstage is not None:
                backstage.start()
            if ready is not None:
                ready(url_of(listener))
            server.run(sockets=[listener])
        finally:
            listener.close()
            if backstage is not None:
                backstage.stop()


def _config(app: FastAPI, *, backlog: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
        backlog=backlog,
    )


class SharedServer(uvicorn.Server):
    """One of several processes on a socket. It takes one connection at a time, so that the others get theirs.

    asyncio accepts as many at once as its backlog says, and uses the same number for the kernel's queue.
    """

    def __init__(self, app: FastAPI, *, accepting: Callable[[], None]) -> None:
        super().__init__(_config(app, backlog=1))
        self._accepting = accepting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, put the kernel's queue back to what it was, and say so."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)
        self._accepting()


class Ends(Protocol):
    """Something that a signal ends."""

    def handle_exit(self, number: int, frame: Any, /) -> None:
        """The signal came."""
        ...


def url_of(listener: socket.socket) -> str:
    """The address to type."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def signals_to(server: Ends) -> Iterator[None]:
    """Signals end the server and nothing else, from now until everything is put away.

    Once it has ended, uvicorn raises the signal that ended it again; by default that would end the process at once.
    """
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket on which connections may already come. Raises Unsafe."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle off only where the protocol is named: else each answer waits 40 ms for an acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # from here on nobody is turned away, so `ready` may be said
    except OSError as error:
        listener.close()
        raise Unsafe(
            f"Cannot listen on {host}:{port}: {error.strerror}.", hint="Choose another with --host and --port."
        ) from error
    return listener
