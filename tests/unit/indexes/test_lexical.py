"""tantivy's candidates give the same rows as scoring everything, and only those that are proven are taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from indexes import lexical
from indexes.allowed import RowSet
from indexes.errors import SegmentDamaged, StorageFailed
from indexes.lexical import LexicalIndex, lexical_top, read_lexical, write_lexical
from indexes.postings import Terms
from indexes.stats import Posting, Weights, score_all, weigh

ROWS, WORDS = 3000, 300


@dataclass(frozen=True)
class Source:
    """Rows with or without a tantivy index."""

    terms: Terms
    lexical: LexicalIndex | None

    @property
    def lengths(self) -> np.ndarray:
        return self.terms.lengths

    def posting(self, term: str) -> Posting:
        return self.terms.posting(term)


def zipf(random: np.random.Generator, count: int) -> list[str]:
    law = 1 / np.arange(1, WORDS + 1)
    return [f"w{number}" for number in random.choice(WORDS, size=count, p=law / law.sum())]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    random = np.random.default_rng(1)
    terms = Terms.of([zipf(random, int(random.integers(1, 200))) for _ in range(ROWS)])
    folder = tmp_path_factory.mktemp("lexical")
    write_lexical(folder, terms)
    return Source(terms, read_lexical(folder, terms))


def weights_of(terms: Terms, query: list[str], *, longer: float = 1.0, rarer: int = 1) -> Weights:
    """Weights as the whole generation may have them: other lengths, other frequencies than this segment."""
    return weigh(
        query,
        rows=len(terms),
        length=int(longer * terms.lengths.sum()),
        df=lambda term: len(terms.posting(term)[0]) // rarer,
    )


def best_by_looking(source: Source, weights: Weights, limit: int, mask: np.ndarray) -> set[int]:
    scores = np.where(mask, score_all(source, weights), 0.0)
    ranked = sorted((score for score in scores.tolist() if score > 0), reverse=True)
    cut = ranked[min(limit, len(ranked)) - 1] if ranked else 1.0
    return set(np.flatnonzero((scores > 0) & (scores >= cut)).tolist())


@pytest.mark.parametrize("exact_postings", [0, 10**9])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05, 0.002])
def test_every_path_finds_the_best_rows(
    source: Source, monkeypatch: pytest.MonkeyPatch, exact_postings: int, share: float
) -> None:
    monkeypatch.setattr(lexical, "EXACT_POSTINGS", exact_postings)
    random = np.random.default_rng(2)
    for number in range(20):
        query = [*zipf(random, number % 6 + 1), "unknown"]
        weights = weights_of(source.terms, query, longer=random.choice([0.5, 1.0, 3.0]), rarer=int(number % 3 + 1))
        mask = random.random(ROWS) < share
        for limit in (1, 10, 100):
            wanted = best_by_looking(source, weights, limit, mask)
            assert set(lexical_top(source, weights, limit, RowSet(mask))[0].tolist()) == wanted


def test_tantivy_is_really_asked_and_mostly_proven(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "EXACT_POSTINGS", 0)
    proven = []
    original = lexical._proven
    monkeypatch.setattr(lexical, "_proven", lambda *args: proven.append(original(*args)) or proven[-1])
    random = np.random.default_rng(3)
    for _ in range(30):
        lexical_top(source, weights_of(source.terms, zipf(random, 5)), 20, RowSet(np.ones(ROWS, bool)))
    assert len(proven) == 30
    assert sum(rows is not None for rows in proven) >= 24


def test_the_bound_holds_for_every_row_left_out(source: Source) -> None:
    assert source.lexical is not None
    random = np.random.default_rng(4)
    for longer in (0.3, 1.0, 1.5, 4.0):
        for count in (1, 10, 100):
            weights = weights_of(source.terms, zipf(random, 4), longer=longer)
            rows, bound = source.lexical.candidates(weights, count)
            scores = score_all(source, weights)
            scores[rows] = 0.0
            assert scores.max() <= bound or bound == 0.0
            assert len(rows) <= count


def test_tantivy_scores_short_rows_as_we_do(tmp_path: Path) -> None:
    """Up to 40 terms it does not round lengths, so with the segment's own statistics the scores are equal."""
    random = np.random.default_rng(5)
    terms = Terms.of([zipf(random, int(random.integers(1, 40))) for _ in range(200)])
    write_lexical(tmp_path, terms)
    index = read_lexical(tmp_path, terms)
    assert len(index) == 200
    for _ in range(20):
        weights = weights_of(terms, zipf(random, 3))
        exact = np.sort(score_all(terms, weights))[::-1]
        for count in (1, 5, 20):
            rows, bound = index.candidates(weights, count)
            assert bound == pytest.approx(exact[count - 1] * 1.0001, rel=1e-5)
            assert len(rows) == count


def test_rows_are_found_by_their_number_whatever_the_terms_hold(tmp_path: Path) -> None:
    strange = ["a b", "\n", "", "x" * 70_000, "(" * 10_000, "\ud800", "terms:1", "0", "1 2"]
    terms = Terms.of([[term] for term in strange])
    write_lexical(tmp_path, terms)
    index = read_lexical(tmp_path, terms)
    for row, term in enumerate(strange):
        assert index.candidates(weights_of(terms, [term]), 5)[0].tolist() == [row]
    assert index.candidates(weights_of(terms, ["unknown"]), 5)[0].tolist() == []


def test_one_tantivy_segment_per_segment(tmp_path: Path) -> None:
    terms = Terms.of([["a"]] * 5000)
    write_lexical(tmp_path, terms)
    assert len(list(tmp_path.glob("*.idx"))) == 1


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        write_lexical(tmp_path / "missing", Terms.of([["a"]]))


def test_a_folder_that_holds_no_index_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(SegmentDamaged, match=tmp_path.parent.name):
        read_lexical(tmp_path, Terms.of([["a"]]))
