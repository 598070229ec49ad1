"""Changes while segments are written: nothing waits, nothing is lost, nothing is counted twice."""

from __future__ import annotations

import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexes import durable, tiers
from indexes.embedded import EmbeddedEngine
from indexes.errors import StorageFailed
from indexes.model import Close, Drop, Op
from indexes.pieces import SealedPiece
from indexes.writer import EmbeddedWriter
from tests.contracts.engine_oracle import GENERATION, Oracle, ask, assert_answers, public, put, unit

QUERIES = [ask("word", unit(1), limit=50), ask("old new"), ask("word", at=30), ask("word", at_seq=3), ask("w1 w2 w3")]


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "SMALLEST_TIER", 10)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Place:
    """A writer, and an oracle of what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = EmbeddedEngine(folder)
        self.writer: EmbeddedWriter = self.engine.open(GENERATION, writable=True)
        self.oracle = Oracle()

    def apply(self, *ops: Op) -> None:
        self.writer.apply(ops, seq=self.writer.seq + 1)
        self.oracle.apply(ops)

    def four_segments(self) -> None:
        for number in range(1, 5):
            self.apply(*(put(f"d{number}@{n}", f"word old w{n}", f"word w{number}", seq=number) for n in range(3)))
            self.writer.publish()

    def assert_sound(self) -> None:
        """It answers as the oracle, counts as one that was loaded, and nothing on the disk is wrong or too much."""
        for query in QUERIES:
            assert_answers(self.engine.pin(GENERATION.id).search(query), query, self.oracle)
        assert self.engine.check(GENERATION.id) == ()
        self.writer.publish()
        loaded = EmbeddedEngine(self.folder).open(GENERATION, writable=False)
        assert loaded.problems == ()
        assert counts(loaded) == counts(self.writer)
        stored = {piece.segment.id for piece in self.writer.state.sealed}
        assert stored <= {path.name for path in (self.folder / GENERATION.id / "segments").iterdir()}
        assert not list(self.folder.rglob(durable.ASIDE + "*"))


def counts(writer: EmbeddedWriter) -> list[tuple[object, ...]]:
    def one(piece: SealedPiece) -> tuple[object, ...]:
        vocabulary = piece.segment.contents.terms.vocabulary
        return piece.segment.id, piece.open_rows, piece.open_length, {term: piece.open_df(term) for term in vocabulary}

    return sorted((one(piece) for piece in writer.state.sealed), key=repr)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def when(monkeypatch: pytest.MonkeyPatch, step: str, name: str, act: Callable[[], None]) -> list[str]:
    """Act once, when this step is reached. Returns a list that says whether it was."""
    done: list[str] = []

    def reached(this: str, path: Path) -> None:
        if (this, path.name) == (step, name) and not done:
            done.append(name)
            act()

    monkeypatch.setattr(durable, "reached", reached)
    return done


@pytest.mark.parametrize("name", ["rows.columns", "manifest.json"])
def test_applying_and_publishing_go_on_while_a_merge_writes(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place.four_segments()

    def meanwhile() -> None:
        place.apply(put("d1@0", "word new", seq=5), Close("d2@0", 50, 5), Drop("d3@0"), put("e@1", "word w2", seq=5))
        assert place.writer.publish().seq == 5
        place.apply(put("d1@1", "word new again", seq=6), Drop("d4@0"), put("f@1", "word", seq=6), public("f"))

    done = when(monkeypatch, "write", name, meanwhile)
    assert place.writer.merge()
    assert done == [name]
    assert sorted(piece.count for piece in place.writer.state.sealed) == [2, 2, 24]
    place.assert_sound()
    while place.writer.merge():  # what was erased meanwhile leaves the disk too
        pass
    place.assert_sound()
    assert b"d4@0" not in b"".join(path.read_bytes() for path in place.folder.rglob("*") if path.is_file())


def test_a_piece_that_died_during_its_merge(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a segment is dropped and published away while its rows are being merged."""
    place.four_segments()

    def meanwhile() -> None:
        place.apply(*(Drop(f"d1@{n}") for n in range(3)))
        assert place.writer.publish().segments == 3

    when(monkeypatch, "write", "manifest.json", meanwhile)
    assert place.writer.merge()
    assert [piece.count for piece in place.writer.state.sealed] == [24]
    place.assert_sound()
    assert place.writer.merge()
    assert [piece.count for piece in place.writer.state.sealed] == [18]
    place.assert_sound()


def test_a_merge_that_fails_does_not_disturb_the_publish_beside_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.four_segments()

    def refuse() -> None:
        place.apply(put("e@1", "word new", seq=5))
        place.writer.publish()
        raise OSError(28, "No space left on device")

    when(monkeypatch, "write", "manifest.json", refuse)
    with pytest.raises(StorageFailed):
        place.writer.merge()
    assert len(place.writer.state.sealed) == 5
    assert len(list((place.folder / GENERATION.id / "segments").iterdir())) == 5
    place.assert_sound()
    assert place.writer.merge()
    place.assert_sound()


def test_a_snapshot_that_cannot_be_written_leaves_no_merged_segment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.four_segments()
    place.apply(put("e@1", "word new", seq=5))

    def refuse(step: str, path: Path) -> None:
        if step == "write" and path.parent.name == "snapshots":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "reached", refuse)
    with pytest.raises(StorageFailed):
        place.writer.merge()
    assert len(list((place.folder / GENERATION.id / "segments").iterdir())) == 4
    monkeypatch.undo()
    assert place.writer.merge()
    place.assert_sound()


def test_counts_follow_every_change_of_a_sealed_piece(place: Place) -> None:
    """Closing, opening again, dropping and replacing: the counts are those of a fresh look."""
    place.four_segments()
    batches: list[list[Op]] = [
        [Close("d1@0", 50, 5), Close("d1@2", 50, 5), Close("d2@0", 50, 5), Close("d4@2", 60, 5)],
        [Close("d1@0", 2**63 - 1, 6), Drop("d2@1")],
        [put("d3@0", "word other", seq=7), Drop("d3@0"), put("d3@0", "word third", seq=7)],
        [Close("d3@1", 50, 8), put("d3@1", "word", seq=8), Close("unknown@1", 5, 8)],
    ]
    for ops in batches:
        place.writer.apply(ops, seq=place.writer.seq + 1)
        for piece in place.writer.state.sealed:
            fresh = SealedPiece.attach(piece.segment, owners(piece), place.writer.state.versions, home=piece.homes)
            assert fresh.df.tolist() == piece.df.tolist()
            assert (fresh.open_rows, fresh.open_length) == (piece.open_rows, piece.open_length)


def owners(piece: SealedPiece) -> np.ndarray:
    version = piece.segment.contents.version
    first = [int(np.flatnonzero(version == number)[0]) for number in range(len(piece.segment.contents.version_ids))]
    return piece.row_version[first]


@pytest.mark.slow
def test_a_loaded_row_takes_little_memory(place: Place) -> None:
    """What is allocated for 6,000 rows in 600 versions of 600 documents; vectors, terms and ids stay in the file."""
    for seq in range(1, 7):
        texts = [" ".join(f"w{(row * n) % 997}" for n in range(1, 31)) for row in range(10)]
        names = [f"{seq}.{n}" for n in range(100)]
        place.writer.apply([op for name in names for op in (put(f"{name}@1", *texts), public(name))], seq=seq)
    place.writer.publish()
    place.engine.close()
    engine = EmbeddedEngine(place.folder)
    gc.collect()
    tracemalloc.start()
    try:
        state = engine.open(GENERATION, writable=False).state
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert state.snapshot.chunks == 6_000
    assert used / 6_000 < 70  # a Python object per row, or the number of each of its terms, is more


@pytest.mark.slow
def test_four_threads_at_once(place: Place) -> None:
    """One applies, one publishes, one merges, one asks: at every moment each document is found once."""
    done = threading.Event()
    wrong: list[object] = []

    def until_done(work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            while not done.is_set():
                work()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def look() -> None:
        searcher = place.engine.pin(GENERATION.id)
        documents = [hit.document_id for hit in searcher.search(ask("word", limit=1_000))]
        if sorted(documents) != sorted({f"d{number % 7}" for number in range(searcher.snapshot.seq)}):
            wrong.append((searcher.snapshot.seq, sorted(documents)))

    writer = place.writer
    threads = [until_done(work) for work in (writer.publish, writer.merge, look)]
    for number in range(150):
        new = put(f"d{number % 7}@{number}", f"word w{number}", seq=number + 1)
        place.apply(*([Drop(f"d{number % 7}@{number - 7}"), new] if number >= 7 else [new]))
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    place.assert_sound()
