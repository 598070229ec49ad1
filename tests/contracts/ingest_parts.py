"""A small installation out of real parts for tests of ingestion, with the hash embedder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from indexes.analyze import Analyzer, analyzer_of
from indexes.embedded import EmbeddedEngine
from indexes.embedder import open_embedder
from indexes.model import Allowed, Generation, Matrix, Query
from ingest.catalog.catalog import Catalog
from ingest.chunk import StructureChunker
from ingest.connectors.files import FilesConnector, FilesOptions, file_uri
from ingest.drafting import Drafting, ParsesSafely
from ingest.embed import EmbeddingPass
from ingest.follow import Follower
from ingest.model import Document, Draft, Element, Parsed, Recorded, Source, Version
from ingest.normalise import normalise
from ingest.parse import registry
from ingest.pipeline import Pipeline
from ingest.run import Run
from ingest.sentences import sentence_spans

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EMBEDDER = "hash:64"
ALL = Allowed.everything()


class Undo(Exception):
    """What a transaction is undone with."""


@contextmanager
def undone(owner: Any) -> Iterator[Any]:
    """A transaction of a catalogue or database that fails at its end."""
    try:
        with owner.write() as conn:
            yield conn
            raise Undo
    except Undo:
        return


class CountingEmbedder:
    """The hash embedder; `texts` are all that it was asked to embed."""

    def __init__(self) -> None:
        self._embedder = open_embedder(EMBEDDER, models_dir=Path("unused"))
        self.texts: list[str] = []

    @property
    def id(self) -> str:
        return self._embedder.id

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    def encode(self, texts: Sequence[str]) -> Matrix:
        self.texts += texts
        return self._embedder.encode(texts)

    def encode_query(self, text: str) -> Matrix:
        return self._embedder.encode_query(text)

    def count_tokens(self, texts: Sequence[str]) -> int:
        return self._embedder.count_tokens(texts)


class InProcess:
    """Parses without a jail, where the jail is not what is tested."""

    def parse(self, data: bytes, *, media_type: str | None, name: str, parser: str = "default") -> Parsed:
        return registry.parse(data, media_type=media_type, name=name, parser=parser)


class Clock:
    """A clock that moves when told to."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def go(self, **delta: float) -> datetime:
        self.now += timedelta(**delta)
        return self.now


def database_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.db'}"


@cache
def _empty_catalog() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Catalog(database_url(Path(folder))).close()
        return (Path(folder) / "catalog.db").read_bytes()


def open_catalog(folder: Path) -> Catalog:
    """The catalogue in a folder; a new one begins as a copy of an empty one, which spares 0.1 s of migrations."""
    if not (folder / "catalog.db").exists():
        (folder / "catalog.db").write_bytes(_empty_catalog())
    return Catalog(database_url(folder))


def make_draft(uri: str, text: str, **fields: Any) -> Draft:
    """What fetching and parsing plain text would give: paragraphs between blank lines, `# ` headings."""
    parts = [part for part in text.split("\n\n") if part.strip()]
    elements = (Element("heading", p[2:], 1) if p.startswith("# ") else Element("paragraph", p) for p in parts)
    normal = normalise(Parsed(tuple(elements)))
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    draft = Draft(
        uri=uri,
        title=uri,
        media_type="text/plain",
        fingerprint=sha256,
        content_sha256=sha256,
        access=frozenset({"public"}),
        metadata={},
        lang="en",
        modified_at=None,
        valid_from=None,
        text=normal,
        sentences=sentence_spans(normal),
        chunks=StructureChunker().chunk(normal),
    )
    return replace(draft, **fields)


class Installation:
    """Opened on a folder; open another on the same folder to restart. `sync` runs the pipeline as a job would."""

    def __init__(
        self,
        folder: Path,
        *,
        jail: ParsesSafely | None = None,
        clock: Callable[[], datetime] | None = None,
        writable: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.clock: Callable[[], datetime] = clock or (lambda: datetime.now(UTC))
        self.catalog = open_catalog(folder)
        self.embedder = CountingEmbedder()
        self.chunker = StructureChunker()
        self.collection = self.catalog.collections.ensure(
            "handbook",
            embedder=EMBEDDER,
            dimensions=self.embedder.dimensions,
            chunker=self.chunker.id,
            analyzer=Analyzer.id,
            now=self.clock(),
        )
        self.generation: Generation = self.catalog.collections.generation(self.collection.generation_id)
        self.embedding = EmbeddingPass(self.embedder, self.catalog.documents)
        self.engine = EmbeddedEngine(folder / "indexes")
        self.follower = Follower(self.catalog, self.engine, analyzer_of, writable=writable)
        self.jail = jail or InProcess()
        self.pipeline = Pipeline(self.catalog, clock=self.clock)

    def close(self) -> None:
        """As a process ends that is told to: nothing is published, and nothing writes on after the lock is free."""
        self.follower.stop()
        for followed in self.follower._followed.values():
            followed.join()
        self.engine.close()
        self.catalog.close()

    # ------------------------------------------------------------ writing

    def source(self, uri: str = "file:///nowhere", **fields: Any) -> Source:
        found = self.catalog.sources.find(collection_id=self.collection.id, kind="files", uri=uri)
        return found or self.catalog.sources.add(
            collection_id=self.collection.id, kind="files", uri=uri, now=self.clock(), **fields
        )

    def folder_source(self, docs: Path, **options: Any) -> Source:
        return self.source(file_uri(docs), options={"settle_s": 0, **options})

    def record(self, source: Source, draft: Draft, *, now: datetime | None = None) -> Recorded:
        (embedded,) = self.embedding.embed([draft])
        return self.catalog.recording.record(
            source, draft, embedded, generation=self.generation, now=now or self.clock()
        )

    def drafting(self, source: Source) -> Drafting:
        source = self.catalog.sources.get(source.id)
        connector = FilesConnector(source.uri, FilesOptions.of(dict(source.options)))
        return Drafting(source, connector, self.jail, self.chunker, self.collection.access)

    def sync(self, source: Source, *, approved: int = 0) -> Run:
        run = Run()
        self.pipeline.sync(self.drafting(source), self.embedding, self.generation, run, approved=approved)
        return run

    # ------------------------------------------------------------ reading

    def find(self, words: str, *, at: datetime | None = None, limit: int = 10) -> list[str]:
        """Ids of the versions with the best chunks, best first, each once."""
        return list(dict.fromkeys(hit[1] for hit in self.hits(words, at=at, limit=limit)))

    def hits(self, words: str, *, at: datetime | None = None, limit: int = 10) -> list[tuple[str, str, str]]:
        """(chunk id, version id, document id) of the lexical leg's best."""
        moment = at or self.clock()
        query = Query(
            allowed=ALL,
            at=int(moment.timestamp() * 1_000_000),
            limit=limit,
            terms=tuple(Analyzer().terms(words, lang="en")),
        )
        found = self.follower.pin(self.generation.id).search(query)
        ranked = sorted(found, key=lambda hit: (-(hit.lexical.score if hit.lexical else 0.0), hit.chunk_id))
        return [(hit.chunk_id, hit.version_id, hit.document_id) for hit in ranked if hit.lexical and hit.lexical.score]

    def document(self, source: Source, uri: str) -> Document:
        found = self.catalog.documents.find(source.id, uri)
        assert found is not None, uri
        return found

    def versions(self, document: Document) -> tuple[Version, ...]:
        return self.catalog.documents.versions_of(document.id)

    def served(self, source: Source) -> dict[str, str]:
        """uri -> the text in force, of every live document."""
        texts = {}
        for uri, document in self.catalog.documents.of_source(source.id).items():
            assert document.current_version_id is not None
            texts[uri] = self.catalog.documents.text(document.current_version_id).text
        return texts

    def chunk_table(self) -> list[tuple[Any, ...]]:
        """Every recorded chunk with its bytes, in order: equal tables are equal installations."""
        rows = []
        for version_id in self.catalog.changes.version_ids(self.generation.id):
            stored = self.catalog.changes.chunks_of([version_id], generation_id=self.generation.id)[version_id]
            rows += [(chunk.id, version_id, chunk.ordinal, chunk.draft, chunk.vector.tobytes()) for chunk in stored]
        return sorted(rows, key=lambda row: row[0])


def write(path: Path, text: str | bytes, *, age_s: float = 60) -> Path:
    """A file as it looks some time after it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path
