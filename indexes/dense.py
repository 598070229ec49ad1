"""Which rows are nearest to a vector? Exact inner products of unit vectors; the only importer of FAISS.

FAISS stores the vectors of a sealed segment and searches the allowed ones: a selector is handed to each call, nothing
that is shared changes. Few rows, and rows that are not sealed, are multiplied directly. All of it runs on the calling
thread: with a selector FAISS does, and einsum does where `@` would wake BLAS threads, which on busy cores took ten
times as long. Scores are computed again in float64, row by row, so they do not depend on the path, the segment, or
what else was scored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from indexes import durable
from indexes.allowed import RowSet
from indexes.errors import SegmentDamaged
from indexes.model import Matrix, Vector
from indexes.stats import Rows, Scores, best

GATHER_ROWS: Final = 500
"""Up to so many allowed rows are copied out and multiplied; for more of them FAISS is faster."""
SLACK: Final = 5e-6
"""Two float32 inner products of unit vectors that are further apart than this are in the right order."""
SPARE: Final = 16
"""So many more than asked are taken from FAISS, to see whether near ties were cut off."""


class DenseIndex:
    """The vectors of one sealed segment. `vectors` is a read-only view into FAISS, shape (rows, dimensions)."""

    def __init__(self, index: faiss.IndexFlatIP) -> None:
        self._index = index  # owns the memory that `vectors` shows
        size = index.ntotal * index.d
        flat = faiss.rev_swig_ptr(index.get_xb(), size) if size else np.zeros(0, np.float32)
        self.vectors: Matrix = flat.reshape(index.ntotal, index.d)
        self.vectors.flags.writeable = False

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, vector: Vector, count: int, allowed: RowSet) -> tuple[Rows, NDArray[np.float32]]:
        """The best `count` allowed rows and their float32 scores, best first."""
        selector = faiss.IDSelectorBitmap(allowed.bitmap)  # type: ignore[call-arg,arg-type]
        parameters = faiss.SearchParameters()
        parameters.sel = selector
        scores, rows = self._index.search(vector[np.newaxis], count, params=parameters)
        found = rows[0] >= 0
        return rows[0][found], scores[0][found]


def write_dense(path: Path, vectors: Matrix) -> durable.Stamp:
    """Store vectors, float32 of shape (rows, dimensions)."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    return durable.write(path, faiss.serialize_index(index).data)


def read_dense(path: Path) -> DenseIndex:
    """Load what `write_dense` stored. Check its SHA-256 first: FAISS loads flipped bits without a word.

    Raises SegmentDamaged.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise SegmentDamaged(f"FAISS cannot read {path.name} of segment {path.parent.name}.") from error
    if not isinstance(index, faiss.IndexFlatIP):
        raise SegmentDamaged(f"{path.name} of segment {path.parent.name} is not a flat inner-product index.")
    return DenseIndex(index)


def dense_scores(vectors: Matrix, vector: Vector, rows: Rows) -> Scores:
    """Inner products of these rows with `vector` in float64, each bit for bit the same in any company."""
    return np.asarray((vectors[rows].astype(np.float64) * vector.astype(np.float64)).sum(axis=1))


def dense_top(vectors: Matrix, index: DenseIndex | None, vector: Vector, limit: int, allowed: RowSet) -> Rows:
    """The best `limit` allowed rows and all that may tie with the last of them, in no order.

    `index` holds the same vectors; rows that are not sealed yet have none.
    """
    if allowed.count <= limit:
        return allowed.rows
    if allowed.count <= GATHER_ROWS:
        return allowed.rows[best(_products(vectors[allowed.rows], vector), limit, slack=SLACK)]
    if index is not None:
        rows, near = index.nearest(vector, limit + SPARE, allowed)
        if len(rows) == allowed.count or near[-1] < near[limit - 1] - SLACK:
            return np.asarray(rows[near >= near[limit - 1] - SLACK])
    scores = _products(vectors, vector)
    if not allowed.everything:
        scores[~allowed.mask] = -np.inf
    return best(scores, limit, slack=SLACK)


def _products(vectors: Matrix, vector: Vector) -> NDArray[np.float32]:
    return np.asarray(np.einsum("ij,j->i", vectors, vector))
