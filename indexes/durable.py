"""Is it on the disk? Every byte the engine stores goes through here, so a crash test can stop it anywhere.

Nothing becomes current by being written: files are written and synced aside, then one rename publishes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexes.errors import StorageFailed, WriterBusy

ASIDE = ".aside-"
"""Prefix of what is being written and is not current yet; leftovers of a crash carry it too."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file must look like: its size in bytes and the SHA-256 of its content, in hex."""

    size: int
    sha256: str


def reached(step: str, path: Path) -> None:
    """Mark a step that is about to happen to `path`. Does nothing; crash tests replace it."""


def write(path: Path, data: bytes | memoryview) -> Stamp:
    """Write a new file and sync its content (its name is safe only after `sync_folder`)."""
    reached("write", path)
    with path.open("wb") as file:
        file.write(data)
        reached("sync", path)
        file.flush()
        os.fsync(file.fileno())
    return Stamp(len(data), hashlib.sha256(data).hexdigest())


def stamp(path: Path) -> Stamp:
    """Read a file back and say what it looks like. Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Stamp(file.tell(), digest)


def sync_file(path: Path) -> None:
    """Sync a file that another library wrote."""
    reached("sync", path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder safe."""
    reached("sync_folder", path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(aside: Path, final: Path) -> None:
    """Give a finished, synced file or folder its real name. This is the moment it becomes current."""
    reached("rename", final)
    os.replace(aside, final)
    sync_folder(final.parent)


def write_aside(path: Path, data: bytes) -> Stamp:
    """Write a file so that its old or its new content is there at any moment, never a part."""
    aside = path.with_name(ASIDE + path.name)
    result = write(aside, data)
    publish(aside, path)
    return result


def make_folder(path: Path) -> None:
    """Create a folder (and its parents) whose name survives a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def delete(path: Path) -> None:
    """Delete a file or folder; what is already gone is fine."""
    reached("delete", path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def storage(what: str, *, doing: str = "written") -> Iterator[None]:
    """Turn the errors of the operating system into StorageFailed."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{what} could not be {doing}: {error.strerror or error}.") from error


def lock(path: Path) -> int:
    """Take a lock file for as long as this process keeps the returned descriptor open.

    Raises WriterBusy at once when somebody else, in this process or another, has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise WriterBusy(f"Another process already writes to {path.parent}.") from error
    return descriptor
