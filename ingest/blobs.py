"""Bytes by their SHA-256 in a folder: what was pushed, until it is ingested."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

from indexes import durable
from ingest.errors import NotFound

_LEFT_S = 3600.0


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
        with durable.storage("The pushed document", doing="stored"):
            durable.make_folder(path.parent)
            self._sweep(path.parent)
            durable.write_aside(path, data, shared=True)
        return sha256

    def _sweep(self, folder: Path) -> None:
        """Delete what a crash left half-written; what is young may be another process at work."""
        for left in folder.glob(durable.ASIDE + "*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _LEFT_S:
                    durable.delete(left)

    def get(self, sha256: str) -> bytes:
        """Raises NotFound."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"There is no blob {sha256}.", hint="Push the document again.") from error

    def delete(self, sha256: str) -> None:
        """Forget; deleting what is not there is fine."""
        durable.delete(self.path(sha256))
