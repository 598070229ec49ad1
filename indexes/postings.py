"""Which terms does a row hold, and which rows hold a term? Both ways, immutable, in flat arrays.

Good for exact scores of chosen rows and for the statistics of closed ones; for the best rows among millions the
tantivy index (lexical.py) is faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from indexes.stats import Posting

Offsets = NDArray[np.int64]
Ids = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of rows: row `r` holds `ids[offsets[r]:offsets[r + 1]]`, each once, `counts` times.

    An id is an index into `vocabulary`, which has no term twice and none that no row holds.
    """

    vocabulary: tuple[str, ...]
    offsets: Offsets
    ids: Ids
    counts: Ids

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]]) -> Terms:
        """From the terms of each row, in any order and with repeats."""
        known: dict[str, int] = {}
        ids: list[int] = []
        counts: list[int] = []
        ends = [0]
        for row in rows:
            for term, count in Counter(row).items():
                ids.append(known.setdefault(term, len(known)))
                counts.append(count)
            ends.append(len(ids))
        return cls(tuple(known), np.array(ends, np.int64), np.array(ids, np.uint32), np.array(counts, np.uint32))

    @classmethod
    def join(cls, parts: Sequence[tuple[Terms, NDArray[np.integer]]]) -> Terms:
        """The chosen rows of several, one after the other. Terms of rows that were not chosen leave no trace."""
        known: dict[str, int] = {}
        ids, counts, sizes = [], [], []
        for terms, rows in parts:
            places, lengths = terms.places(rows)
            local, inverse = np.unique(terms.ids[places], return_inverse=True)
            mapped = [known.setdefault(terms.vocabulary[term], len(known)) for term in local.tolist()]
            ids.append(np.array(mapped, np.uint32)[inverse])
            counts.append(terms.counts[places])
            sizes.append(lengths)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes), dtype=np.int64)])
        return cls(tuple(known), offsets, np.concatenate(ids), np.concatenate(counts))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def places(self, rows: NDArray[np.integer]) -> tuple[Offsets, Offsets]:
        """Where in `ids` the terms of these rows stand, and how many places each row has."""
        starts = self.offsets[rows]
        lengths = self.offsets[np.asarray(rows) + 1] - starts
        shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return np.arange(len(shift), dtype=np.int64) + shift, lengths

    def row(self, row: int) -> list[str]:
        """All terms of a row with repeats, sorted."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        pairs = zip(self.ids[part].tolist(), self.counts[part].tolist(), strict=True)
        return sorted(term for term_id, count in pairs for term in [self.vocabulary[term_id]] * count)

    def holders(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """For each term, how many of these rows hold it."""
        places, _ = self.places(rows)
        return np.bincount(self.ids[places], minlength=len(self.vocabulary)).astype(np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """How many terms each row has, repeats counted."""
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts, dtype=np.int64)])
        return np.diff(sums[self.offsets]).astype(np.int32)

    @cached_property
    def term_ids(self) -> dict[str, int]:
        """Term -> id."""
        return {term: number for number, term in enumerate(self.vocabulary)}

    def posting(self, term: str) -> Posting:
        """The rows that hold a term, ascending, and how often each does."""
        number = self.term_ids.get(term)
        if number is None:
            return _NONE
        offsets, rows, counts = self._inverted
        part = slice(offsets[number], offsets[number + 1])
        return rows[part], counts[part]

    def prepare(self) -> None:
        """Work out now what the first query would wait for."""
        _ = (self.lengths, self.term_ids, self._inverted)

    @cached_property
    def _inverted(self) -> tuple[Offsets, NDArray[np.int32], Ids]:
        order = np.argsort(self.ids, kind="stable")
        rows = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))
        sizes = np.bincount(self.ids, minlength=len(self.vocabulary))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        return offsets, rows[order], self.counts[order]


_NONE: Posting = (np.zeros(0, np.int32), np.zeros(0, np.uint32))
