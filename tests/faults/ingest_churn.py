"""What the killed processes of the crash tests do, and what must hold after each of them. No test itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from indexes.analyze import detect_language
from indexes.errors import QueryInvalid, StorageFailed
from ingest import pipeline
from ingest.connectors.files import file_uri
from tests.contracts import ingest_parts
from tests.contracts.ingest_parts import Installation, write

detect_language("Loaded once, before the first fork: each killed process would load it again.")
NAMES = [f"doc{number:02}" for number in range(14)]
State = dict[str, str | None]
"""Name -> text, or None where there is no such document."""


def content(name: str, step: int) -> str:
    """A text of several chunks; each sentence says whose and which it is, so that a torn one can be told."""
    return "\n\n".join(
        " ".join(f"Sentence {n} of part {part} of {name} in state{step}x is here." for n in range(9))
        for part in range(4)
    )


def on_disk(docs: Path) -> State:
    """What a sync would make of it."""
    places = {name: docs / f"{name}.txt" for name in NAMES}
    return {name: place.read_text() if place.exists() else None for name, place in places.items()}


def look(app: Installation, docs: Path, acked: State, in_flight: State) -> None:
    """Every invariant after a crash; `in_flight` is what the step in progress would have made of its documents."""
    assert app.catalog.integrity() == ()
    problems = app.follower.check(app.generation)
    assert problems == (), f"catalogue, vectors and BM25 do not hold the same: {problems}"
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


def look_at(folder: str, docs: str, acked: State, in_flight: State) -> None:
    """The same from outside."""
    app = Installation(Path(folder))
    look(app, Path(docs), acked, in_flight)
    app.close()


def main(*, what: str, **arguments: Any) -> None:
    """Begin one of the acts below."""
    {"churn": churn, "ingest": ingest, "look": look_at}[what](**arguments)


def churn(
    folder: str,
    docs: str,
    seed: int,
    first: int,
    synced: bool = True,
    repairs: bool = True,
    embedder: str = ingest_parts.EMBEDDER,
) -> None:
    """Change files, sync, print `ack` after each commit, publish and merge often, rebuild at times; until killed.

    Without `synced` nothing waits for the disk. When storage fails it only waits to be killed.
    """
    pipeline._BATCH_DRAFTS = 2
    ingest_parts.EMBEDDER = embedder
    if not synced:
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
        sa.event.listen(sa.Engine, "checkout", lambda conn, *_: conn.execute("PRAGMA synchronous=OFF"))
    try:
        _churn(folder, docs, seed, first, repairs)
    except (StorageFailed, OSError):
        signal.pause()


def _churn(folder: str, docs: str, seed: int, first: int, repairs: bool) -> None:
    app = Installation(Path(folder))
    source = app.folder_source(Path(docs))
    insist(lambda: app.sync(source))
    print("ack", flush=True)
    chooser = random.Random(seed)
    for step in itertools.count(first):
        changes: dict[str, str | None] = {}
        for name in chooser.sample(NAMES, chooser.randint(1, 5)):
            exists = (Path(docs) / f"{name}.txt").exists()
            changes[name] = None if exists and chooser.random() < 0.3 else content(name, step)
        print(f"step {json.dumps(changes)}", flush=True)
        for name, text in changes.items():
            place = Path(docs) / f"{name}.txt"
            if text is None:
                place.unlink(missing_ok=True)
            else:  # renamed in: a torn file would be the writer's doing
                write(Path(docs) / f".{name}", text).rename(place)
        insist(lambda: app.sync(source))
        print("ack", flush=True)
        act = chooser.random()
        if act < 0.4:
            insist(app.follower.publish)  # merges too
        elif act < 0.45 and repairs:
            insist(lambda: app.follower.rebuild(app.generation))
        elif act < 0.8:
            with contextlib.suppress(QueryInvalid):  # words are not searched while an index that cannot be read is away
                app.find(NAMES[step % len(NAMES)])


def insist(act: Callable[[], object]) -> None:
    """Try again while the disk is full, as worker and upkeep do. Raises StorageHalted."""
    while True:
        try:
            act()
        except StorageFailed as error:
            if not error.retryable:
                raise
        else:
            return


def account(lines: Iterable[str], acked: State, in_flight: State) -> tuple[State, State, int, int]:
    """What is acknowledged and what is in flight after these lines of `churn`; the number of acks and of steps."""
    acks = steps = 0
    for line in lines:
        if line == "ack":
            acked, in_flight, acks = acked | in_flight, {}, acks + 1
        else:
            in_flight, steps = json.loads(line.removeprefix("step ")), steps + 1
    return acked, in_flight, acks, steps


def ingest(folder: str, docs: str, die_at: int, before: bool) -> None:
    """One sync that dies just before or just after a commit."""
    pipeline._BATCH_DRAFTS = 2
    real, commits = sa.Connection.commit, itertools.count(1)

    def commit(self: sa.Connection) -> None:
        number = next(commits)
        if number == die_at and before:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self)
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.Connection.commit = commit  # type: ignore[method-assign]
    app = Installation(Path(folder))
    app.sync(app.folder_source(Path(docs)))
    app.follower.publish()
    print("done", next(commits), flush=True)
