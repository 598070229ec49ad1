"""Sources: watched places, their schedules and what is known about their last runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from indexes.model import MetadataValue
from ingest.catalog import rows
from ingest.catalog.database import Database, to_us
from ingest.catalog.ids import content_id
from ingest.catalog.tables import dead_letters, jobs, pushes, sources
from ingest.errors import Conflict, NotFound
from ingest.model import Push, Source

PUSH = "push"


class Sources:
    """Where documents come from."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(
        self,
        *,
        collection_id: str,
        kind: str,
        uri: str,
        now: datetime,
        options: Mapping[str, Any] | None = None,
        watch: bool = False,
        schedule: Mapping[str, str] | None = None,
        freshness_sla_s: int | None = None,
        access: Iterable[str] | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
    ) -> Source:
        """Register a place. Raises Conflict if the collection has it already."""
        source_id = content_id("src", collection_id, kind, uri)
        with self._db.write() as conn:
            if conn.execute(sa.select(sources.c.id).where(sources.c.id == source_id)).first() is not None:
                raise Conflict(
                    f"{uri} is a source of this collection already ({source_id}).",
                    hint=f"Sync it with POST /v1/sources/{source_id}/sync or change it with PATCH.",
                )
            conn.execute(
                sources.insert().values(
                    id=source_id,
                    collection_id=collection_id,
                    kind=kind,
                    uri=uri,
                    options=dict(options or {}),
                    watch=watch,
                    schedule=None if schedule is None else dict(schedule),
                    freshness_sla_s=freshness_sla_s,
                    access=None if access is None else sorted(access),
                    metadata=dict(metadata or {}),
                    created_at=to_us(now),
                )
            )
        return self.get(source_id)

    def get(self, source_id: str) -> Source:
        """Raises NotFound."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(sources).where(sources.c.id == source_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no source {source_id}.", hint="List them with GET /v1/sources.")
        return rows.source(row)

    def by_ids(self, source_ids: Iterable[str]) -> dict[str, Source]:
        """id -> source, of those that there are."""
        query = sa.select(sources).where(sources.c.id.in_(list(source_ids)))
        with self._db.read() as conn:
            return {row.id: rows.source(row) for row in conn.execute(query)}

    def find(self, *, collection_id: str, kind: str, uri: str) -> Source | None:
        """The source of a place, if it is registered."""
        try:
            return self.get(content_id("src", collection_id, kind, uri))
        except NotFound:
            return None

    def all(self, collection_id: str | None = None) -> tuple[Source, ...]:
        """Every source, oldest first."""
        query = sa.select(sources).order_by(sources.c.created_at, sources.c.id)
        if collection_id is not None:
            query = query.where(sources.c.collection_id == collection_id)
        with self._db.read() as conn:
            return tuple(rows.source(row) for row in conn.execute(query))

    def update(self, source_id: str, changes: Mapping[str, Any]) -> Source:
        """Change settings (`watch`, `schedule`, `options`, `paused`, ...). Raises NotFound."""
        values = dict(changes)
        if values.get("access") is not None:
            values["access"] = sorted(values["access"])
        self.get(source_id)
        with self._db.write() as conn:
            conn.execute(sources.update().where(sources.c.id == source_id).values(**values))
        return self.get(source_id)

    def ran(self, source_id: str, *, now: datetime, complete: bool, withheld: int, error: str | None) -> None:
        """Note how a run ended. Only a complete listing verifies what is served."""
        at = to_us(now)
        values: dict[str, Any] = {"last_run_at": at, "error": error, "status": "error" if error else "ok"}
        if complete:
            values |= {"last_success_at": at, "last_verified_at": at, "withheld_deletions": withheld}
        if withheld and not error:
            values["status"] = "withheld"
        with self._db.write() as conn:
            conn.execute(sources.update().where(sources.c.id == source_id).values(**values))

    def delete(self, source_id: str) -> None:
        """Forget a source, its waiting jobs and its dead letters. Its documents are retired by the caller first."""
        with self._db.write() as conn:
            conn.execute(jobs.delete().where(jobs.c.source_id == source_id, jobs.c.state == "queued"))
            conn.execute(dead_letters.delete().where(dead_letters.c.source_id == source_id))
            conn.execute(pushes.delete().where(pushes.c.source_id == source_id))
            conn.execute(sources.delete().where(sources.c.id == source_id))

    def push_source(self, collection_id: str, *, now: datetime) -> Source:
        """The source that stands for what is pushed into a collection; made at the first push."""
        with self._db.write():
            found = self.find(collection_id=collection_id, kind=PUSH, uri="push:")
            return found or self.add(collection_id=collection_id, kind=PUSH, uri="push:", now=now)

    def put_push(self, push: Push) -> None:
        """Remember a pushed document until it is ingested; a later push of the same name replaces it."""
        key = (pushes.c.source_id == push.source_id, pushes.c.uri == push.uri)
        with self._db.write() as conn:
            conn.execute(pushes.delete().where(*key))
            conn.execute(
                pushes.insert().values(
                    source_id=push.source_id,
                    uri=push.uri,
                    blob_sha256=push.blob_sha256,
                    media_type=push.media_type,
                    title=push.title,
                    valid_from=rows.optional_us(push.valid_from),
                    access=None if push.access is None else sorted(push.access),
                    metadata=dict(push.metadata),
                    pushed_at=to_us(push.pushed_at),
                )
            )

    def get_push(self, source_id: str, uri: str) -> Push | None:
        """The pushed document of this name that waits to be ingested."""
        query = sa.select(pushes).where(pushes.c.source_id == source_id, pushes.c.uri == uri)
        with self._db.read() as conn:
            row = conn.execute(query).one_or_none()
        return None if row is None else rows.push(row)

    def done_push(self, push: Push) -> None:
        """Forget a push that was ingested or withdrawn; a newer one of the same name stays."""
        with self._db.write() as conn:
            conn.execute(
                pushes.delete().where(
                    pushes.c.source_id == push.source_id,
                    pushes.c.uri == push.uri,
                    pushes.c.pushed_at == to_us(push.pushed_at),
                )
            )

    def waits_for(self, blob_sha256: str) -> bool:
        """Whether any push still needs these bytes."""
        query = sa.select(pushes.c.uri).where(pushes.c.blob_sha256 == blob_sha256)
        with self._db.read() as conn:
            return conn.execute(query).first() is not None
