"""What are the best chunks of both legs? One Searcher out of two, over a pinned state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexes.allowed import RowSet, alive
from indexes.dense import dense_scores, dense_top
from indexes.errors import DimensionMismatch, QueryInvalid
from indexes.filters import check_filter
from indexes.lexical import lexical_top
from indexes.model import Generation, Hit, LegScore, Query, Snapshot, TermStatistics
from indexes.pieces import Piece
from indexes.rowhash import hash_of
from indexes.state import State
from indexes.stats import Rows, Scores, score_rows, weigh

_UNRANKED = sys.maxsize


@dataclass(frozen=True, slots=True)
class _Way:
    """How a leg looks at a piece: for the best rows, and for the scores of given rows."""

    top: Callable[[Piece, RowSet], Rows]
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
        dense = self._leg(self._dense(query), allowed, query.limit)
        lexical = self._leg(self._lexical(query), allowed, query.limit)
        hits = []
        for number, piece in enumerate(self._state.pieces):
            rows = sorted({row for leg in (dense, lexical) for row in leg.ranked[number]})
            if rows:
                hits += self._hits(piece, rows, dense.of(number, piece, rows), lexical.of(number, piece, rows))
        return tuple(sorted(hits, key=_by_best_rank))

    def statistics(self, terms: Iterable[str], *, at_seq: int | None = None) -> TermStatistics:
        """How common these terms are in what is in force, or was when `at_seq` was the newest."""
        return self._state.statistics(terms, at_seq=at_seq)

    def scan(self) -> Iterator[tuple[str, str, str]]:
        """(chunk id, version id, row hash) of every chunk held, closed versions too, in no order."""
        for piece in self._state.pieces:
            for row in np.flatnonzero(alive(piece, self._state.versions)).tolist():
                version_id, _ = self._state.owner(piece, row)
                yield piece.chunk_ids[row], version_id, hash_of(piece.sorted_terms(row), piece.vectors[row])

    def _dense(self, query: Query) -> _Way | None:
        if query.vector is None:
            return None
        vector = np.ascontiguousarray(query.vector, np.float32)
        return _Way(
            top=lambda piece, rows: dense_top(piece.vectors, piece.dense, vector, query.limit, rows),
            scores=lambda piece, rows: dense_scores(piece.vectors, vector, rows),
        )

    def _lexical(self, query: Query) -> _Way | None:
        if not query.terms:
            return None
        known = query.statistics or self.statistics(query.terms, at_seq=query.at_seq)
        weights = weigh(query.terms, rows=known.chunks, length=known.length, df=lambda term: known.df.get(term, 0))
        return _Way(
            top=lambda piece, rows: lexical_top(piece, weights, query.limit, rows),
            scores=lambda piece, rows: score_rows(piece, weights, rows),
        )

    def _leg(self, way: _Way | None, allowed: Iterable[RowSet], limit: int) -> _Leg:
        """The best rows over all pieces, ranked; ties by chunk id."""
        found: list[tuple[float, str, int, int]] = []
        for number, (piece, rows) in enumerate(zip(self._state.pieces, allowed, strict=True)):
            if way is not None:
                top = way.top(piece, rows)
                names, scores = piece.chunk_ids, way.scores(piece, top).tolist()
                found += [(-s, names[row], number, row) for row, s in zip(top.tolist(), scores, strict=True)]
        found.sort()
        leg = _Leg(way, [{} for _ in self._state.pieces])
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
