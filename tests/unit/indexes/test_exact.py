"""Exact search over vectors: the dense leg of the oracle, under the same access, filters, validity and replay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from indexes.errors import DimensionMismatch, QueryInvalid
from indexes.exact import ExactIndex
from indexes.model import Allowed, Close, Describe, Drop, Filter, Op, Query
from tests.contracts.engine_oracle import GENERATION, Oracle, ask, assert_answers, public, put, unit

HISTORY: list[list[Op]] = [
    [
        *[put(f"d{n}@1", "red fox", "blue whale", f"w{n}", start=n) for n in range(40)],
        *[public(f"d{n}", lang="en" if n % 3 else "de") for n in range(0, 40, 2)],
        *[Describe(f"d{n}", frozenset({"user:ann"}), {"lang": "en"}) for n in range(1, 40, 2)],
    ],
    [put("d1@2", "green dog", seq=2, start=50), Close("d1@1", 50, 2), Drop("d2@1")],
    [Describe("d3", frozenset({"user:bob"}), {}), Close("d4@1", 60, 3)],
]
QUERIES = [
    ask(vector=unit(1)),
    ask(vector=unit(2), allowed=Allowed.of("user:ann"), limit=7),
    ask(vector=unit(3), allowed=Allowed.of("user:bob"), at=55),
    ask(vector=unit(4), where=Filter("eq", "lang", "de"), limit=50),
    ask(vector=unit(5), at=20),
    ask(vector=unit(6), at=99, at_seq=1, limit=200),
    ask("red fox", unit(7), limit=200),
]


def oracle_at(seq: int) -> Oracle:
    oracle = Oracle()
    for ops in HISTORY[:seq]:
        oracle.apply(ops)
    return oracle


def bare(query: Query) -> Query:
    return replace(query, terms=())


@pytest.mark.parametrize("loaded", [1, 2, 3])
def test_answers_are_those_of_the_dense_leg(loaded: int) -> None:
    """Loaded at an entry and following from there, it is always where the log is."""
    index = ExactIndex(GENERATION, HISTORY[:loaded], seq=loaded)
    for seq in range(loaded, len(HISTORY) + 1):
        index.apply(HISTORY[seq - 1], seq=seq)
        assert index.seq == index.pin().snapshot.seq == seq
        for query in QUERIES:
            assert_answers(index.pin().search(query), bare(query), oracle_at(seq))


def test_a_pinned_state_does_not_move_and_a_batch_counts_once() -> None:
    index = ExactIndex(GENERATION, HISTORY[:1], seq=1)
    pinned = index.pin()
    index.apply(HISTORY[1], seq=2)
    index.apply([Drop(f"d{n}@1") for n in range(40)], seq=2)
    assert_answers(pinned.search(QUERIES[0]), QUERIES[0], oracle_at(1))
    assert_answers(index.pin().search(QUERIES[0]), QUERIES[0], oracle_at(2))


def test_words_are_not_searched_nor_counted() -> None:
    searcher = ExactIndex(GENERATION, HISTORY, seq=3).pin()
    with pytest.raises(QueryInvalid):
        searcher.search(ask("red fox"))
    counted = searcher.statistics(["red", "fox"])
    assert (counted.chunks, counted.length, counted.df) == (0, 0, {"red": 0, "fox": 0})
    assert searcher.describe()[0].segment == "memory"
    assert {one.document_id for one in searcher.documents()} == {f"d{n}" for n in range(40)} - {"d2"}
    assert len(list(searcher.scan())) == sum(len(v.chunks) for v in oracle_at(3).versions.values())


def test_vectors_that_cannot_be_searched_are_refused() -> None:
    wrong = put("x@1", "red")
    chunk = replace(wrong.chunks[0], vector=unit(1, dimensions=3))
    with pytest.raises(DimensionMismatch):
        ExactIndex(GENERATION, [[replace(wrong, chunks=(chunk,))]], seq=1)
