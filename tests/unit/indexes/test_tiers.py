"""Which segments are rewritten, seen through a writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexes import tiers
from indexes.embedded import EmbeddedEngine
from indexes.model import Drop
from indexes.tiers import worth_merging
from indexes.writer import EmbeddedWriter
from tests.contracts.engine_oracle import GENERATION, put


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedWriter:
    monkeypatch.setattr(tiers, "SMALLEST_TIER", 10)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return EmbeddedEngine(tmp_path).open(GENERATION, writable=True)


def add(writer: EmbeddedWriter, rows: int) -> None:
    seq = writer.seq + 1
    writer.apply([put(f"d{seq}@{n}", "word") for n in range(rows)], seq=seq)
    writer.publish()


def chosen(writer: EmbeddedWriter) -> list[int]:
    return sorted(piece.count for piece in worth_merging(writer.state.sealed, writer.state.versions))


def sizes(writer: EmbeddedWriter) -> list[int]:
    return sorted(piece.count for piece in writer.state.sealed)


def test_four_of_a_size_are_joined(writer: EmbeddedWriter) -> None:
    for rows in (3, 5, 9):
        add(writer, rows)
    assert chosen(writer) == []
    add(writer, 60)
    assert chosen(writer) == []
    add(writer, 1)
    assert chosen(writer) == [1, 3, 5, 9]
    assert writer.merge()
    assert sizes(writer) == [18, 60]
    assert not writer.merge()


def test_tiers_grow_by_four(writer: EmbeddedWriter) -> None:
    for rows in (10, 39, 40, 160):
        add(writer, rows)
    assert chosen(writer) == []
    add(writer, 20)
    add(writer, 30)
    assert chosen(writer) == [10, 20, 30, 39]


def test_a_mostly_dead_segment_is_rewritten_alone(writer: EmbeddedWriter) -> None:
    add(writer, 10)
    add(writer, 50)
    writer.apply([put(f"d1@{n}", "new") for n in range(3)], seq=3)
    assert chosen(writer) == []
    writer.apply([put("d1@3", "new")], seq=4)
    assert chosen(writer) == [10]
    assert writer.merge()
    assert sizes(writer) == [4, 6, 50]  # what is in memory does not wait for it, nor take part
    assert not writer.merge()


def test_the_smallest_work_comes_first(writer: EmbeddedWriter) -> None:
    for rows in (50, 60, 70, 80, 11):
        add(writer, rows)
    writer.apply([Drop("d5@0")], seq=6)
    for rows in (1, 2, 3, 1):
        add(writer, rows)
    todo = []
    while work := chosen(writer):
        todo.append(work)
        assert writer.merge()
    assert todo == [[1, 1, 2, 3], [11], [50, 60, 70, 80]]


def test_no_segment_becomes_too_large(writer: EmbeddedWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "LARGEST", 100)
    for rows in (45, 40, 42, 50):
        add(writer, rows)
    assert chosen(writer) == [40, 42]
    assert writer.merge()
    assert sizes(writer) == [45, 50, 82]
    add(writer, 60)
    add(writer, 70)
    while chosen(writer):
        writer.merge()
    assert max(sizes(writer)) <= 100
    assert sum(sizes(writer)) == 307


def test_one_erased_row_is_enough(writer: EmbeddedWriter) -> None:
    add(writer, 50)
    writer.apply([Drop("d1@7")], seq=2)
    assert chosen(writer) == [50]
    assert writer.merge()
    assert sizes(writer) == [49]


def test_a_segment_without_live_rows_disappears(writer: EmbeddedWriter) -> None:
    add(writer, 2)
    writer.apply([Drop("d1@0"), Drop("d1@1")], seq=2)
    assert writer.publish().segments == 0
    assert writer.state.sealed == ()
    assert not writer.merge()


def test_every_row_is_rewritten_a_few_times_only(writer: EmbeddedWriter) -> None:
    written = 0
    for _ in range(40):
        add(writer, 2)
        written += 2
        while (work := chosen(writer)) and writer.merge():
            written += sum(work)
    assert sum(sizes(writer)) == 80
    assert len(sizes(writer)) < 12
    assert written <= 80 * 5
