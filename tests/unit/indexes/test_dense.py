"""Nearest vectors against plain numpy, on every path: few rows, FAISS, a whole scan; and what a file keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexes import dense
from indexes.allowed import RowSet
from indexes.dense import DenseIndex, dense_scores, dense_top, read_dense, write_dense
from indexes.errors import SegmentDamaged
from indexes.model import Matrix, Vector


def unit_rows(rows: int, dimensions: int, seed: int) -> Matrix:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def nearest(vectors: Matrix, vector: Vector, limit: int, mask: np.ndarray) -> list[int]:
    scores = vectors.astype(np.float64) @ vector.astype(np.float64)
    return [int(row) for row in np.argsort(-scores, kind="stable") if mask[row]][:limit]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> DenseIndex:
    path = tmp_path_factory.mktemp("dense") / "dense.faiss"
    write_dense(path, unit_rows(3000, 32, seed=1))
    return read_dense(path)


def test_a_file_keeps_every_bit(stored: DenseIndex) -> None:
    assert len(stored) == 3000
    assert stored.vectors.tobytes() == unit_rows(3000, 32, seed=1).tobytes()
    with pytest.raises(ValueError, match="read-only"):
        stored.vectors[0, 0] = 1.0


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3, 0.1, 0.01, 0.0])
@pytest.mark.parametrize("sealed", [True, False])
def test_the_best_allowed_rows_are_found(stored: DenseIndex, share: float, sealed: bool) -> None:
    for seed in range(10):
        mask = np.random.default_rng(seed).random(3000) < share
        vector = unit_rows(1, 32, seed=100 + seed)[0]
        for limit in (1, 10, 100, 5000):
            rows = dense_top(stored.vectors, stored if sealed else None, vector, limit, RowSet(mask))
            scores = dense_scores(stored.vectors, vector, rows)
            found = [row for _, row in sorted(zip((-scores).tolist(), rows.tolist(), strict=True))][:limit]
            assert found == nearest(stored.vectors, vector, limit, mask)


def test_many_equal_vectors_are_all_candidates(tmp_path: Path) -> None:
    """Whoever merges pieces breaks ties by chunk id, so none of the equal ones may be cut off by chance."""
    vectors = np.repeat(unit_rows(2, 16, seed=4), 1000, axis=0)
    write_dense(tmp_path / "dense.faiss", vectors)
    index = read_dense(tmp_path / "dense.faiss")
    everything = RowSet(np.ones(2000, bool))
    assert sorted(dense_top(index.vectors, index, vectors[0], 10, everything)) == list(range(1000))
    assert sorted(dense_top(index.vectors, None, vectors[0], 10, everything)) == list(range(1000))


def test_a_score_is_the_same_in_any_company(stored: DenseIndex) -> None:
    vector = unit_rows(1, 32, seed=7)[0]
    together = dense_scores(stored.vectors, vector, np.arange(3000))
    alone = [float(dense_scores(stored.vectors, vector, np.array([row]))[0]) for row in range(0, 3000, 37)]
    assert together[::37].tolist() == alone
    copied = dense_scores(stored.vectors[100:110].copy(), vector, np.arange(10))
    assert copied.tolist() == together[100:110].tolist()
    assert together == pytest.approx(stored.vectors @ vector, abs=1e-6)


def test_searching_changes_nothing_that_is_shared(stored: DenseIndex) -> None:
    few, many = RowSet(np.arange(3000) < 700), RowSet(np.arange(3000) >= 700)
    vector = unit_rows(1, 32, seed=8)[0]
    before = dense_top(stored.vectors, stored, vector, 20, many).tolist()
    assert max(dense_top(stored.vectors, stored, vector, 20, few)) < 700
    assert dense_top(stored.vectors, stored, vector, 20, many).tolist() == before


def test_faiss_is_asked_where_it_should_be(stored: DenseIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def nearest_rows(self: DenseIndex, vector: Vector, count: int, allowed: RowSet) -> tuple[np.ndarray, np.ndarray]:
        asked.append(allowed.count)
        return original(self, vector, count, allowed)

    original = DenseIndex.nearest
    monkeypatch.setattr(DenseIndex, "nearest", nearest_rows)
    vector = unit_rows(1, 32, seed=9)[0]
    for rows in (10, dense.GATHER_ROWS, dense.GATHER_ROWS + 1, 3000):
        dense_top(stored.vectors, stored, vector, 5, RowSet(np.arange(3000) < rows))
    assert asked == [dense.GATHER_ROWS + 1, 3000]


def test_no_rows(tmp_path: Path) -> None:
    write_dense(tmp_path / "dense.faiss", np.zeros((0, 4), np.float32))
    index = read_dense(tmp_path / "dense.faiss")
    assert index.vectors.shape == (0, 4)
    assert dense_top(index.vectors, index, np.ones(4, np.float32), 3, RowSet(np.zeros(0, bool))).tolist() == []


def test_what_is_not_a_flat_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seg_x" / "dense.faiss"
    path.parent.mkdir()
    path.write_bytes(b"not an index")
    with pytest.raises(SegmentDamaged, match=r"dense\.faiss.*seg_x"):
        read_dense(path)
