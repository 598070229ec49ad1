"""Can a GPU look at all rows instead? A copy of a large segment's vectors, where FAISS offers a GPU.

Only for searches without a filter, which FAISS's GPU indexes do not know. It finds the exact best rows; what they
score, and with that their order, is computed from the vectors of the CPU. After any error the CPU goes on alone.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import faiss
import numpy as np

from indexes.model import Matrix, Vector
from indexes.products import MORE, SLACK, SPARE
from indexes.stats import Rows

BLOCK: Final = 16_384
DEEPEST: Final = 2_048
"""FAISS's GPU indexes give no more rows for one query."""

log = logging.getLogger(__name__)


class GpuCopy:
    """Vectors on a GPU. One search at a time: its indexes are not safe to share between threads."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self._lock = threading.Lock()

    def nearest(self, vector: Vector, limit: int) -> Rows | None:
        """The best `limit` rows and all that may tie with the last of them, in no order; None: ask the CPU."""
        count, total = limit + SPARE, int(self._index.ntotal)
        while count <= min(total, DEEPEST):
            try:
                with self._lock:
                    (scores,), (rows,) = self._index.search(vector[np.newaxis], count)
            except RuntimeError as error:
                log.warning("The GPU failed, the CPU goes on: %s", str(error)[-200:])
                return None
            if scores[-1] < scores[limit - 1] - SLACK:
                return np.asarray(rows[scores >= scores[limit - 1] - SLACK])
            count *= MORE
        return None


def gpu_copy(vectors: Matrix) -> GpuCopy | None:
    """A copy on the first GPU; None where FAISS has none or it has no room."""
    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() < 1:
        return None
    try:
        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), vectors.shape[1])
        for at in range(0, len(vectors), BLOCK):
            index.add(vectors[at : at + BLOCK])
    except RuntimeError as error:
        log.warning("The vectors are not copied to the GPU: %s", str(error)[-200:])
        return None
    return GpuCopy(index)
