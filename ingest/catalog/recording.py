"""Changes to documents: each is one transaction with its entries in the change log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from indexes.model import FOREVER, Generation
from ingest.catalog import rows
from ingest.catalog.contents import insert_contents
from ingest.catalog.database import Database, to_us
from ingest.catalog.ids import content_id
from ingest.catalog.tables import changes, closings, documents, versions
from ingest.model import Document, Draft, Embedded, Recorded, Source


class Recording:
    """Writes documents and versions. The new version is in force in the same moment as the old one is not."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record(
        self, source: Source, draft: Draft, embedded: Embedded, *, generation: Generation, now: datetime
    ) -> Recorded:
        """Record a draft as a new version of the document at its place, unless its text is what is in force."""
        sha256 = hashlib.sha256(draft.text.text.encode()).hexdigest()
        with self._db.write() as conn:
            document = self._at_place(conn, source, draft.uri)
            at = to_us(now) if document is None else self._service_time(conn, document.id, to_us(now))
            moment = at if draft.valid_from is None else to_us(draft.valid_from)
            before = None if document is None else self._before(conn, document.id, moment)
            if document is None:
                document_id = self._insert_document(conn, source, draft, at)
            else:
                document_id = document.id
                self._update_document(conn, document, draft, at)
            alive = document is not None and document.deleted_at is None
            alike = alive and document is not None and document.media_type == draft.media_type  # else other headings
            if alike and before is not None and before.sha256 == sha256 and before.valid_to > moment:
                return Recorded(document_id, before.id, "unchanged")
            valid_from = self._valid_from(document, before, draft, at)
            if draft.valid_from is None:
                at = max(at, valid_from)  # what is recorded as of now is in force in the moment it is recorded
            version_id = self._insert_version(conn, source, document_id, valid_from, draft, sha256, at)
            insert_contents(conn, version_id, draft, embedded, generation)
        return Recorded(document_id, version_id, "new" if document is None else "changed")

    def _at_place(self, conn: sa.Connection, source: Source, uri: str) -> Document | None:
        row = conn.execute(
            sa.select(documents)
            .where(documents.c.source_id == source.id, documents.c.uri == uri)
            .order_by(documents.c.deleted_at.is_(None).desc(), documents.c.deleted_at.desc())
            .limit(1)
        ).one_or_none()
        return None if row is None else rows.document(row)

    def _service_time(self, conn: sa.Connection, document_id: str, now: int) -> int:
        """Now, or just after what was recorded last: a clock that was set back must not reorder versions."""
        query = sa.select(sa.func.max(versions.c.recorded_from)).where(versions.c.document_id == document_id)
        return max(now, (conn.execute(query).scalar() or 0) + 1)

    def _before(self, conn: sa.Connection, document_id: str, moment: int) -> Any:
        """The version that came into force last up to `moment`; one that never was in force does not count."""
        query = sa.select(versions).where(
            versions.c.document_id == document_id,
            versions.c.valid_from <= moment,
            versions.c.valid_to > versions.c.valid_from,
        )
        return conn.execute(query.order_by(versions.c.valid_from.desc(), versions.c.ordinal.desc()).limit(1)).first()

    def _insert_document(self, conn: sa.Connection, source: Source, draft: Draft, at: int) -> str:
        attempt = 0
        while True:  # an earlier document of this name may live on under another one
            document_id = content_id("doc", source.id, draft.uri, attempt)
            if conn.execute(sa.select(documents.c.id).where(documents.c.id == document_id)).first() is None:
                break
            attempt += 1
        conn.execute(
            documents.insert().values(
                id=document_id,
                collection_id=source.collection_id,
                source_id=source.id,
                **self._fields(draft),
                last_verified_at=at,
            )
        )
        self._log(conn, "describe", source.collection_id, document_id, None, at)
        return document_id

    def _update_document(self, conn: sa.Connection, document: Document, draft: Draft, at: int) -> None:
        fields = self._fields(draft)
        conn.execute(
            documents.update()
            .where(documents.c.id == document.id)
            .values(**fields, deleted_at=None, last_verified_at=at, suspect=None)
        )
        if document.access != draft.access or dict(document.metadata) != dict(draft.metadata):
            self._log(conn, "describe", document.collection_id, document.id, None, at)

    def _fields(self, draft: Draft) -> dict[str, Any]:
        return {
            "uri": draft.uri,
            "title": draft.title,
            "media_type": draft.media_type,
            "fingerprint": draft.fingerprint,
            "content_sha256": draft.content_sha256,
            "access": sorted(draft.access),
            "metadata": dict(draft.metadata),
        }

    def _insert_version(
        self, conn: sa.Connection, source: Source, document_id: str, valid_from: int, draft: Draft, sha256: str, at: int
    ) -> str:
        count = conn.execute(sa.select(sa.func.max(versions.c.ordinal)).where(versions.c.document_id == document_id))
        ordinal = (count.scalar() or 0) + 1
        version_id = content_id("ver", document_id, ordinal, sha256)
        valid_to = self._make_room(conn, source.collection_id, document_id, valid_from, at)
        seq = self._log(conn, "put", source.collection_id, document_id, version_id, at)
        conn.execute(
            versions.insert().values(
                id=version_id,
                document_id=document_id,
                ordinal=ordinal,
                sha256=sha256,
                title=draft.title,
                lang=draft.lang,
                characters=len(draft.text.text),
                valid_from=valid_from,
                valid_to=valid_to,
                recorded_from=at,
                recorded_to=FOREVER,
                recorded_seq=seq,
                closed_seq=FOREVER if valid_to == FOREVER else seq,  # a replay must know its end from the start
                source_modified_at=rows.optional_us(draft.modified_at),
            )
        )
        if valid_to != FOREVER:
            conn.execute(closings.insert().values(version_id=version_id, seq=seq, valid_to=valid_to))
        else:
            conn.execute(documents.update().where(documents.c.id == document_id).values(current_version_id=version_id))
        return version_id

    def _valid_from(self, document: Document | None, before: Any, draft: Draft, at: int) -> int:
        """The owner's word; else the source's, if it lies after what is known and not in the future; else now.

        A document that comes back is in force again from its deletion on at the earliest.
        """
        if draft.valid_from is not None:
            deleted = rows.optional_us(document.deleted_at) if document is not None else None
            return max(to_us(draft.valid_from), deleted or 0)
        said = rows.optional_us(draft.modified_at)
        if said is None or said > at:
            said = at
        if before is None:
            return said
        known = int(before.valid_from if before.valid_to > at else before.valid_to)
        return said if said > known else max(at, known + 1)

    def _make_room(self, conn: sa.Connection, collection_id: str, document_id: str, valid_from: int, at: int) -> int:
        """Close the version in force at `valid_from`; returns when the new one ends."""
        of_document = versions.c.document_id == document_id
        before = conn.execute(
            sa.select(versions)
            .where(of_document, versions.c.valid_from <= valid_from, versions.c.valid_to > valid_from)
            .order_by(versions.c.ordinal)
        ).all()
        for row in before:
            self._close(conn, collection_id, row, valid_from, at)
        later = conn.execute(
            sa.select(sa.func.min(versions.c.valid_from)).where(
                of_document, versions.c.valid_from > valid_from, versions.c.valid_to > versions.c.valid_from
            )
        ).scalar()
        return FOREVER if later is None else int(later)

    def _close(self, conn: sa.Connection, collection_id: str, row: Any, valid_to: int, at: int) -> None:
        seq = self._log(conn, "close", collection_id, row.document_id, row.id, at)
        conn.execute(
            versions.update().where(versions.c.id == row.id).values(valid_to=valid_to, recorded_to=at, closed_seq=seq)
        )
        conn.execute(closings.insert().values(version_id=row.id, seq=seq, valid_to=valid_to))

    def touch(self, document_id: str, *, fingerprint: str, now: datetime) -> None:
        """The item was looked at again and is the same."""
        with self._db.write() as conn:
            conn.execute(
                documents.update()
                .where(documents.c.id == document_id)
                .values(fingerprint=fingerprint, last_verified_at=to_us(now), suspect=None)
            )

    def rename(self, document_id: str, *, uri: str, title: str, fingerprint: str, now: datetime) -> None:
        """The same document at another place: its versions, chunks and vectors stay as they are."""
        with self._db.write() as conn:
            row = conn.execute(
                documents.update()
                .where(documents.c.id == document_id)
                .values(uri=uri, title=title, fingerprint=fingerprint, last_verified_at=to_us(now), suspect=None)
                .returning(documents.c.collection_id)
            ).one()
            self._log(conn, "describe", row.collection_id, document_id, None, to_us(now))

    def retire(self, document_ids: Iterable[str], *, now: datetime) -> None:
        """The documents are gone at their source: no longer in force, still citable."""
        at = to_us(now)
        gone = tuple(document_ids)
        if not gone:
            return
        with self._db.write() as conn:
            for document_id in gone:
                row = conn.execute(
                    documents.update()
                    .where(documents.c.id == document_id, documents.c.deleted_at.is_(None))
                    .values(deleted_at=at, suspect=None)
                    .returning(documents.c.collection_id)
                ).one_or_none()
                if row is None:
                    continue
                for version in conn.execute(
                    sa.select(versions).where(versions.c.document_id == document_id, versions.c.valid_to > at)
                ).all():
                    self._close(conn, row.collection_id, version, max(at, version.valid_from), at)

    def suspect(self, document_ids: Sequence[str], why: str | None) -> None:
        """Mark documents whose content at the source is not what is served (`missing`, `changed`)."""
        if not document_ids:
            return
        with self._db.write() as conn:
            for start in range(0, len(document_ids), 500):
                part = document_ids[start : start + 500]
                conn.execute(documents.update().where(documents.c.id.in_(part)).values(suspect=why))

    def _log(
        self,
        conn: sa.Connection,
        kind: str,
        collection_id: str,
        document_id: str,
        version_id: str | None,
        at: int,
    ) -> int:
        """Append an entry. Its time, which a replay takes for "now", is never before that of another entry."""
        last = conn.execute(sa.select(changes.c.at).order_by(changes.c.seq.desc()).limit(1)).scalar() or 0
        at = max(at, last)
        result = conn.execute(
            changes.insert().values(
                kind=kind, collection_id=collection_id, document_id=document_id, version_id=version_id, at=at
            )
        )
        assert result.inserted_primary_key is not None
        return int(result.inserted_primary_key[0])
