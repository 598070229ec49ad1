"""Number 1: kill -9 at random in ingest, update, delete, publish, merge and repair. Nothing acknowledged is lost."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from indexes.model import Query
from ingest.model import Embedded
from tests.contracts import ingest_parts
from tests.contracts.ingest_parts import ALL, Installation, make_draft
from tests.contracts.killable import Killable
from tests.faults.ingest_churn import NAMES, State, account, look, on_disk


def kill_often(folder: Path, root: Path, kills: int) -> None:
    docs, data = folder / "docs", folder / "data"
    docs.mkdir()
    chooser = random.Random(1)
    acked: State = dict.fromkeys(NAMES)
    step = 1
    acks = deleted = 0
    slowest = 0.0
    with Killable("tests.faults.ingest_churn", root) as worker:
        for kill in range(kills):
            in_flight = on_disk(docs)  # its first act is to sync what the last one left
            worker.begin(what="churn", folder=str(data), docs=str(docs), seed=kill, first=step)
            lines = [worker.line() for _ in range(chooser.randint(0, 6))]
            lines += worker.kill(after_s=chooser.uniform(0, 0.12))
            before = acked
            acked, in_flight, more, steps = account(lines, acked, in_flight)
            acks, step = acks + more, step + steps
            deleted += sum(before[name] is not None and acked[name] is None for name in NAMES)
            began = time.monotonic()
            app = Installation(data)
            look(app, docs, acked, in_flight)
            slowest = max(slowest, time.monotonic() - began)
            app.close()
    assert acks >= kills, "too little happened to prove anything"
    assert deleted > 0
    assert slowest < 5


@pytest.mark.acceptance
def test_a01_kill_nine_loses_nothing_acknowledged(tmp_path: Path, root: Path) -> None:
    kill_often(tmp_path, root, 20)


@pytest.mark.soak
def test_a01_kill_nine_two_hundred_times(tmp_path: Path, root: Path) -> None:
    kill_often(tmp_path, root, 200)


RECOVERY_S = 5
CHUNKS, DIMENSIONS = 100_000, 384


def fill(app: Installation, chunks: int) -> None:
    """So many chunks with random vectors, recorded in the catalogue as ingestion does it."""
    source, chooser, recorded = app.source("file:///large"), np.random.default_rng(1), 0
    words = np.array([f"word{number}" for number in range(20_000)])
    while recorded < chunks:
        with app.catalog.write():
            for _ in range(20):
                drawn = chooser.zipf(1.3, size=(50, 90)) % len(words)
                draft = make_draft(f"file:///large/{recorded}", "\n\n".join(" ".join(words[row]) for row in drawn))
                vectors = chooser.standard_normal((len(draft.chunks), DIMENSIONS)).astype(np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                app.catalog.recording.record(
                    source, draft, Embedded(vectors, {}, 0), generation=app.generation, now=app.clock()
                )
                recorded += len(draft.chunks)
    app.follower.close()  # to the end of the log, and on disk


@pytest.mark.soak
def test_a01_recovery_at_a_hundred_thousand_chunks(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed during small changes to a large installation: how long until the next process answers."""
    monkeypatch.setattr(ingest_parts, "EMBEDDER", f"hash:{DIMENSIONS}")
    docs, data = tmp_path / "docs", tmp_path / "data"
    docs.mkdir()
    app = Installation(data)
    fill(app, CHUNKS)
    app.close()
    took = []
    chooser = random.Random(2)
    vector = np.zeros(DIMENSIONS, np.float32)
    vector[0] = 1
    query = Query(allowed=ALL, at=int(app.clock().timestamp() * 1e6), limit=10, terms=("word7",), vector=vector)
    with Killable("tests.faults.ingest_churn", root) as worker:
        for kill in range(5):
            where = {"folder": str(data), "docs": str(docs), "embedder": ingest_parts.EMBEDDER}
            worker.begin(what="churn", **where, seed=kill, first=kill * 100, repairs=False)
            for _ in range(chooser.randint(1, 12)):
                worker.line(120)
            worker.kill(after_s=chooser.uniform(0, 0.5))
            began = time.monotonic()
            app = Installation(data)
            assert len(app.follower.pin(app.generation.id).search(query)) >= 10
            took.append(time.monotonic() - began)
            app.close()
    print("seconds from start to first answer:", " ".join(f"{one:.2f}" for one in took))
    assert sorted(took)[len(took) // 2] <= RECOVERY_S
