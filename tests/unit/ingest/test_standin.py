"""Exact search answers while an index cannot: at once, by the same rules, following the log; then the index is back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from indexes.errors import StorageFailed
from indexes.model import Allowed, Query
from indexes.writer import EmbeddedWriter
from ingest.catalog.database import to_us
from ingest.followed import Followed
from ingest.model import Source
from tests.contracts.ingest_parts import ALL, Clock, Installation, make_draft
from tests.unit.ingest.test_follow import answers, fill, go

ANN, NOBODY = Allowed.of("user:ann"), Allowed.of()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path, clock=Clock())
    yield installation
    installation.follower.close()
    installation.close()


@pytest.fixture
def source(app: Installation) -> Source:
    return app.source()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten chunks are many here."""
    monkeypatch.setattr("ingest.followed.AT_ONCE_CHUNKS", 10)
    monkeypatch.setattr("ingest.followed.STEP_CHUNKS", 15)
    monkeypatch.setattr("ingest.followed.RETRY_S", 0.01)
    monkeypatch.setattr("ingest.followed.LOOK_S", 0.0)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is mended before the event is set."""
    go_on, real = threading.Event(), Followed._mend

    def later(self: Followed) -> None:
        assert go_on.wait(30)
        real(self)

    monkeypatch.setattr(Followed, "_mend", later)
    yield go_on
    go_on.set()


def followed_by(app: Installation) -> Followed:
    return app.follower._of(app.generation.id)


def nearest(app: Installation, text: str, *, allowed: Allowed = ALL, ago: float = 0, limit: int = 10) -> list[str]:
    """What must be found: every chunk of the catalogue in force and readable, by its inner product."""
    vector = app.embedder.encode_query(text)[0]
    at, found = to_us(app.clock()) - int(ago * 1e6), []
    for version_id in app.catalog.changes.version_ids(app.generation.id):
        state = app.catalog.changes.version_states([version_id])[version_id]
        document = app.catalog.changes.documents([state.document_id])[state.document_id]
        until = state.closings[-1].valid_to if state.closings else at + 1
        if state.valid_from <= at < until and allowed.may_read(document.access):
            chunks = app.catalog.changes.chunks_of([version_id], generation_id=app.generation.id)[version_id]
            found += [(-float(np.dot(chunk.vector.astype(np.float64), vector)), chunk.id) for chunk in chunks]
    return [name for _, name in sorted(found)[:limit]]


def asked(app: Installation, text: str, *, allowed: Allowed = ALL, ago: float = 0, limit: int = 10) -> list[str]:
    """What is found."""
    at = to_us(app.clock()) - int(ago * 1e6)
    query = Query(allowed, at, limit, app.embedder.encode_query(text)[0], terms=("tea",))
    return [hit.chunk_id for hit in app.follower.view(app.generation.id).searcher.search(query)]


def lost(app: Installation) -> Installation:
    """The same installation after a restart without any index file."""
    app.follower.publish()
    app.engine.close()
    shutil.rmtree(app.folder / "indexes")
    return Installation(app.folder, clock=app.clock)


def why(app: Installation) -> str | None:
    return app.follower.view(app.generation.id).why_exact


def back(app: Installation) -> None:
    """Wait until the index answers again."""
    for _ in range(200):
        if why(app) is None:
            return
        followed_by(app).join()
    raise AssertionError(f"still not back: {why(app)}")


def some(app: Installation, source: Source) -> None:
    """30 documents, some for Ann only, some edited, some gone."""
    followed_by(app).open()
    fill(app, source, 30)
    go(app, hours=1)
    for number in range(0, 30, 5):
        app.record(source, make_draft(f"d{number}", f"Only Ann reads of {number}.", access=frozenset({"user:ann"})))
    app.catalog.recording.retire([app.document(source, f"d{n}").id for n in (3, 4)], now=app.clock())
    go(app, hours=1)


QUESTIONS: Sequence[str] = ("garden tea", "only ann", "parking of day 7")


def test_exact_search_answers_by_the_same_rules_until_the_index_is_back(
    app: Installation, source: Source, small: None, held: threading.Event
) -> None:
    some(app, source)
    before = answers(app)
    again = lost(app)
    view = again.follower.view(again.generation.id)
    assert view.why_exact is not None
    assert "lost or far behind" in view.why_exact
    assert "--repair" in view.hint
    for text in QUESTIONS:
        for allowed in (ALL, ANN, NOBODY):
            for ago in (0, 5400):
                found = asked(again, text, allowed=allowed, ago=ago)
                assert found == nearest(again, text, allowed=allowed, ago=ago)
                assert found
    assert asked(again, "only ann", allowed=ANN) != asked(again, "only ann", allowed=NOBODY)
    held.set()
    back(again)
    assert answers(again) == before
    assert again.embedder.texts == []
    assert again.follower.check(again.generation) == ()
    again.follower.close()
    again.close()


def test_what_is_written_meanwhile_is_found_at_once_and_later(
    app: Installation, source: Source, small: None, held: threading.Event
) -> None:
    some(app, source)
    again = lost(app)
    assert why(again)
    recorded = again.record(source, make_draft("new", "Something about giraffes."))
    (giraffe,) = again.catalog.changes.chunks_of([recorded.version_id], generation_id=again.generation.id).values()
    assert asked(again, "Something about giraffes.")[0] == giraffe[0].id
    go(again, minutes=1)
    again.catalog.recording.retire([recorded.document_id], now=again.clock())
    assert giraffe[0].id not in asked(again, "Something about giraffes.")
    assert giraffe[0].id in asked(again, "Something about giraffes.", ago=30)
    later = again.record(source, make_draft("newer", "Something about zebras."))
    assert why(again)
    held.set()
    back(again)
    assert again.find("zebras") == [later.version_id]
    assert again.find("giraffes") == []
    assert again.find("giraffes", at=again.clock() - timedelta(seconds=30)) == [recorded.version_id]
    again.follower.close()
    again.close()


def test_what_is_rebuilt_is_published_in_steps_and_a_restart_goes_on_there(
    app: Installation, source: Source, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.followed.BATCH", 5)
    some(app, source)
    before = answers(app)
    again = lost(app)
    real, applied = again.follower.entries.ops, []
    publish, published = EmbeddedWriter.publish, []

    def counted(self: EmbeddedWriter) -> object:
        published.append(self.seq)
        return publish(self)

    def ops(*args: object, **more: object) -> object:
        applied.append(1)
        if len(applied) == 6:
            again.follower._stopping.set()  # the process is told to end in the middle
        return real(*args, **more)  # type: ignore[arg-type]

    followed_by(again).open()
    monkeypatch.setattr(EmbeddedWriter, "publish", counted)
    monkeypatch.setattr(again.follower.entries, "ops", ops)
    assert why(again)
    followed_by(again).join()
    assert len(set(published)) > 1, "only at the end"
    again.follower.close()
    again.close()
    third = Installation(app.folder, clock=app.clock)
    followed_by(third).open()
    reached = followed_by(third).writer.seq
    assert 0 < reached < third.catalog.changes.last_seq()
    back(third)
    assert answers(third) == before
    third.follower.close()
    third.close()


def test_following_a_first_bulk_ingestion_is_not_being_behind(app: Installation, source: Source, small: None) -> None:
    assert app.find("tea") == []
    fill(app, source, 60)
    assert why(app) is None
    assert app.find("tea")


def test_a_reader_that_finds_nothing_waits_for_the_writer(app: Installation, source: Source, small: None) -> None:
    some(app, source)
    before = answers(app)
    reader = Installation(app.folder, clock=app.clock, writable=False)
    view = reader.follower.view(reader.generation.id)
    assert view.why_exact is not None
    assert "ragsvc up" in view.hint
    assert "ragsvc verify --repair" in view.hint
    assert asked(reader, "garden tea") == nearest(app, "garden tea")
    app.follower.publish()
    back(reader)
    assert answers(reader) == before
    assert reader.follower.pin(reader.generation.id).snapshot.segments > 0
    reader.close()


def test_a_reader_lets_go_of_an_index_that_the_writer_threw_away(
    app: Installation, source: Source, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.followed.BATCH", 5)
    some(app, source)
    app.follower.publish()
    reader = Installation(app.folder, clock=app.clock, writable=False)
    before = answers(app)
    assert answers(reader) == before
    app.engine.remove(app.generation.id)
    assert why(reader)
    app.follower.rebuild(app.generation)  # ends at the same sequence number
    back(reader)
    assert answers(reader) == before
    reader.close()


def test_an_index_that_cannot_be_opened_is_tried_again(
    app: Installation, source: Source, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(app, source)
    before = answers(app)
    app.follower.publish()
    app.engine.close()
    again = Installation(app.folder, clock=app.clock)
    real = again.engine.open

    def refuse(*_: object, **__: object) -> object:
        raise StorageFailed("The disk does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(again.engine, "open", refuse)
        assert "The disk does not answer" in str(why(again))
        followed_by(again).join()
        assert asked(again, "garden tea") == nearest(again, "garden tea")
    assert again.engine.open == real
    back(again)
    assert followed_by(again).writer.problems == ()
    assert again.follower.pin(again.generation.id).snapshot.segments > 0, "what was stored is used again"
    assert answers(again) == before
    again.follower.close()
    again.close()


def test_the_upkeep_finds_a_flipped_bit_by_itself(
    app: Installation, source: Source, small: None, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    some(app, source)
    before = answers(app)
    app.follower.publish()
    (path, *_) = (app.folder / "indexes").rglob("vectors.f32")
    content = bytearray(path.read_bytes())
    content[100] ^= 0x40
    path.write_bytes(content)
    app.follower.maintain()
    assert why(app) is None, "nobody looked yet"
    app.follower._scrub_at = 0
    app.follower.maintain()
    assert app.follower._scrubbing is not None
    app.follower._scrubbing.join()
    assert "vectors.f32" in str(why(app))
    assert asked(app, "garden tea") == nearest(app, "garden tea")
    held.set()
    back(app)
    assert answers(app) == before
    assert app.follower.check(app.generation) == ()
