"""Terms of rows, both ways, against dictionaries."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes import postings
from indexes.postings import Terms

ROWS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "", "d e", "\ud800"]), max_size=6), min_size=1, max_size=6)


@given(ROWS)
def test_both_ways_say_the_same(rows: list[list[str]]) -> None:
    terms = Terms.of(rows)
    assert len(terms) == len(rows)
    assert terms.lengths.tolist() == [len(row) for row in rows]
    assert [terms.row(number) for number in range(len(rows))] == [sorted(row) for row in rows]
    assert set(terms.vocabulary) == {term for row in rows for term in row}
    for term in [*terms.vocabulary, "unknown"]:
        held, counts = terms.posting(term)
        wanted = [(number, row.count(term)) for number, row in enumerate(rows) if term in row]
        assert list(zip(held.tolist(), counts.tolist(), strict=True)) == wanted


@given(ROWS, st.data())
def test_holders_count_rows_not_mentions(rows: list[list[str]], data: st.DataObject) -> None:
    terms = Terms.of(rows)
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), unique=True))
    counts = Counter(term for place in places for term in set(rows[place]))
    held = terms.holders(np.array(places, np.int64))
    assert dict(zip(terms.vocabulary, held.tolist(), strict=True)) == {term: counts[term] for term in terms.vocabulary}
    others = Counter(term for place, row in enumerate(rows) if place not in places for term in set(row))
    left = terms.holders_without(np.array(places, np.int64))
    assert dict(zip(terms.vocabulary, left.tolist(), strict=True)) == {term: others[term] for term in terms.vocabulary}


def test_rows_without_terms() -> None:
    terms = Terms.of([[], []])
    assert terms.row(0) == []
    assert terms.lengths.tolist() == [0, 0]
    assert terms.posting("a")[0].tolist() == []
    assert (len(terms.vocabulary), terms.total) == (0, 0)


def test_a_large_vocabulary_is_sorted_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "RUN", 7)
    words = [f"w{number * 37 % 100}" for number in range(100)]
    terms = Terms.of([[word] for word in words])
    assert list(terms.vocabulary) == sorted(set(words))
    assert [terms.row(row) for row in range(100)] == [[word] for word in words]


def test_a_term_is_looked_up_once() -> None:
    terms = Terms.of([["a", "b"], ["b"]])
    assert [terms.find(term) for term in ("a", "b", "c", "b")] == [0, 1, None, 1]
    assert terms.find.cache_info().hits == 1  # type: ignore[attr-defined]
