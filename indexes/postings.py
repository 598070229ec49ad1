"""Which terms does a row hold, and which rows hold a term? Both ways, immutable, in flat arrays.

Good for exact scores of chosen rows and for the statistics of closed ones; for the best rows among millions the
tantivy index (lexical.py) is faster. The arrays of a sealed segment are mapped: what nobody asks for is not in memory.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexes.columns import Ints, TextTable, ends_of, fitting, spread
from indexes.stats import Posting

BLOCK_ROWS: Final = 16_384
"""Rows whose terms are looked at together: a few million numbers."""
RUN: Final = 16_384
"""So many terms are sorted at once, which takes about 10 ms."""
REMEMBERED: Final = 4_096
"""Terms whose numbers are kept after they were looked up."""


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of rows: row `r` holds `ids[offsets[r]:offsets[r + 1]]`, each once, `counts` times; `lengths` in all.

    An id is an index into `vocabulary`, which is sorted. Term `t` stands in `rows[starts[t]:starts[t + 1]]`, ascending,
    `row_counts` times in each.
    """

    vocabulary: TextTable
    lengths: Ints
    offsets: Ints
    ids: Ints
    counts: Ints
    starts: Ints
    rows: Ints
    row_counts: Ints

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]]) -> Terms:
        """From the terms of each row, in any order and with repeats."""
        known: dict[str, int] = {}
        ids: list[int] = []
        counts: list[int] = []
        sizes: list[int] = []
        for row in rows:
            held = Counter(row)
            ids += [known.setdefault(term, len(known)) for term in held]
            counts += held.values()
            sizes.append(len(held))
        offsets = ends_of(np.array(sizes, np.int64))
        return cls.sort(list(known), offsets, np.array(ids, np.int64), np.array(counts, np.int64))

    @classmethod
    def sort(cls, vocabulary: Sequence[str], offsets: Ints, ids: Ints, counts: Ints) -> Terms:
        """From rows whose ids count a vocabulary in any order. Terms that no row holds may be among it."""
        order = _sorted(vocabulary)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        count = len(offsets) - 1
        ids = place[ids].astype(fitting(len(order)))
        counts = counts.astype(fitting(int(counts.max(initial=0))))
        sums = ends_of(counts)
        by_term = np.argsort(ids, kind="stable")
        rows = np.repeat(np.arange(count, dtype=fitting(count)), offsets[1:] - offsets[:-1])
        return cls(
            vocabulary=TextTable.of(vocabulary[number] for number in order),
            lengths=np.diff(sums[offsets]).astype(np.int32),
            offsets=offsets,
            ids=ids,
            counts=counts,
            starts=ends_of(np.bincount(ids, minlength=len(order))),
            rows=rows[by_term],
            row_counts=counts[by_term],
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def total(self) -> int:
        """How many terms all rows have, repeats counted."""
        return int(self.lengths.sum(dtype=np.int64))

    @cached_property
    def find(self) -> Callable[[str], int | None]:
        """The id of a term, None for one that no row holds."""
        return lru_cache(REMEMBERED)(self.vocabulary.find)

    def places(self, rows: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in `ids` the terms of these rows stand, and how many places each row has."""
        starts = self.offsets[rows].astype(np.int64)
        sizes = self.offsets[np.asarray(rows, np.int64) + 1].astype(np.int64) - starts
        return spread(starts, sizes), sizes

    def row(self, row: int) -> list[str]:
        """All terms of a row with repeats, sorted."""
        part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        pairs = zip(self.ids[part].tolist(), self.counts[part].tolist(), strict=True)
        return sorted(term for term_id, count in pairs for term in [self.vocabulary[term_id]] * count)

    def holders(self, rows: Ints) -> NDArray[np.int64]:
        """For each term, how many of these rows hold it."""
        held = np.zeros(len(self.vocabulary), np.int64)
        for at in range(0, len(rows), BLOCK_ROWS):
            places, _ = self.places(rows[at : at + BLOCK_ROWS])
            held += np.bincount(self.ids[places], minlength=len(held))
        return held

    def holders_without(self, rows: Ints) -> NDArray[np.int64]:
        """For each term, how many rows other than these hold it."""
        if 2 * len(rows) <= len(self):
            starts = self.starts.astype(np.int64)
            return np.asarray(starts[1:] - starts[:-1] - self.holders(rows))
        others = np.ones(len(self), bool)
        others[rows] = False
        return self.holders(np.flatnonzero(others))

    def posting(self, term: str) -> Posting:
        """The rows that hold a term, ascending, and how often."""
        number = self.find(term)
        if number is None:
            return _NONE
        part = slice(int(self.starts[number]), int(self.starts[number + 1]))
        return self.rows[part], self.row_counts[part]


def _sorted(vocabulary: Sequence[str]) -> list[int]:
    """The places of these texts in their order. In runs, because one long sort would keep all other threads waiting."""
    bounds = range(0, len(vocabulary) + RUN, RUN)
    runs = [sorted(range(len(vocabulary))[start : start + RUN], key=vocabulary.__getitem__) for start in bounds]
    return list(heapq.merge(*runs, key=vocabulary.__getitem__))


_NONE: Posting = (np.zeros(0, np.int32), np.zeros(0, np.uint32))
