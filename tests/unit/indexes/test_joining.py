"""Rows of several pieces written as one: the same as if they had been one from the beginning, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexes import durable, joining
from indexes.columns import Columns, ColumnWriter, TextTable, map_columns
from indexes.errors import SegmentDamaged
from indexes.joining import Joining, Part, read_terms, write_rows
from indexes.postings import Terms
from indexes.segment import read_segment, write_segment

WORDS = st.lists(st.sampled_from(["a", "b", "c", "", "d e", "\ud800", "z"]), max_size=6)
PARTS = st.lists(st.lists(st.tuples(WORDS, st.booleans()), min_size=1, max_size=6), min_size=1, max_size=4)


def part(rows: list[list[str]], taken: list[int], name: str = "c") -> Part:
    vectors = np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2) + 100 * ord(name[-1])
    ids = TextTable.of(f"{name}{row}" for row in range(len(rows)))
    chosen = np.array(taken, np.int64)
    return Part(chosen, chosen.astype(np.int32) * 3, ids, Terms.of(rows), vectors)


def written(path: Path, joined: Joining) -> Columns:
    with durable.stream(path) as file:
        writer = ColumnWriter(file)
        write_rows(writer, joined)
        writer.finish()
    return map_columns(path)


def joined_of(parts: list[Part]) -> Joining:
    rows = sum(len(one.rows) for one in parts)
    return Joining(tuple(parts), ("v0", "v1"), np.arange(rows, dtype=np.int32) * 2 // max(rows, 1), 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PARTS, st.sampled_from([(1, 1), (2, 3), (16_384, 1 << 20)]))
def test_joined_as_if_they_had_been_one(
    tmp_path: Path, parts: list[list[tuple[list[str], bool]]], blocks: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "BLOCK_ROWS", blocks[0])
        patch.setattr(joining, "BLOCK_PLACES", blocks[1])
        chosen = [
            part([words for words, _ in rows], [row for row, (_, taken) in enumerate(rows) if taken], f"p{place}")
            for place, rows in enumerate(parts)
            if any(taken for _, taken in rows)
        ]
        if not chosen:
            return
        joined = joined_of(chosen)
        columns = written(tmp_path / "rows", joined)
        vectors = np.concatenate(list(joined.vectors()))
    wanted = Terms.of([words for rows in parts for words, taken in rows if taken])
    found = read_terms(columns)
    assert list(found.vocabulary) == list(wanted.vocabulary)  # no trace of a row that was left behind
    for name in ("lengths", "offsets", "starts", "rows", "row_counts"):
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist(), name
    assert [found.row(row) for row in range(len(found))] == [wanted.row(row) for row in range(len(wanted))]
    places = [(one, row) for one in chosen for row in one.rows.tolist()]
    assert list(columns.texts("chunks")) == [one.chunk_ids[row] for one, row in places]
    assert columns.array("ordinal").tolist() == [3 * row for _, row in places]
    assert columns.array("version").tolist() == joined.version.tolist()
    assert list(columns.texts("versions")) == ["v0", "v1"]
    assert vectors.tolist() == [one.vectors[row].tolist() for one, row in places]


def test_blocks_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "BLOCK_ROWS", 4)
    monkeypatch.setattr(joining, "BLOCK_PLACES", 5)
    one = part([["a", "b"]] * 30, list(range(0, 30, 2)))
    assert [len(block) for block in joined_of([one, one]).vectors()] == [4, 4, 4, 3] * 2
    assert all(len(np.arange(60)[places]) <= 5 for places in joining._blocks(one))


def test_terms_that_do_not_fit_together_are_damaged(tmp_path: Path) -> None:
    with durable.stream(tmp_path / "rows") as file:
        writer = ColumnWriter(file)
        write_rows(writer, joined_of([part([["a"], ["b"]], [0, 1])]))
        writer.add("ids", [np.arange(7)], np.dtype(np.uint8))
        writer.finish()
    with pytest.raises(SegmentDamaged, match="fit together"):
        read_terms(map_columns(tmp_path / "rows"))


@pytest.mark.slow
def test_joining_holds_neither_vectors_nor_terms(tmp_path: Path) -> None:
    """Four segments of 4,000 rows, 256 dimensions, 30 terms each: 16 MB of vectors, 4 MB for one number per term.

    tracemalloc counts what numpy and Python take, not what is mapped.
    """
    random = np.random.default_rng(1)
    rows, dimensions = 4_000, 256
    segments = []
    for number in range(4):
        words = random.integers(0, 2_000, (rows, 30))
        terms = Terms.of([[f"w{word}" for word in row] for row in words.tolist()])
        ids = TextTable.of(f"chunk{number}.{row}" for row in range(rows))
        vectors = random.standard_normal((rows, dimensions)).astype(np.float32)
        every = Part(np.arange(rows), np.zeros(rows, np.int32), ids, terms, vectors)
        folder = tmp_path / f"seg_{number}"
        alone = Joining((every,), ("v",), np.zeros(rows, np.int32), dimensions)
        stamp = write_segment(folder, alone, generation_id="g")
        segments.append(read_segment(folder, stamp, generation_id="g"))
    del terms, vectors, every, alone, words
    chosen = np.flatnonzero(random.random(rows) < 0.9)
    parts = tuple(
        Part(chosen, one.contents.ordinal[chosen], one.contents.chunk_ids, one.contents.terms, one.dense.vectors)
        for one in segments
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "BLOCK_ROWS", 1_024)
        patch.setattr(joining, "BLOCK_PLACES", 1 << 16)
        patch.setattr("indexes.lexical.BLOCK_ROWS", 1_024)
        tracemalloc.start()
        try:
            version = np.zeros(4 * len(chosen), np.int32)
            stamp = write_segment(tmp_path / "all", Joining(parts, ("v",), version, dimensions), generation_id="g")
            segment = read_segment(tmp_path / "all", stamp, generation_id="g")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(segment.dense) == 4 * len(chosen)
    assert peak < 4e6
