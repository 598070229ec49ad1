"""What do entries of the change log come to, for an index?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from indexes.analyze import Analyzer
from indexes.model import FOREVER, Chunk, Close, Closing, Describe, Drop, Generation, Op, Put
from ingest.catalog.catalog import Catalog
from ingest.catalog.changes import VersionState
from ingest.model import Change, StoredChunk, StoredText


class Entries:
    """Reads from the catalogue what an index must be told."""

    def __init__(self, catalog: Catalog, analyzer_of: Callable[[str], Analyzer]) -> None:
        self._catalog = catalog
        self._analyzer_of = analyzer_of

    def ops(self, entries: Sequence[Change], generation: Generation, *, words: bool = True) -> list[Op]:
        """What the entries come to. Without `words` the chunks have no terms, which is much faster.

        A version that a later entry closes is still open here, as its successor is not there yet: at each step
        a document is findable once. Access and metadata are as the catalogue stands now; later entries only repeat it.
        """
        first, last = entries[0].seq, entries[-1].seq
        ops: list[Op] = [*self.described(list(dict.fromkeys(entry.document_id for entry in entries)))]
        put = list(dict.fromkeys(e.version_id for e in entries if e.kind == "put" and e.version_id is not None))
        closed = list(dict.fromkeys(e.version_id for e in entries if e.kind == "close" and e.version_id is not None))
        states = self._catalog.changes.version_states(list(dict.fromkeys([*put, *closed])))
        ops += self.puts({name: states[name].up_to(last) for name in put if name in states}, generation, words=words)
        for version_id in closed:
            if version_id in states and version_id not in put:  # a put brings its closings
                here = [c for c in states[version_id].closings if first <= c.seq <= last]
                ops.extend(Close(version_id, closing.valid_to, closing.seq) for closing in here)
        ops.extend(Drop(e.version_id) for e in entries if e.kind == "drop" and e.version_id is not None)
        return ops

    def described(self, document_ids: Sequence[str]) -> list[Describe]:
        """Access and metadata of these documents, as they are now."""
        documents = self._catalog.changes.documents(document_ids)
        return [Describe(document.id, document.access, document.metadata) for document in documents.values()]

    def puts(self, states: dict[str, VersionState], generation: Generation, *, words: bool = True) -> list[Put]:
        """These versions with their chunks in a generation."""
        if not words:
            bare = self._catalog.changes.vectors_of(list(states), generation_id=generation.id)
            return [_put(version_id, state, bare[version_id]) for version_id, state in states.items()]
        stored = self._catalog.changes.chunks_of(list(states), generation_id=generation.id)
        self._catalog.documents.texts(list(states))  # in one query, and kept
        return [
            _put(version_id, state, self._chunks(version_id, state, stored[version_id], generation))
            for version_id, state in states.items()
        ]

    def _chunks(
        self, version_id: str, state: VersionState, stored: Sequence[StoredChunk], generation: Generation
    ) -> list[Chunk]:
        if not stored:
            return []
        text = self._catalog.documents.text(version_id)
        analyzer = self._analyzer_of(generation.analyzer)
        return [
            Chunk(
                id=chunk.id,
                version_id=version_id,
                ordinal=chunk.ordinal,
                terms=tuple(analyzer.terms(indexed_text(state.title, text, chunk), lang=state.lang)),
                vector=chunk.vector,
            )
            for chunk in stored
        ]


def _put(version_id: str, state: VersionState, chunks: Sequence[Chunk]) -> Put:
    *earlier, newest = state.closings or (Closing(FOREVER, FOREVER),)
    return Put(
        document_id=state.document_id,
        version_id=version_id,
        valid_from=state.valid_from,
        valid_to=newest.valid_to,
        recorded_seq=state.recorded_seq,
        closed_seq=newest.seq,
        chunks=tuple(chunks),
        earlier=tuple(earlier),
    )


def indexed_text(title: str, text: StoredText, chunk: StoredChunk) -> str:
    """What the lexical leg reads of a chunk: its document's title, the headings above it, and its text."""
    own = text.text[chunk.draft.span.start : chunk.draft.span.end]
    above = dict.fromkeys((title, *chunk.draft.heading_path))
    return "\n".join((*(heading for heading in above if not own.startswith(heading)), own))
