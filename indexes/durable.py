"""Is it on the disk? Every byte the engine stores goes through here, so a crash test can stop it anywhere.

Nothing becomes current by being written: files are written and synced aside, then one rename publishes them.

A sync that failed is never tried again: the kernel reports it once and marks the pages clean, so the second try says
"done" for bytes that are lost (fsyncgate; cockroach#37102, turso#3077). From then on this process writes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from indexes.errors import DiskFull, StorageFailed, StorageHalted, WriterBusy

ASIDE = ".aside-"
"""Prefix of what is being written and is not current yet; leftovers of a crash carry it too."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file must look like: its size in bytes and the SHA-256 of its content, in hex."""

    size: int
    sha256: str


_halted: str | None = None


def reached(step: str, path: Path) -> None:
    """Mark a step that is about to happen to `path`; after it, `<step> done`. Does nothing; crash tests replace it."""


@contextlib.contextmanager
def marked(step: str, path: Path) -> Iterator[None]:
    """A step with both its marks; the second only where it did not fail."""
    reached(step, path)
    yield
    reached(f"{step} done", path)


def halt(why: str) -> None:
    """Let this process write nothing more: what its disk holds is not known any more. Reading goes on."""
    global _halted
    _halted = _halted or why


def halted() -> str | None:
    """Why this process writes nothing more, or None."""
    return _halted


def must_be_sound() -> None:
    """Every write begins with this. Raises StorageHalted."""
    if _halted is not None:
        raise StorageHalted(f"Nothing is written any more: {_halted}")


def _sync(descriptor: int, path: Path, step: str = "sync") -> None:
    """One sync, tried once. Raises OSError, and then nothing is written any more."""
    with marked(step, path):
        try:
            os.fsync(descriptor)
        except OSError as error:
            halt(f"{path.name} could not be synced ({error.strerror or error}).")
            raise


def write(path: Path, data: bytes | memoryview) -> Stamp:
    """Write a new file and sync its content (its name is safe only after `sync_folder`)."""
    with stream(path) as file:
        file.write(data)
    return file.stamp


class Stream:
    """A new file that is written piece by piece. `stamp` is what it looks like so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises OSError."""
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    @property
    def stamp(self) -> Stamp:
        """Size and hash of what was written."""
        return Stamp(self._size, self._digest.hexdigest())


@contextlib.contextmanager
def stream(path: Path) -> Iterator[Stream]:
    """Write a new file that is too large to hold, and sync its content when all of it was written."""
    must_be_sound()
    with path.open("wb") as file:
        with marked("write", path):
            yield Stream(file)
            file.flush()
        _sync(file.fileno(), path)


def stamp(path: Path) -> Stamp:
    """Read a file back and say what it looks like. Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Stamp(file.tell(), digest)


def sync_file(path: Path) -> None:
    """Sync a file that another library wrote."""
    must_be_sound()
    with path.open("rb") as file:
        _sync(file.fileno(), path)


def sync_folder(path: Path) -> None:
    """Make the names in a folder safe."""
    must_be_sound()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor, path, "sync_folder")
    finally:
        os.close(descriptor)


def publish(aside: Path, final: Path) -> None:
    """Give a finished, synced file or folder its real name. This is the moment it becomes current."""
    must_be_sound()
    with marked("rename", final):
        os.replace(aside, final)
    sync_folder(final.parent)


def write_aside(path: Path, data: bytes, *, shared: bool = False) -> Stamp:
    """Write a file so that its old or its new content is there at any moment, never a part.

    `shared`: others may write the same file at the same time, so each writes aside under a name of its own.
    """
    aside = path.with_name(f"{ASIDE}{secrets.token_hex(4)}-{path.name}" if shared else ASIDE + path.name)
    try:
        result = write(aside, data)
        publish(aside, path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk must not fill further with each try
            aside.unlink()
        raise
    return result


def make_folder(path: Path) -> None:
    """Create a folder (and its parents) whose name survives a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    must_be_sound()
    with marked("make_folder", path):
        path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def delete(path: Path) -> None:
    """Delete a file or folder; what is already gone is fine, and of a folder what cannot be deleted stays."""
    with marked("delete", path):
        if path.is_dir() and not path.is_symlink():
            for inner in list(path.iterdir()):
                with contextlib.suppress(OSError):
                    delete(inner)
            with contextlib.suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def storage(what: str, *, doing: str = "written") -> Iterator[None]:
    """Turn the errors of the operating system into StorageFailed; DiskFull and StorageHalted are kinds of it."""
    try:
        yield
    except OSError as error:
        kind: type[StorageFailed] = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        if halted() is not None:
            kind = StorageHalted
        raise kind(f"{what} could not be {doing}: {error.strerror or error}.") from error


def failure(what: str, *, told: str) -> StorageFailed:
    """The error for a failed write that another library tells in Rust's words. One of the disk itself halts."""
    numbers = [int(number) for number in re.findall(r"(?:os error|code:) (\d+)", told)]
    if errno.EIO in numbers:  # a write or a sync, it does not say
        halt(f"{what}: {told}.")
        return StorageHalted(f"{what}: {told}.")
    return (DiskFull if {errno.ENOSPC, errno.EDQUOT} & set(numbers) else StorageFailed)(f"{what}: {told}.")


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
