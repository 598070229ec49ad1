"""Both legs together over sealed segments and memory at a size where FAISS and tantivy are really used."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexes import hybrid, lexical
from indexes.embedded import EmbeddedEngine
from indexes.fusion import convex
from indexes.hybrid import HybridSearcher
from indexes.model import Allowed, Close, Describe, Drop, Filter, Generation, Op, Query
from tests.contracts.engine_oracle import Oracle, assert_answers, chunk, put, unit

DIMENSIONS, DOCUMENTS, CHUNKS = 24, 120, 10
GENERATION = Generation("gen_large", "col", "embedder", DIMENSIONS, "chunker", "analyzer")


@pytest.fixture(autouse=True)
def every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """tantivy from the first rows on."""
    monkeypatch.setattr(lexical, "EXACT_POSTINGS", 50)


def words(random: np.random.Generator) -> str:
    return " ".join(f"w{n}" for n in random.zipf(1.3, int(random.integers(2, 60))) if n < 400)


def batches() -> list[list[Op]]:
    random = np.random.default_rng(11)
    made: list[list[Op]] = []
    for number in range(DOCUMENTS):
        version = f"d{number}@1"
        texts = [words(random) for _ in range(CHUNKS)]
        rows = tuple(chunk(version, n, text, unit(1000 * number + n, DIMENSIONS)) for n, text in enumerate(texts))
        access = frozenset({"staff"} if number % 3 else {"public", "staff"})
        ops: list[Op] = [
            dataclasses.replace(put(version, start=number % 7), chunks=rows, recorded_seq=number + 1),
            Describe(f"d{number}", access, {"group": number % 5, "tags": (f"t{number % 2}", "all")}),
        ]
        if number % 4 == 3:
            ops.append(Close(f"d{number - 2}@1", 50 + number, number + 1))
        if number % 25 == 24:
            ops.append(Drop(f"d{number - 10}@1"))
        made.append(ops)
    return made


def queries(count: int) -> list[Query]:
    random = np.random.default_rng(12)
    wheres = [None, None, Filter("eq", "group", 2), Filter("eq", "tags", "t1"), Filter("gte", "group", 5)]
    allowed = [Allowed.everything(), Allowed.of("staff"), Allowed.of("guest")]
    return [
        Query(
            allowed=allowed[n % 3],
            at=int(random.integers(0, 200)),
            limit=int(random.choice([1, 5, 40])),
            vector=unit(n, DIMENSIONS) if n % 4 != 1 else None,
            terms=tuple(words(random).split()[:6]) if n % 4 != 2 else (),
            filter=wheres[n % 5],
            at_seq=None if n % 3 else int(random.integers(1, DOCUMENTS)),
        )
        for n in range(count)
        if n % 4 != 3 or n
    ]


def usable(query: Query) -> bool:
    return query.vector is not None or bool(query.terms)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddedEngine, Oracle]:
    """Three segments and some rows in memory."""
    engine, oracle = EmbeddedEngine(tmp_path_factory.mktemp("large")), Oracle()
    writer = engine.open(GENERATION, writable=True)
    for seq, batch in enumerate(batches(), 1):
        writer.apply(batch, seq=seq)
        oracle.apply(batch)
        if seq in (60, 80, 100):
            writer.publish()
    assert len(writer.state.sealed) == 3
    assert writer.state.memory.count == 200
    return engine, oracle


def test_it_answers_like_the_oracle(filled: tuple[EmbeddedEngine, Oracle]) -> None:
    engine, oracle = filled
    searcher = engine.pin(GENERATION.id)
    for query in filter(usable, queries(30)):
        assert_answers(searcher.search(query), query, oracle)


def test_it_answers_the_same_from_many_threads(filled: tuple[EmbeddedEngine, Oracle]) -> None:
    searcher = filled[0].pin(GENERATION.id)
    asked = list(filter(usable, queries(40)))
    expected = [searcher.search(query) for query in asked]
    fresh = filled[0].pin(GENERATION.id)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(fresh.search, asked)) == expected


@pytest.mark.parametrize("publishes", [(), (120,), tuple(range(17, 121, 17))])
def test_spreading_rows_differently_changes_no_bit(
    filled: tuple[EmbeddedEngine, Oracle], tmp_path: Path, publishes: tuple[int, ...]
) -> None:
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    for seq, batch in enumerate(batches(), 1):
        writer.apply(batch, seq=seq)
        if seq in publishes:
            writer.publish()
    assert len(writer.state.sealed) == len(publishes)
    mine, other = engine.pin(GENERATION.id), filled[0].pin(GENERATION.id)
    for query in filter(usable, queries(40)):
        assert convex(mine.search(query)) == convex(other.search(query))
    assert sorted(mine.scan()) == sorted(other.scan())
    while writer.merge():
        pass
    merged = engine.pin(GENERATION.id)
    for query in filter(usable, queries(40)):
        assert merged.search(query) == mine.search(query)
    engine.close()


def test_every_part_is_described(filled: tuple[EmbeddedEngine, Oracle]) -> None:
    searcher = filled[0].pin(GENERATION.id)
    parts = searcher.describe()
    assert [part.segment for part in parts][-1] == "memory"
    assert [part.rows for part in parts] == [580, 190, 190, 200]
    assert sum(part.live for part in parts) == searcher.snapshot.chunks < 1200
    assert {part.dense.kind for part in parts} == {"flat"}
    assert all(part.size > part.rows * DIMENSIONS * 4 for part in parts[:-1])


def test_a_strict_filter_still_fills_the_limit(filled: tuple[EmbeddedEngine, Oracle]) -> None:
    engine, oracle = filled
    query = Query(Allowed.everything(), 10, 5, unit(3, DIMENSIONS), ("w1",), Filter("eq", "group", 4))
    hits = engine.pin(GENERATION.id).search(query)
    assert len([hit for hit in hits if hit.dense is not None and hit.dense.rank is not None]) == 5
    assert len([hit for hit in hits if hit.lexical is not None and hit.lexical.rank is not None]) == 5
    assert_answers(hits, query, oracle)


def test_more_than_there_is_gives_all(filled: tuple[EmbeddedEngine, Oracle]) -> None:
    engine, oracle = filled
    query = Query(Allowed.everything(), 10, 10_000, unit(3, DIMENSIONS), ("w1", "w2"))
    hits = engine.pin(GENERATION.id).search(query)
    assert {hit.chunk_id for hit in hits} == {row.id for row in oracle.visible(query)}
    assert_answers(hits, query, oracle)
    assert hits[0].dense is not None
    assert (
        hits[0].chunk_id
        == min(
            (h for h in hits if 1 in (h.dense and h.dense.rank, h.lexical and h.lexical.rank)),
            key=lambda h: h.chunk_id,
        ).chunk_id
    )


def test_two_generations_score_as_one_when_they_share_their_statistics(tmp_path: Path) -> None:
    together, apart = EmbeddedEngine(tmp_path / "one"), EmbeddedEngine(tmp_path / "two")
    halves = [dataclasses.replace(GENERATION, id=f"gen_{n}") for n in range(2)]
    whole = together.open(GENERATION, writable=True)
    writers = [apart.open(half, writable=True) for half in halves]
    for seq, ops in enumerate(batches(), 1):
        whole.apply(ops, seq=seq)
        closing = [op for op in ops if isinstance(op, Close | Drop)]
        for n, writer in enumerate(writers):
            writer.apply(ops if seq % 2 == n else closing, seq=seq)
    for one in (whole, *writers):
        one.publish()
    compared = 0
    for query in queries(40):
        lexical = dataclasses.replace(query, vector=None, limit=60, at_seq=None)
        if not lexical.terms:
            continue
        pins = [apart.pin(half.id) for half in halves]
        statistics = pins[0].statistics(lexical.terms) + pins[1].statistics(lexical.terms)
        assert statistics == together.pin(GENERATION.id).statistics(lexical.terms)
        shared = dataclasses.replace(lexical, statistics=statistics)
        found = {hit.chunk_id: hit.lexical for pin in pins for hit in pin.search(shared)}
        for hit in together.pin(GENERATION.id).search(lexical):
            score, mine = hit.lexical, found[hit.chunk_id]
            assert score is not None
            assert mine is not None
            assert mine.score == pytest.approx(score.score, abs=1e-9)
            compared += 1
    assert compared > 300
    together.close()
    apart.close()


def test_large_states_search_both_legs_at_once_and_find_the_same(
    filled: tuple[EmbeddedEngine, Oracle], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = filled
    searcher = engine.pin(GENERATION.id)
    asked = [query for query in queries(20) if query.vector is not None and query.terms]
    before = [searcher.search(query) for query in asked]
    on: list[str] = []
    real = HybridSearcher._leg

    def leg(self: HybridSearcher, way: Any, allowed: Any, limit: int) -> Any:
        on.append(threading.current_thread().name.split("_")[0])
        return real(self, way, allowed, limit)

    monkeypatch.setattr(HybridSearcher, "_leg", leg)
    monkeypatch.setattr(hybrid, "LARGE_ROWS", 1)
    assert [searcher.search(query) for query in asked] == before
    assert len(asked) > 3
    assert (on.count("beside"), len(on)) == (len(asked), 2 * len(asked))
