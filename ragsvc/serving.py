"""Running the service: which address may be bound, and an orderly end."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from ragsvc.app import make_app
from ragsvc.bootstrap import Backstage, Service
from ragsvc.errors import Unsafe

_DRAIN_S = 6
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
    listener = _listen(service.settings.host, service.settings.port)
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
    )
    server = uvicorn.Server(config)
    with _signals_to(server):
        try:
            if backstage is not None:
                backstage.start()
            if ready is not None:
                host, port = listener.getsockname()[:2]
                ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            server.run(sockets=[listener])
        finally:
            listener.close()
            if backstage is not None:
                backstage.stop()


@contextmanager
def _signals_to(server: uvicorn.Server) -> Iterator[None]:
    """Signals end the server and nothing else, from now until everything is put away.

    Once it has ended, uvicorn raises the signal that ended it again; by default that would end the process at once.
    """
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
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
