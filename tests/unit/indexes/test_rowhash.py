"""The fingerprint of a row: equal for equal rows, different for any difference."""

from __future__ import annotations

import dataclasses

import numpy as np

from indexes.rowhash import hash_of, row_hash
from tests.contracts.engine_oracle import chunk


def test_order_and_place_of_terms_do_not_count_but_repeats_do() -> None:
    row = chunk("v", 0, "b a b")
    assert row_hash(row) == row_hash(dataclasses.replace(row, terms=("b", "b", "a")))
    assert row_hash(row) == hash_of(["a", "b", "b"], row.vector)
    for terms in (("a", "b"), ("ab", "b"), ("a", "b b"), ("a", "b", "b", "")):
        assert row_hash(row) != row_hash(dataclasses.replace(row, terms=terms))


def test_every_bit_of_the_vector_counts() -> None:
    row = chunk("v", 0, "a")
    for place in range(len(row.vector)):
        vector = row.vector.copy()
        vector[place] = np.nextafter(vector[place], np.float32(2))
        assert row_hash(row) != row_hash(dataclasses.replace(row, vector=vector))


def test_the_layout_of_the_vector_does_not_count() -> None:
    row = chunk("v", 0, "a")
    doubled = np.repeat(row.vector, 2)[::2]
    assert row_hash(row) == row_hash(dataclasses.replace(row, vector=doubled))
    assert row_hash(row) == row_hash(dataclasses.replace(row, vector=row.vector.astype(">f4")))


def test_it_is_stable() -> None:
    row = dataclasses.replace(chunk("v", 0, "a"), terms=("é", "\ud800"), vector=np.array([1.0, -0.0], np.float32))
    assert row_hash(row) == "3e2b5ab65a5cd3bc70b3554fe093bbb81ad72b083c3ca07b433e34edea8e864f"
