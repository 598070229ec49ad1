"""How are many vectors searched without looking at all of them? Inverted lists, with probing of our own.

Vectors lie in lists by their nearest centre. A query looks at the nearest lists until enough **allowed** rows were
met, so a filter makes it look further, never find less. The lists hold
quantized vectors in memory; the best of what they give is scored again from the vectors themselves. How many rows and
how much refinement that takes is measured when the index is built (tuning.py), and if it is no less work than looking
at all rows, there is no index.

One query runs on the calling thread; its parameters are handed to the call, nothing that is shared changes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import faiss
import numpy as np
from numpy.typing import NDArray

from indexes import durable
from indexes.allowed import RowSet
from indexes.errors import StorageFailed
from indexes.model import DenseOptions, DenseReport, Matrix, Quantization, Vector
from indexes.products import MORE, SLACK, SPARE, bitmap_selector, nearest_of, neighbours, products
from indexes.stats import Rows, best
from indexes.tuning import ALIKE, DEEP, Calibration, Setting, sampled_queries

SEED: Final = 20_260
TRAINED_ON: Final = 32
"""Sampled rows for each list. More made the lists no better, and took longer."""
ROUNDS: Final = 6
"""Of k-means."""
BLOCK: Final = 16_384
LISTED_SHARE: Final = 0.1
"""Up to this share of all rows, the vectors of the allowed rows are faster than quantized ones with a bit to test."""
FAIR: Final = 0.5
"""A filter that allows less than this part of its share among the rows near to a question is at odds with it."""
FAR: Final = 4.0
"""Then so many times as many allowed rows are looked at, and candidates scored: what is far away is close together."""
WIDENING: Final = 0.3
"""Else so many rows, allowed or not: those without a filter / share ** WIDENING. Measured on 200,000 rows like those of
real passages: recall@10 needed 0.16 of the rows at a share of 0.1 and 0.38 at 0.3; this gives 0.2 and 0.43."""
LEAST: Final = 32
"""And at least so many times as many allowed rows as are asked."""
QUERIES: Final = 600
"""Sampled to choose and to measure."""
PQ_WIDTH: Final = 8
"""Dimensions for each byte of a product-quantized vector."""


@dataclass(frozen=True, slots=True)
class _Spread:
    """Where the rows of a set lie: how many in each list, and the list of each (None: there are too many to name)."""

    counts: NDArray[np.int64]
    lists: NDArray[np.int32] | None


class Ivf:
    """Inverted lists over the vectors of one sealed segment. Safe to use from many threads."""

    def __init__(self, index: faiss.IndexIVF, vectors: Matrix, setting: Setting) -> None:
        self.setting = setting
        self._index = index
        self.vectors = vectors
        self._centres: Matrix = faiss.downcast_index(index.quantizer).reconstruct_n(0, index.nlist)
        self._list_of = np.empty(len(vectors), np.int32)
        self._sizes = np.array([index.get_list_size(number) for number in range(index.nlist)], np.int64)
        for number in np.flatnonzero(self._sizes).tolist():
            self._list_of[_members(index, number)] = number
        self._all = RowSet(np.ones(len(vectors), bool))
        self._spreads: WeakKeyDictionary[RowSet, _Spread] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def nearest(self, vector: Vector, limit: int, allowed: RowSet, setting: Setting | None = None) -> Rows:
        """Nearly always the best `limit` allowed rows and all that may tie with the last of them, in no order."""
        setting = setting or self.setting
        spread = self._spread(allowed)
        closeness = products(self._centres, vector)
        order = np.argsort(-closeness, kind="stable")
        enough = max(setting.rows_for(limit), 2 * limit)
        fair, reach = self._reach(order, spread.counts, enough, limit, allowed.count)
        lists = order[:reach]
        if spread.lists is not None:
            looked_at = np.zeros(len(order), bool)
            looked_at[lists] = True
            return nearest_of(self.vectors, vector, limit, allowed.rows[looked_at[spread.lists]])
        lists = lists[spread.counts[lists] > 0]
        refine = setting.refine if fair else setting.refine * FAR
        return self._refined(vector, limit, allowed, lists, closeness[lists], refine)

    def _reach(self, order: Rows, counts: NDArray[np.int64], enough: int, limit: int, allowed: int) -> tuple[bool, int]:
        """Whether a fair share of what is near is allowed, and how many lists to look at, in this order.

        Until as many allowed rows are met as are enough without a filter. Where the filter has nothing to do with the
        question, fewer will do; where it excludes what is near, what is left is far away and in no clear order, so it
        takes more.
        """
        met = np.cumsum(counts[order])
        if allowed < len(self._list_of):
            near = np.cumsum(self._sizes[order])
            share = allowed / len(self._list_of)
            if met[min(int(np.searchsorted(near, enough)), len(met) - 1)] >= FAIR * share * enough:
                widely = int(np.searchsorted(near, enough * share**-WIDENING)) + 1
                widely = max(widely, int(np.searchsorted(met, LEAST * limit)) + 1)
                return True, min(widely, int(np.searchsorted(met, enough)) + 1)
            return False, int(np.searchsorted(met, enough * FAR)) + 1
        return True, int(np.searchsorted(met, enough)) + 1

    def trial(self, vector: Vector, limit: int, setting: Setting) -> tuple[Rows, NDArray[np.float32]]:
        """What a search with another setting and no filter gives, and the scores. Looks at no more for a high limit."""
        same = Setting(setting.probe_rows * DEEP // max(limit, DEEP), setting.refine)
        rows = self.nearest(vector, limit, self._all, same)
        return rows, products(self.vectors[rows], vector)

    def met_after(self, vector: Vector, rows: Rows) -> NDArray[np.int64]:
        """For each of these rows, how many rows are looked at when it is met (with no filter)."""
        order = np.argsort(-products(self._centres, vector), kind="stable")
        reach = np.empty(len(order), np.int64)
        reach[order] = np.cumsum(self._sizes[order])
        return np.asarray(reach[self._list_of[rows]])

    def _refined(
        self, vector: Vector, limit: int, allowed: RowSet, lists: Rows, closeness: NDArray[np.float32], refine: float
    ) -> Rows:
        """What these lists give, scored again. More is taken until the last that is needed was not cut off."""
        total = int(self._spread(allowed).counts[lists].sum())
        count = int(limit * refine) + SPARE
        while True:
            rows, rough = self._scan(vector, min(count, total), allowed, lists, closeness)
            scores = products(self.vectors[rows], vector)
            kept = best(scores, limit, slack=SLACK)
            if count >= total or rough[kept].min() > rough[-1]:
                return np.asarray(rows[kept])
            count *= MORE

    def _scan(
        self, vector: Vector, count: int, allowed: RowSet, lists: Rows, closeness: NDArray[np.float32]
    ) -> tuple[Rows, NDArray[np.float32]]:
        """The best `count` rows of these lists by their quantized vectors, and those scores, best first."""
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = len(lists)
        if not allowed.everything:
            selector = bitmap_selector(allowed)
            parameters.sel = selector
        rows, scores = np.empty(count, np.int64), np.empty(count, np.float32)
        # The wrapper of this method drops its parameters (FAISS 1.15).
        self._index.search_preassigned_c(  # type: ignore[attr-defined]
            *(1, faiss.swig_ptr(vector), count),
            *(faiss.swig_ptr(array) for array in (lists, closeness, scores, rows)),
            *(False, parameters),
        )
        return rows, scores

    def _spread(self, allowed: RowSet) -> _Spread:
        """Remembered as long as the set is: the same caller asks again a moment later."""
        with self._lock:
            known = self._spreads.get(allowed)
        if known is None:
            known = self._look_up(allowed)
            with self._lock:
                self._spreads[allowed] = known
        return known

    def _look_up(self, allowed: RowSet) -> _Spread:
        if allowed.everything:
            return _Spread(self._sizes, None)
        lists = self._list_of[allowed.mask]
        counts = np.bincount(lists, minlength=len(self._sizes))
        return _Spread(counts, lists if allowed.count <= LISTED_SHARE * len(self._list_of) else None)


def _members(index: faiss.IndexIVF, number: int) -> NDArray[np.int64]:
    lists: faiss.InvertedLists = index.invlists  # type: ignore[assignment]
    return np.asarray(faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)))


def build_ivf(path: Path, vectors: Matrix, *, options: DenseOptions) -> DenseReport | None:
    """Build lists over these vectors, choose how to search them, and store them as `path`.

    None, and nothing is stored, if no setting reaches the target with less work than looking at all rows.
    Raises StorageFailed.
    """
    random = np.random.default_rng(SEED)
    index = _filled(vectors, options.quantization, random)
    untuned = Ivf(index, vectors, Setting(len(vectors), 1.0))
    calibration = _calibration(untuned, random)
    setting = calibration.choose(options.target, len(vectors))
    if setting is None:
        return None
    try:
        durable.reached("write", path)
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # a full disk, mostly
        raise StorageFailed(f"The lists of vectors could not be written: {str(error)[-200:]}.") from error
    durable.sync_file(path)
    return DenseReport(
        "ivf",
        len(vectors),
        quantization=options.quantization,
        recall_at_10=calibration.measured(setting, 10),
        recall_at_100=calibration.measured(setting, DEEP),
        queries=calibration.unseen,
        target=options.target,
        lists=index.nlist,
        probe_rows=setting.probe_rows,
        refine=setting.refine,
    )


def _calibration(untuned: Ivf, random: np.random.Generator) -> Calibration:
    vectors = untuned.vectors
    queries, sources = sampled_queries(vectors, min(QUERIES, len(vectors) // 4), random)
    truth, scores = neighbours(vectors, queries, min(2 * DEEP, len(vectors)))
    alike = [products(vectors[rows], vectors[source]) >= ALIKE for rows, source in zip(truth, sources, strict=True)]
    return Calibration(untuned, queries, truth, scores - SLACK, np.array(alike) | (truth == sources[:, np.newaxis]))


def read_ivf(path: Path, vectors: Matrix, report: DenseReport) -> Ivf:
    """Load what `build_ivf` stored. Raises ValueError when it is not that."""
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read {path.name}") from error
    if not isinstance(index, faiss.IndexIVF) or (index.ntotal, index.d) != vectors.shape:
        raise ValueError(f"{path.name} does not hold the lists of these vectors")
    return Ivf(index, vectors, Setting(report.probe_rows, report.refine))


def _filled(vectors: Matrix, quantization: Quantization, random: np.random.Generator) -> faiss.IndexIVF:
    rows, dimensions = vectors.shape
    lists = min(int(4 * rows**0.5), rows // TRAINED_ON + 1)
    sample = vectors[np.sort(random.choice(rows, min(rows, TRAINED_ON * lists), replace=False))]
    centres = faiss.IndexFlatIP(dimensions)
    clustering = faiss.Clustering(dimensions, lists)
    clustering.niter, clustering.seed, clustering.spherical = ROUNDS, SEED, True
    clustering.min_points_per_centroid = 1  # fewer than FAISS likes are fine, without a line on stderr
    clustering.train(sample, centres)
    index = _empty(centres, dimensions, lists, quantization)
    index.train(sample)
    for at in range(0, rows, BLOCK):
        index.add(vectors[at : at + BLOCK])
    return index


def _empty(centres: faiss.IndexFlatIP, dimensions: int, lists: int, quantization: Quantization) -> faiss.IndexIVF:
    inner = faiss.METRIC_INNER_PRODUCT
    if quantization == "none":
        return faiss.IndexIVFFlat(centres, dimensions, lists, inner)
    if quantization == "sq8":
        return faiss.IndexIVFScalarQuantizer(centres, dimensions, lists, faiss.ScalarQuantizer.QT_8bit, inner)
    pieces = next(count for count in range(max(1, dimensions // PQ_WIDTH), 0, -1) if dimensions % count == 0)
    index = faiss.IndexIVFPQ(centres, dimensions, lists, pieces, 8, inner)
    index.pq.cp.min_points_per_centroid = 1
    return index
