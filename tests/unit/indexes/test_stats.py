"""BM25 against rank-bm25 and against the formula written out, for all rows and for chosen ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from indexes.postings import Terms
from indexes.stats import K1, B, Weights, best, idf, score_all, score_rows, weigh


def zipf_rows(rows: int, seed: int, words: int = 200) -> list[list[str]]:
    random = np.random.default_rng(seed)
    law = 1 / np.arange(1, words + 1)
    return [
        [f"w{n}" for n in random.choice(words, size=random.integers(3, 40), p=law / law.sum())] for _ in range(rows)
    ]


def weights_of(terms: Terms, query: list[str]) -> Weights:
    return weigh(query, rows=len(terms), length=int(terms.lengths.sum()), df=lambda term: len(terms.posting(term)[0]))


class SmoothedOkapi(BM25Okapi):
    """rank-bm25 with the idf that is never negative."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        self.idf = {word: math.log(1 + (self.corpus_size - df + 0.5) / (df + 0.5)) for word, df in nd.items()}


def test_scores_are_those_of_rank_bm25() -> None:
    rows = zipf_rows(400, seed=1)
    terms, oracle = Terms.of(rows), SmoothedOkapi(rows, k1=K1, b=B)
    for query in zipf_rows(25, seed=2):
        assert score_all(terms, weights_of(terms, query)) == pytest.approx(oracle.get_scores(query), abs=1e-9)


def test_ranks_overlap_with_rank_bm25_as_it_comes() -> None:
    """Its own idf turns negative for words of every second row and is replaced then: ask the rarer ones."""
    rows = zipf_rows(1000, seed=3, words=2000)
    terms, oracle = Terms.of(rows), BM25Okapi(rows, k1=K1, b=B)
    overlaps = []
    for words in zipf_rows(40, seed=4, words=2000):
        query = [word for word in words if len(terms.posting(word)[0]) < len(rows) / 10]
        mine = np.argsort(-score_all(terms, weights_of(terms, query)), kind="stable")[:20]
        theirs = np.argsort(-oracle.get_scores(query), kind="stable")[:20]
        overlaps.append(len(set(mine.tolist()) & set(theirs.tolist())) / 20)
    assert float(np.mean(overlaps)) >= 0.95


@given(st.lists(st.lists(st.sampled_from("abcd")), min_size=1, max_size=8), st.lists(st.sampled_from("abcde")))
def test_chosen_rows_score_bit_for_bit_as_in_all(rows: list[list[str]], query: list[str]) -> None:
    terms = Terms.of(rows)
    weights = weights_of(terms, query)
    scores = score_all(terms, weights)
    chosen = np.arange(len(rows))[::-2].astype(np.int64)
    assert score_rows(terms, weights, chosen).tolist() == scores[chosen].tolist()
    for row, score in zip(rows, scores.tolist(), strict=True):
        assert (score > 0) == bool(set(row) & set(query))


def test_a_term_asked_twice_counts_twice() -> None:
    terms = Terms.of([["a", "b"], ["b"], ["c"]])
    once, twice = weights_of(terms, ["a", "b"]), weights_of(terms, ["a", "b", "a"])
    assert dict(twice.terms) == {"a": 2 * dict(once.terms)["a"], "b": dict(once.terms)["b"]}
    assert [term for term, _ in twice.terms] == ["a", "b"]


@given(st.integers(0, 10**6), st.data())
def test_idf_is_positive_and_falls_with_frequency(rows: int, data: st.DataObject) -> None:
    df = data.draw(st.integers(0, rows))
    assert idf(rows, df) > 0
    assert df == 0 or idf(rows, df) < idf(rows, df - 1)


def test_nothing_open_is_no_division_by_nothing() -> None:
    assert weigh(["a"], rows=0, length=0, df=lambda _: 0).average_length == 1.0
    assert weigh(["a"], rows=3, length=0, df=lambda _: 0).average_length == 1.0


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=12), st.integers(1, 5))
def test_best_keeps_all_ties_at_the_cut(scores: list[float], limit: int) -> None:
    found = {scores[place] for place in best(np.array(scores), limit)}
    ranked = sorted(scores, reverse=True)
    wanted = {score for score in scores if len(scores) <= limit or score >= ranked[limit - 1]}
    assert found == wanted
    assert len(best(np.array(scores), limit)) == sum(score in wanted for score in scores)


def test_best_with_slack_takes_near_ties_too() -> None:
    scores = np.array([0.5, 0.9, 0.8999, 0.8, 0.1])
    assert best(scores, 1).tolist() == [1]
    assert best(scores, 1, slack=0.001).tolist() == [1, 2]
