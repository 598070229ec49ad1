"""What the commands share: opening the installation, and showing tables."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from indexes.errors import RagsvcError, WriterBusy
from ingest.duration import seconds_of
from ragsvc import settings
from ragsvc.settings import Settings
from ragsvc.telemetry import configure_logging

if TYPE_CHECKING:
    from ragsvc.bootstrap import Service

console = Console()
HostOption = Annotated[str | None, typer.Option("--host", help="Bind address [RAGSVC_HOST].")]
PortOption = Annotated[int | None, typer.Option("--port", help="Bind port [RAGSVC_PORT].", min=0, max=65535)]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Processes that answer [RAGSVC_SERVE_WORKERS].", min=1, max=64)
]
EmbedderOption = Annotated[str | None, typer.Option("--embedder", help="Model of new collections [RAGSVC_EMBEDDER].")]


def duration(text: str | None, option: str) -> float | None:
    """Seconds of an option's value. Raises BadUsage."""
    try:
        return None if text is None else seconds_of(text)
    except ValueError as error:
        raise BadUsage(f"{option}: {error}.") from error


class BadUsage(RagsvcError):
    """The command was called wrongly."""

    hint = "Add --help to the command: it shows how it is called."


def ready_settings(**overrides: Any) -> Settings:
    """Settings with logging set up."""
    found = settings.load(**overrides)
    configure_logging(found.log_level)
    return found


@contextmanager
def opened(*, writable: bool) -> Iterator[Service]:
    """The installation for one command. `writable` falls back to reading where a service holds the lock."""
    from ragsvc.bootstrap import build

    found = settings.load()
    configure_logging("error")
    try:
        service = build(found, writable=writable)
    except WriterBusy:
        service = build(found, writable=False)
    with service:
        yield service


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """A table for people, or JSON for machines."""
    if as_json:
        sys.stdout.write(jsonlib.dumps(rows, ensure_ascii=False, default=str) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(_dig(row, column))) for column in columns))  # Text: brackets are not markup
    console.print(table if rows else "nothing here yet")


def _dig(row: dict[str, Any], column: str) -> Any:
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={count}" for key, count in value.items() if count)
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
