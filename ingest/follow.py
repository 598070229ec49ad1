"""The indexes follow the change log. Every process does this for itself: what is committed is found.

A pin first applies whatever the log holds beyond the index, so a write that was acknowledged is seen by the
next call in any process. Only the process with the writer's lock also puts segments on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import monotonic

from indexes.analyze import Analyzer
from indexes.errors import GenerationUnknown, StorageFailed
from indexes.model import FOREVER, Chunk, Close, Describe, Drop, Generation, Op, Problem, Put
from indexes.protocols import Engine, IndexWriter, Searcher
from indexes.rowhash import row_hash
from ingest.catalog.catalog import Catalog
from ingest.catalog.changes import VersionState
from ingest.model import Change, StoredChunk, StoredText

_BATCH = 500
_PUBLISH_CHUNKS = 2_000
_PUBLISH_IDLE_S = 5.0


class _Followed:
    """One generation in this process."""

    def __init__(self, generation: Generation, writer: IndexWriter) -> None:
        self.generation = generation
        self.writer = writer
        self.lock = threading.Lock()
        self.publishing = threading.Lock()  # not `lock`: pins go on while segments are written
        self.unpublished = 0
        self.changed_at = monotonic()


class Follower:
    """Keeps the engine at the end of the change log."""

    def __init__(self, catalog: Catalog, engine: Engine, analyzer: Analyzer, *, writable: bool) -> None:
        self._catalog = catalog
        self._engine = engine
        self._analyzer = analyzer
        self._writable = writable
        self._followed: dict[str, _Followed] = {}
        self._standing_in: dict[str, Searcher] = {}
        self._lock = threading.Lock()

    def pin(self, generation_id: str) -> Searcher:
        """The state of a generation that holds everything committed before this call. Raises NotFound.

        While the generation is rebuilt: the state from before.
        """
        while True:
            standing_in = self._standing_in.get(generation_id)
            if standing_in is not None:
                return standing_in
            followed = self._of(generation_id)
            self.catch_up(followed)
            try:
                searcher = self._engine.pin(generation_id)
            except GenerationUnknown:
                if self._followed.get(generation_id) is followed:
                    raise
                continue  # a rebuild began
            if self._followed.get(generation_id) is followed:
                return searcher

    def _of(self, generation_id: str) -> _Followed:
        with self._lock:
            followed = self._followed.get(generation_id)
            if followed is None:
                generation = self._catalog.collections.generation(generation_id)
                writer = self._engine.open(generation, writable=self._writable)
                followed = self._followed[generation_id] = _Followed(generation, writer)
            return followed

    def generation(self, generation_id: str) -> Generation:
        """What a generation was built with. Raises NotFound."""
        return self._of(generation_id).generation

    def catch_up(self, followed: _Followed) -> None:
        """Apply the log's entries that the index has not seen, in batches that keep a document's change whole."""
        collection_id = followed.generation.collection_id
        last = self._catalog.changes.last_seq(collection_id)
        if followed.writer.seq >= last:
            return
        with followed.lock:
            self._shed(followed)
            while followed.writer.seq < last:
                entries = self._catalog.changes.since(followed.writer.seq, collection_ids=[collection_id], limit=_BATCH)
                if not entries:
                    return
                ops = self.ops(entries, followed.generation)
                followed.writer.apply(ops, seq=entries[-1].seq)
                followed.unpublished += sum(len(op.chunks) if isinstance(op, Put) else 1 for op in ops)
                followed.changed_at = monotonic()

    def _shed(self, followed: _Followed) -> None:
        """A reader that holds much in memory moves to what the writer has published since."""
        if not self._writable and followed.unpublished >= _PUBLISH_CHUNKS and followed.writer.refresh():
            followed.unpublished = 0

    def ops(self, entries: Sequence[Change], generation: Generation) -> list[Op]:
        """What the entries come to.

        A version that a later entry closes is still open here, as its successor is not there yet: at each step
        a document is findable once. All else is as the catalogue stands now; later entries only repeat it.
        """
        last = entries[-1].seq
        described = list(dict.fromkeys(entry.document_id for entry in entries))
        documents = self._catalog.changes.documents(described)
        ops: list[Op] = [Describe(document.id, document.access, document.metadata) for document in documents.values()]
        put = list(dict.fromkeys(e.version_id for e in entries if e.kind == "put" and e.version_id is not None))
        closed = [e.version_id for e in entries if e.kind == "close" and e.version_id is not None]
        states = self._catalog.changes.version_states(list(dict.fromkeys([*put, *closed])))
        stored = self._catalog.changes.chunks_of(put, generation_id=generation.id)
        self._catalog.documents.texts(put)  # in one query, and kept
        for version_id in put:
            if version_id in states:
                ops.append(self._put(version_id, _as_of(states[version_id], last), stored[version_id]))
        for version_id in dict.fromkeys(closed):
            if version_id in states:
                state = states[version_id]
                ops.append(Close(version_id, state.valid_to, state.closed_seq))
        ops.extend(Drop(e.version_id) for e in entries if e.kind == "drop" and e.version_id is not None)
        return ops

    def _put(self, version_id: str, state: VersionState, stored: Sequence[StoredChunk]) -> Put:
        chunks: tuple[Chunk, ...] = ()
        if stored:
            text = self._catalog.documents.text(version_id)
            chunks = tuple(
                Chunk(
                    id=chunk.id,
                    version_id=version_id,
                    ordinal=chunk.ordinal,
                    terms=tuple(self._analyzer.terms(indexed_text(state.title, text, chunk), lang=state.lang)),
                    vector=chunk.vector,
                )
                for chunk in stored
            )
        return Put(
            document_id=state.document_id,
            version_id=version_id,
            valid_from=state.valid_from,
            valid_to=state.valid_to,
            recorded_seq=state.recorded_seq,
            closed_seq=state.closed_seq,
            chunks=chunks,
        )

    def maintain(self) -> None:
        """Publish what waits long or is much, and merge small segments. Only where this process may write."""
        if not self._writable:
            return
        for followed in self._all():
            self.catch_up(followed)
            waits = followed.unpublished and monotonic() - followed.changed_at > _PUBLISH_IDLE_S
            if followed.unpublished >= _PUBLISH_CHUNKS or waits:
                self._publish(followed)

    def publish(self) -> None:
        """Put everything on disk now (shutdown, `compact`)."""
        if self._writable:
            for followed in self._all():
                self.catch_up(followed)
                self._publish(followed)

    def _publish(self, followed: _Followed) -> None:
        with followed.publishing:
            if self._followed.get(followed.generation.id) is not followed:
                return  # rebuilt meanwhile: these files are not ours any more
            with followed.lock:
                waiting, followed.unpublished = followed.unpublished, 0
            try:
                followed.writer.publish()
                while followed.writer.merge():
                    pass
            except StorageFailed:
                followed.unpublished += waiting
                raise

    def _all(self) -> list[_Followed]:
        return [self._of(generation.id) for generation in self._catalog.collections.generations()]

    def check(self, generation: Generation) -> tuple[Problem, ...]:
        """Whether catalogue, dense and lexical index hold the same, and every stored byte is sound."""
        searcher = self.pin(generation.id)
        problems = list(self._engine.check(generation.id))
        held = {chunk_id: row for chunk_id, _, row in searcher.scan()}
        wanted = dict(self._wanted(generation, searcher.snapshot.seq))
        stale = {chunk_id for chunk_id in wanted.keys() & held.keys() if wanted[chunk_id] != held[chunk_id]}
        for what, ids in (
            ("missing from the index", wanted.keys() - held.keys()),
            ("in the index but not in the catalogue", held.keys() - wanted.keys()),
            ("different in index and catalogue", stale),
        ):
            if ids:
                problems.append(
                    Problem(generation.id, f"{len(ids)} chunks are {what}.", details=tuple(sorted(ids)[:10]))
                )
        return tuple(problems)

    def _wanted(self, generation: Generation, seq: int) -> Iterator[tuple[str, str]]:
        """(chunk id, row hash) of everything that an index at `seq` must hold."""
        version_ids = self._catalog.changes.version_ids(generation.id)
        for start in range(0, len(version_ids), _BATCH):
            part = version_ids[start : start + _BATCH]
            states = self._catalog.changes.version_states(part)
            stored = self._catalog.changes.chunks_of(part, generation_id=generation.id)
            self._catalog.documents.texts(part)
            for version_id in (name for name in part if states[name].recorded_seq <= seq):
                for chunk in self._put(version_id, states[version_id], stored[version_id]).chunks:
                    yield chunk.id, row_hash(chunk)

    def rebuild(self, generation: Generation) -> None:
        """Throw the indexes of a generation away and make them again from the catalogue; nothing is embedded.

        Meanwhile the old state is served.
        """
        old = self._of(generation.id)
        self._standing_in[generation.id] = self.pin(generation.id)
        try:
            with old.publishing, self._lock:
                self._followed.pop(generation.id, None)
                self._engine.remove(generation.id)
            followed = self._of(generation.id)
            self.catch_up(followed)
            self._publish(followed)
        finally:
            del self._standing_in[generation.id]


def _as_of(state: VersionState, seq: int) -> VersionState:
    """The version as it was before a later entry closed it."""
    return replace(state, valid_to=FOREVER, closed_seq=FOREVER) if FOREVER > state.closed_seq > seq else state


def indexed_text(title: str, text: StoredText, chunk: StoredChunk) -> str:
    """What the lexical leg reads of a chunk: its document's title, the headings above it, and its text."""
    own = text.text[chunk.draft.span.start : chunk.draft.span.end]
    above = dict.fromkeys((title, *chunk.draft.heading_path))
    return "\n".join((*(heading for heading in above if not own.startswith(heading)), own))
