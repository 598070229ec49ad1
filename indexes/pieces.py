"""What does one reader see of a sealed segment? Its rows tied to the version table, and which of them count.

The segment itself never changes; what does (which versions its rows belong to now, how many open rows hold a term) is
here, and copied when a batch changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from indexes.allowed import alive
from indexes.columns import TextTable, spread
from indexes.dense import DenseIndex
from indexes.joining import Joining, Part
from indexes.lexical import LexicalIndex
from indexes.memory import MemoryPiece
from indexes.model import FOREVER, Matrix
from indexes.segment import Segment
from indexes.stats import Posting
from indexes.versions import GONE, Mask, Versions


@dataclass(frozen=True, slots=True, eq=False)
class SealedPiece:
    """A segment in a state. Its rows are alive while their version's home is `homes`.

    `owners` gives the ordinal of each of the segment's versions, whose rows begin at `starts`; `by_owner` sorts them.
    `df`, `open_rows` and `open_length` count the rows of open versions: per term, in all, and their terms.
    """

    segment: Segment
    homes: int
    row_version: NDArray[np.int32]
    owners: NDArray[np.int32]
    starts: NDArray[np.int64]
    by_owner: NDArray[np.int64]
    df: NDArray[np.int64]
    open_rows: int
    open_length: int

    @classmethod
    def attach(cls, segment: Segment, owners: NDArray[np.int32], versions: Versions, *, home: int) -> SealedPiece:
        """Tie a segment's rows to versions: `owners` are the ordinals of its `version_ids`, NOBODY for unknown ones."""
        version = segment.contents.version
        starts = np.append(np.flatnonzero(np.append(True, version[1:] != version[:-1])), len(version))
        owners = owners[version[starts[:-1]]]
        row_version = np.repeat(owners, np.diff(starts))
        order = np.argsort(owners, kind="stable")
        piece = cls(segment, home, row_version, owners, starts, order, np.zeros(0, np.int64), 0, 0)
        counted = alive(piece, versions) & is_open(piece, versions)
        left_out, terms = np.flatnonzero(~counted), segment.contents.terms
        return replace(
            piece,
            df=terms.holders_without(left_out),
            open_rows=len(version) - len(left_out),
            open_length=terms.total - int(terms.lengths[left_out].sum()),
        )

    @property
    def count(self) -> int:
        """How many rows, dead ones too."""
        return len(self.row_version)

    @property
    def vectors(self) -> Matrix:
        """Float32 of shape (rows, dimensions)."""
        return self.segment.dense.vectors

    @property
    def lengths(self) -> NDArray[np.integer]:
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
        number = self.segment.contents.terms.find(term)
        return 0 if number is None else int(self.df[number])

    @property
    def chunk_ids(self) -> TextTable:
        """Id of the chunk in each row."""
        return self.segment.contents.chunk_ids

    def sorted_terms(self, row: int) -> list[str]:
        """The terms of a row with repeats, sorted."""
        return self.segment.contents.terms.row(row)

    def recounted(self, before: Versions, after: Versions, touched: NDArray[np.integer]) -> SealedPiece:
        """The same piece after a change of these versions, each given once."""
        places = np.minimum(np.searchsorted(self.owners, touched, sorter=self.by_owner), len(self.owners) - 1)
        local = self.by_owner[places]
        local = local[self.owners[local] == touched]
        change = self._counts(after, self.owners[local]) - self._counts(before, self.owners[local])
        opened, closed = self._rows_of(local[change > 0]), self._rows_of(local[change < 0])
        if not len(opened) and not len(closed):
            return self
        terms = self.segment.contents.terms
        return replace(
            self,
            df=self.df + terms.holders(opened) - terms.holders(closed),
            open_rows=self.open_rows + len(opened) - len(closed),
            open_length=self.open_length + int(terms.lengths[opened].sum()) - int(terms.lengths[closed].sum()),
        )

    def _rows_of(self, local: NDArray[np.integer]) -> NDArray[np.int64]:
        return spread(self.starts[local], self.starts[local + 1] - self.starts[local])

    def _counts(self, versions: Versions, ordinals: NDArray[np.integer]) -> NDArray[np.int8]:
        known = np.minimum(ordinals, len(versions) - 1)
        counted = (versions.home[known] == self.homes) & (versions.valid_to[known] == FOREVER)
        return np.asarray(counted & (ordinals < len(versions)), np.int8)


Piece = SealedPiece | MemoryPiece


def is_open(piece: Piece, versions: Versions) -> Mask:
    """Rows whose version is not closed (they may be dead)."""
    return np.asarray(versions.valid_to[piece.row_version] == FOREVER, bool)


def erased(piece: Piece, versions: Versions) -> int:
    """How many rows belong to versions that were dropped and must leave the disk."""
    return int(np.count_nonzero(versions.home[piece.row_version] == GONE))


def gather(pieces: Sequence[Piece], versions: Versions) -> tuple[Joining, NDArray[np.int32]] | None:
    """The live rows of these pieces as one new segment, and the ordinals of its versions; None when there are none."""
    chosen = [(piece, np.flatnonzero(alive(piece, versions))) for piece in pieces]
    chosen = [(piece, rows) for piece, rows in chosen if len(rows)]
    if not chosen:
        return None
    owners, version = np.unique(
        np.concatenate([piece.row_version[rows] for piece, rows in chosen]), return_inverse=True
    )
    names = [versions.ids[ordinal] for ordinal in owners.tolist()]
    parts = tuple(_part(piece, rows) for piece, rows in chosen)
    return Joining(parts, names, version.astype(np.int32), chosen[0][0].vectors.shape[1]), owners


def _part(piece: Piece, rows: NDArray[np.int64]) -> Part:
    if isinstance(piece, SealedPiece):
        contents = piece.segment.contents
        return Part(rows, contents.ordinal[rows], contents.chunk_ids, contents.terms, piece.vectors)
    ordinal = np.array([chunk.ordinal for chunk in piece.chunks[: piece.count]], np.int32)
    return Part(rows, ordinal[rows], TextTable.of(piece.chunk_ids[: piece.count]), piece.terms(), piece.vectors)
