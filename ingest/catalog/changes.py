"""The change log: every change that the indexes follow, in commit order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from indexes.model import Chunk, Closing, Span
from ingest.catalog import rows
from ingest.catalog.database import Database, from_us
from ingest.catalog.tables import changes, chunks, closings, documents, versions
from ingest.model import Change, ChunkDraft, Document, StoredChunk


@dataclass(frozen=True, slots=True)
class VersionState:
    """A version as the index must know it; times in microseconds, closings ascending."""

    document_id: str
    valid_from: int
    recorded_seq: int
    closings: tuple[Closing, ...]
    title: str
    lang: str | None

    def up_to(self, seq: int) -> VersionState:
        """The version as it was before later entries closed it."""
        return replace(self, closings=tuple(closing for closing in self.closings if closing.seq <= seq))


class Changes:
    """Reads the log, and what its entries point to."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def last_seq(self, collection_id: str | None = None) -> int:
        """The newest sequence number, 0 if there is none."""
        query = sa.select(sa.func.max(changes.c.seq))
        if collection_id is not None:
            query = query.where(changes.c.collection_id == collection_id)
        with self._db.read() as conn:
            return conn.execute(query).scalar() or 0

    def committed_at(self, seq: int) -> int:
        """When an entry was recorded, in microseconds; 0 if there is no such entry."""
        with self._db.read() as conn:
            return conn.execute(sa.select(changes.c.at).where(changes.c.seq == seq)).scalar() or 0

    def since(self, seq: int, *, collection_ids: Sequence[str], limit: int) -> tuple[Change, ...]:
        """Up to about `limit` entries after `seq`; the entries of one document's change stay together."""
        query = (
            sa.select(changes)
            .where(changes.c.seq > seq, changes.c.collection_id.in_(collection_ids))
            .order_by(changes.c.seq)
            .limit(limit + 1)
        )
        with self._db.read() as conn:
            found = [
                Change(row.seq, row.kind, row.collection_id, row.document_id, row.version_id, from_us(row.at))
                for row in conn.execute(query)
            ]
        if len(found) <= limit:
            return tuple(found)
        cut = found[-1].document_id
        kept = found[:-1]
        while kept and kept[-1].document_id == cut:
            kept.pop()
        return tuple(kept or found)

    def languages(self, collection_id: str, *, after: int) -> dict[str, int]:
        """Each language of a version recorded after an entry, and the first such entry. A language never leaves.

        So what a question's terms were at some entry can be told at any later one.
        """
        query = (
            sa.select(versions.c.lang, sa.func.min(changes.c.seq).label("first"))
            .join(versions, versions.c.id == changes.c.version_id)
            .where(changes.c.collection_id == collection_id, changes.c.seq > after, changes.c.kind == "put")
            .where(versions.c.lang.is_not(None))
            .group_by(versions.c.lang)
        )
        with self._db.read() as conn:
            return {row.lang: row.first for row in conn.execute(query)}

    def waiting(self, seq: int, until: int, *, collection_id: str, generation_id: str, at_most: int) -> int:
        """How many chunks the entries after `seq` up to `until` put into a generation, counted up to `at_most`."""
        put = (
            sa.select(sa.literal(1))
            .select_from(changes.join(chunks, chunks.c.version_id == changes.c.version_id))
            .where(changes.c.collection_id == collection_id, changes.c.seq > seq, changes.c.seq <= until)
            .where(changes.c.kind == "put", chunks.c.generation_id == generation_id)
            .limit(at_most)
        )
        with self._db.read() as conn:
            return conn.execute(sa.select(sa.func.count()).select_from(put.subquery())).scalar() or 0

    def vectors_of(self, version_ids: Sequence[str], *, generation_id: str) -> dict[str, list[Chunk]]:
        """The same as the engine's chunks without terms: several times as fast as `chunks_of`."""
        query = (
            sa.select(chunks.c.version_id, chunks.c.id, chunks.c.ordinal, chunks.c.vector)
            .where(chunks.c.generation_id == generation_id, chunks.c.version_id.in_(version_ids))
            .order_by(chunks.c.version_id, chunks.c.ordinal)
        )
        found: dict[str, tuple[str, list[Chunk]]] = {version_id: (version_id, []) for version_id in version_ids}
        with self._db.read() as conn:
            for owner, chunk_id, ordinal, vector in conn.execute(query):
                version_id, stored = found[owner]  # the name is kept once, not once per row
                stored.append(Chunk(chunk_id, version_id, ordinal, (), rows.bytes_vector(vector)))
        return dict(found.values())

    def chunks_of(self, version_ids: Sequence[str], *, generation_id: str) -> dict[str, list[StoredChunk]]:
        """The recorded chunks of these versions in one generation, in document order."""
        query = (
            sa.select(chunks)
            .where(chunks.c.generation_id == generation_id, chunks.c.version_id.in_(version_ids))
            .order_by(chunks.c.version_id, chunks.c.ordinal)
        )
        found: dict[str, list[StoredChunk]] = {version_id: [] for version_id in version_ids}
        with self._db.read() as conn:
            for row in conn.execute(query):
                draft = ChunkDraft(
                    span=Span(row.char_start, row.char_end),
                    heading_path=tuple(row.heading_path),
                    page_start=row.page_start,
                    page_end=row.page_end,
                )
                vector = rows.bytes_vector(row.vector)
                found[row.version_id].append(StoredChunk(row.id, row.version_id, row.ordinal, draft, vector))
        return found

    def version_states(self, version_ids: Sequence[str]) -> dict[str, VersionState]:
        """What the index must know of these versions."""
        query = sa.select(versions).where(versions.c.id.in_(version_ids))
        closed = sa.select(closings).where(closings.c.version_id.in_(version_ids)).order_by(closings.c.seq)
        ends: dict[str, list[Closing]] = {}
        with self._db.read() as conn:
            for row in conn.execute(closed):
                ends.setdefault(row.version_id, []).append(Closing(row.seq, row.valid_to))
            return {
                row.id: VersionState(
                    document_id=row.document_id,
                    valid_from=row.valid_from,
                    recorded_seq=row.recorded_seq,
                    closings=tuple(ends.get(row.id, ())),
                    title=row.title,
                    lang=row.lang,
                )
                for row in conn.execute(query)
            }

    def documents(self, document_ids: Sequence[str]) -> dict[str, Document]:
        """The documents as they are now."""
        query = sa.select(documents).where(documents.c.id.in_(document_ids))
        with self._db.read() as conn:
            return {row.id: rows.document(row) for row in conn.execute(query)}

    def version_ids(self, generation_id: str) -> tuple[str, ...]:
        """Every version recorded in a generation."""
        query = sa.select(chunks.c.version_id).where(chunks.c.generation_id == generation_id).distinct()
        with self._db.read() as conn:
            return tuple(conn.execute(query).scalars())
