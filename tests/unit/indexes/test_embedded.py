"""The embedded engine keeps the contract of every engine, and what is its own: one writer, readers that refresh."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from indexes.embedded import EmbeddedEngine
from indexes.errors import WriterBusy
from indexes.model import Close, Drop
from indexes.protocols import Engine, IndexWriter, Searcher
from tests.contracts.engine import EngineContract, ids
from tests.contracts.engine_oracle import GENERATION, ask, public, put, unit


class TestEmbeddedEngine(EngineContract):
    def begin(self, folder: Path) -> EmbeddedEngine:
        return EmbeddedEngine(folder / "indexes")


def test_it_fits_the_seams(tmp_path: Path) -> None:
    engine: Engine = EmbeddedEngine(tmp_path)
    writer: IndexWriter = engine.open(GENERATION, writable=True)
    searcher: Searcher = engine.pin(GENERATION.id)
    assert (writer.seq, searcher.snapshot.seq) == (0, 0)
    engine.close()


def test_one_writer_per_folder(tmp_path: Path) -> None:
    first, second = EmbeddedEngine(tmp_path), EmbeddedEngine(tmp_path)
    first.open(GENERATION, writable=True)
    with pytest.raises(WriterBusy, match="already writes"):
        second.open(GENERATION, writable=True)
    with pytest.raises(WriterBusy):
        second.remove(GENERATION.id)
    second.open(GENERATION, writable=False)
    first.close()
    second.open(GENERATION, writable=True)
    second.close()


CHILD = """
import sys
from pathlib import Path
from indexes.embedded import EmbeddedEngine
from indexes.errors import WriterBusy
from tests.contracts.engine_oracle import GENERATION
try:
    EmbeddedEngine(Path(sys.argv[1])).open(GENERATION, writable=True)
except WriterBusy:
    print("busy")
else:
    print("free")
"""


def test_another_process_is_told_at_once(tmp_path: Path, root: Path) -> None:
    def child() -> str:
        command = [sys.executable, "-c", CHILD, str(tmp_path)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    engine = EmbeddedEngine(tmp_path)
    engine.open(GENERATION, writable=True)
    assert child() == "busy"
    engine.close()
    assert child() == "free"


def test_opening_twice_gives_the_same_writer(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    assert engine.open(GENERATION, writable=False) is writer
    engine.close()


def test_a_reader_becomes_a_writer(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    reader = engine.open(GENERATION, writable=False)
    reader.apply([put("a@1", "word")], seq=1)
    writer = engine.open(GENERATION, writable=True)
    assert writer is not reader
    assert writer.seq == 0  # the log is applied again
    engine.close()


def test_readers_move_to_what_was_published(tmp_path: Path) -> None:
    first, second = EmbeddedEngine(tmp_path), EmbeddedEngine(tmp_path)
    writer = first.open(GENERATION, writable=True)
    reader = second.open(GENERATION, writable=False)
    assert not reader.refresh()
    for seq in range(1, 6):
        batch = [put(f"a{seq}@1", f"word w{seq}"), Close(f"a{seq - 1}@1", 50, seq)]
        writer.apply(batch, seq=seq)
        reader.apply(batch, seq=seq)
    writer.publish()
    before = second.pin(GENERATION.id).search(ask("word w3", unit(1), at=20))
    assert reader.refresh()
    assert not reader.refresh()
    assert (reader.seq, second.pin(GENERATION.id).snapshot.segments) == (5, 1)
    assert second.pin(GENERATION.id).search(ask("word w3", unit(1), at=20)) == before
    assert not writer.refresh()
    first.close()
    second.close()


def test_no_reader_ever_sees_an_older_state(tmp_path: Path) -> None:
    first, second = EmbeddedEngine(tmp_path), EmbeddedEngine(tmp_path)
    writer = first.open(GENERATION, writable=True)
    reader = second.open(GENERATION, writable=False)
    batches = {seq: [put(f"a{seq}@1", "word")] for seq in (1, 2, 3, 4)}
    for seq, batch in batches.items():
        reader.apply(batch, seq=seq)
        if seq <= 2:
            writer.apply(batch, seq=seq)
    writer.publish()
    assert reader.refresh()
    assert reader.seq == 2
    assert len(second.pin(GENERATION.id).search(ask("word"))) == 4
    reader.apply(batches[3], seq=3)
    assert second.pin(GENERATION.id).snapshot.seq == 4
    assert len(second.pin(GENERATION.id).search(ask("word"))) == 4
    reader.apply([*batches[4], put("b@1", "word")], seq=5)
    assert len(second.pin(GENERATION.id).search(ask("word"))) == 5
    first.close()
    second.close()


def test_refreshing_reads_only_new_segments(tmp_path: Path) -> None:
    first, second = EmbeddedEngine(tmp_path), EmbeddedEngine(tmp_path)
    writer = first.open(GENERATION, writable=True)
    writer.apply([put("a@1", "word")], seq=1)
    writer.publish()
    reader = second.open(GENERATION, writable=False)
    known = reader.state.sealed[0].segment
    writer.apply([put("b@1", "word"), put("c@1", "word")], seq=2)
    writer.publish()
    assert reader.refresh()
    segments = [piece.segment for piece in reader.state.sealed]
    assert segments[0] is known
    assert len(segments) == 2
    first.close()
    second.close()


def test_opening_and_checking_while_another_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    writer.publish()
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        following = EmbeddedEngine(tmp_path)
        follower = following.open(GENERATION, writable=False)
        while not done.is_set():
            other = EmbeddedEngine(tmp_path)
            wrong.extend(other.open(GENERATION, writable=False).problems)
            wrong.extend(other.check(GENERATION.id))
            before = follower.seq
            if follower.refresh() and follower.seq < before:  # equal: the same, merged
                wrong.append("went back")
            if len(following.pin(GENERATION.id).search(ask("word", limit=1000))) != follower.seq:
                wrong.append(f"not all of {follower.seq}")

    reader = threading.Thread(target=read)
    reader.start()
    for seq in range(1, 30):
        writer.apply([put(f"a{seq}@1", "word")], seq=seq)
        writer.publish()
        writer.merge()
    done.set()
    reader.join()
    assert wrong == []
    engine.close()


def test_another_build_under_the_same_id_starts_empty(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    writer.apply([put("a@1", "word")], seq=1)
    writer.publish()
    other = dataclasses.replace(GENERATION, embedder="another model")
    writer = engine.open(other, writable=True)
    assert writer.seq == 0
    assert "another build" in writer.problems[0].what
    engine.close()


def test_an_erased_text_leaves_the_disk(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    writer.apply([put("keep@1", "ordinary"), public("keep", owner="somebody")], seq=1)
    writer.apply([put("secret@1", "xyzzysecret ordinary"), public("secret", owner="xyzzyowner")], seq=2)
    writer.publish()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"xyzzysecret" in stored
    assert b"xyzzyowner" in stored
    writer.apply([Drop("secret@1")], seq=3)
    writer.publish()
    assert writer.merge()
    assert not writer.merge()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for trace in (b"xyzzysecret", b"xyzzyowner", b"secret@1"):
        assert trace not in stored
    assert b"ordinary" in stored
    assert ids(engine.pin(GENERATION.id).search(ask("ordinary"))) == {"keep@1.0"}
    engine.close()


def test_old_segments_and_snapshots_are_swept(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    for seq in range(1, 12):
        writer.apply([put(f"a{seq}@1", "word")], seq=seq)
        writer.publish()
        writer.merge()
    place = tmp_path / GENERATION.id
    assert len(list((place / "snapshots").glob("*.json"))) == 2
    assert len(list((place / "snapshots").iterdir())) == 4
    assert len(list((place / "segments").iterdir())) <= 9
    assert engine.check(GENERATION.id) == ()
    engine.close()


def test_changes_while_a_segment_is_written_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    writer.apply([put("a@1", "word one"), put("b@1", "word"), put("c@1", "word"), put("d@1", "word")], seq=1)

    def meanwhile(step: str, path: Path) -> None:
        if path.name == "manifest.json" and step == "write":
            writer.apply([put("a@1", "word two"), Close("b@1", 50, 2), Drop("c@1"), put("e@1", "word")], seq=2)

    monkeypatch.setattr("indexes.durable.reached", meanwhile)
    assert writer.publish().seq == 1
    assert writer.seq == 2
    searcher = engine.pin(GENERATION.id)
    assert ids(searcher.search(ask("word"))) == {"a@1.0", "d@1.0", "e@1.0"}
    assert ids(searcher.search(ask("one"))) == set()
    assert len(searcher.search(ask("two"))) == 1
    monkeypatch.undo()
    assert writer.publish().seq == 2
    assert ids(engine.pin(GENERATION.id).search(ask("word", unit(1)))) == {"a@1.0", "d@1.0", "e@1.0"}
    engine.close()
