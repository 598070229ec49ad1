"""What does one reader see of a sealed segment? Its rows tied to the version table, and which of them count.

The segment itself never changes; what does (which versions its rows belong to now, how many open rows hold a term) is
here, and copied when a batch changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from indexes.allowed import alive
from indexes.dense import DenseIndex
from indexes.lexical import LexicalIndex
from indexes.memory import MemoryPiece
from indexes.model import FOREVER, Matrix
from indexes.postings import Terms
from indexes.segment import Contents, Segment
from indexes.stats import Posting
from indexes.versions import GONE, NOBODY, Mask, Versions


@dataclass(frozen=True, slots=True, eq=False)
class SealedPiece:
    """A segment in a state. Its rows are alive while their version's home is `homes`.

    `extents` gives the half-open range of rows of each version. `df`, `open_rows` and `open_length`
    count the rows of open versions: per term, in all, and their terms.
    """

    segment: Segment
    homes: int
    row_version: NDArray[np.int32]
    extents: dict[int, tuple[int, int]]
    df: NDArray[np.int64]
    open_rows: int
    open_length: int

    @classmethod
    def attach(cls, segment: Segment, versions: Versions, *, home: int) -> SealedPiece:
        """Tie a segment's rows to the versions that are known; rows of unknown ones are NOBODY's."""
        contents = segment.contents
        known = np.array([versions.ordinals.get(name, NOBODY) for name in contents.version_ids], np.int32)
        starts = np.flatnonzero(np.diff(contents.version, prepend=-1))
        ends = np.append(starts[1:], len(contents.version))
        owners = known[contents.version[starts]].tolist()
        extents = dict(zip(owners, zip(starts.tolist(), ends.tolist(), strict=True), strict=True))
        piece = cls(segment, home, known[contents.version], extents, np.zeros(0, np.int64), 0, 0)
        rows = np.flatnonzero(alive(piece, versions) & is_open(piece, versions))
        terms = contents.terms
        return replace(piece, df=terms.holders(rows), open_rows=len(rows), open_length=int(terms.lengths[rows].sum()))

    @property
    def count(self) -> int:
        """How many rows, dead ones too."""
        return len(self.row_version)

    @property
    def vectors(self) -> Matrix:
        """Float32 of shape (rows, dimensions)."""
        return self.segment.dense.vectors

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Terms of each row."""
        return self.segment.contents.terms.lengths

    @property
    def dense(self) -> DenseIndex | None:
        """The FAISS index over the same rows."""
        return self.segment.dense

    @property
    def lexical(self) -> LexicalIndex | None:
        """The tantivy index over the same rows."""
        return self.segment.lexical

    def posting(self, term: str) -> Posting:
        """Where a term stands."""
        return self.segment.contents.terms.posting(term)

    def open_df(self, term: str) -> int:
        """How many open rows hold a term."""
        number = self.segment.contents.terms.term_ids.get(term)
        return 0 if number is None else int(self.df[number])

    @property
    def chunk_ids(self) -> Sequence[str]:
        """Id of the chunk in each row."""
        return self.segment.contents.chunk_ids

    def sorted_terms(self, row: int) -> list[str]:
        """The terms of a row with repeats, sorted."""
        return self.segment.contents.terms.row(row)

    def recounted(self, before: Versions, after: Versions, touched: Iterable[int]) -> SealedPiece:
        """The same piece after a batch that touched these versions."""
        changes = {ordinal: self._counts(after, ordinal) - self._counts(before, ordinal) for ordinal in touched}
        opened = self._rows_of(ordinal for ordinal, change in changes.items() if change > 0)
        closed = self._rows_of(ordinal for ordinal, change in changes.items() if change < 0)
        if not len(opened) and not len(closed):
            return self
        terms = self.segment.contents.terms
        return replace(
            self,
            df=self.df + terms.holders(opened) - terms.holders(closed),
            open_rows=self.open_rows + len(opened) - len(closed),
            open_length=self.open_length + int(terms.lengths[opened].sum()) - int(terms.lengths[closed].sum()),
        )

    def _rows_of(self, ordinals: Iterable[int]) -> NDArray[np.int64]:
        spans = [np.arange(*self.extents[ordinal], dtype=np.int64) for ordinal in ordinals]
        return np.concatenate([np.zeros(0, np.int64), *spans])

    def _counts(self, versions: Versions, ordinal: int) -> int:
        here = ordinal < len(versions) and versions.home[ordinal] == self.homes
        return int(here and versions.valid_to[ordinal] == FOREVER)


Piece = SealedPiece | MemoryPiece


def is_open(piece: Piece, versions: Versions) -> Mask:
    """Rows whose version is not closed (they may be dead)."""
    return np.asarray(versions.valid_to[piece.row_version] == FOREVER, bool)


def erased(piece: Piece, versions: Versions) -> int:
    """How many rows belong to versions that were dropped and must leave the disk."""
    return int(np.count_nonzero(versions.home[piece.row_version] == GONE))


def gather(pieces: Sequence[Piece], versions: Versions) -> Contents | None:
    """The live rows of these pieces as the contents of one new segment; None when there are none."""
    chosen = [(piece, np.flatnonzero(alive(piece, versions))) for piece in pieces]
    chosen = [(piece, rows) for piece, rows in chosen if len(rows)]
    if not chosen:
        return None
    owners = np.concatenate([piece.row_version[rows] for piece, rows in chosen])
    ordinals, version = np.unique(owners, return_inverse=True)
    return Contents(
        chunk_ids=tuple(piece.chunk_ids[row] for piece, rows in chosen for row in rows.tolist()),
        version_ids=tuple(versions.ids[ordinal] for ordinal in ordinals.tolist()),
        version=version.astype(np.int32),
        ordinal=np.concatenate([_chunk_ordinals(piece, rows) for piece, rows in chosen]),
        terms=Terms.join([_terms(piece, rows) for piece, rows in chosen]),
        vectors=np.concatenate([piece.vectors[rows] for piece, rows in chosen]),
    )


def _chunk_ordinals(piece: Piece, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    if isinstance(piece, SealedPiece):
        return piece.segment.contents.ordinal[rows]
    return np.array([piece.chunks[row].ordinal for row in rows.tolist()], np.int32)


def _terms(piece: Piece, rows: NDArray[np.int64]) -> tuple[Terms, NDArray[np.int64]]:
    if isinstance(piece, SealedPiece):
        return piece.segment.contents.terms, rows
    return piece.terms(), rows
