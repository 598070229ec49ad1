"""How does a collection move to another model, chunker or analyzer? A generation is built beside the serving one.

plan -> embed -> index -> evaluate -> switch. All comes from the catalogue; nothing is fetched or parsed again, and a
sentence that the new model has seen before is not embedded again. The change log is the checkpoint: `complete_seq`
says up to which entry the new generation has everything, and moves in the transaction that records the chunks, so a
job that was killed or cancelled goes on where it was. The switch is one transaction with the last gap in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from time import sleep
from typing import Any

from indexes.analyze import Analyzer
from indexes.errors import RagsvcError
from indexes.model import Span
from indexes.protocols import Embedder
from ingest.catalog.catalog import Catalog
from ingest.comparison import Compare
from ingest.embed import EmbeddingPass
from ingest.errors import ReindexRefused
from ingest.follow import Follower
from ingest.model import Build, Change, ChunkDraft, Collection, GenerationState, Job, StoredText, Text
from ingest.pipeline import now_utc
from ingest.protocols import Chunker
from ingest.recipes import Plan, Recipe, build_of, plan_of
from ingest.run import Cancelled, Run

TOLERANCE = 0.01
SMALL_GAP = 50  # versions that an activation fills in while the caller waits
_ENTRIES = 128
_SENTENCES = 1024  # per transaction: seconds of work at most, which is what a kill costs
_INDEX_EVERY = 20
_LAST_GAP = 500  # sentences that are embedded while nobody else can write: 2 s with the default model
_LARGEST_GAP = 4_000  # others wait for the lock 30 s at most
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class _Rechunked:
    text: Text
    sentences: Sequence[Span]
    chunks: Sequence[ChunkDraft]


@dataclass(frozen=True, slots=True)
class Reindexing:
    """Builds, compares, switches and removes generations. Only `sweep` needs the process that writes indexes."""

    catalog: Catalog
    follower: Follower
    embedder_of: Callable[[str], Embedder]
    chunker_of: Callable[[str], Chunker]
    analyzer_of: Callable[[str], Analyzer]
    compare: Compare
    writable: bool
    clock: Callable[[], datetime] = now_utc

    # ------------------------------------------------------------ what is wanted

    def recipe(self, collection: Collection, wanted: Mapping[str, Any]) -> Recipe:
        """What the serving generation has, with what is `wanted` otherwise. Raises the error of a part unknown here."""
        now = self.catalog.collections.generation(collection.generation_id)
        parts = {name: str(wanted.get(name) or getattr(now, name)) for name in ("embedder", "chunker", "analyzer")}
        recipe = Recipe(**parts)
        self.embedder_of(recipe.embedder)
        self.chunker_of(recipe.chunker)
        self.analyzer_of(recipe.analyzer)
        return recipe

    def find(self, collection: Collection, recipe: Recipe) -> Build:
        """The build of a recipe, or one that has not begun. Raises Conflict if what serves is of the recipe."""
        return build_of(self.catalog, collection, recipe, self.embedder_of(recipe.embedder))

    def plan(self, collection: Collection, recipe: Recipe) -> Plan:
        """What is still to be done, without beginning it. Raises Conflict if what serves is of the recipe."""
        embedder, chunker = self.embedder_of(recipe.embedder), self.chunker_of(recipe.chunker)
        return plan_of(self.catalog, self.find(collection, recipe), embedder, chunker)

    # ------------------------------------------------------------ the job

    def reindex(self, job: Job, run: Run) -> None:
        """Build, evaluate and switch; or switch to a generation that is there (`activate`).

        Raises ReindexRefused when the new generation answers worse, Conflict, EmbedderError, Cancelled.
        """
        if "activate" in job.payload:
            self.activate(str(job.payload["activate"]), run)
            self.sweep()
            return
        collection = self.catalog.collections.get(str(job.payload["collection"]))
        run.begin("plan")
        recipe = self.recipe(collection, job.payload)
        build = self._begin(collection, recipe)
        generation_id = build.generation.id
        try:
            self._note_plan(build)
            self._fill(build, run)
            self._index(generation_id, run)
            self._judge(collection, generation_id, job.payload, run)
            self._switch(generation_id, run, actor=job.id, unfinished=True)
        except (Cancelled, ReindexRefused):
            raise
        except RagsvcError as error:
            if not error.retryable:
                self._note_failed(generation_id, error)
            raise
        self.sweep()

    def _begin(self, collection: Collection, recipe: Recipe) -> Build:
        embedder = self.embedder_of(recipe.embedder)
        return self.catalog.generations.begin(
            collection.id,
            embedder=recipe.embedder,
            model=embedder.id,
            dimensions=embedder.dimensions,
            chunker=recipe.chunker,
            analyzer=recipe.analyzer,
            now=self.clock(),
        )

    def _note_plan(self, build: Build) -> None:
        embedder, chunker = self.embedder_of(build.generation.embedder), self.chunker_of(build.generation.chunker)
        plan = plan_of(self.catalog, build, embedder, chunker)
        again: GenerationState | None = "building" if build.state == "failed" else None
        self.catalog.generations.note(build.generation.id, state=again, report={"plan": asdict(plan), "error": None})

    def _note_failed(self, generation_id: str, error: RagsvcError) -> None:
        """It stays, and a new try goes on from where it is; the next switch removes it."""
        if any(build.generation.id == generation_id for build in self.catalog.generations.all()):
            self.catalog.generations.note(generation_id, state="failed", report={"error": error.message})

    def _fill(self, build: Build, run: Run) -> None:
        """Record the chunks of every version that is not there yet, until the end of the change log."""
        run.begin("embed", self.catalog.generations.pending(build).versions)
        embedding, chunker = self._parts(build)
        batches = 0
        while True:
            run.check()
            entries = self._entries(build, _ENTRIES)
            if not entries:
                return
            build = self._fill_part(build, entries, embedding, chunker, run)
            batches += 1
            if batches % _INDEX_EVERY == 0:
                self.follower.pin(build.generation.id)

    def _parts(self, build: Build) -> tuple[EmbeddingPass, Chunker]:
        made = build.generation
        embedder = self.embedder_of(made.embedder)
        self.catalog.generations.check_model(made, embedder.id, embedder.dimensions)
        return EmbeddingPass(embedder, self.catalog.documents), self.chunker_of(made.chunker)

    def _entries(self, build: Build, limit: int) -> tuple[Change, ...]:
        collection_id = build.generation.collection_id
        return self.catalog.changes.since(build.complete_seq, collection_ids=[collection_id], limit=limit)

    def _fill_part(
        self, build: Build, entries: Sequence[Change], embedding: EmbeddingPass, chunker: Chunker, run: Run
    ) -> Build:
        """One transaction: the chunks of what the first of these entries put, and how far that is."""
        put = [entry.version_id for entry in entries if entry.kind == "put" and entry.version_id is not None]
        texts = self.catalog.documents.texts(put)
        entries = _first_of(entries, texts)
        last = entries[-1].seq
        stored = [texts[entry.version_id] for entry in entries if entry.kind == "put" and entry.version_id in texts]
        splits = []
        for one in stored:
            text = Text(one.text, one.blocks)
            splits.append(_Rechunked(text, one.sentences, chunker.chunk(text)))
        embedded = embedding.embed(splits) if splits else ()
        contents = [(one.version_id, s.chunks, e) for one, s, e in zip(stored, splits, embedded, strict=True)]
        with self.catalog.write():
            self.catalog.generations.advance(build.generation.id, before=build.complete_seq, to=last)
            self.catalog.generations.backfill(build.generation, contents)
        run.done += len(stored)
        for split, vectors in zip(splits, embedded, strict=True):
            run.chunks += len(split.chunks)
            run.tokens += vectors.tokens
            run.embedded += len(vectors.fresh)
        return replace(build, complete_seq=last)

    def _index(self, generation_id: str, run: Run) -> None:
        """Let the indexes hold what the catalogue holds, and put them on disk where this process may."""
        run.begin("index", 1)
        while self.follower.view(generation_id).why_exact is not None and self.writable:
            run.check()
            sleep(_LOOK_S)  # a job that goes on after a kill finds much to index: that is done in the background
        self.follower.publish()
        run.done = 1

    def _judge(self, collection: Collection, generation_id: str, payload: Mapping[str, Any], run: Run) -> None:
        """Ask both generations the same. Raises ReindexRefused when the new one is worse, and nobody forces it."""
        collection = self.catalog.collections.by_id(collection.id)
        serving = self.catalog.collections.generation(collection.generation_id)
        candidate = self.catalog.collections.generation(generation_id)
        run.begin("evaluate")
        found = self.compare(collection, serving, candidate, run)
        tolerance = float(payload.get("tolerance", TOLERANCE))
        worse = found is not None and (found.difference < -tolerance or found.lost_leg is not None)
        refused = worse and not payload.get("force")
        shown = None if found is None else {**found.report(), "against": serving.id, "tolerance": tolerance}
        self.catalog.generations.note(
            generation_id,
            state="standby" if refused else None,
            report={"evaluation": shown, "refused": refused, "forced": bool(payload.get("force"))},
        )
        if refused and found is not None:
            said = found.sentence(tolerance)
            raise ReindexRefused(
                f"Generation {generation_id} answers worse than {serving.id}, which serves: {said}.",
                hint=f"It is kept: `ragsvc generations activate {generation_id}` or --force takes it anyway.",
            )

    # ------------------------------------------------------------ the switch

    def _switch(self, generation_id: str, run: Run, *, actor: str, unfinished: bool) -> Build:
        """Fill the gap until it is small, then the rest of it and the switch in one transaction."""
        most = _LAST_GAP
        while True:
            build = self.catalog.generations.get(generation_id)
            self._fill(build, run)
            self.follower.pin(generation_id)  # so that the first question after the switch has little to wait for
            run.begin("switch", 1)
            run.check()
            with self.catalog.write():
                build = self.catalog.generations.get(generation_id)
                if self._close_gap(build, most, run):
                    switched = self.catalog.generations.switch(generation_id, now=self.clock(), unfinished=unfinished)
                    self.catalog.audit.record(
                        "generation.switch", generation_id, actor=actor, now=self.clock(), detail=switched.report
                    )
                    run.done = 1
                    return switched
            most = min(most * 2, _LARGEST_GAP)  # documents come faster than they are built: they must wait a little

    def _close_gap(self, build: Build, most: int, run: Run) -> bool:
        """Nothing can be recorded meanwhile. False, and nothing is done, if too much came since the last look."""
        if self.catalog.generations.pending(build).sentences > most:
            return False
        embedding, chunker = self._parts(build)
        while entries := self._entries(build, _ENTRIES):
            build = self._fill_part(build, entries, embedding, chunker, run)
        return True

    def gap(self, generation_id: str) -> int:
        """Versions that a generation lacks. Raises NotFound."""
        build = self.catalog.generations.get(generation_id)
        return 0 if build.state == "serving" else self.catalog.generations.pending(build).versions

    def activate(self, generation_id: str, run: Run, *, actor: str = "job") -> Build:
        """Let a generation that is kept serve again, after what came meanwhile is filled in. Raises NotFound.

        One that is half built is finished first. One that serves already is left as it is.
        """
        build = self.catalog.generations.get(generation_id)
        if build.state == "serving":
            return build
        return self._switch(generation_id, run, actor=actor, unfinished=False)

    def sweep(self) -> None:
        """Remove rows and files of retired generations, where this process may write."""
        if not self.writable:
            return
        for generation_id in self.catalog.generations.retired():
            self.follower.remove(generation_id)
            while self.catalog.generations.remove_some(generation_id, versions=200):
                pass


def _first_of(entries: Sequence[Change], texts: Mapping[str, StoredText]) -> Sequence[Change]:
    """As many of the entries as make a batch; those of one document in a row stay together."""
    sentences = 0
    for number, entry in enumerate(entries):
        if sentences >= _SENTENCES and entry.document_id != entries[number - 1].document_id:
            return entries[:number]
        stored = texts.get(entry.version_id or "") if entry.kind == "put" else None
        sentences += len(stored.sentences) if stored is not None else 0
    return entries
