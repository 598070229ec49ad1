"""What are the best chunks of both legs? One Searcher out of two, over a pinned state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from indexes.allowed import RowSet, alive
from indexes.dense import dense_scores, dense_top
from indexes.errors import DimensionMismatch, QueryInvalid
from indexes.filters import check_filter
from indexes.lexical import lexical_top
from indexes.model import Generation, Hit, LegScore, Query, Snapshot
from indexes.pieces import Piece
from indexes.rowhash import hash_of
from indexes.state import State
from indexes.stats import Rows, Scores, score_rows

Place = tuple[int, int]
"""Number of the piece, and row in it."""


@dataclass(frozen=True, slots=True)
class _Leg:
    """One way to look: the best rows of a piece, and the score of any row."""

    top: Callable[[Piece, RowSet], Rows]
    scores: Callable[[Piece, Rows], Scores]


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
        dense, lexical = self._dense(query), self._lexical(query)
        dense_ranks = {} if dense is None else self._ranked(dense, allowed, query.limit)
        lexical_ranks = {} if lexical is None else self._ranked(lexical, allowed, query.limit)
        places = list(dense_ranks | lexical_ranks)
        hits = [
            Hit(self._state.pieces[piece].chunk_id(row), *self._state.owner(self._state.pieces[piece], row), d, b)
            for (piece, row), d, b in zip(
                places,
                self._scored(dense, dense_ranks, places),
                self._scored(lexical, lexical_ranks, places),
                strict=True,
            )
        ]
        return tuple(sorted(hits, key=_by_best_rank))

    def scan(self) -> Iterator[tuple[str, str, str]]:
        """(chunk id, version id, row hash) of every chunk held, closed versions too, in no order."""
        for piece in self._state.pieces:
            for row in np.flatnonzero(alive(piece, self._state.versions)).tolist():
                version_id, _ = self._state.owner(piece, row)
                yield piece.chunk_id(row), version_id, hash_of(piece.sorted_terms(row), piece.vectors[row])

    def _dense(self, query: Query) -> _Leg | None:
        if query.vector is None:
            return None
        vector = np.ascontiguousarray(query.vector, np.float32)
        return _Leg(
            top=lambda piece, rows: dense_top(piece.vectors, piece.dense, vector, query.limit, rows),
            scores=lambda piece, rows: dense_scores(piece.vectors, vector, rows),
        )

    def _lexical(self, query: Query) -> _Leg | None:
        if not query.terms:
            return None
        weights = self._state.weights(query.terms)
        return _Leg(
            top=lambda piece, rows: lexical_top(piece, weights, query.limit, rows),
            scores=lambda piece, rows: score_rows(piece, weights, rows),
        )

    def _ranked(self, leg: _Leg, allowed: Iterable[RowSet], limit: int) -> dict[Place, LegScore]:
        """The best places over all pieces, best first."""
        found: list[tuple[float, str, Place]] = []
        for number, (piece, rows) in enumerate(zip(self._state.pieces, allowed, strict=True)):
            top = leg.top(piece, rows)
            scores = leg.scores(piece, top).tolist()
            found.extend(
                (-score, piece.chunk_id(row), (number, row)) for row, score in zip(top.tolist(), scores, strict=True)
            )
        found.sort()
        return {place: LegScore(-score, rank) for rank, (score, _, place) in enumerate(found[:limit], 1)}

    def _scored(self, leg: _Leg | None, ranks: dict[Place, LegScore], places: list[Place]) -> Iterator[LegScore | None]:
        """The leg's score for every place: what it ranked, and the exact score of the others."""
        if leg is None:
            return iter([None] * len(places))
        scores = dict(ranks)
        for number, piece in enumerate(self._state.pieces):
            rows = [row for home, row in places if home == number and (home, row) not in ranks]
            exact = leg.scores(piece, np.array(rows, np.int64)).tolist() if rows else []
            scores.update({(number, row): LegScore(score, None) for row, score in zip(rows, exact, strict=True)})
        return (scores[place] for place in places)


def _by_best_rank(hit: Hit) -> tuple[int, str]:
    ranks = [leg.rank for leg in (hit.dense, hit.lexical) if leg is not None and leg.rank is not None]
    return min(ranks), hit.chunk_id


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
