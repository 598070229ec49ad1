"""The fingerprint of a row: equal for equal rows, different for any difference."""

from __future__ import annotations

import dataclasses

import numpy as np

from indexes.model import Chunk, Closing
from indexes.rowhash import hash_of, row_hash, times_of
from tests.contracts.engine_oracle import chunk, put

VERSION = put("v", start=3, end=9, seq=4, closed=7)


def digest(row: Chunk, **times: object) -> str:
    return row_hash(row, dataclasses.replace(VERSION, **times))  # type: ignore[arg-type]


def test_order_and_place_of_terms_do_not_count_but_repeats_do() -> None:
    row = chunk("v", 0, "b a b")
    assert digest(row) == digest(dataclasses.replace(row, terms=("b", "b", "a")))
    assert digest(row) == hash_of(["a", "b", "b"], row.vector, times_of(VERSION))
    for terms in (("a", "b"), ("ab", "b"), ("a", "b b"), ("a", "b", "b", "")):
        assert digest(row) != digest(dataclasses.replace(row, terms=terms))


def test_every_bit_of_the_vector_counts() -> None:
    row = chunk("v", 0, "a")
    for place in range(len(row.vector)):
        vector = row.vector.copy()
        vector[place] = np.nextafter(vector[place], np.float32(2))
        assert digest(row) != digest(dataclasses.replace(row, vector=vector))


def test_the_layout_of_the_vector_does_not_count() -> None:
    row = chunk("v", 0, "a")
    doubled = np.repeat(row.vector, 2)[::2]
    assert digest(row) == digest(dataclasses.replace(row, vector=doubled))
    assert digest(row) == digest(dataclasses.replace(row, vector=row.vector.astype(">f4")))


def test_every_time_of_the_version_counts() -> None:
    row = chunk("v", 0, "a")
    others: list[dict[str, object]] = [
        {"valid_from": 2},
        {"valid_to": 8},
        {"recorded_seq": 3},
        {"closed_seq": 8},
        {"earlier": (Closing(5, 20),)},
        {"earlier": (Closing(5, 21),)},
        {"earlier": (Closing(6, 20),)},
    ]
    assert len({digest(row), *(digest(row, **other) for other in others)}) == len(others) + 1


def test_it_is_stable() -> None:
    row = dataclasses.replace(chunk("v", 0, "a"), terms=("é", "\ud800"), vector=np.array([1.0, -0.0], np.float32))
    assert digest(row) == "7788a9f60e1cd3dc19ad15ed68c6e05559bf464e5d3883331351cc5a7d3423a5"
