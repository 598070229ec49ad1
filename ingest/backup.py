"""How does an installation survive the loss of its disk? One folder that holds all of it, made while everything runs.

Order is what makes it one state. The indexes come first, so that the catalogue is never older than they are: a restored
index follows the change log from where it stands. Then, in one moment without commits, the blobs of waiting pushes are
linked and the view of the catalogue is taken. The bulk is copied afterwards, while everybody writes.

<backup>/backup.json      what it holds, with the SHA-256 of every file and of itself
<backup>/catalog.db       <backup>/blobs/..      <backup>/indexes/..
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from indexes import durable
from indexes.audit import check_generation
from indexes.capture import capture, files_in, link
from indexes.durable import Stamp
from indexes.errors import WriterBusy
from ingest.blobs import FolderBlobStore
from ingest.catalog.catalog import Catalog
from ingest.catalog.copying import CatalogView, check_file, check_revision
from ingest.errors import BackupDamaged, CatalogUnsafe, Conflict

FORMAT: Final = 1
MANIFEST, CATALOG, BLOBS, INDEXES = "backup.json", "catalog.db", "blobs", "indexes"
_LOCK = "backup.lock"
_STAGING, _RESTORING = durable.ASIDE + "backup-", durable.ASIDE + "restore-"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds: everything up to `seq`. `left_out` are generations to be rebuilt from the catalogue."""

    created_at: str
    release: str
    revision: str
    seq: int
    files: Mapping[str, Stamp]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(stamp.size for stamp in self.files.values())


def back_up(catalog: Catalog, data: Path, dest: Path, *, release: str, now: datetime) -> Backup:
    """Copy an installation to the new folder `dest`; it is there with everything in it, or not at all.

    Raises Conflict (`dest` is there, another backup runs, PostgreSQL), CatalogUnsafe, StorageFailed.
    """
    dest = dest.absolute()
    if dest.exists() or dest.is_symlink():
        raise Conflict(f"{dest} is there already.", hint="Name a new folder for each backup.")
    if not dest.parent.is_dir():
        raise Conflict(f"There is no folder {dest.parent}.", hint="Make it, or mount the disk.")
    try:
        lock = durable.lock(data / _LOCK)
    except WriterBusy as error:
        raise Conflict(f"Another backup of {data} is being made.", hint="Wait until it has ended.") from error
    staging = data / f"{_STAGING}{secrets.token_hex(4)}"
    aside = dest.with_name(f"{durable.ASIDE}{dest.name}-{secrets.token_hex(4)}")
    try:
        with durable.storage(f"The backup in {dest.parent}"):
            _clear(data, _STAGING)
            aside.mkdir(mode=0o700)  # it holds the text of every document
            made = _fill(catalog, data, staging, aside, release, now)
            durable.publish(aside, dest)
    finally:
        durable.delete(staging)
        durable.delete(aside)
        os.close(lock)
    return made


def _fill(catalog: Catalog, data: Path, staging: Path, aside: Path, release: str, now: datetime) -> Backup:
    seqs = _capture_indexes(data / INDEXES, staging / INDEXES)
    live, kept = FolderBlobStore(data / BLOBS), FolderBlobStore(staging / BLOBS)

    def keep_blobs(view: CatalogView) -> None:
        for sha256 in view.blobs:
            kept.path(sha256).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # then the service does not have it either
                link(live.path(sha256), kept.path(sha256))

    with catalog.copying.view(keep_blobs) as view:
        view.copy_to(aside / CATALOG)
    check_file(aside / CATALOG)
    durable.sync_file(aside / CATALOG)
    files = {CATALOG: durable.stamp(aside / CATALOG), **_copy_all(staging, BLOBS, aside)}
    left_out = []
    for generation_id in sorted(view.generations & seqs.keys()):
        copied = _copy_all(staging, f"{INDEXES}/{generation_id}", aside)
        if seqs[generation_id] > view.seq or check_generation(aside / INDEXES / generation_id):
            durable.delete(aside / INDEXES / generation_id)
            left_out.append(generation_id)
        else:
            files |= copied
    made = Backup(now.isoformat(), release, view.revision, view.seq, files, tuple(left_out))
    durable.write(aside / MANIFEST, _encode(made))
    _sync_folders(aside)
    return made


def _capture_indexes(folder: Path, staging: Path) -> dict[str, int]:
    """Link the newest state of each generation; its sequence number by the generation's id."""
    staging.mkdir(parents=True)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    seqs = {one.name: capture(one, staging / one.name) for one in found if one.is_dir() and one.name[0] != "."}
    return {name: seq for name, seq in seqs.items() if seq is not None}


def _copy_all(folder: Path, below: str, target: Path) -> dict[str, Stamp]:
    """Copies, not links: damage to a file in use must not reach the backup."""
    if not (folder / below).is_dir():
        return {}
    names = [path.relative_to(folder).as_posix() for path in files_in(folder / below)]
    return {name: _copy(folder / name, target / name) for name in names}


def _copy(path: Path, place: Path) -> Stamp:
    place.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as source, durable.stream(place) as copy:
        while piece := source.read(_PIECE):
            copy.write(piece)
    return copy.stamp


def restore(source: Path, data: Path) -> Backup:
    """Put a backup into a data folder that holds no installation; call it under the writer's lock.

    Every file is read and compared before any becomes current; the last rename, of the catalogue, makes all of it so.
    Raises BackupDamaged, CatalogUnsafe (of a newer release), Conflict (there is an installation), StorageFailed.
    """
    made = read_manifest(source)
    check_revision(made.revision)
    _must_be_free(data)
    aside = data / f"{_RESTORING}{secrets.token_hex(4)}"
    try:
        with durable.storage(f"The data folder {data}"):
            durable.make_folder(aside)
            for name, stamp in made.files.items():
                _copy_checked(source, name, stamp, aside)
            _sync_folders(aside)
            for name in (INDEXES, BLOBS, CATALOG):
                if (aside / name).exists():
                    durable.publish(aside / name, data / name)
    finally:
        durable.delete(aside)
    return made


def _copy_checked(source: Path, name: str, stamp: Stamp, aside: Path) -> None:
    try:
        copied = _copy(source / name, aside / name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BackupDamaged(f"{name} is missing in {source}.") from error
    if copied != stamp:
        raise BackupDamaged(f"{name} in {source} does not have the SHA-256 it was written with.")


def _must_be_free(data: Path) -> None:
    """Refuse where an installation is; clear away what an interrupted restore left. Raises Conflict."""
    interrupted = any(data.glob(_RESTORING + "*")) and not (data / CATALOG).exists()
    for name in (f"{CATALOG}-wal", f"{CATALOG}-shm", CATALOG, BLOBS, INDEXES):
        if interrupted and name in (BLOBS, INDEXES):
            durable.delete(data / name)
        if (data / name).exists():
            raise Conflict(
                f"There is an installation in {data} already ({name}).", hint="Set RAGSVC_DATA to an empty folder."
            )
    _clear(data, _RESTORING)


def _clear(data: Path, prefix: str) -> None:
    for leftover in data.glob(prefix + "*"):
        durable.delete(leftover)


def _sync_folders(folder: Path) -> None:
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        durable.sync_folder(path)


def _encode(made: Backup) -> bytes:
    body = {
        "format": FORMAT,
        "ragsvc": made.release,
        "schema": made.revision,
        "seq": made.seq,
        "created_at": made.created_at,
        "left_out": list(made.left_out),
        "files": {name: {"size": stamp.size, "sha256": stamp.sha256} for name, stamp in made.files.items()},
    }
    return json.dumps({"body": body, "sha256": _checksum(body)}, indent=1).encode("ascii")


def _checksum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("ascii")).hexdigest()


def read_manifest(source: Path) -> Backup:
    """What a backup says that it holds. Raises BackupDamaged, CatalogUnsafe for a format of a newer release."""
    try:
        stored = json.loads((source / MANIFEST).read_bytes())
        body = stored["body"]
        if stored["sha256"] != _checksum(body):
            raise BackupDamaged(f"{source / MANIFEST} does not have the checksum it was written with.")
        if body["format"] != FORMAT:
            raise CatalogUnsafe(
                f"The backup was made by a newer release (format {body['format']}).", hint="Install that release."
            )
        files = {_safe(name): Stamp(**stamp) for name, stamp in body["files"].items()}
        return Backup(body["created_at"], body["ragsvc"], body["schema"], body["seq"], files, tuple(body["left_out"]))
    except OSError as error:
        raise BackupDamaged(f"There is no backup in {source}: {MANIFEST}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupDamaged(f"{source / MANIFEST} cannot be read ({error}).") from error


def _safe(name: str) -> str:
    """A name that stays below the folder, and in one of the three places of a backup."""
    parts = PurePosixPath(name).parts
    if parts[:1] not in ((CATALOG,), (BLOBS,), (INDEXES,)) or ".." in parts or "\0" in name:
        raise BackupDamaged(f"A backup holds no file {name!r:.100}.")
    return name
