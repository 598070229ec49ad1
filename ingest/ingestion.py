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
from ingest.errors import Conflict, GenerationSwitched, IngestError, NotFound
from ingest.follow import Follower
from ingest.model import Job, Push, Source
from ingest.pipeline import Pipeline
from ingest.protocols import BlobStore, Chunker, Connector
from ingest.reindex import Reindexing
from ingest.run import Run
from ingest.verify import catalogue_problems

_SWITCHES = 3


class IndexesDisagree(IngestError):
    """Catalogue and indexes do not hold the same."""

    hint = "Run `ragsvc verify --repair`: the indexes are rebuilt from the catalogue without embedding."


def open_connector(source: Source, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Connector:
    """The connector of a listed source. Raises Conflict for a kind or options that do not exist."""
    if source.kind == "files":
        return FilesConnector(source.uri, FilesOptions.of({"max_bytes": max_bytes, **source.options}))
    raise Conflict(f"There is no connector of kind {source.kind!r}.", hint="Kinds: files.")


def release(catalog: Catalog, blobs: BlobStore, sha256: str) -> None:
    """Delete pushed bytes that nothing waits for, after the commit that said so.

    The look and the deletion hold the catalogue's write lock, under which a push makes sure that its bytes are there:
    so equal bytes that are pushed at this moment are either seen here or stored again there.
    """
    with catalog.write():
        if not catalog.sources.waits_for(sha256):
            blobs.delete(sha256)


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
    reindexing: Reindexing
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    def handlers(self) -> dict[str, Callable[[Job, Run], None]]:
        """Kind of job -> what does it."""
        return {
            "sync": self.sync,
            "push": self.push,
            "verify": self.verify,
            "compact": self.compact,
            "reindex": self.reindexing.reindex,
        }

    def sync(self, job: Job, run: Run) -> None:
        """Make the catalogue say what the source says. Raises SourceUnreachable."""
        source = self._source(job)
        if source.kind == PUSH:
            raise Conflict("Pushed documents have no place to sync with.", hint="Push them again.")
        connector = open_connector(source, max_bytes=self.max_document_bytes)
        approved = int(job.payload.get("approve_deletions", 0))

        def work() -> None:
            drafting, embedding, generation = self._parts(source, connector, None)
            self.pipeline.sync(drafting, embedding, generation, run, approved=approved)

        _despite_switches(work)

    def push(self, job: Job, run: Run) -> None:
        """Ingest one pushed document. Raises the error of its dead letter."""
        source, uri = self._source(job), str(job.payload["uri"])
        push = self.catalog.sources.get_push(source.id, uri)
        if push is None:
            return  # done before a crash that lost only the job's end
        connector = PushConnector(push, self.blobs)

        def work() -> None:
            drafting, embedding, generation = self._parts(source, connector, push)
            self.pipeline.push(drafting, embedding, generation, run)

        _despite_switches(work)
        if run.counts["failed"]:
            letter = self.catalog.dead_letters.of_source(source.id)[uri]
            raise revive(letter.error_type, letter.reason, letter.hint)
        self.catalog.sources.done_push(push)
        release(self.catalog, self.blobs, push.blob_sha256)

    def verify(self, job: Job, run: Run) -> None:
        """Compare catalogue and indexes of every generation. Raises IndexesDisagree naming what is wrong."""
        generations = self.catalog.collections.generations()
        run.begin("verify", len(generations))
        found = list(catalogue_problems(self.catalog))
        for generation in generations:
            run.check()
            problems, _ = self.follower.verify(generation, repair=bool(job.payload.get("repair")))
            found += problems
            run.done += 1
        if found:
            raise IndexesDisagree("; ".join(f"{one.part}: {one.what}" for one in found[:5]), hint=found[0].hint)

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
        embedder = self.embedder_of(generation.embedder)
        self.catalog.generations.check_model(generation, embedder.id, embedder.dimensions)
        return drafting, EmbeddingPass(embedder, self.catalog.documents), generation


def _despite_switches(work: Callable[[], None]) -> None:
    """A generation may be switched while a run lasts: what it recorded stays, and the rest goes to the new one.

    Beyond a few in one run the job is tried again later (GenerationSwitched is retryable).
    """
    for _ in range(_SWITCHES):
        try:
            return work()
        except GenerationSwitched:
            continue
    return work()
