"""How do several processes answer on one address? They accept on one socket; this one starts and watches them.

They are started by exec, not by fork: the writing process has threads, and a library's lock may be held in one of them.
uvicorn's own supervisor neither waits between restarts, nor ends a child that hangs, nor its children when it is
killed itself.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from ragsvc.bootstrap import Backstage, Service
from ragsvc.errors import ReaderFailed
from ragsvc.serving import DRAIN_S, check_address, listen, signals_to, url_of
from ragsvc.settings import Settings

_BOOT = "import sys; sys.path.append(sys.argv[1]); from ragsvc.reader import main; main()"
_ROOT = str(Path(__file__).resolve().parents[1])
_START_S = 120.0
_TICK_S = 0.2
_STOP_S = DRAIN_S + 0.5  # with the worker's 3 s it makes less than 10
_FIRST_DELAY_S, _MOST_DELAY_S = 0.5, 30.0
_WELL_S = 60.0
log = logging.getLogger("ragsvc")


def serve_many(
    service: Service, *, backstage: Backstage | None = None, ready: Callable[[str], None] | None = None
) -> None:
    """Answer in `serve_workers` processes until SIGTERM or SIGINT; then let them finish what is in flight.

    Raises Unsafe, and ReaderFailed when one cannot begin.
    """
    check_address(service)
    ended = _Ended()
    listener = listen(service.settings.host, service.settings.port)
    with signals_to(ended), tempfile.TemporaryDirectory(prefix="ragsvc-metrics-") as metrics:
        readers = Readers(service.settings, listener, metrics)
        try:
            if backstage is not None:
                backstage.start()
            readers.start(ended.event)
            if ready is not None and not ended.event.is_set():
                ready(url_of(listener))
            while not ended.event.wait(_TICK_S):
                readers.tend()
        finally:
            listener.close()
            readers.stop()
            if backstage is not None:
                backstage.stop()


class _Ended:
    """What a signal sets."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def handle_exit(self, _number: int, _frame: object) -> None:
        self.event.set()


@dataclass(slots=True)
class _Place:
    """One of the processes; `due` is when the next one starts in its place if it has ended."""

    process: subprocess.Popen[bytes]
    began: float
    failures: int = 0
    due: float | None = None


class Readers:
    """The reading processes of one listening socket."""

    def __init__(self, settings: Settings, listener: socket.socket, metrics: str) -> None:
        self._count = settings.serve_workers
        threads = settings.threads or max(len(os.sched_getaffinity(0)) // self._count, 1)  # else each takes all cores
        told = settings.model_copy(update={"threads": threads, "data": settings.data.absolute()})
        self._orders = json.dumps({"settings": told.model_dump(mode="json"), "metrics": metrics}).encode() + b"\n"
        self._listener = listener
        self._places: list[_Place] = []

    def start(self, ended: threading.Event) -> None:
        """Start all, and return when all accept, or when `ended` is set. Raises ReaderFailed."""
        self._places = [_Place(self._begin(), monotonic()) for _ in range(self._count)]
        deadline = monotonic() + _START_S
        for place in self._places:
            assert place.process.stdout is not None
            while not select.select([place.process.stdout], [], [], _TICK_S)[0]:
                if ended.is_set():
                    return
                if monotonic() > deadline:
                    raise ReaderFailed(f"A reading process did not begin within {_START_S:.0f} s.")
            if not place.process.stdout.readline():
                raise ReaderFailed(f"A reading process ended at once, with status {place.process.wait()}.")

    def _begin(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, _ROOT, str(self._listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._listener.fileno()],
            start_new_session=True,  # Ctrl-C comes from here, once
            bufsize=0,
        )
        assert process.stdin is not None
        try:
            process.stdin.write(self._orders)
        except BrokenPipeError:
            log.debug("reading process %d ended before it had its orders", process.pid)
        return process

    def tend(self) -> None:
        """Start a new process where one has ended: later each time, as long as they end soon."""
        now = monotonic()
        for place in self._places:
            if place.process.poll() is None:
                continue
            if place.due is None:
                place.failures = 0 if now - place.began > _WELL_S else place.failures + 1
                delay = min(_FIRST_DELAY_S * 2 ** min(place.failures, 9), _MOST_DELAY_S)
                place.due = now + delay
                status = place.process.returncode
                log.warning("reading process %d ended (%d); another in %.1f s", place.process.pid, status, delay)
            elif now >= place.due:
                _close(place.process)
                place.process, place.began, place.due = self._begin(), now, None

    def stop(self) -> None:
        """Let all finish what is in flight; what has not ended by then is killed."""
        for place in self._places:
            place.process.terminate()
        deadline = monotonic() + _STOP_S
        for place in self._places:
            try:
                place.process.wait(max(deadline - monotonic(), 0))
            except subprocess.TimeoutExpired:
                log.warning("reading process %d did not end in time", place.process.pid)
                place.process.kill()
                place.process.wait()
            _close(place.process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
