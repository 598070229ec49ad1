"""The indexes follow the change log: what is committed is found, once, and everything can be made again."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from indexes.errors import StorageFailed
from indexes.model import Drop, Put
from ingest.catalog.database import to_us
from ingest.errors import NotFound
from ingest.ingestion import IndexesDisagree
from ingest.model import Source
from tests.contracts.ingest_parts import ALL, Clock, Installation, make_draft, undone

WORDS = [
    "garden", "tea", "parking", "leave", "manager", "desk", "visitor", "invoice", "holiday", "coffee", "window",
    "printer", "badge", "travel",
]  # fmt: skip


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path, clock=Clock())
    yield installation
    installation.close()


@pytest.fixture
def source(app: Installation) -> Source:
    return app.source()


def go(app: Installation, **delta: float) -> None:
    assert isinstance(app.clock, Clock)
    app.clock.go(**delta)


def fill(app: Installation, source: Source, number: int = 40) -> None:
    chooser = random.Random(7)
    drafts = []
    for place in range(number):
        text = " ".join(
            f"The {chooser.choice(WORDS)} and the {chooser.choice(WORDS)} of day {place}." for _ in range(4)
        )
        drafts.append(make_draft(f"d{place}", text))
    with app.catalog.write():
        for draft, embedded in zip(drafts, app.embedding.embed(drafts), strict=True):
            app.catalog.recording.record(source, draft, embedded, generation=app.generation, now=app.clock())


def restarted(app: Installation) -> Installation:
    app.engine.close()
    return Installation(app.folder, clock=app.clock)


def answers(app: Installation) -> list[list[tuple[str, str, str]]]:
    return [app.hits(f"{a} {b}") for a in WORDS for b in WORDS[::3]]


# ---------------------------------------------------------------- what is committed is found


def test_what_is_committed_is_found_by_the_next_pin(app: Installation, source: Source) -> None:
    assert app.find("parking") == []
    first = app.record(source, make_draft("a", "Parking is free."))
    assert app.find("parking") == [first.version_id]
    second = app.record(source, make_draft("b", "Parking is not free."))
    assert set(app.find("parking")) == {first.version_id, second.version_id}


def test_what_is_not_committed_is_not_found(app: Installation, source: Source) -> None:
    app.find("parking")
    with undone(app.catalog):
        app.record(source, make_draft("a", "Parking is free."))
    assert app.find("parking") == []
    assert app.follower.check(app.generation) == ()


def test_an_edit_is_visible_and_the_past_too(app: Installation, source: Source) -> None:
    old = app.record(source, make_draft("a", "Parking is behind the building."))
    before = app.clock()
    go(app, hours=1)
    new = app.record(source, make_draft("a", "Parking is under the building."))
    assert app.find("behind") == []
    assert app.find("under") == [new.version_id]
    assert app.find("parking") == [new.version_id]
    assert app.find("parking", at=before) == [old.version_id]


def test_a_pinned_state_does_not_move(app: Installation, source: Source) -> None:
    app.record(source, make_draft("a", "Parking is free."))
    pinned = app.follower.pin(app.generation.id)
    app.record(source, make_draft("b", "Parking is full."))
    assert len(list(pinned.scan())) == 1
    assert len(list(app.follower.pin(app.generation.id).scan())) == 2


def test_retired_and_described_changes_arrive(app: Installation, source: Source) -> None:
    recorded = app.record(source, make_draft("a", "Parking is free.", access=frozenset({"x"})))
    pinned = app.follower.pin(app.generation.id)
    assert pinned.snapshot.seq == app.catalog.changes.last_seq()
    go(app, hours=1)
    app.catalog.recording.retire([recorded.document_id], now=app.clock())
    assert app.find("parking") == []
    assert app.find("parking", at=app.clock() - timedelta(minutes=1)) == [recorded.version_id]


def test_a_title_and_a_heading_are_searched_too(app: Installation, source: Source) -> None:
    found = app.record(source, make_draft("a", "# Umbrellas\n\nTake one.", title="Weather guide"))
    assert app.find("umbrella") == app.find("weather") == [found.version_id]


def test_a_generation_that_does_not_exist_is_not_found(app: Installation) -> None:
    with pytest.raises(NotFound):
        app.follower.pin("gen_none")


def test_each_collection_follows_only_its_own_log(app: Installation, source: Source) -> None:
    other = app.catalog.collections.ensure(
        "other", embedder="hash:64", dimensions=64, chunker=app.chunker.id, analyzer="a", now=app.clock()
    )
    app.record(source, make_draft("a", "Parking."))
    searcher = app.follower.pin(other.generation_id)
    assert list(searcher.scan()) == []
    assert searcher.snapshot.seq == 0


# ---------------------------------------------------------------- never twice, never not at all


def test_a_document_is_found_exactly_once_at_every_step_of_catching_up(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many changes wait and are applied in small batches; after each batch a reader looks."""
    for number in range(6):
        for name in ("a", "b", "c"):
            app.record(source, make_draft(name, f"Parking rule {number} of {name}."))
        go(app, minutes=1)
    monkeypatch.setattr("ingest.followed.BATCH", 3)
    followed = app.follower._of(app.generation.id)
    followed.open()
    real, looks = followed.writer.apply, []

    def apply(ops: object, *, seq: int) -> None:
        real(ops, seq=seq)  # type: ignore[arg-type]
        found = [
            document_id
            for version_id, document_id in {
                (hit.version_id, hit.document_id) for hit in app.engine.pin(app.generation.id).search(app_query(app))
            }
        ]
        looks.append(sorted(found))

    monkeypatch.setattr(followed.writer, "apply", apply)
    app.follower.pin(app.generation.id)
    assert len(looks) > 10
    for found in looks:
        assert len(found) == len(set(found)), "a document was found twice"
    everyone = sorted(app.document(source, name).id for name in "abc")
    complete = looks.index(everyone)
    assert all(found == everyone for found in looks[complete:]), "a document was lost for a moment"


def app_query(app: Installation):  # type: ignore[no-untyped-def]
    from indexes.analyze import Analyzer
    from indexes.model import Query

    return Query(ALL, to_us(app.clock()), 50, terms=tuple(Analyzer().terms("parking rule", lang="en")))


@pytest.mark.slow
def test_a_reader_never_misses_nor_doubles_a_document_while_it_changes(tmp_path: Path) -> None:
    app = Installation(tmp_path)
    source = app.source()
    app.record(source, make_draft("a", "Parking version 0 here."))
    app.find("parking")
    stop, wrong = threading.Event(), []
    looks = 0

    def read() -> None:
        nonlocal looks
        while not stop.is_set():
            found = app.find("parking")
            looks += 1
            if len(found) != 1:
                wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 60):
        app.record(source, make_draft("a", f"Parking version {number} here."))
        if number % 15 == 0:
            app.follower.publish()
    stop.set()
    for reader in readers:
        reader.join()
    assert looks > 20
    assert wrong == []
    assert app.find("parking") == [app.document(source, "a").current_version_id]
    app.close()


# ---------------------------------------------------------------- restart and rebuild


@pytest.mark.parametrize("published", ["nothing", "half", "all"])
def test_a_restart_replays_what_was_not_published(app: Installation, source: Source, published: str) -> None:
    fill(app, source, 20)
    if published != "nothing":
        app.follower.publish()
    if published != "all":
        go(app, hours=1)
        app.record(source, make_draft("d3", "Something about giraffes."))
        app.catalog.recording.retire([app.document(source, "d4").id], now=app.clock())
        app.record(source, make_draft("new", "Something about zebras."))
        app.find("giraffes")
    before = answers(app)
    again = restarted(app)
    assert answers(again) == before
    assert len(again.find("zebras")) == (published != "all")
    assert again.embedder.texts == []
    assert again.follower.check(again.generation) == ()
    again.close()


def test_a_reading_process_sees_what_the_writing_one_commits(app: Installation, source: Source) -> None:
    reader = Installation(app.folder, clock=app.clock, writable=False)
    fill(app, source, 10)
    assert answers(reader) == answers(app)
    app.follower.publish()
    go(app, hours=1)
    app.record(source, make_draft("d1", "Now about giraffes."))
    assert reader.find("giraffes") == app.find("giraffes") != []
    reader.follower.publish()  # not its business: nothing happens
    reader.follower.maintain()
    assert reader.follower.check(app.generation) == ()
    reader.close()


def test_a08_without_any_index_file_everything_is_made_again_without_embedding(
    app: Installation, source: Source
) -> None:
    fill(app, source)
    for number in range(0, 40, 7):
        go(app, minutes=1)
        app.record(source, make_draft(f"d{number}", f"The {WORDS[number % 14]} was changed."))
    app.follower.publish()
    before = answers(app)
    assert len(before) >= 70
    app.engine.close()
    shutil.rmtree(app.folder / "indexes")
    again = Installation(app.folder, clock=app.clock)
    assert answers(again) == before
    assert again.embedder.texts == []
    assert again.follower.check(again.generation) == ()
    again.close()


def test_a08_a_rebuild_serves_the_old_state_meanwhile_and_gives_the_same(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(app, source)
    app.follower.publish()
    before = answers(app)
    app.embedder.texts.clear()
    during: list[list[list[tuple[str, str, str]]]] = []
    real = app.follower.entries.ops

    def ops(*args: object) -> object:
        thread = threading.Thread(target=lambda: during.append(answers(app)))
        thread.start()
        thread.join(30)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(app.follower.entries, "ops", ops)
    app.follower.rebuild(app.generation)
    assert during
    assert all(found == before for found in during)
    assert answers(app) == before
    assert app.embedder.texts == []
    assert app.follower.check(app.generation) == ()
    again = restarted(app)
    assert answers(again) == before
    again.close()


def test_readers_and_upkeep_go_on_during_rebuilds(app: Installation, source: Source) -> None:
    fill(app, source, 20)
    app.follower.publish()
    before = app.hits("garden tea")
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            found = app.hits("garden tea")
            if found != before:
                wrong.append(found)

    def keep() -> None:
        while not stop.is_set():
            app.follower.publish()

    threads = [threading.Thread(target=work) for work in (read, keep)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        app.follower.rebuild(app.generation)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert app.follower.check(app.generation) == ()


# ---------------------------------------------------------------- upkeep


def test_a_reader_that_holds_much_moves_to_what_the_writer_published(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.followed.PUBLISH_CHUNKS", 5)
    reader = Installation(app.folder, clock=app.clock, writable=False)
    fill(app, source, 10)
    assert answers(reader) == answers(app)
    assert reader.follower.pin(app.generation.id).snapshot.segments == 0  # all of it in memory
    app.follower.publish()
    go(app, hours=1)
    app.record(source, make_draft("d1", "Now about giraffes."))
    assert reader.find("giraffes") == app.find("giraffes") != []
    assert reader.follower.pin(app.generation.id).snapshot.segments == 1
    assert answers(reader) == answers(app)
    assert reader.follower.check(app.generation) == ()
    reader.close()


def test_upkeep_publishes_what_waits_long_or_is_much(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segments() -> int:
        return app.follower.pin(app.generation.id).snapshot.segments

    fill(app, source, 10)
    app.follower.maintain()
    assert segments() == 0
    monkeypatch.setattr("ingest.followed.PUBLISH_CHUNKS", 5)
    app.follower.maintain()
    assert segments() == 1
    monkeypatch.setattr("ingest.followed.PUBLISH_CHUNKS", 10**6)
    app.record(source, make_draft("x", "One more."))
    app.follower.maintain()
    assert segments() == 1
    monkeypatch.setattr("ingest.followed.PUBLISH_IDLE_S", -1.0)
    app.follower.maintain()
    assert segments() == 2
    app.follower.maintain()  # nothing waits: nothing is written
    assert segments() == 2


def test_small_segments_are_merged(app: Installation, source: Source) -> None:
    for number in range(7):
        app.record(source, make_draft(f"d{number}", f"Parking rule {number}."))
        app.follower.publish()
    assert app.follower.pin(app.generation.id).snapshot.segments < 5
    assert len(app.find("parking", limit=50)) == 7


def test_a_publish_that_failed_is_tried_again(
    app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(app, source, 5)
    monkeypatch.setattr("ingest.followed.PUBLISH_CHUNKS", 1)
    app.find("tea")
    followed = app.follower._followed[app.generation.id]

    def refuse() -> None:
        raise StorageFailed("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(followed.writer, "publish", refuse)
        with pytest.raises(StorageFailed):
            app.follower.maintain()
    app.follower.maintain()
    assert app.follower.pin(app.generation.id).snapshot.segments == 1


def test_pins_do_not_wait_for_a_publish(app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(app, source, 5)
    app.find("tea")
    followed = app.follower._followed[app.generation.id]
    inside, go_on, real = threading.Event(), threading.Event(), followed.writer.publish

    def slow() -> object:
        inside.set()
        assert go_on.wait(20)
        return real()

    monkeypatch.setattr(followed.writer, "publish", slow)
    publishing = threading.Thread(target=app.follower.publish)
    publishing.start()
    assert inside.wait(10)
    recorded = app.record(source, make_draft("new", "About giraffes."))
    looking: list[list[str]] = []
    looker = threading.Thread(target=lambda: looking.append(app.find("giraffes")))
    looker.start()
    looker.join(10)
    go_on.set()
    publishing.join()
    looker.join()
    assert looking == [[recorded.version_id]]


# ---------------------------------------------------------------- check


def test_check_finds_nothing_in_a_sound_installation(app: Installation, source: Source) -> None:
    assert app.follower.check(app.generation) == ()
    fill(app, source)
    assert app.follower.check(app.generation) == ()
    app.follower.publish()
    assert app.follower.check(app.generation) == ()


def test_check_gives_no_false_alarm_while_documents_come(app: Installation, source: Source) -> None:
    fill(app, source, 30)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            app.record(source, make_draft(f"new{number}", f"Parking rule {number}."))
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert [app.follower.check(app.generation) for _ in range(15)] == [()] * 15
    finally:
        stop.set()
        writer.join()


def planted(app: Installation, kind: str) -> None:
    """Something that the index holds and the catalogue does not say, or the other way round."""
    writer = app.engine.open(app.generation, writable=True)
    version_id = app.catalog.changes.version_ids(app.generation.id)[3]
    if kind == "missing":
        writer.apply([Drop(version_id)], seq=writer.seq + 1)
        return
    entries = app.catalog.changes.since(0, collection_ids=[app.collection.id], limit=1000)
    (put,) = [
        op
        for op in app.follower.entries.ops(entries, app.generation)
        if isinstance(op, Put) and op.version_id == version_id
    ]
    chunk = put.chunks[0]
    changed = type(chunk)(
        id="chk_stray" if kind == "stray" else chunk.id,
        version_id=version_id,
        ordinal=99 if kind == "stray" else chunk.ordinal,
        terms=("wrong",) if kind == "terms" else chunk.terms,
        vector=-chunk.vector if kind == "vector" else chunk.vector,
    )
    chunks = (*put.chunks, changed) if kind == "stray" else (changed, *put.chunks[1:])
    whole = type(put)(
        put.document_id, version_id, put.valid_from, put.valid_to, put.recorded_seq, put.closed_seq, chunks
    )
    writer.apply([whole], seq=writer.seq + 1)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("missing", "missing from the index"),
        ("stray", "not in the catalogue"),
        ("terms", "different"),
        ("vector", "different"),
    ],
)
@pytest.mark.parametrize("published", [False, True])
def test_a07_check_finds_what_was_planted_and_a_rebuild_mends_it(
    app: Installation, source: Source, kind: str, what: str, published: bool
) -> None:
    fill(app, source, 12)
    app.find("tea")
    before = answers(app)
    planted(app, kind)
    if published:
        app.engine.open(app.generation, writable=True).publish()
    (problem,) = app.follower.check(app.generation)
    assert what in problem.what
    assert problem.part == app.generation.id
    assert problem.details
    app.follower.rebuild(app.generation)
    assert app.follower.check(app.generation) == ()
    assert answers(app) == before


def test_a07_check_finds_a_flipped_bit_and_a_rebuild_mends_it(app: Installation, source: Source) -> None:
    fill(app, source, 12)
    app.follower.publish()
    before = answers(app)
    path = max((app.folder / "indexes").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    path.write_bytes(damaged)
    problems = app.follower.check(app.generation)  # a mapped file shows the flip in what is compared, too
    assert path.relative_to(app.folder / "indexes").parts[2] in problems[0].part
    app.follower.rebuild(app.generation)
    assert app.follower.check(app.generation) == ()
    assert answers(app) == before


def test_check_works_before_anything_was_opened_or_stored(app: Installation) -> None:
    assert app.follower.check(app.generation) == ()
    reader = Installation(app.folder, clock=app.clock, writable=False)
    assert reader.follower.check(app.generation) == ()
    reader.close()


def test_a_disagreement_is_an_error_that_says_what_to_do() -> None:
    assert "--repair" in IndexesDisagree().hint
