"""What does one of several reading processes do? It gets its orders on standard input and answers on a shared socket.

The first line there is JSON: the settings, and the folder where all of them count their requests. The end of that input
is the end of the process that started this one, so nothing goes on answering behind it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

READY = b"ready\n"


def main() -> None:
    """Answer on the listening socket whose descriptor is the last argument, until SIGTERM or the parent's end."""
    orders = json.loads(sys.stdin.readline())
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = orders["metrics"]  # prometheus_client looks once, when it is imported
    _answer(orders, socket.socket(fileno=int(sys.argv[-1])))


def _answer(orders: dict[str, object], listener: socket.socket) -> None:
    from ragsvc.app import make_app
    from ragsvc.bootstrap import build
    from ragsvc.serving import SharedServer, signals_to
    from ragsvc.settings import Settings
    from ragsvc.telemetry import Metrics, configure_logging

    settings = Settings.model_validate(orders["settings"])
    configure_logging(settings.log_level)
    with build(settings, writable=False) as service:
        metrics = Metrics(shared=Path(str(orders["metrics"])))
        server = SharedServer(make_app(service, metrics=metrics), accepting=_say_ready)
        threading.Thread(target=_until_alone, args=(server,), name="parent", daemon=True).start()
        with signals_to(server):
            server.run(sockets=[listener])


def _say_ready() -> None:
    os.write(1, READY)
    os.dup2(2, 1)  # the parent reads no more; what a library prints belongs to the log


def _until_alone(server: object) -> None:
    from uvicorn import Server

    assert isinstance(server, Server)
    sys.stdin.read()
    server.handle_exit(signal.SIGTERM, None)
