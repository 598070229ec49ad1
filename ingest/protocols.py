"""The seams of ingestion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from ingest.model import ChunkDraft, Fetched, Item, Parsed, Text


class Connector(Protocol):
    """A place that documents come from."""

    def list(self) -> Iterator[Item]:
        """Every item with its fingerprint, complete or an error: absence from it means deletion.

        Raises SourceUnreachable.
        """
        ...

    def fetch(self, item: Item) -> Fetched:
        """The bytes of one item. Raises ItemUnreadable, ItemNotSettled, DocumentTooLarge."""
        ...

    def watch(self, changed: Callable[[], None], stop: Callable[[], bool]) -> None:
        """Call `changed` after every change until `stop()`; return at once if this place has no events."""
        ...


class Parser(Protocol):
    """Bytes of one document to elements. Runs inside the jail; knows nothing of the catalogue."""

    media_types: frozenset[str]

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """Raises ParseError (a subclass that says why)."""
        ...


class Chunker(Protocol):
    """Normalised text with its outline to chunks."""

    @property
    def id(self) -> str:
        """Name and settings: chunks of two chunkers differ when this does."""
        ...

    def chunk(self, text: Text) -> tuple[ChunkDraft, ...]:
        """Chunks in document order; together they cover all text except white space."""
        ...


class BlobStore(Protocol):
    """Bytes by their SHA-256."""

    def put(self, data: bytes) -> str:
        """Store durably; returns the SHA-256 in hex."""
        ...

    def get(self, sha256: str) -> bytes:
        """Raises NotFound."""
        ...

    def delete(self, sha256: str) -> None:
        """Forget; deleting what is not there is fine."""
        ...

    def path(self, sha256: str) -> Path:
        """Where it lies."""
        ...
