"""What was changed since the last publish? Rows in memory, exact, append-only.

A pinned reader holds a `MemoryPiece`: a row count and views of the arrays up to it. Appending writes beyond the
count of every reader, and an array that is full is replaced, not resized, so readers need no lock.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.dense import DenseIndex
from indexes.lexical import LexicalIndex
from indexes.model import Chunk, Matrix, Vector
from indexes.postings import Terms
from indexes.stats import Posting
from indexes.versions import Mask

FIRST_ROWS: Final = 256
FREED: Final = 500
"""So many rows are freed at once: with the texts of their terms that takes a few milliseconds."""
T = TypeVar("T", bound=np.generic)


class _Posting:
    """Rows of one term. Plain lists append fastest; an array of them is made when a query first asks."""

    __slots__ = ("_array", "counts", "rows")

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.counts: list[int] = []
        self._array: Posting = _NONE

    def up_to(self, count: int) -> Posting:
        """The entries of the first `count` rows of the piece."""
        size = bisect_left(self.rows, count, 0, len(self.counts))
        known = self._array  # one look: another reader may replace it
        if len(known[0]) < size:
            known = (np.array(self.rows[:size], np.int32), np.array(self.counts[:size], np.uint32))
            self._array = known
        return known[0][:size], known[1][:size]


_NONE: Posting = (np.zeros(0, np.int32), np.zeros(0, np.uint32))
_NO_VECTOR: Vector = np.zeros(0, np.float32)


class _TermTable:
    """The terms of all rows, both ways. `ids[ends[r]:ends[r + 1]]` are the terms of row `r`."""

    __slots__ = ("counts", "ends", "ids", "names", "numbers", "postings")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.numbers: dict[str, int] = {}
        self.postings: list[_Posting] = []
        self.ids = array("I")
        self.counts = array("I")
        self.ends = [0]

    def add(self, row: int, terms: Sequence[str]) -> None:
        for term, count in Counter(terms).items():
            number = self.numbers.get(term)
            if number is None:
                number = len(self.postings)
                self.names.append(term)
                self.postings.append(_Posting())  # before its number: a reader may look it up at once
                self.numbers[term] = number
            self.ids.append(number)
            self.counts.append(count)
            posting = self.postings[number]
            posting.rows.append(row)
            posting.counts.append(count)
        self.ends.append(len(self.ids))


@dataclass(frozen=True, slots=True, eq=False)
class MemoryPiece:
    """The first `count` rows of a memory, as a reader sees them."""

    count: int
    row_version: NDArray[np.int32]
    homes: NDArray[np.int64]
    vectors: Matrix
    lengths: NDArray[np.int32]
    chunks: list[Chunk]
    """Shared with later pieces, like all that follows: only the first `count` belong to this one."""
    chunk_ids: list[str]
    _terms: _TermTable

    @property
    def dense(self) -> DenseIndex | None:
        """No FAISS index: the vectors are multiplied directly."""
        return None

    @property
    def lexical(self) -> LexicalIndex | None:
        """No tantivy index: all postings are scored."""
        return None

    def posting(self, term: str) -> Posting:
        """Where a term stands."""
        number = self._terms.numbers.get(term)
        return _NONE if number is None else self._terms.postings[number].up_to(self.count)

    def terms(self) -> Terms:
        """The terms of all rows, as a segment keeps them."""
        table = self._terms
        end = table.ends[self.count]
        ids, counts = (np.frombuffer(column[:end], np.uint32) for column in (table.ids, table.counts))
        return Terms.sort(list(table.names), np.array(table.ends[: self.count + 1], np.int64), ids, counts)

    def held(self) -> tuple[list[Any], ...]:
        """All its larger objects, for `let_go` after the last state with this memory is gone."""
        return list(self.chunks), list(self._terms.postings)

    def open_df(self, term: str, is_open: Mask) -> int:
        """How many of the open rows hold a term."""
        return int(np.count_nonzero(is_open[self.posting(term)[0]]))

    def sorted_terms(self, row: int) -> list[str]:
        """The terms of a row with repeats, sorted."""
        return sorted(self.chunks[row].terms)


def let_go(held: Sequence[list[Any]]) -> None:
    """Free what these lists hold, a little at a time: as one step it would keep all other threads waiting."""
    for part in held:
        while part:
            del part[-FREED:]


class Memory:
    """Takes rows. One writer; `piece()` is what readers get. With `vectors_only` their terms are dropped."""

    def __init__(self, dimensions: int, *, vectors_only: bool = False) -> None:
        self._vectors_only = vectors_only
        self._count = 0
        self._row_version = np.zeros(FIRST_ROWS, np.int32)
        self._homes = np.zeros(FIRST_ROWS, np.int64)
        self._lengths = np.zeros(FIRST_ROWS, np.int32)
        self._vectors: Matrix = np.zeros((FIRST_ROWS, dimensions), np.float32)
        self._chunks: list[Chunk] = []
        self._chunk_ids: list[str] = []
        self._terms = _TermTable()

    def append(self, chunks: Sequence[Chunk], *, version: int, home: int) -> None:
        """Take the rows of one put. They are part of later pieces, and alive while the version has this home."""
        self._make_room(self._count + len(chunks))
        for row, chunk in enumerate(chunks, self._count):
            self._row_version[row] = version
            self._homes[row] = home
            self._vectors[row] = chunk.vector
            if self._vectors_only:  # and each vector is here once
                chunk = Chunk(chunk.id, chunk.version_id, chunk.ordinal, (), _NO_VECTOR)
            self._lengths[row] = len(chunk.terms)
            self._chunks.append(chunk)
            self._chunk_ids.append(chunk.id)
            self._terms.add(row, chunk.terms)
        self._count += len(chunks)

    def piece(self) -> MemoryPiece:
        """All rows so far, for readers."""
        count = self._count
        return MemoryPiece(
            count,
            self._row_version[:count],
            self._homes[:count],
            self._vectors[:count],
            self._lengths[:count],
            self._chunks,
            self._chunk_ids,
            self._terms,
        )

    def _make_room(self, rows: int) -> None:
        capacity = len(self._homes)
        if rows <= capacity:
            return
        while capacity < rows:
            capacity *= 2
        self._row_version = _larger(self._row_version, capacity)
        self._homes = _larger(self._homes, capacity)
        self._lengths = _larger(self._lengths, capacity)
        self._vectors = _larger(self._vectors, capacity)


def _larger(array: NDArray[T], rows: int) -> NDArray[T]:
    larger = np.zeros((rows, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
