"""What each kind of job does: the parts of ingestion put together for one source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from indexes.errors import revive
from indexes.model import Generation
from indexes.protocols import Embedder
from ingest.catalog.catalog import Catalog
from ingest.catalog.sources import PUSH
from ingest.connectors.files import MAX_DOCUMENT_BYTES, FilesConnector, FilesOptions
from ingest.connectors.push import PushConnector
from ingest.drafting import Drafting, ParsesSafely
from ingest.embed import EmbeddingPass
from ingest.errors import Conflict, IngestError, NotFound
from ingest.follow import Follower
from ingest.model import Job, Push, Source
from ingest.pipeline import Pipeline
from ingest.protocols import BlobStore, Chunker, Connector
from ingest.run import Run


class IndexesDisagree(IngestError):
    """Catalogue and indexes do not hold the same."""

    hint = "Run `ragsvc verify --repair`: the indexes are rebuilt from the catalogue without embedding."


def open_connector(source: Source, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Connector:
    """The connector of a listed source. Raises Conflict for a kind or options that do not exist."""
    if source.kind == "files":
        return FilesConnector(source.uri, FilesOptions.of({"max_bytes": max_bytes, **source.options}))
    raise Conflict(f"There is no connector of kind {source.kind!r}.", hint="Kinds: files.")


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The handlers of jobs. `chunker_of` and `embedder_of` give the parts a generation was built with, by id."""

    catalog: Catalog
    follower: Follower
    jail: ParsesSafely
    blobs: BlobStore
    embedder_of: Callable[[str], Embedder]
    chunker_of: Callable[[str], Chunker]
    pipeline: Pipeline
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    def handlers(self) -> dict[str, Callable[[Job, Run], None]]:
        """Kind of job -> what does it."""
        return {"sync": self.sync, "push": self.push, "verify": self.verify, "compact": self.compact}

    def sync(self, job: Job, run: Run) -> None:
        """Make the catalogue say what the source says. Raises SourceUnreachable."""
        source = self._source(job)
        if source.kind == PUSH:
            raise Conflict("Pushed documents have no place to sync with.", hint="Push them again.")
        drafting, embedding, generation = self._parts(
            source, open_connector(source, max_bytes=self.max_document_bytes), None
        )
        approved = int(job.payload.get("approve_deletions", 0))
        self.pipeline.sync(drafting, embedding, generation, run, approved=approved)

    def push(self, job: Job, run: Run) -> None:
        """Ingest one pushed document. Raises the error of its dead letter."""
        source, uri = self._source(job), str(job.payload["uri"])
        push = self.catalog.sources.get_push(source.id, uri)
        if push is None:
            return  # done before a crash that lost only the job's end
        connector = PushConnector(push, self.blobs)
        drafting, embedding, generation = self._parts(source, connector, push)
        self.pipeline.push(drafting, embedding, generation, run)
        if run.counts["failed"]:
            letter = self.catalog.dead_letters.of_source(source.id)[uri]
            raise revive(letter.error_type, letter.reason, letter.hint)
        self._forget(push)

    def _forget(self, push: Push) -> None:
        if self.catalog.sources.done_push(push):
            self.blobs.delete(push.blob_sha256)

    def verify(self, job: Job, run: Run) -> None:
        """Compare catalogue and indexes of every generation. Raises IndexesDisagree naming what is wrong."""
        generations = self.catalog.collections.generations()
        run.begin("verify", len(generations))
        found: list[str] = []
        for generation in generations:
            run.check()
            problems = self.follower.check(generation)
            if problems and job.payload.get("repair"):
                self.follower.rebuild(generation)
                problems = self.follower.check(generation)
            found += [f"{problem.part}: {problem.what}" for problem in problems]
            run.done += 1
        if found:
            raise IndexesDisagree("; ".join(found[:5]))

    def compact(self, job: Job, run: Run) -> None:
        """Put everything on disk and merge small segments."""
        run.begin("compact", 1)
        self.follower.publish()
        run.done = 1

    def _source(self, job: Job) -> Source:
        if job.source_id is None:
            raise NotFound(f"Job {job.id} names no source.")
        return self.catalog.sources.get(job.source_id)

    def _parts(
        self, source: Source, connector: Connector, push: Push | None
    ) -> tuple[Drafting, EmbeddingPass, Generation]:
        collection = self.catalog.collections.by_id(source.collection_id)
        generation = self.catalog.collections.generation(collection.generation_id)
        drafting = Drafting(
            source=source,
            connector=connector,
            jail=self.jail,
            chunker=self.chunker_of(generation.chunker),
            default_access=collection.access,
            push=push,
        )
        return drafting, EmbeddingPass(self.embedder_of(generation.embedder), self.catalog.documents), generation
