"""Inverted lists against plain numpy: what they find, under filters too, and that a file gives the same ones again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexes import durable, ivf
from indexes.allowed import RowSet
from indexes.errors import StorageFailed
from indexes.ivf import Ivf, build_ivf, read_ivf
from indexes.model import DenseOptions, DenseReport, Matrix, Quantization
from indexes.tuning import Setting

ROWS, DIMENSIONS, TOPICS = 12_000, 32, 150


def unit(vectors: np.ndarray) -> Matrix:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def topical(rows: int, seed: int) -> tuple[Matrix, np.ndarray]:
    """Vectors in clusters of very different sizes, and the cluster of each."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((TOPICS, DIMENSIONS))
    topic = np.minimum(random.zipf(1.3, rows) - 1, TOPICS - 1)
    return unit(centres[topic] + 0.7 * random.standard_normal((rows, DIMENSIONS))), topic


VECTORS, TOPIC = topical(ROWS, seed=2)
QUESTIONS, _ = topical(100, seed=3)
EVERYTHING = RowSet(np.ones(ROWS, bool))


def built(path: Path, vectors: Matrix = VECTORS, quantization: Quantization = "sq8") -> tuple[Ivf, DenseReport]:
    report = build_ivf(path, vectors, options=DenseOptions(quantization))
    assert report is not None
    return read_ivf(path, vectors, report), report


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Ivf:
    return built(tmp_path_factory.mktemp("ivf") / "ivf.faiss")[0]


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ivf, DenseReport]:
    return built(tmp_path_factory.mktemp("pq") / "ivf.faiss", quantization="pq")


def recall(index: Ivf, allowed: RowSet, limit: int, questions: Matrix = QUESTIONS) -> float:
    """The share of the true neighbours that is found. Nothing that is not allowed may be."""
    shares = []
    for question in questions:
        scores = VECTORS @ question
        scores[~allowed.mask] = -np.inf
        true = np.argsort(-scores, kind="stable")[:limit]
        found = index.nearest(question, limit, allowed)
        assert len(found) == len(set(found.tolist())) >= min(limit, allowed.count)
        assert allowed.mask[found].all()
        shares.append(len(np.intersect1d(true, found)) / limit)
    return float(np.mean(shares))


def assert_as_reported(index: Ivf, report: DenseReport) -> None:
    assert (report.kind, report.rows, report.queries) == ("ivf", ROWS, 200)
    assert report.recall_at_10 >= 0.97
    assert report.recall_at_100 >= 0.9
    assert 0 < report.probe_rows < ROWS / 2
    assert recall(index, EVERYTHING, 10) >= 0.97
    assert recall(index, EVERYTHING, 100) >= 0.93


@pytest.mark.parametrize("quantization", ["sq8", "none"])
def test_the_measured_recall_is_that_of_questions_nobody_sampled(tmp_path: Path, quantization: Quantization) -> None:
    index, report = built(tmp_path / "ivf.faiss", quantization=quantization)
    assert report.quantization == quantization
    assert_as_reported(index, report)


@pytest.mark.slow
def test_what_is_coarse_is_refined(coarse: tuple[Ivf, DenseReport]) -> None:
    """A byte for eight dimensions is too coarse to rank by, but not to choose candidates."""
    assert coarse[1].refine > 2
    assert_as_reported(*coarse)


Filtering = Callable[[np.random.Generator], np.ndarray]
FILTERS: dict[str, Filtering] = {
    "nearly all": lambda random: random.random(ROWS) < 0.97,
    "half": lambda random: random.random(ROWS) < 0.5,
    "few": lambda random: random.random(ROWS) < 0.1,
    "one topic": lambda random: np.equal(TOPIC, 0),
    "all but one topic": lambda random: np.not_equal(TOPIC, 0),
    "the rare topics": lambda random: np.greater(TOPIC, 40),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_costs_no_recall(stored: Ivf, name: str) -> None:
    """Filters that have nothing to do with the question, and those that have all."""
    allowed = RowSet(FILTERS[name](np.random.default_rng(7)))
    assert recall(stored, allowed, 10) >= 0.97
    assert recall(stored, allowed, 100) >= 0.93


@pytest.mark.parametrize("excluded", [0.25, 0.5, 0.75])
def test_it_looks_further_when_what_is_near_is_excluded(stored: Ivf, excluded: float) -> None:
    """The worst of filters: it leaves what is far away, where hundreds of rows are nearly as good as each other."""
    found = 0
    for question in QUESTIONS[:40]:
        order = np.argsort(-(VECTORS @ question))
        cut = int(ROWS * excluded)
        mask = np.ones(ROWS, bool)
        mask[order[:cut]] = False
        rows = stored.nearest(question, 10, RowSet(mask))
        assert mask[rows].all()
        found += len(np.intersect1d(rows, order[cut : cut + 10]))
    assert found >= 0.95 * 400


def test_more_than_is_looked_at_can_be_asked(stored: Ivf) -> None:
    assert recall(stored, EVERYTHING, 2000, QUESTIONS[:5]) >= 0.93
    assert len(stored.nearest(QUESTIONS[0], ROWS - 1, EVERYTHING)) >= ROWS - 1


def test_as_many_as_asked_are_found_however_little_is_looked_at(stored: Ivf) -> None:
    some = RowSet(np.random.default_rng(1).random(ROWS) < 0.3)
    for allowed in (EVERYTHING, some):
        assert all(len(stored.nearest(q, 300, allowed, Setting(1, 1.0))) >= 300 for q in QUESTIONS[:20])


def test_equal_vectors_are_all_found(tmp_path: Path) -> None:
    copies = np.concatenate([VECTORS[:9000], np.repeat(VECTORS[:1], 500, axis=0)])
    index, _ = built(tmp_path / "ivf.faiss", copies)
    same = {0, *range(9000, 9500)}
    assert same <= set(index.nearest(VECTORS[0], 10, RowSet(np.ones(9500, bool))).tolist())


def test_the_same_vectors_give_the_same_index(stored: Ivf, tmp_path: Path) -> None:
    first, second = (built(tmp_path / name) for name in ("a", "b"))
    assert first[1] == second[1]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for question in QUESTIONS:
        once = stored.nearest(question, 10, EVERYTHING).tolist()
        assert once == stored.nearest(question, 10, EVERYTHING).tolist()
        assert once == first[0].nearest(question, 10, EVERYTHING).tolist()


def test_many_threads_get_the_same(stored: Ivf) -> None:
    sets = [RowSet(np.random.default_rng(n).random(ROWS) < 0.15 * (n + 1)) for n in range(6)] + [EVERYTHING]

    def ask(number: int) -> list[int]:
        rows: list[int] = stored.nearest(QUESTIONS[number % 100], 10, sets[number % 7]).tolist()
        return rows

    expected = [ask(number) for number in range(100)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(100))) == expected


def test_a_set_that_is_gone_is_forgotten(stored: Ivf) -> None:
    before = len(stored._spreads)
    allowed = RowSet(np.random.default_rng(0).random(ROWS) < 0.5)
    stored.nearest(QUESTIONS[0], 10, allowed)
    assert len(stored._spreads) == before + 1
    del allowed
    assert len(stored._spreads) == before


def test_vectors_without_any_order_get_no_lists(tmp_path: Path) -> None:
    """Neighbours of noise lie everywhere: nothing short of looking at all rows finds them."""
    noise = unit(np.random.default_rng(4).standard_normal((4000, 128)))
    assert build_ivf(tmp_path / "ivf.faiss", noise, options=DenseOptions()) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_these_lists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ivf.faiss"
    _, report = built(path)
    with pytest.raises(ValueError, match=r"ivf\.faiss does not hold the lists of these vectors"):
        read_ivf(path, VECTORS[1:], report)
    faiss.write_index(faiss.IndexFlatIP(4), str(path))
    with pytest.raises(ValueError, match="does not hold"):
        read_ivf(path, VECTORS, report)
    path.write_bytes(b"not an index")
    with pytest.raises(ValueError, match="cannot read"):
        read_ivf(path, VECTORS, report)


def test_a_failure_to_write_is_a_storage_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    monkeypatch.setattr(durable, "reached", lambda step, path: steps.append((step, path.name)))
    built(tmp_path / "ivf.faiss")
    assert steps[:2] == [("write", "ivf.faiss"), ("sync", "ivf.faiss")]
    with pytest.raises(StorageFailed, match="lists of vectors could not be written"):
        build_ivf(tmp_path / "no folder" / "ivf.faiss", VECTORS, options=DenseOptions())


@pytest.mark.parametrize(("dimensions", "pieces"), [(384, 48), (30, 3), (7, 1), (25, 1)])
def test_product_quantization_fits_any_width(dimensions: int, pieces: int) -> None:
    index = ivf._empty(faiss.IndexFlatIP(dimensions), dimensions, 4, "pq")
    assert isinstance(index, faiss.IndexIVFPQ)
    assert pieces == index.pq.M


def test_a_selector_and_probing_agree(stored: Ivf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few allowed rows are multiplied as they are, many through the lists: the same are found."""
    allowed = RowSet(np.random.default_rng(5).random(ROWS) < 0.3)
    found: list[list[list[int]]] = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(ivf, "LISTED_SHARE", share)
        fresh = RowSet(allowed.mask.copy())
        found.append([sorted(stored.nearest(question, 10, fresh).tolist()) for question in QUESTIONS[:40]])
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*found, strict=True)])
    assert same >= 0.99
