"""Number 1: kill -9 at random moments of ingest, update, delete, publish and merge. Nothing acknowledged is lost."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from ingest.connectors.files import file_uri
from tests.contracts.ingest_parts import Installation
from tests.contracts.killable import Killable
from tests.faults.ingest_churn import NAMES

KILLS = 20
State = dict[str, str | None]


def on_disk(docs: Path) -> State:
    places = {name: docs / f"{name}.txt" for name in NAMES}
    return {name: place.read_text() if place.exists() else None for name, place in places.items()}


def look(app: Installation, docs: Path, acked: State, in_flight: State) -> None:
    """Every invariant after a crash; `in_flight` is what the step in progress would have made of its documents."""
    assert app.catalog.integrity() == ()
    assert app.follower.check(app.generation) == (), "catalogue, vectors and BM25 do not hold the same"
    source = app.folder_source(docs)
    served = app.served(source)
    for name in NAMES:
        text = served.pop(file_uri(docs / f"{name}.txt"), None)
        allowed = [acked[name], in_flight[name]] if name in in_flight else [acked[name]]
        assert text in allowed, f"{name} is lost, torn or resurrected: {text!r:.80}"
        found = app.hits(name, limit=50)
        if text is None:
            assert found == [], f"{name} was deleted and is found"
            continue
        document = app.document(source, file_uri(docs / f"{name}.txt"))
        assert {(version_id, document_id) for _, version_id, document_id in found} == {
            (document.current_version_id, document.id)
        }, f"{name} is found in the wrong version, twice or not at all"
        assert document.current_version_id is not None
        stored = app.catalog.changes.chunks_of([document.current_version_id], generation_id=app.generation.id)
        expected = [chunk.id for chunks in stored.values() for chunk in chunks]
        assert sorted(chunk_id for chunk_id, _, _ in found) == sorted(expected)
        assert len(expected) >= 2
    assert served == {}


@pytest.mark.slow
def test_a01_kill_nine_loses_nothing_acknowledged(tmp_path: Path, root: Path) -> None:
    docs, data = tmp_path / "docs", tmp_path / "data"
    docs.mkdir()
    chooser = random.Random(1)
    acked: State = dict.fromkeys(NAMES)
    step = 1
    acks = deleted = 0
    slowest = 0.0
    with Killable("tests.faults.ingest_churn", root) as worker:
        for kill in range(KILLS):
            in_flight = on_disk(docs)  # its first act is to sync what the last one left
            worker.begin(what="churn", folder=str(data), docs=str(docs), seed=kill, first=step)
            lines = [worker.line() for _ in range(chooser.randint(0, 6))]
            lines += worker.kill(after_s=chooser.uniform(0, 0.12))
            for line in lines:
                if line == "ack":
                    acked |= in_flight
                    deleted += list(in_flight.values()).count(None)
                    in_flight = {}
                    acks += 1
                else:
                    in_flight = json.loads(line.removeprefix("step "))
                    step += 1
            began = time.monotonic()
            app = Installation(data)
            look(app, docs, acked, in_flight)
            slowest = max(slowest, time.monotonic() - began)
            app.close()
    assert acks >= KILLS, "too little happened to prove anything"
    assert deleted > 0
    assert slowest < 5
