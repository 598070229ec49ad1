"""Rows to values and back: the one place where column names meet field names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from indexes.model import FOREVER, Generation, Matrix, MetadataValue, Span, Vector
from ingest.catalog.database import from_us, to_us
from ingest.model import Block, Build, Collection, DeadLetter, Document, Job, Key, Push, Source, Version

Row = sa.Row[Any]


def optional_us(moment: datetime | None) -> int | None:
    """Microseconds, or None."""
    return None if moment is None else to_us(moment)


def optional_time(us: int | None) -> datetime | None:
    """The moment; None and FOREVER are None."""
    return None if us is None or us >= FOREVER else from_us(us)


def to_metadata(stored: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """JSON lists become tuples again."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}


def access_or_none(stored: Iterable[str] | None) -> frozenset[str] | None:
    """An access list, or None where the default applies."""
    return None if stored is None else frozenset(stored)


def vector_bytes(vector: Vector) -> bytes:
    """Half precision: half the disk at a cosine error under 1e-6 for unit vectors."""
    return np.asarray(vector, dtype=np.float16).tobytes()


def bytes_vector(stored: bytes) -> Vector:
    """float32 of unit length again."""
    vector = np.frombuffer(stored, dtype=np.float16).astype(np.float32)
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm else vector


def spans_bytes(spans: Iterable[Span]) -> bytes:
    """Pairs of little-endian int32."""
    return np.array([(span.start, span.end) for span in spans], dtype="<i4").tobytes()


def bytes_spans(stored: bytes) -> tuple[Span, ...]:
    """The inverse of spans_bytes."""
    return tuple(Span(start, end) for start, end in np.frombuffer(stored, dtype="<i4").reshape(-1, 2).tolist())


def blocks_json(blocks: Iterable[Block]) -> list[list[Any]]:
    """Blocks as short lists."""
    return [[block.kind, block.span.start, block.span.end, block.level, block.page] for block in blocks]


def json_blocks(stored: Iterable[Any]) -> tuple[Block, ...]:
    """The inverse of blocks_json."""
    return tuple(Block(kind, Span(start, end), level, page) for kind, start, end, level, page in stored)


def collection(row: Row) -> Collection:
    """A row of collections."""
    return Collection(
        id=row.id,
        name=row.name,
        access=frozenset(row.access),
        generation_id=row.generation_id,
        created_at=from_us(row.created_at),
        settings=dict(row.settings),
    )


def generation(row: Row) -> Generation:
    """What a row of generations was built with."""
    return Generation(
        id=row.id,
        collection_id=row.collection_id,
        embedder=row.embedder,
        dimensions=row.dimensions,
        chunker=row.chunker,
        analyzer=row.analyzer,
    )


def build(row: Row) -> Build:
    """A row of generations."""
    return Build(
        generation=generation(row),
        state=row.state,
        model=row.model,
        complete_seq=row.complete_seq,
        report=row.report,
        created_at=from_us(row.created_at),
        activated_at=optional_time(row.activated_at),
    )


def source(row: Row) -> Source:
    """A row of sources."""
    return Source(
        id=row.id,
        collection_id=row.collection_id,
        kind=row.kind,
        uri=row.uri,
        options=dict(row.options),
        watch=row.watch,
        schedule=row.schedule,
        freshness_sla_s=row.freshness_sla_s,
        access=access_or_none(row.access),
        metadata=to_metadata(row._mapping["metadata"]),
        created_at=from_us(row.created_at),
        paused=row.paused,
        status=row.status,
        error=row.error,
        last_run_at=optional_time(row.last_run_at),
        last_success_at=optional_time(row.last_success_at),
        last_verified_at=optional_time(row.last_verified_at),
        withheld_deletions=row.withheld_deletions,
    )


def document(row: Row) -> Document:
    """A row of documents."""
    return Document(
        id=row.id,
        collection_id=row.collection_id,
        source_id=row.source_id,
        uri=row.uri,
        title=row.title,
        media_type=row.media_type,
        fingerprint=row.fingerprint,
        content_sha256=row.content_sha256,
        access=frozenset(row.access),
        metadata=to_metadata(row._mapping["metadata"]),
        current_version_id=row.current_version_id,
        deleted_at=optional_time(row.deleted_at),
        last_verified_at=from_us(row.last_verified_at),
        suspect=row.suspect,
    )


def version(row: Row) -> Version:
    """A row of versions."""
    return Version(
        id=row.id,
        document_id=row.document_id,
        ordinal=row.ordinal,
        sha256=row.sha256,
        valid_from=from_us(row.valid_from),
        valid_to=optional_time(row.valid_to),
        recorded_from=from_us(row.recorded_from),
        recorded_to=optional_time(row.recorded_to),
        title=row.title,
        lang=row.lang,
        characters=row.characters,
        source_modified_at=optional_time(row.source_modified_at),
    )


def job(row: Row) -> Job:
    """A row of jobs."""
    return Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        source_id=row.source_id,
        payload=dict(row.payload),
        priority=row.priority,
        attempts=row.attempts,
        progress=dict(row.progress),
        counts=dict(row.counts),
        error=row.error,
        created_at=from_us(row.created_at),
        started_at=optional_time(row.started_at),
        finished_at=optional_time(row.finished_at),
        cancel_requested=row.cancel_requested,
    )


def dead_letter(row: Row) -> DeadLetter:
    """A row of dead_letters."""
    return DeadLetter(
        id=row.id,
        source_id=row.source_id,
        uri=row.uri,
        reason=row.reason,
        hint=row.hint,
        error_type=row.error_type,
        fingerprint=row.fingerprint,
        attempts=row.attempts,
        retry_at=optional_time(row.retry_at),
        first_at=from_us(row.first_at),
        last_at=from_us(row.last_at),
    )


def push(row: Row) -> Push:
    """A row of pushes."""
    return Push(
        source_id=row.source_id,
        uri=row.uri,
        blob_sha256=row.blob_sha256,
        media_type=row.media_type,
        title=row.title,
        valid_from=optional_time(row.valid_from),
        access=access_or_none(row.access),
        metadata=to_metadata(row._mapping["metadata"]),
        pushed_at=from_us(row.pushed_at),
    )


def key(row: Row) -> Key:
    """A row of keys."""
    return Key(
        id=row.id,
        name=row.name,
        scopes=frozenset(row.scopes),
        principals=frozenset(row.principals),
        collections=access_or_none(row.collections),
        created_at=from_us(row.created_at),
        expires_at=optional_time(row.expires_at),
        revoked_at=optional_time(row.revoked_at),
    )


def as_stored(matrix: Matrix) -> Matrix:
    """What reading these vectors back would give: float32 of the same shape, rows of unit length."""
    return bytes_matrix([vector_bytes(matrix)], matrix.shape[1])


def bytes_matrix(stored: Iterable[bytes], dimensions: int) -> Matrix:
    """Many stored vectors at once: float32 of shape (n, dimensions), rows of unit length."""
    matrix = np.frombuffer(b"".join(stored), dtype=np.float16).reshape(-1, dimensions).astype(np.float32)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    norms[norms == 0] = 1
    unit: Matrix = matrix / norms
    return unit
