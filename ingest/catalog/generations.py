"""How do generations come, serve and go? One serves a collection; others are built beside it or kept to go back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from indexes.model import FOREVER, Generation
from ingest.catalog import rows
from ingest.catalog.contents import insert_vectors
from ingest.catalog.database import Database, to_us
from ingest.catalog.ids import content_id
from ingest.catalog.tables import changes, chunks, collections, generations, texts
from ingest.errors import Conflict, GenerationSwitched, ModelChanged, NotFound
from ingest.model import Build, ChunkDraft, Embedded, GenerationState


@dataclass(frozen=True, slots=True)
class Pending:
    """What a generation has not got yet: versions, and the sentences of their texts."""

    versions: int
    sentences: int


class Generations:
    """Builds of collections, and which of them serves."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, generation_id: str) -> Build:
        """Raises NotFound, also for one that is being removed."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(generations).where(generations.c.id == generation_id)).one_or_none()
        if row is None or row.state == "retired":
            raise NotFound(f"There is no generation {generation_id}.", hint="List them with GET /v1/generations.")
        return rows.build(row)

    def all(self, collection_id: str | None = None) -> tuple[Build, ...]:
        """Every build, or those of one collection, oldest first; without those that are being removed."""
        query = sa.select(generations).where(generations.c.state != "retired")
        if collection_id is not None:
            query = query.where(generations.c.collection_id == collection_id)
        with self._db.read() as conn:
            found = conn.execute(query.order_by(generations.c.created_at, generations.c.id))
            return tuple(rows.build(row) for row in found)

    def begin(
        self,
        collection_id: str,
        *,
        embedder: str,
        model: str,
        dimensions: int,
        chunker: str,
        analyzer: str,
        now: datetime,
    ) -> Build:
        """The generation of this recipe beside the serving one: as far as it was, or a new one.

        An id is never used again, so that no process takes a new generation for one that it knew. Raises Conflict if
        the serving one is of this recipe.
        """
        recipe = (embedder, dimensions, chunker, analyzer)
        with self._db.write() as conn:
            for build in self.all(collection_id):
                made = build.generation
                same = (made.embedder, made.dimensions, made.chunker, made.analyzer) == recipe
                if same and build.model in (model, None):
                    if build.state == "serving":
                        raise Conflict(
                            f"The collection is served by generation {made.id}, which is of this recipe already.",
                            hint="Name another embedder, chunker or analyzer; `ragsvc verify --repair` mends indexes.",
                        )
                    return build
            generation_id = content_id("gen", collection_id, model, chunker, analyzer, to_us(now))
            conn.execute(
                generations.insert().values(
                    id=generation_id,
                    collection_id=collection_id,
                    embedder=embedder,
                    dimensions=dimensions,
                    chunker=chunker,
                    analyzer=analyzer,
                    created_at=to_us(now),
                    state="building",
                    complete_seq=0,
                    model=model,
                )
            )
            return self.get(generation_id)

    def advance(self, generation_id: str, *, before: int, to: int) -> None:
        """Say that a generation has everything up to entry `to`: in the transaction that records its chunks.

        Raises Conflict if it was not at `before`: two builders must not both count.
        """
        with self._db.write() as conn:
            done = conn.execute(
                generations.update()
                .where(
                    generations.c.id == generation_id,
                    generations.c.complete_seq == before,
                    generations.c.state != "retired",
                )
                .values(complete_seq=to)
            )
            if done.rowcount != 1:
                raise Conflict(
                    f"Generation {generation_id} is built or was switched by another job.",
                    hint="See `ragsvc jobs` and `ragsvc generations`, then start it again if it is still wanted.",
                )

    def backfill(self, generation: Generation, contents: Sequence[tuple[str, Sequence[ChunkDraft], Embedded]]) -> None:
        """Record (version, chunks, vectors) in a generation that is built beside the serving one.

        A version that was erased meanwhile leaves nothing.
        """
        with self._db.write() as conn:
            query = sa.select(texts.c.version_id).where(texts.c.version_id.in_([one[0] for one in contents]))
            there = set(conn.execute(query).scalars())
            for version_id, drafts, embedded in contents:
                if version_id in there:
                    insert_vectors(conn, version_id, drafts, embedded, generation)

    def note(
        self, generation_id: str, *, state: GenerationState | None = None, report: Mapping[str, Any] | None = None
    ) -> None:
        """Set a state other than serving, or add to the report."""
        with self._db.write() as conn:
            known = self.get(generation_id)
            values: dict[str, Any] = {} if state is None else {"state": state}
            values["report"] = {**(known.report or {}), **(report or {})} or None
            conn.execute(generations.update().where(generations.c.id == generation_id).values(**values))

    def switch(self, generation_id: str, *, now: datetime, unfinished: bool = False) -> Build:
        """Let a complete generation serve from this commit on; the one that served is kept to go back to.

        Others that were kept are retired; `unfinished` retires half-built ones too. Raises Conflict while something
        is missing in it.
        """
        with self._db.write() as conn:
            build = self.get(generation_id)
            collection_id = build.generation.collection_id
            last = conn.execute(
                sa.select(sa.func.max(changes.c.seq)).where(changes.c.collection_id == collection_id)
            ).scalar()
            if build.complete_seq < (last or 0):
                raise Conflict(
                    f"Generation {generation_id} lacks documents after entry {build.complete_seq} of the change log.",
                    hint="Activate it again: what is missing is filled in first.",
                )
            of_collection = generations.c.collection_id == collection_id
            kept = ("standby", "failed", "building") if unfinished else ("standby", "failed")
            conn.execute(
                generations.update()
                .where(of_collection, generations.c.state.in_(kept), generations.c.id != generation_id)
                .values(state="retired")
            )
            conn.execute(
                generations.update()
                .where(of_collection, generations.c.state == "serving", generations.c.id != generation_id)
                .values(state="standby", complete_seq=last or 0)
            )
            conn.execute(
                generations.update()
                .where(generations.c.id == generation_id)
                .values(state="serving", complete_seq=FOREVER, activated_at=to_us(now))
            )
            conn.execute(
                collections.update().where(collections.c.id == collection_id).values(generation_id=generation_id)
            )
            return self.get(generation_id)

    def check_serving(self, generation: Generation) -> None:
        """In the transaction that records chunks for it. Raises GenerationSwitched if it does not serve any more."""
        query = sa.select(collections.c.generation_id).where(collections.c.id == generation.collection_id)
        with self._db.read() as conn:
            serving = conn.execute(query).scalar()
        if serving != generation.id:
            raise GenerationSwitched(f"Generation {generation.id} was replaced by {serving} meanwhile.")

    def check_model(self, generation: Generation, model: str, dimensions: int) -> None:
        """That vectors of this model may go into a generation, or be compared with its own. Raises ModelChanged.

        The first model that is used is noted where none is (generations of an earlier release).
        """
        query = sa.select(generations.c.model).where(generations.c.id == generation.id)
        with self._db.read() as conn:
            known = conn.execute(query).scalar()
        if known is None and dimensions == generation.dimensions:
            with self._db.write() as conn:
                unknown = sa.and_(generations.c.id == generation.id, generations.c.model.is_(None))
                conn.execute(generations.update().where(unknown).values(model=model))
            return
        if known != model or dimensions != generation.dimensions:
            raise ModelChanged(
                f"Generation {generation.id} holds vectors of {known or generation.embedder} with "
                f"{generation.dimensions} dimensions, and the model is now {model} with {dimensions}."
            )

    def pending(self, build: Build) -> Pending:
        """What is still to be done."""
        query = self._missing(build, sa.func.count(), sa.func.sum(sa.func.length(texts.c.sentences)))
        with self._db.read() as conn:
            versions, stored = conn.execute(query).one()
        return Pending(versions, (stored or 0) // 8)  # a sentence is two int32

    def missing(self, build: Build, *, sample: int) -> tuple[str, ...]:
        """Ids of versions that are still to be done: at most `sample` of them, evenly spread."""
        with self._db.read() as conn:
            found = conn.execute(self._missing(build, texts.c.version_id).order_by(changes.c.seq)).scalars().all()
        step = max(len(found) / sample, 1.0)
        return tuple(found[int(number * step)] for number in range(min(sample, len(found))))

    def _missing(self, build: Build, *columns: Any) -> sa.Select[Any]:
        return (
            sa.select(*columns)
            .select_from(changes.join(texts, texts.c.version_id == changes.c.version_id))
            .where(
                changes.c.collection_id == build.generation.collection_id,
                changes.c.kind == "put",
                changes.c.seq > build.complete_seq,
            )
        )

    def retired(self) -> tuple[str, ...]:
        """Ids of generations whose rows and files are to be removed."""
        with self._db.read() as conn:
            return tuple(conn.execute(sa.select(generations.c.id).where(generations.c.state == "retired")).scalars())

    def remove_some(self, generation_id: str, *, versions: int) -> bool:
        """Delete the chunks of so many versions of a retired generation, at last itself; False when it is gone.

        A little at a time: the catalogue has one writer at once.
        """
        with self._db.write() as conn:
            held = conn.execute(
                sa.select(generations.c.id).where(generations.c.id == generation_id, generations.c.state == "retired")
            ).first()
            if held is None:
                return False
            part = sa.select(chunks.c.version_id).where(chunks.c.generation_id == generation_id).distinct()
            version_ids = conn.execute(part.limit(versions)).scalars().all()
            if not version_ids:
                conn.execute(generations.delete().where(generations.c.id == generation_id))
                return False
            conn.execute(
                chunks.delete().where(chunks.c.generation_id == generation_id, chunks.c.version_id.in_(version_ids))
            )
        return True
