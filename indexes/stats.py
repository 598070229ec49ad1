"""How much is a term worth in a row? BM25 with one set of statistics for the whole generation.

Scores are exact and do not depend on how rows are spread over segments: `N`, the average length and the document
frequency count the rows of versions that are open (not superseded), wherever they are stored. Source of the formula:
Robertson & Zaragoza 2009, with Lucene's idf ln(1 + (N - df + .5) / (df + .5)), which is never negative.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

K1: Final = 1.2
B: Final = 0.75

Scores = NDArray[np.float64]
Rows = NDArray[np.int64]
Posting = tuple[NDArray[np.integer], NDArray[np.integer]]
"""The rows that hold a term, ascending, and how often each does."""


class TermRows(Protocol):
    """Rows that can say where a term stands."""

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Terms of each row."""
        ...

    def posting(self, term: str) -> Posting:
        """Where a term stands."""
        ...


@dataclass(frozen=True, slots=True)
class Weights:
    """A query's terms in the order of the first mention, each with its idf times how often it was asked."""

    terms: tuple[tuple[str, float], ...]
    average_length: float


def idf(rows: int, df: int) -> float:
    """Inverse document frequency of a term that `df` of `rows` rows hold; above 0."""
    return math.log(1.0 + (rows - df + 0.5) / (df + 0.5))


def weigh(terms: Sequence[str], *, rows: int, length: int, df: Callable[[str], int]) -> Weights:
    """Weights for a query against `rows` rows of `length` terms in all."""
    counts = Counter(terms)
    weights = tuple((term, count * idf(rows, df(term))) for term, count in counts.items())
    return Weights(weights, length / rows if rows and length else 1.0)


def score_all(source: TermRows, weights: Weights) -> Scores:
    """BM25 of every row, shape (rows,); 0 where no term stands."""
    norms = _norms(source.lengths, weights)
    scores = np.zeros(len(norms))
    for term, weight in weights.terms:
        rows, counts = source.posting(term)
        scores[rows] += _share(counts, norms[rows], weight)
    return scores


def score_rows(source: TermRows, weights: Weights, rows: Rows) -> Scores:
    """BM25 of these rows, shape (len(rows),): bit for bit what `score_all` says of them."""
    norms = _norms(source.lengths[rows], weights)
    scores = np.zeros(len(norms))
    for term, weight in weights.terms:
        holders, counts = source.posting(term)
        if len(holders):
            # numpy would copy a whole posting to compare it with numbers of another type
            place = np.minimum(np.searchsorted(holders, rows.astype(holders.dtype)), len(holders) - 1)
            here = holders[place] == rows
            scores[here] += _share(counts[place[here]], norms[here], weight)
    return scores


def _norms(lengths: NDArray[np.integer], weights: Weights) -> Scores:
    return np.asarray(K1 * (1.0 - B + B * (lengths / weights.average_length)))


def _share(counts: NDArray[np.integer], norms: Scores, weight: float) -> Scores:
    frequency = counts.astype(np.float64)
    return np.asarray(weight * (K1 + 1.0) * frequency / (frequency + norms))


def best(scores: NDArray[np.floating], limit: int, *, slack: float = 0.0) -> Rows:
    """Places of the `limit` highest scores, and of all that are within `slack` of the last of these, in no order.

    So ties at the cut are all kept, and whoever merges several of these decides by chunk id.
    """
    if len(scores) <= limit:
        return np.arange(len(scores), dtype=np.int64)
    cut = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    return np.flatnonzero(scores >= cut - slack)
