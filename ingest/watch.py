"""Watched sources: every burst of events at the source queues a sync at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from indexes.errors import RagsvcError
from ingest.catalog.catalog import Catalog
from ingest.catalog.jobs import PRIORITY_EVENT
from ingest.errors import SourceUnreachable
from ingest.model import Source
from ingest.pipeline import now_utc
from ingest.protocols import Connector

log = logging.getLogger("ragsvc.watch")
_RECONCILE_S = 0.5
_RETRY_S = 5.0


class Watch:
    """One thread per watched source, following the catalogue."""

    def __init__(
        self,
        catalog: Catalog,
        open_connector: Callable[[Source], Connector],
        *,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self._catalog = catalog
        self._open = open_connector
        self._now = clock
        self._stop = threading.Event()
        self._threads: dict[str, tuple[threading.Thread, threading.Event]] = {}
        self._supervisor = threading.Thread(target=self._supervise, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._supervisor.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._supervisor.is_alive():
            self._supervisor.join(5)
        for thread, stop in self._threads.values():
            stop.set()
            thread.join(2)

    def _supervise(self) -> None:
        while not self._stop.is_set():
            try:
                self._reconcile()
            except RagsvcError as error:
                log.warning("the watched sources could not be read: %s", error.message)
            self._stop.wait(_RECONCILE_S)

    def _reconcile(self) -> None:
        wanted = {source.id: source for source in self._catalog.sources.all() if source.watch and not source.paused}
        for source_id in self._threads.keys() - wanted.keys():
            self._threads.pop(source_id)[1].set()
        for source_id, source in wanted.items():
            if source_id not in self._threads or not self._threads[source_id][0].is_alive():
                stop = threading.Event()
                thread = threading.Thread(
                    target=self._watch, args=(source, stop), name=f"watch-{source_id}", daemon=True
                )
                self._threads[source_id] = (thread, stop)
                thread.start()

    def _watch(self, source: Source, stop: threading.Event) -> None:
        """Watch until told to stop; a place that cannot be watched is tried again, and the scan goes on meanwhile."""
        while not (stop.is_set() or self._stop.is_set()):
            try:
                self._changed(source)  # whatever happened before the watch began
                self._open(source).watch(lambda: self._changed(source), lambda: stop.is_set() or self._stop.is_set())
            except SourceUnreachable as error:
                log.warning("source %s: %s", source.id, error.message)
            except RagsvcError as error:
                log.warning("source %s cannot be watched: %s", source.id, error.message)
            stop.wait(_RETRY_S)

    def _changed(self, source: Source) -> None:
        now = self._now()
        self._catalog.jobs.enqueue(
            "sync",
            now=now,
            source_id=source.id,
            payload={"scheduled": True},
            priority=PRIORITY_EVENT,
            not_before=now + timedelta(milliseconds=100),
        )
