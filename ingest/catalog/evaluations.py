"""What shall a collection answer? Its evaluation set, or questions that are drawn from its own sentences."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from ingest.catalog import rows
from ingest.catalog.database import Database, to_us
from ingest.catalog.tables import documents, evaluations, texts
from ingest.errors import NotFound
from ingest.model import Judged

_SENTENCE = range(40, 400)
_WORDS = 6


class Evaluations:
    """Judged questions by collection. A document is named by its id, its URI, or the name at the end of its URI."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, collection_id: str, queries: Sequence[Judged], *, now: datetime) -> None:
        """Replace the set; documents are named as the owner names them."""
        stored = [{"id": one.id, "query": one.text, "relevant": dict(one.relevant)} for one in queries]
        with self._db.write() as conn:
            conn.execute(evaluations.delete().where(evaluations.c.collection_id == collection_id))
            conn.execute(evaluations.insert().values(collection_id=collection_id, queries=stored, set_at=to_us(now)))

    def get(self, collection_id: str) -> tuple[Judged, ...]:
        """The set as it was put; empty if there is none."""
        query = sa.select(evaluations.c.queries).where(evaluations.c.collection_id == collection_id)
        with self._db.read() as conn:
            stored: list[dict[str, Any]] = conn.execute(query).scalar() or []
        return tuple(Judged(one["id"], one["query"], one["relevant"]) for one in stored)

    def delete(self, collection_id: str) -> None:
        """Forget the set. Raises NotFound if there is none."""
        with self._db.write() as conn:
            done = conn.execute(evaluations.delete().where(evaluations.c.collection_id == collection_id))
            if not done.rowcount:
                raise NotFound(
                    "The collection has no evaluation set.", hint="Set one with PUT /v1/collections/{name}/evaluation."
                )

    def resolved(self, collection_id: str) -> tuple[tuple[Judged, ...], int]:
        """The set with ids of live documents, and how many judgements name none."""
        names = self._names(collection_id)
        found, unknown = [], 0
        for one in self.get(collection_id):
            relevant = {names[name]: grade for name, grade in one.relevant.items() if name in names}
            unknown += len(one.relevant) - len(relevant)
            found.append(Judged(one.id, one.text, relevant))
        return tuple(found), unknown

    def _names(self, collection_id: str) -> Mapping[str, str]:
        """Every name of every live document; the end of a URI only where no other document has the same."""
        query = sa.select(documents.c.id, documents.c.uri).where(
            documents.c.collection_id == collection_id, documents.c.deleted_at.is_(None)
        )
        with self._db.read() as conn:
            found = conn.execute(query.order_by(documents.c.id)).all()
        ends: dict[str, list[str]] = {}
        for row in found:
            end = unquote((urlsplit(row.uri).path or row.uri).rsplit("/", 1)[-1])
            for name in {end, end.rsplit(".", 1)[0]}:
                ends.setdefault(name, []).append(row.id)
        names = {name: ids[0] for name, ids in ends.items() if len(ids) == 1}
        return names | {row.uri: row.id for row in found} | {row.id: row.id for row in found}

    def known_items(self, collection_id: str, *, count: int) -> tuple[Judged, ...]:
        """Questions without labels: a sentence of a document, which its own document answers.

        Drawn by hash, so that the same documents give the same questions.
        """
        live = sa.select(documents.c.current_version_id, documents.c.id).where(
            documents.c.collection_id == collection_id,
            documents.c.deleted_at.is_(None),
            documents.c.current_version_id.is_not(None),
        )
        with self._db.read() as conn:
            versions = {row.current_version_id: row.id for row in conn.execute(live)}
        drawn = sorted(versions, key=_draw)[: count * 2]  # not each has a sentence that could be asked for
        asked: list[Judged] = []
        for start in range(0, len(drawn), 100):
            part = drawn[start : start + 100]
            query = sa.select(texts).where(texts.c.version_id.in_(part))
            with self._db.read() as conn:
                found = {row.version_id: row for row in conn.execute(query)}
            for version_id in (one for one in part if one in found):
                sentence = _sentence_of(found[version_id])
                if sentence and len(asked) < count:
                    asked.append(Judged(f"known-{len(asked) + 1}", sentence, {versions[version_id]: 1}))
        return tuple(asked)


def _draw(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=b"known items").digest()


def _sentence_of(row: Any) -> str | None:
    """One of the sentences that say something, drawn by hash."""
    sentences = (" ".join(row.text[span.start : span.end].split()) for span in rows.bytes_spans(row.sentences))
    fit = [one for one in sentences if len(one) in _SENTENCE and len(one.split()) >= _WORDS]
    return min(fit, key=_draw, default=None)
