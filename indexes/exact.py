"""What answers while an index is rebuilt? Exact search over vectors in memory; the lexical leg is off.

Useful for: an index that is damaged or far behind, as vectors load many times faster than terms are indexed. Access,
validity, filters and replay are those of every other state, as it is one. Not useful for: words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count

from indexes.hybrid import HybridSearcher
from indexes.memory import Memory
from indexes.model import (
    Describe,
    Generation,
    Hit,
    Op,
    PartReport,
    Query,
    Snapshot,
    TermStatistics,
    Timestamp,
)
from indexes.state import State, advance


class ExactIndex:
    """A generation in memory, of which only the vectors are searched. Safe to use from many threads."""

    def __init__(self, generation: Generation, batches: Iterable[Sequence[Op]], *, seq: int) -> None:
        """`batches` make the state at `seq`. Raises DimensionMismatch, QueryInvalid (a vector with NaN)."""
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._memory = Memory(generation.dimensions, vectors_only=True)
        self._state = State.empty(generation, self._memory.piece())
        for ops in batches:
            self._take(ops, seq)

    @property
    def seq(self) -> int:
        """The last sequence number that was applied."""
        return self._state.seq

    def apply(self, ops: Sequence[Op], *, seq: int) -> None:
        """Take these changes; a batch that was applied before is passed over. Raises as the constructor does."""
        with self._lock:
            if seq > self._state.seq:
                self._take(ops, seq)

    def pin(self) -> ExactSearcher:
        """The newest state; what is applied later does not show in it."""
        return ExactSearcher(self._state)

    def _take(self, ops: Sequence[Op], seq: int) -> None:
        now = time.time_ns() // 1_000
        self._state = advance(self._state, self._memory, self._numbers, ops, seq=seq, committed_at=now)


class ExactSearcher:
    """Searches the vectors of a pinned state, and passes over the terms of a query."""

    def __init__(self, state: State) -> None:
        self._searcher = HybridSearcher(state)

    @property
    def snapshot(self) -> Snapshot:
        """The state it answers from."""
        return self._searcher.snapshot

    def search(self, query: Query) -> tuple[Hit, ...]:
        """The `query.limit` nearest chunks. Raises QueryInvalid without a vector, DimensionMismatch."""
        return self._searcher.search(replace(query, terms=(), statistics=None))

    def statistics(self, terms: Iterable[str], *, at_seq: int | None = None) -> TermStatistics:
        """Nothing is known of terms here; added to what other generations know, it changes nothing."""
        return TermStatistics(0, 0, dict.fromkeys(terms, 0))

    def steady_since(self, at: Timestamp) -> Timestamp:
        """Since when what is in force at `at` has been in force."""
        return self._searcher.steady_since(at)

    def scan(self) -> Iterator[tuple[str, str, str]]:
        """(chunk id, version id, row hash) of every chunk held; the hashes are those of chunks without terms."""
        return self._searcher.scan()

    def describe(self) -> tuple[PartReport, ...]:
        """One part: what is in memory."""
        return self._searcher.describe()

    def documents(self) -> Iterator[Describe]:
        """Who may read each document held, and its metadata."""
        return self._searcher.documents()
