"""Running the service: which address may be bound, and an orderly end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn

from ragsvc.app import make_app
from ragsvc.bootstrap import Backstage, Service
from ragsvc.errors import Unsafe

_DRAIN_S = 8
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
    try:
        if backstage is not None:
            backstage.start()
        if ready is not None:
            host, port = listener.getsockname()[:2]
            ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        if backstage is not None:
            backstage.stop()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unsafe(
            f"Cannot listen on {host}:{port}: {error.strerror}.", hint="Choose another with --host and --port."
        ) from error
    return listener
