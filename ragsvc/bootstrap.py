"""The only place that chooses implementations: settings in, a wired service out."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType

from indexes.analyze import Analyzer, analyzer_of
from indexes.embedded import EmbeddedEngine
from indexes.embedder import open_embedder
from indexes.errors import RagsvcError, StorageFailed, WriterBusy
from indexes.model import DenseOptions
from indexes.protocols import Embedder
from ingest.blobs import FolderBlobStore
from ingest.catalog.catalog import Catalog
from ingest.chunk import StructureChunker
from ingest.duration import seconds_of
from ingest.follow import Follower
from ingest.ingestion import Ingestion, open_connector
from ingest.model import Collection
from ingest.parse.jail import Jail, JailLimits
from ingest.pipeline import Pipeline, now_utc
from ingest.protocols import Chunker
from ingest.reindex import Reindexing
from ingest.schedule import Schedule
from ingest.watch import Watch
from ingest.worker import Worker
from ragsvc.comparing import Asking, Comparing
from ragsvc.retrieve import Retriever
from ragsvc.settings import Settings

log = logging.getLogger("ragsvc")
_MAINTAIN_S = 0.5
_WORKER_STOP_S = 3.0  # with the 6 s of serving.py it makes less than 10; what did not stop is leased again later


class WriterLock:
    """The one process that ingests into a data folder. Held until it ends, however it ends."""

    def __init__(self, settings: Settings) -> None:
        settings.data.mkdir(parents=True, exist_ok=True)
        self._file = os.open(settings.data / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise WriterBusy(f"Process {holder or '?'} already ingests into {settings.data}.") from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process ingest."""
        os.close(self._file)


@dataclass(slots=True)
class Service:
    """A wired installation. `ingestion` is there only where this process may write the indexes."""

    settings: Settings
    catalog: Catalog
    follower: Follower
    retriever: Retriever
    blobs: FolderBlobStore
    embedder_of: Callable[[str], Embedder]
    ingestion: Ingestion | None
    reindexing: Reindexing
    _close: list[Callable[[], None]] = field(default_factory=list)

    def ensure_collection(self, name: str, **options: tuple[str, ...]) -> Collection:
        """The collection of this name, made with this installation's model and chunker if it is new."""
        embedder = self.embedder_of(self.settings.embedder)
        return self.catalog.collections.ensure(
            name,
            embedder=self.settings.embedder,
            dimensions=embedder.dimensions,
            chunker=StructureChunker(self.settings.chunk_target).id,
            analyzer=Analyzer.id,
            now=now_utc(),
            model=embedder.id,
            **options,
        )

    def close(self) -> None:
        """Put the indexes on disk and release everything, in the reverse order of opening."""
        while self._close:
            try:
                self._close.pop()()
            except StorageFailed as error:  # the indexes stay as they were; the next start follows the log from there
                log.warning("at the end: %s", error.message)

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def build(settings: Settings, *, writable: bool) -> Service:
    """Wire an installation. `writable` takes the writer's lock. Raises WriterBusy, CatalogUnsafe."""
    closing: list[Callable[[], None]] = []
    if writable:
        closing.append(WriterLock(settings).release)
    settings.data.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(settings.database_url)
    closing.append(catalog.close)
    options = DenseOptions(settings.quantization, settings.recall_target)
    engine = EmbeddedEngine(settings.data / "indexes", options)
    closing.append(engine.close)
    follower = Follower(catalog, engine, analyzer_of, writable=writable)

    @lru_cache(maxsize=8)
    def embedder_of(name: str) -> Embedder:
        return open_embedder(name, models_dir=settings.models_dir, threads=settings.threads)

    sla_s = round(seconds_of(settings.freshness_sla))
    retriever = Retriever(catalog, follower, embedder_of, analyzer_of, default_sla_s=sla_s)
    comparing = Comparing(catalog, Asking(follower, retriever, embedder_of))
    reindexing = Reindexing(catalog, follower, embedder_of, chunker_of, analyzer_of, comparing, writable=writable)
    blobs = FolderBlobStore(settings.data / "blobs")
    ingestion = None
    if writable:
        closing.append(follower.close)
        jail = Jail(_limits(settings), workers=2)
        closing.append(jail.close)
        limit = settings.max_document_bytes
        ingestion = Ingestion(
            catalog, follower, jail, blobs, embedder_of, chunker_of, Pipeline(catalog), reindexing, limit
        )
    return Service(settings, catalog, follower, retriever, blobs, embedder_of, ingestion, reindexing, closing)


def chunker_of(chunker_id: str) -> Chunker:
    """The chunker that a generation was built with. Raises RagsvcError for one that this release cannot make."""
    parts = chunker_id.split("-")
    if len(parts) == 3 and parts[1].isdigit() and 100 <= int(parts[1]) <= 1000:
        chunker = StructureChunker(int(parts[1]))
        if chunker.id == chunker_id:
            return chunker
    raise RagsvcError(
        f"This release has no chunker {chunker_id!r}.", hint="Choose structure-CHARACTERS-1, such as structure-400-1."
    )


def _limits(settings: Settings) -> JailLimits:
    return JailLimits(
        timeout_s=settings.parse_timeout_s,
        memory_mb=settings.parse_memory_mb,
        input_bytes=settings.max_document_bytes,
    )


class Backstage:
    """Everything that works without being asked: worker, clock, watch and the upkeep of the indexes."""

    def __init__(self, service: Service) -> None:
        assert service.ingestion is not None
        self._service = service
        self._stop = threading.Event()
        self.worker = Worker(service.catalog, service.ingestion.handlers(), threads=service.settings.workers)
        self.schedule = Schedule(service.catalog)
        self.watch = Watch(service.catalog, open_connector)
        self._upkeep = threading.Thread(target=self._maintain, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.worker.start()
        self.schedule.start()
        self.watch.start()
        self._upkeep.start()

    def stop(self) -> None:
        """End in order: nothing new, then what runs, then the upkeep."""
        self.schedule.stop()
        self.watch.stop()
        self.worker.stop(timeout_s=_WORKER_STOP_S)
        self._stop.set()
        self._service.follower.stop()
        self._upkeep.join(5)

    def _maintain(self) -> None:
        while not self._stop.wait(_MAINTAIN_S):
            try:
                self._service.follower.maintain()
                self._service.reindexing.sweep()
            except RagsvcError as error:
                log.warning("upkeep of the indexes: %s", error.message)
