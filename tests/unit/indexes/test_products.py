"""Exact neighbours against plain numpy, whichever way FAISS is shown the rows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from indexes import products
from indexes.allowed import RowSet
from indexes.model import Matrix
from indexes.products import nearest_allowed, nearest_of, neighbours

ROWS = 3000


def unit_rows(rows: int, dimensions: int, seed: int) -> Matrix:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


VECTORS = unit_rows(ROWS, 32, seed=1)


def best_first(rows: np.ndarray, vector: np.ndarray, limit: int) -> list[int]:
    scores = VECTORS[rows].astype(np.float64) @ vector.astype(np.float64)
    return [int(row) for row in rows[np.argsort(-scores, kind="stable")]][:limit]


@pytest.mark.parametrize("share", [1.0, 0.9, products.LISTED_SHARE, 0.1, 0.01])
@pytest.mark.parametrize("limit", [1, 10, 100, 5000])
def test_the_best_allowed_rows_are_found(share: float, limit: int) -> None:
    for seed in range(5):
        mask = np.random.default_rng(seed).random(ROWS) < share
        vector = unit_rows(1, 32, seed=100 + seed)[0]
        found = np.sort(nearest_allowed(VECTORS, vector, limit, RowSet(mask)))
        assert best_first(found, vector, limit) == best_first(np.flatnonzero(mask), vector, limit)
        assert len(found) < limit + 3 or share < 1.0


def test_both_ways_of_showing_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, vector = RowSet(np.random.default_rng(3).random(ROWS) < 0.5), unit_rows(1, 32, seed=9)[0]
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(products, "LISTED_SHARE", share)
        found.append(sorted(nearest_allowed(VECTORS, vector, 20, allowed).tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("copies", [5, 40, 1000])
def test_many_equal_vectors_are_all_candidates(copies: int) -> None:
    """Whoever merges pieces breaks ties by chunk id, so none of the equal ones may be cut off by chance."""
    vectors = np.concatenate([np.repeat(unit_rows(1, 16, seed=4), copies, axis=0), unit_rows(2000, 16, seed=5)])
    everything = RowSet(np.ones(len(vectors), bool))
    found = sorted(nearest_allowed(vectors, vectors[0], 3, everything).tolist())
    assert found == list(range(copies))
    assert sorted(nearest_of(vectors, vectors[0], 3, np.arange(1, copies + 9)).tolist()) == list(range(1, copies))


def test_many_queries_at_once() -> None:
    queries = unit_rows(30, 32, seed=6)
    rows, scores = neighbours(VECTORS, queries, 7)
    for query, found, score in zip(queries, rows, scores, strict=True):
        assert found.tolist() == best_first(np.arange(ROWS), query, 7)
        assert score == pytest.approx(VECTORS[found] @ query, abs=1e-6)


def test_one_query_wakes_no_other_thread() -> None:
    """Eight clients on two cores must not start sixteen threads of FAISS."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads are counted in /proc")
    vectors, vector = unit_rows(60_000, 64, seed=7), unit_rows(1, 64, seed=8)[0]
    everything = RowSet(np.ones(len(vectors), bool))
    nearest_allowed(vectors, vector, 10, everything)
    before = os.times()
    busy, idle = _cpu_of_others(), before.elapsed
    while os.times().elapsed - idle < 0.3:
        nearest_allowed(vectors, vector, 10, everything)
    assert _cpu_of_others() - busy <= 5  # ticks of 10 ms; a second thread would have 30


def _cpu_of_others() -> int:
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        if task.name != str(os.getpid()):
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks
