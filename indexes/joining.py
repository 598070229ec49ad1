"""How do rows of several pieces become one segment without holding them? Block by block, column after column.

What grows with the rows and is held at once are a few numbers per row and per term. The inverted lists need no sorting:
each part's are sorted by term, and stay so when its terms get their new numbers, so a range of new terms is a range of
each part's, and its rows are put where they belong.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from indexes.columns import Columns, ColumnWriter, Ints, Packed, TextTable, ends_of, fitting, spread
from indexes.errors import SegmentDamaged
from indexes.model import Matrix
from indexes.postings import Terms

BLOCK_ROWS: Final = 16_384
BLOCK_PLACES: Final = 1 << 20
"""So many (row, term) pairs are moved at once."""
GONE: Final = -1
"""The new number of a row or term that is left behind."""

Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The rows to take from one piece, ascending. `ordinal` (place in its version) has one entry per taken row."""

    rows: Longs
    ordinal: Ints
    chunk_ids: TextTable
    terms: Terms
    vectors: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Joining:
    """The rows of a segment that is to be written: those of its parts, one part after the other.

    `version` is an index into `version_ids` per row. Rows of the same version stand together.
    """

    parts: tuple[Part, ...]
    version_ids: Sequence[str]
    version: Ints
    dimensions: int

    def __len__(self) -> int:
        return len(self.version)

    def vectors(self) -> Iterator[Matrix]:
        """Float32 of shape (up to BLOCK_ROWS, dimensions), in the order of rows."""
        for part in self.parts:
            for at in range(0, len(part.rows), BLOCK_ROWS):
                rows = part.rows[at : at + BLOCK_ROWS]
                yield part.vectors[rows[0] : rows[-1] + 1] if _solid(rows) else part.vectors[rows]


def write_rows(writer: ColumnWriter, joining: Joining) -> None:
    """Write everything about the rows but their vectors."""
    writer.add("version", [joining.version], fitting(len(joining.version_ids)))
    writer.add("ordinal", [part.ordinal for part in joining.parts], np.dtype(np.int32))
    writer.add_texts("chunks", (block for part in joining.parts for block in _chunk_ids(part)))
    writer.add_texts("versions", [Packed.of(joining.version_ids)])
    numbers = _write_vocabulary(writer, joining.parts)
    _write_terms(writer, joining.parts, numbers)
    _write_postings(writer, joining.parts, numbers)


def read_terms(columns: Columns) -> Terms:
    """The terms that `write_rows` wrote. Raises SegmentDamaged, KeyError."""
    names = ("lengths", "offsets", "ids", "counts", "starts", "rows", "row_counts")
    terms = Terms(columns.texts("vocabulary"), *map(columns.array, names))
    places = {len(terms.ids), len(terms.counts), len(terms.rows), len(terms.row_counts), int(terms.offsets[-1])}
    if len(places) != 1 or len(terms.starts) != len(terms.vocabulary) + 1 or len(terms.lengths) != len(terms):
        raise SegmentDamaged("The terms of its rows do not fit together.")
    return terms


def _solid(rows: Longs) -> bool:
    """Whether no row is left out between the first and the last."""
    return bool(rows[-1] - rows[0] == len(rows) - 1)


def _chunk_ids(part: Part) -> Iterator[Packed]:
    for at in range(0, len(part.rows), BLOCK_ROWS):
        yield part.chunk_ids.take(part.rows[at : at + BLOCK_ROWS])


# ---------------------------------------------------------------- the vocabulary


def _write_vocabulary(writer: ColumnWriter, parts: Sequence[Part]) -> list[Longs]:
    """Write the terms that any taken row holds. Returns each part's new number of each of its terms, or GONE."""
    numbers = [np.full(len(part.terms.vocabulary), GONE, np.int64) for part in parts]
    writer.add_texts("vocabulary", _merged(parts, numbers))
    return numbers


def _merged(parts: Sequence[Part], numbers: Sequence[Longs]) -> Iterator[Packed]:
    """The merged terms in blocks; fills in the new numbers."""
    block: list[bytes] = []
    last, number = None, -1
    for term, part, local in heapq.merge(*(_held(place, part) for place, part in enumerate(parts))):
        if term != last:
            last, number = term, number + 1
            if len(block) == BLOCK_ROWS:
                yield Packed.of_bytes(block)
                block = []
            block.append(term)
        numbers[part][local] = number
    yield Packed.of_bytes(block)


def _held(place: int, part: Part) -> Iterator[tuple[bytes, int, int]]:
    """The terms that the taken rows hold, with the part's place and their number there."""
    held = _held_by(part)
    for local, term in enumerate(part.terms.vocabulary.iterate()):
        if held[local]:
            yield term, place, local


def _held_by(part: Part) -> NDArray[np.bool_]:
    terms = part.terms
    if len(part.rows) == len(terms):
        return np.asarray(terms.starts[1:] > terms.starts[:-1])
    held = np.zeros(len(terms.vocabulary), bool)
    for places in _blocks(part):
        held[terms.ids[places]] = True
    return held


# ---------------------------------------------------------------- the terms of each row


def _blocks(part: Part) -> Iterator[slice | Longs]:
    """Where the terms of the taken rows stand, in blocks of about BLOCK_PLACES (a row is never split)."""
    rows, offsets = part.rows, part.terms.offsets
    ends = np.cumsum(_sizes(part))
    at = 0
    while at < len(rows):
        before = int(ends[at - 1]) if at else 0
        stop = max(at + 1, int(np.searchsorted(ends, before + BLOCK_PLACES, side="right")))
        chosen = rows[at:stop]
        if _solid(chosen):
            yield slice(int(offsets[chosen[0]]), int(offsets[chosen[-1] + 1]))
        else:
            yield part.terms.places(chosen)[0]
        at = stop


def _sizes(part: Part) -> Longs:
    """How many different terms each taken row holds."""
    offsets = part.terms.offsets
    return np.asarray(offsets[part.rows + 1].astype(np.int64) - offsets[part.rows].astype(np.int64))


def _write_terms(writer: ColumnWriter, parts: Sequence[Part], numbers: Sequence[Longs]) -> None:
    offsets = ends_of(np.concatenate([_sizes(part) for part in parts]))
    writer.add("lengths", (part.terms.lengths[part.rows] for part in parts), np.dtype(np.int32))
    writer.add("offsets", [offsets], fitting(int(offsets[-1])))
    ids = (new[part.terms.ids[at]] for part, new in zip(parts, numbers, strict=True) for at in _blocks(part))
    writer.add("ids", ids, fitting(_count(numbers)))
    counts = (part.terms.counts[at] for part in parts for at in _blocks(part))
    writer.add("counts", counts, _widest(part.terms.counts for part in parts))


def _count(numbers: Sequence[Longs]) -> int:
    return 1 + max((int(new.max(initial=GONE)) for new in numbers), default=GONE)


def _widest(columns: Iterator[Ints]) -> np.dtype[Any]:
    return max((column.dtype for column in columns), key=lambda dtype: dtype.itemsize)


# ---------------------------------------------------------------- the rows of each term


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """A part's inverted lists: the terms that taken rows hold, their new numbers, and the new number of each row."""

    terms: Terms
    held: Longs
    numbers: Longs
    new_rows: NDArray[np.int32]

    def within(self, first: int, stop: int) -> tuple[Longs, Longs]:
        """For the new terms in this range: where their lists stand, and which term of the range each entry is for."""
        chosen = slice(*np.searchsorted(self.numbers, (first, stop)).tolist())
        held = self.held[chosen]
        starts = self.terms.starts[held].astype(np.int64)
        sizes = self.terms.starts[held + 1].astype(np.int64) - starts
        return spread(starts, sizes), np.repeat(self.numbers[chosen] - first, sizes)


def _write_postings(writer: ColumnWriter, parts: Sequence[Part], numbers: Sequence[Longs]) -> None:
    """The inverted lists. The work is done twice, for rows and for counts: a file is written front to back."""
    sources, first = [], 0
    for part, new in zip(parts, numbers, strict=True):
        held = np.flatnonzero(new != GONE)
        new_rows = np.full(len(part.terms), GONE, np.int32)
        new_rows[part.rows] = np.arange(first, first + len(part.rows))
        sources.append(_Source(part.terms, held, new[held], new_rows))
        first += len(part.rows)
    count = _count(numbers)
    sizes = np.zeros(count, np.int64)
    ranges = _ranges(sources, count)
    rows, counts = fitting(first), _widest(part.terms.row_counts for part in parts)
    writer.add("rows", _lists(sources, ranges, sizes, _row_of, rows), rows)
    writer.add("row_counts", _lists(sources, ranges, sizes, _count_of, counts), counts)
    starts = ends_of(sizes)
    writer.add("starts", [starts], fitting(int(starts[-1])))


def _ranges(sources: Sequence[_Source], count: int) -> list[tuple[int, int]]:
    """Half-open ranges of new terms, each with about BLOCK_PLACES entries (a list is never split)."""
    sizes = np.zeros(count, np.int64)
    for source in sources:
        starts = source.terms.starts.astype(np.int64)
        sizes[source.numbers] += starts[source.held + 1] - starts[source.held]
    block = np.cumsum(sizes) // BLOCK_PLACES
    cuts = np.flatnonzero(np.diff(block)) + 1
    return list(pairwise([0, *cuts.tolist(), count])) if count else []


def _row_of(source: _Source, places: Longs) -> Ints:
    return source.new_rows[source.terms.rows[places]]


def _count_of(source: _Source, places: Longs) -> Ints:
    return source.terms.row_counts[places]


def _lists(
    sources: Sequence[_Source],
    ranges: Sequence[tuple[int, int]],
    sizes: Longs,
    values: Callable[[_Source, Longs], Ints],
    dtype: np.dtype[Any],
) -> Iterator[Ints]:
    """The values of all entries, term by term and in a term by row. Fills in how many entries each term has."""
    for first, stop in ranges:
        chosen = []
        for source in sources:
            places, terms = source.within(first, stop)
            live = _row_of(source, places) != GONE
            chosen.append((source, places[live], terms[live]))
        counts = [np.bincount(terms, minlength=stop - first) for _, _, terms in chosen]
        sizes[first:stop] = sum(counts)
        room = ends_of(sizes[first:stop])
        block = np.empty(int(room[-1]), dtype)
        room = room[:-1]  # where the next entry of each term goes
        for (source, places, terms), count in zip(chosen, counts, strict=True):
            shift = room - ends_of(count)[:-1]
            block[shift[terms] + np.arange(len(terms))] = values(source, places)
            room = room + count
        yield block
