"""The choice of how much to look at: from measurements to a setting, with no index in sight."""

from __future__ import annotations

import numpy as np
import pytest

from indexes.model import Matrix, Vector
from indexes.tuning import (
    ALIKE,
    DEEP,
    MOST,
    REFINES,
    WIDER,
    Calibration,
    Recalls,
    Setting,
    choose,
    enough_rows,
    lower_bound,
    sampled_queries,
)


def test_a_small_sample_promises_less() -> None:
    few, many = np.array([1.0, 0.9] * 5), np.array([1.0, 0.9] * 500)
    assert lower_bound(few) < lower_bound(many) < 0.95
    assert lower_bound(np.ones(10)) == 1.0
    assert lower_bound(np.ones(1)) < 0


def test_what_is_enough_holds_for_queries_that_were_not_sampled() -> None:
    """In 200 worlds: looking at that many rows reaches the target for everybody, in nearly all of them."""
    missed = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        hard = random.lognormal(6.0, 1.0, (20_000, 1))  # some queries are harder than others
        met = (hard * random.lognormal(0.0, 0.5, (20_000, 10))).astype(np.int64)
        rows = enough_rows(met[:400], 0.95)
        recall = (met <= rows).mean()
        missed += recall < 0.95
        assert recall > 0.93
        assert recall < 0.985, "far more than needed"
    assert missed <= 20  # 5 % are expected, all 50 % without the confidence interval


def test_the_fewest_rows_that_are_enough() -> None:
    met = np.tile(np.arange(1, 101), (400, 1))
    assert 98 <= enough_rows(met, 0.98) <= 99
    assert enough_rows(met, 1.0) == 100


def test_the_cheapest_setting_that_reaches_the_target() -> None:
    asked: list[Setting] = []

    def measure(setting: Setting) -> Recalls:
        asked.append(setting)
        lost = 0.02 if setting.probe_rows < 1300 else 0.005
        return np.full(100, 1.0 - lost - max(0.0, 3.0 - setting.refine) / 100)

    assert choose(1000, measure, 0.99, most=10_000) == Setting(1400, 3.0)
    assert asked == sorted(asked, key=lambda setting: (setting.probe_rows, setting.refine))
    assert asked[len(REFINES) - 2].probe_rows == 1400, "refinement that gains nothing is not taken further"


def test_none_is_good_enough() -> None:
    assert choose(1000, lambda _: np.full(100, 0.5), 0.98, most=10_000) is None
    tried: list[int] = []

    def measure(setting: Setting) -> Recalls:
        tried.append(setting.probe_rows)
        return np.full(100, 0.5)

    assert choose(1000, measure, 0.98, most=1500) is None
    assert max(tried) == 1400
    assert WIDER[0] >= 1.0


def test_more_asked_means_more_looked_at() -> None:
    assert [Setting(5000, 1.0).rows_for(limit) for limit in (1, 10, DEEP, 2 * DEEP)] == [5000, 5000, 5000, 10_000]


def test_a_query_is_near_its_row_but_not_on_it() -> None:
    random = np.random.default_rng(2)
    vectors = random.standard_normal((1000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, sources = sampled_queries(vectors, 200, random)
    assert len(set(sources.tolist())) == 200
    assert np.linalg.norm(queries, axis=1) == pytest.approx(1.0, abs=1e-5)
    near = (queries * vectors[sources]).sum(axis=1)
    assert 0.6 < near.min() < near.mean() < 0.97
    assert np.isfinite(sampled_queries(np.zeros((8, 4), np.float32), 8, random)[0]).all()


class Halves:
    """An index that meets rows in their order and finds all it met, if it is refined twice."""

    def __init__(self, vectors: Matrix) -> None:
        self.vectors = vectors
        self.hard: set[bytes] = set()

    def met_after(self, vector: Vector, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows + 1)

    def trial(self, vector: Vector, limit: int, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        met = setting.probe_rows // 2 if vector.tobytes() in self.hard else setting.probe_rows
        scores = self.vectors[:met] @ vector
        rows = np.argsort(-scores)[: int(limit * min(1.0, setting.refine / 2))]
        return rows, scores[rows]


class Own(Halves):
    """Finds what is equal to the query, and nothing else."""

    def trial(self, vector: Vector, limit: int, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        scores = self.vectors @ vector
        rows = np.flatnonzero(scores > 0.999)
        return rows, scores[rows]


def calibration(vectors: Matrix, count: int = 60) -> tuple[Calibration, Halves]:
    queries, sources = sampled_queries(vectors, count, np.random.default_rng(1))
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, : 2 * DEEP]
    index = Halves(vectors)
    floors = np.take_along_axis(queries @ vectors.T, truth, 1) - np.float32(5e-6)
    alike = np.einsum("qkd,qd->qk", vectors[truth], vectors[sources]) >= ALIKE
    return Calibration(index, queries, truth, floors, alike | (truth == sources[:, np.newaxis])), index


def test_a_third_of_the_queries_is_kept_for_the_measurement() -> None:
    """The neighbours all lie in the first 300 of 1,000 rows: so many have to be met, and the row itself is no hit."""
    random = np.random.default_rng(4)
    vectors = random.standard_normal((1000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[300:] *= 1e-3
    calibrated, _ = calibration(vectors, 150)
    setting = calibrated.choose(0.98, 1000)
    assert setting is not None
    assert 270 <= setting.probe_rows <= 420
    assert setting.refine == 2.0
    assert calibrated.unseen == 50
    assert calibrated.measured(setting, 10) >= 0.98
    assert calibrated.measured(Setting(150, 2.0), 10) == pytest.approx(0.5, abs=0.1)
    assert calibrated.measured(Setting(300, 1.0), 10) == pytest.approx(0.45, abs=0.06)


def test_more_is_looked_at_when_the_kept_queries_fall_short() -> None:
    """For them alone, half of what is looked at is in vain."""
    random = np.random.default_rng(4)
    vectors = random.standard_normal((1000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[200:] *= 1e-3
    alike, index = calibration(vectors, 150)
    easy = alike.choose(0.98, 1000)
    index.hard = {query.tobytes() for query in sampled_queries(vectors, 150, np.random.default_rng(1))[0][:50]}
    harder = alike.choose(0.98, 1000)
    assert easy is not None
    assert harder is not None
    assert 1.5 * easy.probe_rows < harder.probe_rows <= MOST * 1000
    assert alike.measured(harder, 10) >= 0.98 > alike.measured(easy, 10)
    assert alike.choose(0.98, 600) is None, "that would be most of the rows"


def test_copies_of_a_row_do_not_make_it_easy() -> None:
    """Of 1,000 rows the first 500 hold 5 copies of 100 vectors. What meets only them has found no neighbours."""
    random = np.random.default_rng(6)
    once = random.standard_normal((600, 16)).astype(np.float32)
    once /= np.linalg.norm(once, axis=1, keepdims=True)
    vectors = np.concatenate([np.repeat(once[:100], 5, axis=0), once[100:]])
    truth = np.argsort(-(vectors[:500:25] @ vectors.T), axis=1)[:, : 2 * DEEP]
    floors = np.take_along_axis(vectors[:500:25] @ vectors.T, truth, 1) - np.float32(5e-6)
    near = np.take_along_axis(vectors[:500:25] @ vectors.T, truth, 1) >= ALIKE
    none = np.zeros_like(near)
    for alike, recall in ((none, 0.5), (near, 0.0)):
        calibrated = Calibration(Own(vectors), vectors[:500:25], truth, floors, alike)
        assert calibrated.measured(Setting(5, 2.0), 10) == recall


def test_looking_at_most_rows_is_no_index() -> None:
    vectors = np.random.default_rng(5).standard_normal((1000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    calibrated, _ = calibration(vectors)
    assert MOST < 0.9
    assert calibrated.choose(0.98, 1000) is None
