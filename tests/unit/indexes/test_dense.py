"""Nearest vectors against plain numpy: which way is taken, what it finds, and what the files keep."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from indexes import dense
from indexes.allowed import RowSet
from indexes.dense import DenseIndex, dense_scores, dense_top, read_dense, write_dense
from indexes.embedded import EmbeddedEngine
from indexes.errors import SegmentDamaged
from indexes.model import FOREVER, Chunk, DenseOptions, DenseReport, Generation, Matrix, Put, Vector


def unit_rows(rows: int, dimensions: int, seed: int) -> Matrix:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def nearest(vectors: Matrix, vector: Vector, limit: int, mask: np.ndarray) -> list[int]:
    scores = vectors.astype(np.float64) @ vector.astype(np.float64)
    return [int(row) for row in np.argsort(-scores, kind="stable") if mask[row]][:limit]


def store(folder: Path, vectors: Matrix, block: int = 1000) -> DenseIndex:
    blocks = (vectors[at : at + block] for at in range(0, len(vectors), block))
    report = write_dense(folder, blocks, rows=len(vectors), dimensions=vectors.shape[1])
    index = read_dense(folder)
    assert index.report == report
    return index


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> DenseIndex:
    return store(tmp_path_factory.mktemp("dense"), unit_rows(3000, 32, seed=1), block=700)


def test_a_file_keeps_every_bit(stored: DenseIndex) -> None:
    assert len(stored) == 3000
    assert stored.report == DenseReport("flat", 3000)
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


def topical(rows: int, seed: int) -> Matrix:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((100, 32))
    vectors = centres[random.integers(0, 100, rows)] + 0.6 * random.standard_normal((rows, 32))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DenseIndex:
    """More rows than are looked at one by one, few as they are."""
    monkeypatch.setattr(dense, "EXACT_ROWS", 5999)
    monkeypatch.setattr(dense, "FEW_ROWS", 300)
    return store(tmp_path, topical(6000, seed=2))


def test_many_rows_are_searched_through_lists(tuned: DenseIndex, tmp_path: Path) -> None:
    assert {path.name for path in tmp_path.iterdir()} == {"vectors.f32", "ivf.faiss", "report.json"}
    report = tuned.report
    assert (report.kind, report.quantization, report.target, report.rows) == ("ivf", "sq8", DenseOptions().target, 6000)
    assert report.recall_at_10 >= 0.97
    assert 10 < report.lists < 6000
    assert tuned.vectors.tobytes() == topical(6000, seed=2).tobytes()


def test_as_many_rows_as_are_fast_to_look_at_get_no_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "EXACT_ROWS", 6000)
    assert store(tmp_path, topical(6000, seed=2)).report == DenseReport("flat", 6000)


@pytest.mark.parametrize("share", [1.0, 0.98, 0.5, 0.1, 0.03])
def test_lists_give_the_best_allowed_rows_too(tuned: DenseIndex, share: float) -> None:
    """Scores do not tell which way a row was found: they are those of an exact search, bit for bit."""
    found, wanted = 0, 0
    for seed, vector in enumerate(topical(30, seed=3)):
        allowed = RowSet(np.random.default_rng(seed).random(6000) < share)
        rows = dense_top(tuned.vectors, tuned, vector, 10, allowed)
        assert allowed.mask[rows].all()
        exact = dense_top(tuned.vectors, None, vector, 10, allowed)
        found += len(set(rows.tolist()) & set(exact.tolist()))
        wanted += len(exact)
        scores = dict(zip(exact.tolist(), dense_scores(tuned.vectors, vector, exact).tolist(), strict=True))
        for row, score in zip(rows.tolist(), dense_scores(tuned.vectors, vector, rows).tolist(), strict=True):
            assert scores.get(row, score) == score
    assert found >= 0.97 * wanted
    if share == 0.03:
        assert found == wanted, "few rows are looked at one by one"


def test_lost_lists_are_damage(tuned: DenseIndex, tmp_path: Path) -> None:
    assert tuned.report.kind == "ivf"
    (tmp_path / "ivf.faiss").unlink()
    with pytest.raises(SegmentDamaged, match="vectors of segment"):
        read_dense(tmp_path)


class FakeGpuIndex:
    """What FAISS has where there is a GPU, as far as it is used here. The only fake: no test machine has one."""

    def __init__(self, resources: object, dimensions: int) -> None:
        self.index = faiss.IndexFlatIP(dimensions)
        self.broken = False
        self.asked = 0

    @property
    def ntotal(self) -> int:
        return int(self.index.ntotal)

    def add(self, vectors: Matrix) -> None:
        self.index.add(vectors)

    def search(self, vectors: Matrix, count: int) -> tuple[Matrix, np.ndarray]:
        self.asked += 1
        if self.broken:
            raise RuntimeError("CUDA error 2")
        scores, rows = self.index.search(vectors, count)
        return scores * np.float32(1.0000001), rows


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_gpu_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    made: list[FakeGpuIndex] = []

    def make(resources: object, dimensions: int) -> FakeGpuIndex:
        made.append(FakeGpuIndex(resources, dimensions))
        return made[-1]

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", make, raising=False)
    monkeypatch.setattr(dense, "EXACT_ROWS", 2000)
    index = store(tmp_path, topical(6000, seed=2))
    assert len(made) == gpus
    everything, some = RowSet(np.ones(6000, bool)), RowSet(np.arange(6000) < 4000)
    for vector in topical(10, seed=4):
        exact = dense_top(index.vectors, None, vector, 10, everything)
        found = dense_top(index.vectors, index, vector, 10, everything)
        if gpus:
            assert sorted(found.tolist()) == sorted(exact.tolist())
        dense_top(index.vectors, index, vector, 10, some)
    for gpu in made:
        assert gpu.asked == 10, "filters are for the CPU"
        gpu.broken = True
    vector = topical(1, seed=5)[0]
    assert len(dense_top(index.vectors, index, vector, 10, everything)) >= 10


def test_no_rows(tmp_path: Path) -> None:
    index = store(tmp_path, np.zeros((0, 4), np.float32))
    assert index.vectors.shape == (0, 4)
    assert dense_top(index.vectors, index, np.ones(4, np.float32), 3, RowSet(np.zeros(0, bool))).tolist() == []


@pytest.mark.parametrize(("name", "data"), [("vectors.f32", b"short"), ("report.json", b"{"), ("report.json", b"[]")])
def test_what_is_damaged_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    folder = tmp_path / "seg_x" / "dense"
    folder.mkdir(parents=True)
    store(folder, unit_rows(10, 4, seed=1))
    (folder / name).write_bytes(data)
    with pytest.raises(SegmentDamaged, match="vectors of segment seg_x"):
        read_dense(folder)


def test_a_large_generation_looks_at_all_rows_of_smaller_segments_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "EXACT_ROWS_OF_LARGE", 999)
    monkeypatch.setattr(dense, "LARGE_ROWS", 5_000)
    rows = np.repeat(unit_rows(20, 16, 3), 50, axis=0) + 0.2 * unit_rows(1_000, 16, 4)
    rows = np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
    kinds = []
    for among in (0, 5_000, 5_001):
        (tmp_path / str(among)).mkdir()
        kinds.append(write_dense(tmp_path / str(among), [rows], rows=1_000, dimensions=16, among=among).kind)
    assert kinds == ["flat", "flat", "ivf"]


def test_the_owner_says_how_and_how_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options given to the engine reach the segments that it writes, and what was chosen is told."""
    monkeypatch.setattr(dense, "EXACT_ROWS", 1_000)
    random = np.random.default_rng(5)
    centres = random.standard_normal((40, 32)).astype(np.float32)
    rows = np.repeat(centres, 50, axis=0) + 0.3 * random.standard_normal((2_000, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chunks = tuple(Chunk(f"c{n}", "v", n, ("word",), row) for n, row in enumerate(rows))
    generation = Generation("gen_1", "col_1", "hash:32", 32, "c", "a")
    reports = []
    for options in (DenseOptions(), DenseOptions("none", 0.8)):
        engine = EmbeddedEngine(tmp_path / options.quantization, options)
        writer = engine.open(generation, writable=True)
        writer.apply([Put("d", "v", 0, FOREVER, 1, FOREVER, chunks)], seq=1)
        writer.publish()
        (part,) = engine.pin("gen_1").describe()
        reports.append((part.dense.kind, part.dense.quantization, part.dense.target))
        engine.close()
    assert reports == [("ivf", "sq8", 0.98), ("ivf", "none", 0.8)]
