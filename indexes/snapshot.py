"""Which segments and tables make up a stored state? One small file per state names them all, with their SHA-256.

<generation>/segments/<segment id>/           immutable rows
<generation>/snapshots/<seq>.json             the state at `seq`: what it is made of, and a checksum of itself
<generation>/snapshots/<seq>-<hash>.columns   its tables of versions and documents

A snapshot becomes current by the rename of its JSON file, after everything it names is safe on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from indexes import durable
from indexes.columns import Columns, ColumnWriter
from indexes.durable import Stamp
from indexes.errors import SnapshotDamaged
from indexes.model import Generation, Timestamp

FORMAT: Final = 2
SEGMENTS, SNAPSHOTS = "segments", "snapshots"
KEPT: Final = 2
"""The newest snapshot, and one to fall back to when it is damaged."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a snapshot file says. `segments` maps each id to the stamp of its manifest.

    `purged` says that dropped versions were rewritten away: then no older snapshot may be kept.
    """

    generation: Generation
    seq: int
    committed_at: Timestamp
    tables: str
    tables_stamp: Stamp
    segments: tuple[tuple[str, Stamp], ...]
    purged: bool


class Mark(NamedTuple):
    """A snapshot file at one moment: another one whenever something is published, for the same `seq` too."""

    name: str
    inode: int
    modified_ns: int


def snapshot_files(folder: Path) -> list[Path]:
    """The snapshot files of a generation, newest first."""
    return sorted((folder / SNAPSHOTS).glob("[0-9]*.json"), reverse=True)


def snapshot_seq(name: str) -> int:
    """The sequence number in the name of a snapshot file."""
    return int(name.removesuffix(".json"))


def marks(folder: Path) -> tuple[Mark, ...]:
    """What the snapshot files are now, newest first. Who read while this changed may have read what was swept."""
    found = []
    for path in snapshot_files(folder):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(Mark(path.name, status.st_ino, status.st_mtime_ns))
    return tuple(found)


def write_snapshot(
    folder: Path,
    generation: Generation,
    *,
    seq: int,
    committed_at: Timestamp,
    tables: Callable[[ColumnWriter], None],
    segments: Sequence[tuple[str, Stamp]],
    purged: bool,
) -> Record:
    """Store what `tables` writes and the snapshot file; the last rename makes it current. Raises StorageFailed."""
    place = folder / SNAPSHOTS
    aside = place / f"{durable.ASIDE}{seq:020d}.columns"
    with durable.storage(f"Snapshot {seq} of generation {generation.id}"):
        try:
            with durable.stream(aside) as file:
                writer = ColumnWriter(file)
                tables(writer)
                writer.finish()
            name = f"{seq:020d}-{file.stamp.sha256[:16]}.columns"
            durable.publish(aside, place / name)
        except OSError:
            durable.delete(aside)  # a full disk must not fill further with each try
            raise
        record = Record(generation, seq, committed_at, name, file.stamp, tuple(segments), purged)
        durable.write_aside(place / f"{seq:020d}.json", _encode(record))
    return record


def read_snapshot(path: Path) -> Record:
    """Read a snapshot file. Raises SnapshotDamaged, FileNotFoundError."""
    try:
        stored = json.loads(path.read_bytes())
        body = stored["body"]
        if stored["sha256"] != _checksum(body):
            raise SnapshotDamaged(f"Snapshot file {path.name} does not have the checksum it was written with.")
        if body["format"] != FORMAT:
            raise SnapshotDamaged(f"Snapshot file {path.name} has a format this version of ragsvc does not know.")
        return Record(
            Generation(**body["generation"]),
            body["seq"],
            body["committed_at"],
            body["tables"],
            Stamp(**body["tables_stamp"]),
            tuple((name, Stamp(**stamp)) for name, stamp in body["segments"]),
            body["purged"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotDamaged(f"Snapshot file {path.name} cannot be read ({error}).") from error


def read_tables(folder: Path, record: Record) -> Columns:
    """The tables of a snapshot, checked. Raises SnapshotDamaged, FileNotFoundError."""
    data = (folder / SNAPSHOTS / record.tables).read_bytes()
    if Stamp(len(data), hashlib.sha256(data).hexdigest()) != record.tables_stamp:
        raise SnapshotDamaged(f"Table file {record.tables} does not have the SHA-256 it was written with.")
    try:
        return Columns(data)
    except ValueError as error:
        raise SnapshotDamaged(f"Table file {record.tables} cannot be read ({error}).") from error


def sweep(folder: Path, *, sparing: Collection[str] = ()) -> None:
    """Delete all but the newest KEPT snapshots, and what no kept one names, leftovers of crashes too.

    `sparing` are segments that are being written, which no snapshot names yet.

    Processes that have a deleted segment open keep it: the file system holds mapped files until they let go.
    """
    kept: list[Record] = []
    for path in snapshot_files(folder):
        try:
            record = read_snapshot(path)
        except SnapshotDamaged:
            durable.delete(path)
            continue
        if len(kept) < (1 if kept and kept[0].purged else KEPT):
            kept.append(record)
        else:
            durable.delete(path)
    durable.sync_folder(folder / SNAPSHOTS)
    named = {name for record in kept for name, _ in record.segments}
    named.update(name for one in sparing for name in (one, durable.ASIDE + one))
    files = {record.tables for record in kept} | {path.name for path in snapshot_files(folder)}
    for path in [*(folder / SEGMENTS).iterdir(), *(folder / SNAPSHOTS).iterdir()]:
        if path.name not in (named if path.parent.name == SEGMENTS else files):
            durable.delete(path)


def _encode(record: Record) -> bytes:
    body = {"format": FORMAT, **asdict(record)}
    return json.dumps({"body": body, "sha256": _checksum(body)}, indent=1).encode("ascii")


def _checksum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("ascii")).hexdigest()
