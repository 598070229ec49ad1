"""What is searched? Everything a reader pins: tables, pieces and statistics at one sequence number, never changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count

import numpy as np

from indexes.allowed import AllowedRows, alive
from indexes.documents import DocumentDraft, Documents
from indexes.errors import DimensionMismatch, QueryInvalid
from indexes.memory import Memory, MemoryPiece
from indexes.model import FOREVER, Close, Describe, Drop, Generation, Op, Put, Snapshot, TermStatistics, Timestamp
from indexes.pieces import Piece, SealedPiece, is_open
from indexes.versions import Mask, VersionDraft, Versions


@dataclass(frozen=True, eq=False)
class State:
    """A generation at `seq`. Built aside and shown by one assignment."""

    generation: Generation
    seq: int
    committed_at: Timestamp
    documents: Documents
    versions: Versions
    sealed: tuple[SealedPiece, ...]
    memory: MemoryPiece

    @classmethod
    def empty(cls, generation: Generation, memory: MemoryPiece) -> State:
        """Nothing, before the first change."""
        return cls(generation, 0, 0, Documents.empty(), Versions.empty(), (), memory)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces that have rows."""
        return (*self.sealed, self.memory) if self.memory.count else self.sealed

    @cached_property
    def allowed(self) -> AllowedRows:
        """Which rows of each piece a query may see."""
        return AllowedRows(self.documents, self.versions, self.pieces)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The name and size of this state."""
        chunks = sum(int(np.count_nonzero(alive(piece, self.versions))) for piece in self.pieces)
        return Snapshot(self.generation.id, self.seq, self.committed_at, chunks, len(self.sealed))

    @cached_property
    def _memory_open(self) -> Mask:
        return alive(self.memory, self.versions) & is_open(self.memory, self.versions)

    @cached_property
    def _open_rows(self) -> int:
        return sum(piece.open_rows for piece in self.sealed) + int(np.count_nonzero(self._memory_open))

    @cached_property
    def _open_length(self) -> int:
        in_memory = int(self.memory.lengths[self._memory_open].sum())
        return sum(piece.open_length for piece in self.sealed) + in_memory

    def statistics(self, terms: Iterable[str], *, at_seq: int | None = None) -> TermStatistics:
        """How common these terms are in the rows of all versions that are open, or were at `at_seq`."""
        wanted = set(terms)
        if at_seq is None:
            return TermStatistics(self._open_rows, self._open_length, {term: self._df(term) for term in wanted})
        versions = self.versions
        then = (versions.recorded <= at_seq) & (versions.ends(at_seq) == FOREVER)
        counted = [(piece, alive(piece, versions) & then[piece.row_version]) for piece in self.pieces]
        return TermStatistics(
            chunks=sum(int(np.count_nonzero(mask)) for _, mask in counted),
            length=sum(int(piece.lengths[mask].sum()) for piece, mask in counted),
            df={
                term: sum(int(np.count_nonzero(mask[piece.posting(term)[0]])) for piece, mask in counted)
                for term in wanted
            },
        )

    def _df(self, term: str) -> int:
        in_memory = self.memory.open_df(term, self._memory_open)
        return sum(piece.open_df(term) for piece in self.sealed) + in_memory

    def owner(self, piece: Piece, row: int) -> tuple[str, str]:
        """Version id and document id of a row."""
        ordinal = piece.row_version[row]
        return self.versions.ids[ordinal], self.documents.ids[self.versions.document[ordinal]]


def advance(
    state: State, memory: Memory, numbers: count[int], ops: Sequence[Op], *, seq: int, committed_at: Timestamp
) -> State:
    """The state after a batch. `memory` takes the new rows; `state` and its readers do not notice.

    Raises DimensionMismatch or QueryInvalid before anything is taken.
    """
    puts = [op for op in ops if isinstance(op, Put)]
    for put in puts:
        _check_vectors(put, state.generation)
    documents = DocumentDraft(state.documents, room=len(ops))
    versions = VersionDraft(state.versions, room=len(puts))
    for op in ops:
        if isinstance(op, Put):
            home = next(numbers)
            ordinal = versions.put(op, document=documents.ordinal(op.document_id), home=home)
            memory.append(op.chunks, version=ordinal, home=home)
        elif isinstance(op, Close):
            versions.close(op.version_id, op.valid_to, op.closed_seq)
        elif isinstance(op, Describe):
            documents.describe(documents.ordinal(op.document_id), op.access, op.metadata)
        else:
            _drop(op, versions, documents)
    after = versions.freeze()
    touched = np.fromiter(versions.touched, np.int64, len(versions.touched))
    return replace(
        state,
        seq=seq,
        committed_at=committed_at,
        documents=documents.freeze(),
        versions=after,
        sealed=tuple(piece.recounted(state.versions, after, touched) for piece in state.sealed),
        memory=memory.piece(),
    )


def _drop(op: Drop, versions: VersionDraft, documents: DocumentDraft) -> None:
    orphan = versions.drop(op.version_id)
    if orphan is not None:
        documents.forget(orphan)


def _check_vectors(op: Put, generation: Generation) -> None:
    for chunk in op.chunks:
        if chunk.vector.shape != (generation.dimensions,):
            raise DimensionMismatch(
                f"Chunk {chunk.id} has a vector of shape {chunk.vector.shape}, "
                f"generation {generation.id} holds {generation.dimensions} dimensions."
            )
        if not np.isfinite(chunk.vector).all():
            raise QueryInvalid(
                f"Chunk {chunk.id} has a vector with NaN or infinity.",
                hint="The embedding model is damaged or its input was: embed the document again.",
            )
