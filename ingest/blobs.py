"""Bytes by their SHA-256 in a folder: what was pushed, until it is ingested."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from indexes.durable import make_folder, sync_folder
from indexes.errors import StorageFailed
from ingest.errors import NotFound


class FolderBlobStore:
    """`folder/ab/abcdef...`: written aside, synced, renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Where a blob lies."""
        return self._folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Store durably; returns the SHA-256 in hex. Raises StorageFailed."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        aside = path.with_name(f".{sha256}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            make_folder(path.parent)
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise StorageFailed(f"The pushed document could not be stored: {error.strerror}.") from error
        return sha256

    def get(self, sha256: str) -> bytes:
        """Raises NotFound."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"There is no blob {sha256}.", hint="Push the document again.") from error

    def delete(self, sha256: str) -> None:
        """Forget; deleting what is not there is fine."""
        self.path(sha256).unlink(missing_ok=True)
