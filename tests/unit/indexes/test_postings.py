"""Terms of rows, both ways, against dictionaries."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from indexes.postings import Terms

ROWS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "", "d e", "\ud800"]), max_size=6), min_size=1, max_size=6)


@given(ROWS)
def test_both_ways_say_the_same(rows: list[list[str]]) -> None:
    terms = Terms.of(rows)
    terms.prepare()
    assert len(terms) == len(rows)
    assert terms.lengths.tolist() == [len(row) for row in rows]
    assert [terms.row(number) for number in range(len(rows))] == [sorted(row) for row in rows]
    assert set(terms.vocabulary) == {term for row in rows for term in row}
    for term in [*terms.vocabulary, "unknown"]:
        held, counts = terms.posting(term)
        wanted = [(number, row.count(term)) for number, row in enumerate(rows) if term in row]
        assert list(zip(held.tolist(), counts.tolist(), strict=True)) == wanted


@given(st.lists(st.tuples(ROWS, st.data()), min_size=1, max_size=3))
def test_joining_keeps_the_chosen_rows_only(parts: list[tuple[list[list[str]], st.DataObject]]) -> None:
    chosen, wanted = [], []
    for rows, data in parts:
        places = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4, unique=True))
        chosen.append((Terms.of(rows), np.array(places)))
        wanted += [sorted(rows[place]) for place in places]
    joined = Terms.join(chosen)
    assert [joined.row(number) for number in range(len(joined))] == wanted
    assert sorted(joined.vocabulary) == sorted({term for row in wanted for term in row})


@given(ROWS, st.data())
def test_holders_count_rows_not_mentions(rows: list[list[str]], data: st.DataObject) -> None:
    terms = Terms.of(rows)
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), unique=True))
    counts = Counter(term for place in places for term in set(rows[place]))
    held = terms.holders(np.array(places, np.int64))
    assert dict(zip(terms.vocabulary, held.tolist(), strict=True)) == {term: counts[term] for term in terms.vocabulary}


def test_rows_without_terms() -> None:
    terms = Terms.of([[], []])
    terms.prepare()
    assert terms.row(0) == []
    assert terms.lengths.tolist() == [0, 0]
    assert terms.posting("a")[0].tolist() == []
    assert len(Terms.join([(terms, np.array([1]))])) == 1
