"""What the service says of itself: structured logs and Prometheus metrics. Never a document's text or a secret."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The service's metrics in a registry of their own.

    `shared` is the folder where several processes count, PROMETHEUS_MULTIPROC_DIR since before prometheus_client was
    imported: then `shown` is what all of them counted, those that have ended too.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self.shown = self.registry if shared is None else CollectorRegistry()
        if shared is not None:
            MultiProcessCollector(self.shown, str(shared))  # type: ignore[no-untyped-call]
        self._requests = Counter(
            "ragsvc_requests",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ragsvc_request_seconds", "Time to answer by route.", ["route"], buckets=_BUCKETS, registry=self.registry
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        known = method if method in _METHODS else "other"  # a caller can invent any number of methods
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


def configure_logging(level: str) -> None:
    """One line of JSON per event on standard error."""
    timestamper = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, timestamper]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.processors.format_exc_info],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("apscheduler", "watchfiles", "uvicorn.access", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
