"""What are the best chunks of both legs? One Searcher out of two, over a pinned state."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from indexes.allowed import RowSet, alive
from indexes.beside import Beside
from indexes.dense import dense_scores, dense_top
from indexes.errors import DimensionMismatch, QueryInvalid
from indexes.filters import check_filter
from indexes.lexical import lexical_top
from indexes.model import (
    DenseReport,
    Describe,
    Generation,
    Hit,
    LegScore,
    PartReport,
    Query,
    Snapshot,
    TermStatistics,
    Timestamp,
)
from indexes.pieces import Piece, SealedPiece
from indexes.rowhash import hash_of
from indexes.state import State
from indexes.stats import Rows, Scores, score_rows, weigh

_UNRANKED = sys.maxsize
LARGE_ROWS: Final = 200_000
"""From so many rows on, the legs take milliseconds each, and starting one on another thread a tenth of one."""
_BESIDE: Final = Beside(os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a leg looks at a piece: for the best rows with their exact scores, and for the scores of given rows."""

    top: Callable[[Piece, RowSet], tuple[Rows, Scores]]
    scores: Callable[[Piece, Rows], Scores]


@dataclass(frozen=True, slots=True)
class _Leg:
    """What a leg found: per piece its ranked rows. `way` is None when it was not asked."""

    way: _Way | None
    ranked: list[dict[int, LegScore]]

    def of(self, number: int, piece: Piece, rows: list[int]) -> Sequence[LegScore | None]:
        """The leg's score for each of these rows of a piece: what it ranked, and the exact score of the others."""
        if self.way is None:
            return [None] * len(rows)
        scores = self.ranked[number]
        missing = [row for row in rows if row not in scores]
        if missing:
            exact = self.way.scores(piece, np.array(missing, np.int64)).tolist()
            scores = scores | {row: LegScore(score, None) for row, score in zip(missing, exact, strict=True)}
        return [scores[row] for row in rows]


class HybridSearcher:
    """Searches a pinned state; nothing that is written later shows in it. Safe to use from many threads."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def snapshot(self) -> Snapshot:
        """The state it answers from."""
        return self._state.snapshot

    def search(self, query: Query) -> tuple[Hit, ...]:
        """The best `query.limit` chunks of each leg, with the exact scores of both legs for all of them.

        Ordered by the better of the two ranks, then by chunk id; fusion.py makes one ranking of it.
        Raises QueryInvalid, DimensionMismatch.
        """
        _check(query, self._state.generation)
        allowed = self._state.allowed.of(query)
        dense, lexical = self._legs(query, allowed)
        hits = []
        for number, piece in enumerate(self._state.pieces):
            rows = sorted({row for leg in (dense, lexical) for row in leg.ranked[number]})
            if rows:
                hits += self._hits(piece, rows, dense.of(number, piece, rows), lexical.of(number, piece, rows))
        return tuple(sorted(hits, key=_by_best_rank))

    def statistics(self, terms: Iterable[str], *, at_seq: int | None = None) -> TermStatistics:
        """How common these terms are in what is in force, or was when `at_seq` was the newest."""
        return self._state.statistics(terms, at_seq=at_seq)

    def steady_since(self, at: Timestamp) -> Timestamp:
        """Since when what is in force at `at` has been in force."""
        return self._state.allowed.window(at).start

    def scan(self) -> Iterator[tuple[str, str, str]]:
        """(chunk id, version id, row hash) of every chunk held, closed versions too, in no order."""
        versions = self._state.versions
        for piece in self._state.pieces:
            before, times = -1, tuple[int, ...]()
            for row in np.flatnonzero(alive(piece, versions)).tolist():
                ordinal = int(piece.row_version[row])
                if ordinal != before:  # the rows of a version stand together
                    before, times = ordinal, versions.times(ordinal)
                digest = hash_of(piece.sorted_terms(row), piece.vectors[row], times)
                yield piece.chunk_ids[row], versions.ids[ordinal], digest

    def describe(self) -> tuple[PartReport, ...]:
        """The parts it searches: segments, and what is in memory as the part `memory` if there is any."""
        return tuple(self._report(piece) for piece in self._state.pieces)

    def documents(self) -> Iterator[Describe]:
        """Who may read each document of which a version is held, and its metadata; in no order."""
        versions, documents = self._state.versions, self._state.documents
        for ordinal in np.unique(versions.document[versions.present()]).tolist():
            yield Describe(documents.ids[ordinal], *documents.describe(ordinal))

    def _report(self, piece: Piece) -> PartReport:
        live = int(np.count_nonzero(alive(piece, self._state.versions)))
        if isinstance(piece, SealedPiece):
            segment = piece.segment
            return PartReport(segment.id, piece.count, live, segment.dense.report, segment.size)
        return PartReport("memory", piece.count, live, DenseReport("flat", piece.count), piece.vectors.nbytes)

    def _dense(self, query: Query) -> _Way | None:
        if query.vector is None:
            return None
        vector = np.ascontiguousarray(query.vector, np.float32)

        def top(piece: Piece, rows: RowSet) -> tuple[Rows, Scores]:
            found = dense_top(piece.vectors, piece.dense, vector, query.limit, rows)
            return found, dense_scores(piece.vectors, vector, found)

        return _Way(top, scores=lambda piece, rows: dense_scores(piece.vectors, vector, rows))

    def _lexical(self, query: Query) -> _Way | None:
        if not query.terms:
            return None
        known = query.statistics or self.statistics(query.terms, at_seq=query.at_seq)
        weights = weigh(query.terms, rows=known.chunks, length=known.length, df=lambda term: known.df.get(term, 0))
        return _Way(
            top=lambda piece, rows: lexical_top(piece, weights, query.limit, rows),
            scores=lambda piece, rows: score_rows(piece, weights, rows),
        )

    def _legs(self, query: Query, allowed: Sequence[RowSet]) -> tuple[_Leg, _Leg]:
        """Both legs; at a large size at the same time, if there is a thread to spare."""
        ways = self._dense(query), self._lexical(query)
        if None not in ways and sum(piece.count for piece in self._state.pieces) >= LARGE_ROWS:
            beside = _BESIDE.begin(self._leg, ways[0], allowed, query.limit)
            if beside is not None:
                lexical = self._leg(ways[1], allowed, query.limit)
                return beside.result(), lexical
        return self._leg(ways[0], allowed, query.limit), self._leg(ways[1], allowed, query.limit)

    def _leg(self, way: _Way | None, allowed: Sequence[RowSet], limit: int) -> _Leg:
        """The best rows over all pieces, ranked; ties by chunk id, which is looked up for those that tie only."""
        pieces = self._state.pieces
        leg = _Leg(way, [{} for _ in pieces])
        if way is None or not pieces:
            return leg
        answers = [way.top(piece, rows) for piece, rows in zip(pieces, allowed, strict=True)]
        tops = [rows for rows, _ in answers]
        scores = np.concatenate([scores for _, scores in answers])
        numbers = np.repeat(np.arange(len(tops)), [len(top) for top in tops])
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        order = order[: int(np.searchsorted(-ranked, -ranked[limit - 1], "right"))] if len(order) > limit else order
        ties = np.diff(ranked[: len(order)]) == 0.0
        twins = np.append(ties, False) | np.insert(ties, 0, False)
        columns = (ranked[: len(order)], twins[: len(order)], numbers[order], np.concatenate(tops)[order])
        found = [
            (-score, pieces[number].chunk_ids[row] if twin else "", number, row)
            for score, twin, number, row in zip(*(column.tolist() for column in columns), strict=True)
        ]
        found.sort()
        for rank, (score, _, number, row) in enumerate(found[:limit], 1):
            leg.ranked[number][row] = LegScore(-score, rank)
        return leg

    def _hits(
        self, piece: Piece, rows: list[int], dense: Sequence[LegScore | None], lexical: Sequence[LegScore | None]
    ) -> list[Hit]:
        versions, documents = self._state.versions, self._state.documents
        ordinals = piece.row_version[rows]
        owners = versions.document[ordinals].tolist()
        return [
            Hit(piece.chunk_ids[row], versions.ids[ordinal], documents.ids[owner], d, b)
            for row, ordinal, owner, d, b in zip(rows, ordinals.tolist(), owners, dense, lexical, strict=True)
        ]


def _by_best_rank(hit: Hit) -> tuple[int, str]:
    dense = hit.dense.rank if hit.dense is not None else None
    lexical = hit.lexical.rank if hit.lexical is not None else None
    return min(dense or _UNRANKED, lexical or _UNRANKED), hit.chunk_id


def _check(query: Query, generation: Generation) -> None:
    if query.vector is None and not query.terms:
        raise QueryInvalid("The query has neither a vector nor terms.")
    if query.limit < 1:
        raise QueryInvalid(f"limit must be at least 1, not {query.limit}.")
    if query.vector is not None:
        if query.vector.shape != (generation.dimensions,):
            raise DimensionMismatch(
                f"The query has a vector of shape {query.vector.shape}, "
                f"generation {generation.id} holds {generation.dimensions} dimensions."
            )
        if not np.isfinite(query.vector).all():
            raise QueryInvalid("The query's vector holds NaN or infinity.")
    if query.filter is not None:
        check_filter(query.filter)
