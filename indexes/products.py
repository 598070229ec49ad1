"""Which of these rows are nearest, exactly? Inner products of unit vectors over all rows or some of them.

FAISS's kernel multiplies vectors where they lie, so those of a mapped file are never copied. With a selector, even one
of all rows, it runs on the calling thread and takes a fifth of the time; so does einsum, where `@` would wake BLAS
threads, which on busy cores took ten times as long.
"""

from __future__ import annotations

from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from indexes.allowed import RowSet
from indexes.model import Matrix, Vector
from indexes.stats import Rows

SLACK: Final = 5e-6
"""Two float32 inner products of unit vectors that are further apart than this are in the right order."""
SPARE: Final = 16
"""So many more than asked are taken from FAISS, to see whether near ties were cut off."""
MORE: Final = 8
"""If they were, so many times as many are taken."""
LISTED_SHARE: Final = 0.4
"""Up to this share of all rows, naming the rows one by one is faster than testing a bit for each."""


def nearest_allowed(vectors: Matrix, vector: Vector, limit: int, allowed: RowSet) -> Rows:
    """The best `limit` allowed rows and all that may tie with the last of them, in no order."""
    if allowed.count <= LISTED_SHARE * len(vectors):
        return nearest_of(vectors, vector, limit, allowed.rows)
    return _nearest(vectors, vector, limit, bitmap_selector(allowed), allowed.count)


def nearest_of(vectors: Matrix, vector: Vector, limit: int, rows: Rows) -> Rows:
    """The same among these rows (int64, each once)."""
    return _nearest(vectors, vector, limit, faiss.IDSelectorArray(len(rows), faiss.swig_ptr(rows)), len(rows))


def neighbours(vectors: Matrix, queries: Matrix, count: int) -> tuple[NDArray[np.int64], Matrix]:
    """The best `count` rows for each of many queries, best first, and their scores. On all cores."""
    scores, rows = faiss.knn(queries, vectors, count, faiss.METRIC_INNER_PRODUCT)
    return rows, scores


def products(vectors: Matrix, vector: Vector) -> NDArray[np.float32]:
    """Inner products with each row, in float32."""
    return np.asarray(np.einsum("ij,j->i", vectors, vector))


def bitmap_selector(allowed: RowSet) -> faiss.IDSelectorBitmap:
    """Lets FAISS see the allowed rows only. The set must outlive it."""
    return faiss.IDSelectorBitmap(allowed.bitmap)  # type: ignore[call-arg,arg-type]


def _nearest(vectors: Matrix, vector: Vector, limit: int, selector: faiss.IDSelector, total: int) -> Rows:
    count = limit + SPARE
    while True:
        rows, scores = _kernel(vectors, vector, min(count, total), selector)
        if count >= total or scores[-1] < scores[limit - 1] - SLACK:
            return rows if limit >= total else np.asarray(rows[scores >= scores[limit - 1] - SLACK])
        count *= MORE


def _kernel(
    vectors: Matrix, vector: Vector, count: int, selector: faiss.IDSelector
) -> tuple[Rows, NDArray[np.float32]]:
    rows, scores = np.empty(count, np.int64), np.empty(count, np.float32)
    total, dimensions = vectors.shape
    faiss.knn_inner_product(  # type: ignore[call-arg]
        *(faiss.swig_ptr(matrix) for matrix in (vector, vectors)),
        *(dimensions, 1, total, count),
        *(faiss.swig_ptr(result) for result in (scores, rows)),
        selector,
    )
    return rows, scores
