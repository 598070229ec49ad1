"""Collections and the generations that index them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from indexes.model import FOREVER, Generation
from ingest.catalog import rows
from ingest.catalog.database import Database, to_us
from ingest.catalog.ids import content_id
from ingest.catalog.tables import collections, documents, evaluations, generations, sources
from ingest.errors import Conflict, NotFound
from ingest.model import Collection

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Collections:
    """Named sets of documents."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def ensure(
        self,
        name: str,
        *,
        embedder: str,
        dimensions: int,
        chunker: str,
        analyzer: str,
        now: datetime,
        access: Iterable[str] = ("public",),
        model: str | None = None,
    ) -> Collection:
        """The collection of this name, made with an empty generation if there is none. Raises Conflict."""
        if not _NAME.fullmatch(name):
            raise Conflict(
                f"{name!r} cannot name a collection.",
                hint="Use 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit.",
            )
        with self._db.write() as conn:
            row = conn.execute(sa.select(collections).where(collections.c.name == name)).one_or_none()
            if row is not None:
                return rows.collection(row)
            collection_id = content_id("col", name)
            generation_id = content_id("gen", collection_id, embedder, chunker, analyzer)
            values = {"id": collection_id, "name": name, "access": sorted(access), "settings": {}}
            conn.execute(collections.insert().values(**values, generation_id=generation_id, created_at=to_us(now)))
            conn.execute(
                generations.insert().values(
                    id=generation_id,
                    collection_id=collection_id,
                    embedder=embedder,
                    dimensions=dimensions,
                    chunker=chunker,
                    analyzer=analyzer,
                    created_at=to_us(now),
                    state="serving",
                    complete_seq=FOREVER,
                    model=model,
                    activated_at=to_us(now),
                )
            )
        return self.get(name)

    def get(self, name: str) -> Collection:
        """Raises NotFound."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(collections).where(collections.c.name == name)).one_or_none()
        if row is None:
            raise NotFound(f"There is no collection {name!r}.", hint="List them with GET /v1/collections.")
        return rows.collection(row)

    def by_id(self, collection_id: str) -> Collection:
        """Raises NotFound."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(collections).where(collections.c.id == collection_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no collection {collection_id}.")
        return rows.collection(row)

    def all(self) -> tuple[Collection, ...]:
        """Every collection, by name."""
        with self._db.read() as conn:
            return tuple(rows.collection(row) for row in conn.execute(sa.select(collections).order_by("name")))

    def update(self, name: str, changes: Mapping[str, Any]) -> Collection:
        """Change `access` (of documents that come from now on) or `settings`. Raises NotFound."""
        values = dict(changes)
        if "access" in values:
            values["access"] = sorted(values["access"])
        found = self.get(name)
        with self._db.write() as conn:
            conn.execute(collections.update().where(collections.c.id == found.id).values(**values))
        return self.get(name)

    def delete(self, name: str) -> None:
        """Remove an empty collection. Raises NotFound, and Conflict while it has sources or live documents."""
        found = self.get(name)
        with self._db.write() as conn:
            live = sa.select(documents.c.id).where(documents.c.collection_id == found.id)
            held = conn.execute(sa.select(sources.c.id).where(sources.c.collection_id == found.id)).first()
            if held is not None or conn.execute(live).first() is not None:
                raise Conflict(
                    f"Collection {name!r} still has sources or documents.",
                    hint="Delete its sources first; a collection that ever held documents keeps their history.",
                )
            conn.execute(evaluations.delete().where(evaluations.c.collection_id == found.id))
            conn.execute(generations.delete().where(generations.c.collection_id == found.id))
            conn.execute(collections.delete().where(collections.c.id == found.id))

    def generation(self, generation_id: str) -> Generation:
        """Raises NotFound, also for one that is being removed."""
        query = sa.select(generations).where(generations.c.id == generation_id, generations.c.state != "retired")
        with self._db.read() as conn:
            row = conn.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no generation {generation_id}.", hint="List them with GET /v1/generations.")
        return rows.generation(row)

    def generations(self) -> tuple[Generation, ...]:
        """Every generation that is served, built or kept, oldest first."""
        query = sa.select(generations).where(generations.c.state != "retired")
        with self._db.read() as conn:
            found = conn.execute(query.order_by(generations.c.created_at, generations.c.id))
            return tuple(rows.generation(row) for row in found)

    def complete_seq(self, generation_id: str) -> int:
        """Up to which entry of the change log every version has its chunks in a generation. Raises NotFound.

        Asked after the entries were read: a switch lowers it from FOREVER before anything comes that is not there.
        """
        query = sa.select(generations.c.complete_seq).where(generations.c.id == generation_id)
        with self._db.read() as conn:
            found = conn.execute(query).scalar()
        if found is None:
            raise NotFound(f"There is no generation {generation_id}.", hint="List them with GET /v1/generations.")
        return int(found)
