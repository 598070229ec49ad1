"""Which rows are nearest to a vector? Chooses for each segment between looking at all rows and inverted lists.

vectors.f32    every vector of a sealed segment, float32, row by row; mapped into memory, so only what is read is there
ivf.faiss      inverted lists over them, where there are so many that looking at all of them is slow
report.json    how they are searched, and how well that does

Scores are computed from the vectors in float64, row by row, so they do not depend on the path, the segment, or what
else was scored. Where FAISS offers a GPU, large segments are copied there for searches without a filter; the files and
the scores stay those of the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from indexes import durable
from indexes.allowed import RowSet
from indexes.errors import SegmentDamaged
from indexes.gpu import GpuCopy, gpu_copy
from indexes.ivf import Ivf, build_ivf, read_ivf
from indexes.model import DENSE_DEFAULTS, DenseOptions, DenseReport, Matrix, Vector
from indexes.products import nearest_allowed
from indexes.stats import Rows, Scores

LARGE_ROWS: Final = 200_000
"""A generation of more rows has many segments and no time to look at all rows of the smaller ones either."""
EXACT_ROWS_OF_LARGE: Final = 15_000
"""In such a generation, 40,000 rows take 2.6 ms exactly and .6 ms through lists."""
EXACT_ROWS: Final = 50_000
"""Up to so many rows, looking at all of them takes less than 3 ms on one core."""
FEW_ROWS: Final = 12_000
"""Up to so many allowed rows, no lists are looked up: multiplying them is as fast, and exact."""
VECTORS, LISTS, REPORT = "vectors.f32", "ivf.faiss", "report.json"


class DenseIndex:
    """The vectors of one sealed segment. `vectors` is read-only, float32 of shape (rows, dimensions)."""

    def __init__(
        self, vectors: Matrix, report: DenseReport, ivf: Ivf | None = None, gpu: GpuCopy | None = None
    ) -> None:
        self.vectors = vectors
        self.report = report
        self._ivf = ivf
        self._gpu = gpu

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, vector: Vector, limit: int, allowed: RowSet) -> Rows:
        """The best `limit` allowed rows and all that may tie with the last of them, in no order.

        With inverted lists a few may be missing; the report says how many.
        """
        if self._gpu is not None and allowed.everything:
            rows = self._gpu.nearest(vector, limit)
            if rows is not None:
                return rows
        if self._ivf is None or allowed.count <= FEW_ROWS:
            return nearest_allowed(self.vectors, vector, limit, allowed)
        return self._ivf.nearest(vector, limit, allowed)


def write_dense(
    folder: Path,
    blocks: Iterable[Matrix],
    *,
    rows: int,
    dimensions: int,
    among: int = 0,
    options: DenseOptions = DENSE_DEFAULTS,
) -> DenseReport:
    """Store vectors in an existing, empty folder: blocks of float32 of shape (n, dimensions), in the order of rows.

    `among` is how many rows the generation has in all, where it has more than these.
    Not all vectors are ever in memory at once if the blocks are small (16,384 rows).
    Raises StorageFailed, OSError.
    """
    with durable.stream(folder / VECTORS) as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block, np.float32).data.cast("B"))
    report = None
    if rows > (EXACT_ROWS if among <= LARGE_ROWS else EXACT_ROWS_OF_LARGE):
        vectors = _mapped(folder / VECTORS, (rows, dimensions))
        report = build_ivf(folder / LISTS, vectors, options=options)
    report = report or DenseReport("flat", rows)
    durable.write(folder / REPORT, json.dumps({"dimensions": dimensions} | asdict(report)).encode("ascii"))
    durable.sync_folder(folder)
    return report


def read_dense(folder: Path) -> DenseIndex:
    """Load what `write_dense` stored. Check the files' SHA-256 first: FAISS loads flipped bits without a word.

    Raises SegmentDamaged.
    """
    try:
        stored: dict[str, Any] = json.loads((folder / REPORT).read_bytes())
        shape = (int(stored["rows"]), int(stored.pop("dimensions")))
        report = DenseReport(**stored)
        vectors = _mapped(folder / VECTORS, shape)
        ivf = read_ivf(folder / LISTS, vectors, report) if report.kind == "ivf" else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SegmentDamaged(f"The vectors of segment {folder.parent.name} cannot be read ({error}).") from error
    return DenseIndex(vectors, report, ivf, gpu_copy(vectors) if len(vectors) > EXACT_ROWS else None)


def _mapped(path: Path, shape: tuple[int, int]) -> Matrix:
    if path.stat().st_size != 4 * shape[0] * shape[1]:
        raise ValueError(f"{path.name} does not hold {shape[0]} rows of {shape[1]} numbers")
    if 0 in shape:
        empty = np.zeros(shape, np.float32)
        empty.flags.writeable = False
        return empty
    return np.asarray(np.memmap(path, np.float32, "r", shape=shape))


def dense_scores(vectors: Matrix, vector: Vector, rows: Rows) -> Scores:
    """Inner products of these rows with `vector` in float64, each bit for bit the same in any company."""
    return np.asarray((vectors[rows].astype(np.float64) * vector.astype(np.float64)).sum(axis=1))


def dense_top(vectors: Matrix, index: DenseIndex | None, vector: Vector, limit: int, allowed: RowSet) -> Rows:
    """The best `limit` allowed rows and all that may tie with the last of them, in no order.

    `index` holds the same vectors; rows that are not sealed yet have none.
    """
    if allowed.count <= limit:
        return allowed.rows
    if index is None:
        return nearest_allowed(vectors, vector, limit, allowed)
    return index.nearest(vector, limit, allowed)
