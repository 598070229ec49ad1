"""Commands that save an installation and bring it back: backup, restore."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.errors import Conflict, NotFound
from ragsvc.cli_shared import console, ready_settings
from ragsvc.options import option
from ragsvc.settings import Settings

if TYPE_CHECKING:
    from ingest.backup import Backup

JsonOption = Annotated[bool, option("--json", help="What was written, for machines.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(backup)
    app.command()(restore)


def backup(dest: Path, json: JsonOption = False) -> None:
    """Copy everything into a new folder, while the service runs."""
    from ingest.backup import CATALOG, back_up
    from ingest.pipeline import now_utc
    from ragsvc import __version__
    from ragsvc.bootstrap import build

    found, began = ready_settings(), perf_counter()
    if found.database is None and not (found.data / CATALOG).exists():
        raise NotFound(f"There is no installation in {found.data}.", hint="Set RAGSVC_DATA to its folder.")
    with build(found, writable=False) as service:
        made = back_up(service.catalog, found.data, dest, release=__version__, now=now_utc())
    _show(made, dest, perf_counter() - began, done="saved in", as_json=json)


def restore(source: Path, json: JsonOption = False) -> None:
    """Put a backup into an empty data folder, after every byte of it was checked."""
    from ingest import backup as backups
    from ragsvc.bootstrap import WriterLock

    found, began = ready_settings(), perf_counter()
    _must_be_in_data(found)
    backups.read_manifest(source)  # before the data folder is made
    lock = WriterLock(found)
    try:
        made = backups.restore(source, found.data)
    finally:
        lock.release()
    _show(made, found.data, perf_counter() - began, done="restored in", as_json=json)


def _must_be_in_data(found: Settings) -> None:
    if found.database is not None:
        raise Conflict(
            "RAGSVC_DATABASE names another place for the catalogue.",
            hint="Unset it: a restore writes into RAGSVC_DATA.",
        )


def _show(made: Backup, place: Path, seconds: float, *, done: str, as_json: bool) -> None:
    shown = {
        "path": str(place.absolute()),
        "created_at": made.created_at,
        "ragsvc": made.release,
        "schema": made.revision,
        "seq": made.seq,
        "files": len(made.files),
        "bytes": made.size,
        "left_out": list(made.left_out),
        "seconds": round(seconds, 3),
    }
    if as_json:
        sys.stdout.write(jsonlib.dumps(shown) + "\n")
        return
    size = f"{len(made.files):,} files, {made.size / 1024**2:,.1f} MiB"
    console.print(f"{done} {place}: {size}, up to change {made.seq}, in {seconds:.1f} s", markup=False)
    for generation_id in made.left_out:
        console.print(
            f"the indexes of {generation_id} were left out: they are rebuilt from the catalogue", markup=False
        )
