"""Documents, their versions and texts: what is known, and who may see it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from indexes.model import FOREVER, Allowed, Matrix, Span
from ingest.catalog import rows
from ingest.catalog.database import Database
from ingest.catalog.tables import chunks, closings, documents, erased, texts, vectors, versions
from ingest.errors import NotFound
from ingest.model import ChunkDraft, Document, StoredChunk, StoredText, Version
from ingest.outline import heading_paths

_CACHED_TEXTS = 2048


class Documents:
    """Reads documents. What a caller may not read is the same NotFound as what does not exist."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._texts: OrderedDict[str, StoredText] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, document_id: str, *, allowed: Allowed) -> Document:
        """Raises NotFound."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(documents).where(documents.c.id == document_id)).one_or_none()
        if row is None or not allowed.may_read(frozenset(row.access)):
            raise NotFound(f"There is no document {document_id}.")
        return rows.document(row)

    def find(self, source_id: str, uri: str) -> Document | None:
        """The live document at a place, else the one deleted there last."""
        query = (
            sa.select(documents)
            .where(documents.c.source_id == source_id, documents.c.uri == uri)
            .order_by(documents.c.deleted_at.is_(None).desc(), documents.c.deleted_at.desc())
            .limit(1)
        )
        with self._db.read() as conn:
            row = conn.execute(query).one_or_none()
        return None if row is None else rows.document(row)

    def of_source(self, source_id: str) -> dict[str, Document]:
        """uri -> live document."""
        query = sa.select(documents).where(documents.c.source_id == source_id, documents.c.deleted_at.is_(None))
        with self._db.read() as conn:
            return {row.uri: rows.document(row) for row in conn.execute(query)}

    def count(self, source_id: str) -> int:
        """Live documents of a source."""
        query = sa.select(sa.func.count()).where(documents.c.source_id == source_id, documents.c.deleted_at.is_(None))
        with self._db.read() as conn:
            return int(conn.execute(query).scalar_one())

    def page(
        self, *, collection_id: str | None, allowed: Allowed, limit: int, after: str, deleted: bool = False
    ) -> tuple[tuple[Document, ...], str | None]:
        """Up to `limit` documents after the id `after`, and the id to go on from (None at the end)."""
        query = sa.select(documents).order_by(documents.c.id)
        if collection_id is not None:
            query = query.where(documents.c.collection_id == collection_id)
        if not deleted:
            query = query.where(documents.c.deleted_at.is_(None))
        found: list[Document] = []
        with self._db.read() as conn:
            while True:
                page = conn.execute(query.where(documents.c.id > after).limit(limit + 1)).all()
                for row in page:
                    if len(found) == limit and allowed.may_read(frozenset(row.access)):
                        return tuple(found), found[-1].id
                    if allowed.may_read(frozenset(row.access)):
                        found.append(rows.document(row))
                if len(page) <= limit:
                    return tuple(found), None
                after = page[-1].id

    def version(self, version_id: str, *, allowed: Allowed) -> tuple[Version, Document]:
        """Raises NotFound."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(versions).where(versions.c.id == version_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no version {version_id}.")
        try:
            return rows.version(row), self.get(row.document_id, allowed=allowed)
        except NotFound as error:
            raise NotFound(f"There is no version {version_id}.") from error

    def versions_of(self, document_id: str) -> tuple[Version, ...]:
        """All versions of a document, in order of recording."""
        query = sa.select(versions).where(versions.c.document_id == document_id).order_by(versions.c.ordinal)
        with self._db.read() as conn:
            return tuple(rows.version(row) for row in conn.execute(query))

    def in_force(
        self, version_ids: Sequence[str], *, allowed: Allowed, at: int, at_seq: int | None = None
    ) -> dict[str, tuple[Version, Document]]:
        """Those of these versions that the caller may read and that are in force at `at` (microseconds).

        The catalogue's own word, asked for every hit: an index that lags can neither leak nor show the past.
        With `at_seq`, what was recorded later does not count (replay of a snapshot).
        """
        end: sa.ColumnElement[int] = versions.c.valid_to
        known: sa.ColumnElement[bool] = sa.true()
        if at_seq is not None:
            then = sa.select(closings.c.valid_to).where(
                closings.c.version_id == versions.c.id, closings.c.seq <= at_seq
            )
            end = sa.func.coalesce(then.order_by(closings.c.seq.desc()).limit(1).scalar_subquery(), FOREVER)
            known = versions.c.recorded_seq <= at_seq
        query = sa.select(versions).where(versions.c.id.in_(version_ids), versions.c.valid_from <= at, end > at, known)
        with self._db.read() as conn:
            found = [rows.version(row) for row in conn.execute(query)]
            wanted = {version.document_id for version in found}
            by_id = {
                row.id: rows.document(row)
                for row in conn.execute(sa.select(documents).where(documents.c.id.in_(wanted)))
                if allowed.may_read(frozenset(row.access))
            }
        return {v.id: (v, by_id[v.document_id]) for v in found if v.document_id in by_id}

    def erased_at(self, version_id: str) -> tuple[int, str] | None:
        """(microseconds, reason) if the version was erased."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(erased).where(erased.c.version_id == version_id)).one_or_none()
        return None if row is None else (row.deleted_at, row.reason)

    def text(self, version_id: str) -> StoredText:
        """The normalised text of a version. Raises NotFound."""
        found = self.texts([version_id])
        if version_id not in found:
            raise NotFound(f"There is no text of version {version_id}.")
        return found[version_id]

    def texts(self, version_ids: Sequence[str]) -> dict[str, StoredText]:
        """The normalised texts of these versions, of those that there are. Versions never change: they are cached."""
        with self._lock:
            found = {one: self._texts[one] for one in version_ids if one in self._texts}
            for one in found:
                self._texts.move_to_end(one)
        missing = [one for one in dict.fromkeys(version_ids) if one not in found]
        if missing:
            with self._db.read() as conn:
                query = sa.select(texts).where(texts.c.version_id.in_(missing))
                loaded = {row.version_id: _stored_text(row) for row in conn.execute(query)}
            found |= loaded
            with self._lock:
                self._texts.update(loaded)
                while len(self._texts) > _CACHED_TEXTS:
                    self._texts.popitem(last=False)
        return found

    def chunks(self, chunk_ids: Sequence[str], *, generation_id: str) -> dict[str, StoredChunk]:
        """chunk id -> chunk. Looked up by id alone: SQLite would rather walk through the whole generation."""
        query = sa.select(chunks).where(chunks.c.id.in_(chunk_ids))
        with self._db.read() as conn:
            return {
                row.id: StoredChunk(
                    row.id,
                    row.version_id,
                    row.ordinal,
                    ChunkDraft(
                        Span(row.char_start, row.char_end), tuple(row.heading_path), row.page_start, row.page_end
                    ),
                    rows.bytes_vector(row.vector),
                )
                for row in conn.execute(query)
                if row.generation_id == generation_id
            }

    def vectors(self, wanted: Sequence[bytes], *, dimensions: int) -> tuple[dict[bytes, int], Matrix]:
        """Row number by key, and the float32 rows of shape (found, dimensions), of those that are known."""
        stored: dict[bytes, bytes] = {}
        with self._db.read() as conn:
            for start in range(0, len(wanted), 500):
                query = sa.select(vectors).where(vectors.c.key.in_(wanted[start : start + 500]))
                stored.update((bytes(row.key), row.vector) for row in conn.execute(query))
        if not stored:
            return {}, np.empty((0, dimensions), dtype=np.float32)
        return {key: at for at, key in enumerate(stored)}, rows.bytes_matrix(stored.values(), dimensions)


def _stored_text(row: rows.Row) -> StoredText:
    blocks = rows.json_blocks(row.blocks)
    headings = heading_paths(row.text, blocks)
    return StoredText(row.version_id, row.text, blocks, headings, rows.bytes_spans(row.sentences))
