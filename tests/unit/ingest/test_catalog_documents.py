"""Documents and their versions: two timelines, ids from content, and nobody sees what they may not read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.model import Allowed, Span
from ingest.catalog.database import to_us
from ingest.catalog.ids import content_id, random_id, vector_key
from ingest.catalog.rows import as_stored, bytes_matrix, bytes_vector, vector_bytes
from ingest.embed import sentence_input
from ingest.errors import NotFound
from ingest.model import Draft, Source, Version
from tests.contracts.ingest_parts import ALL, START, Clock, Installation, make_draft, undone

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(tmp_path: Path, clock: Clock) -> Iterator[Installation]:
    installation = Installation(tmp_path, clock=clock)
    yield installation
    installation.close()


@pytest.fixture
def source(app: Installation) -> Source:
    return app.source()


def in_force(app: Installation, versions: tuple[Version, ...], at: datetime, at_seq: int | None = None) -> list[int]:
    """Ordinals of the versions in force at a moment."""
    found = app.catalog.documents.in_force([v.id for v in versions], allowed=ALL, at=to_us(at), at_seq=at_seq)
    return sorted(version.ordinal for version, _ in found.values())


def ranges(versions: tuple[Version, ...]) -> list[tuple[datetime, datetime | None]]:
    return [(version.valid_from, version.valid_to) for version in versions]


# ---------------------------------------------------------------- recording


def test_a_new_document_has_one_open_version(app: Installation, source: Source) -> None:
    recorded = app.record(source, make_draft("a", "Parking is behind the building."))
    assert recorded.outcome == "new"
    document = app.document(source, "a")
    assert document.id == recorded.document_id
    assert document.current_version_id == recorded.version_id
    assert document.deleted_at is None
    assert document.last_verified_at == START
    (version,) = app.versions(document)
    assert (version.ordinal, version.valid_from, version.valid_to) == (1, START, None)
    assert (version.recorded_from, version.recorded_to) == (START, None)
    assert version.characters == len("Parking is behind the building.")


def test_the_same_text_again_is_unchanged(app: Installation, source: Source, clock: Clock) -> None:
    first = app.record(source, make_draft("a", "One."))
    before = app.catalog.changes.last_seq()
    clock.go(hours=1)
    again = app.record(source, make_draft("a", "One.", fingerprint="newer", title="Other title"))
    assert again == replace(first, outcome="unchanged")
    document = app.document(source, "a")
    assert (document.fingerprint, document.title) == ("newer", "Other title")
    assert document.last_verified_at == START + HOUR
    assert len(app.versions(document)) == 1
    assert app.catalog.changes.last_seq() == before


def test_a_changed_text_is_a_new_version_from_that_moment(app: Installation, source: Source, clock: Clock) -> None:
    app.record(source, make_draft("a", "One."))
    later = clock.go(hours=1)
    changed = app.record(source, make_draft("a", "Two."))
    assert changed.outcome == "changed"
    document = app.document(source, "a")
    versions = app.versions(document)
    assert ranges(versions) == [(START, later), (later, None)]
    assert [v.recorded_from for v in versions] == [START, later]
    assert versions[0].recorded_to == later
    assert document.current_version_id == versions[1].id
    moments = (START - HOUR, START, later - timedelta(microseconds=1), later, later + DAY)
    assert [in_force(app, versions, at) for at in moments] == [[], [1], [1], [2], [2]]


def test_a_snapshot_replays_what_had_been_recorded(app: Installation, source: Source, clock: Clock) -> None:
    app.record(source, make_draft("a", "One."))
    first = app.catalog.changes.last_seq()
    later = clock.go(hours=1)
    app.record(source, make_draft("a", "Two."))
    second = app.catalog.changes.last_seq()
    app.catalog.recording.retire([app.document(source, "a").id], now=clock.go(hours=1))
    versions = app.versions(app.document(source, "a"))
    now = later + DAY
    assert in_force(app, versions, now) == []
    assert in_force(app, versions, now, first) == [1]
    assert in_force(app, versions, now, second) == [2]
    assert in_force(app, versions, now, first - 1) == []


def test_a_change_of_access_or_metadata_alone_is_logged(app: Installation, source: Source) -> None:
    app.record(source, make_draft("a", "One."))
    for fields in ({"access": frozenset({"group:hr"})}, {"access": frozenset({"group:hr"}), "metadata": {"team": "x"}}):
        before = app.catalog.changes.last_seq()
        assert app.record(source, make_draft("a", "One.", **fields)).outcome == "unchanged"
        entries = app.catalog.changes.since(before, collection_ids=[app.collection.id], limit=10)
        assert [entry.kind for entry in entries] == ["describe"]
        assert app.document(source, "a").access == {"group:hr"}


def test_a_batch_is_recorded_whole_or_not_at_all(app: Installation, source: Source) -> None:
    with undone(app.catalog):
        app.record(source, make_draft("a", "One."))
    assert app.catalog.documents.find(source.id, "a") is None
    assert app.catalog.changes.last_seq() == 0
    assert app.chunk_table() == []


# ---------------------------------------------------------------- document time


def test_the_sources_own_time_counts_unless_it_lies_in_the_future(app: Installation, source: Source) -> None:
    app.record(source, make_draft("past", "One.", modified_at=START - DAY))
    app.record(source, make_draft("future", "One.", modified_at=START + DAY))
    assert app.versions(app.document(source, "past"))[0].valid_from == START - DAY
    assert app.versions(app.document(source, "future"))[0].valid_from == START
    assert app.versions(app.document(source, "future"))[0].source_modified_at == START + DAY


def test_a_source_time_before_what_is_known_does_not_rewrite_history(
    app: Installation, source: Source, clock: Clock
) -> None:
    app.record(source, make_draft("a", "One.", modified_at=START - HOUR))
    now = clock.go(hours=1)
    app.record(source, make_draft("a", "Two.", modified_at=START - DAY))  # an old file was copied over it
    assert ranges(app.versions(app.document(source, "a"))) == [(START - HOUR, now), (now, None)]


def test_a_push_may_say_since_when(app: Installation, source: Source) -> None:
    app.record(source, make_draft("a", "One.", valid_from=START - 10 * DAY))
    assert ranges(app.versions(app.document(source, "a"))) == [(START - 10 * DAY, None)]


def test_a_push_of_the_past_goes_below_what_is_in_force(app: Installation, source: Source, clock: Clock) -> None:
    current = app.record(source, make_draft("a", "Now.", valid_from=START))
    clock.go(hours=1)
    older = app.record(source, make_draft("a", "Before.", valid_from=START - 10 * DAY))
    clock.go(hours=1)
    app.record(source, make_draft("a", "Between.", valid_from=START - 5 * DAY))
    versions = app.versions(app.document(source, "a"))
    assert ranges(versions) == [(START, None), (START - 10 * DAY, START - 5 * DAY), (START - 5 * DAY, START)]
    assert app.document(source, "a").current_version_id == current.version_id
    assert older.outcome == "changed"
    moments = (START - 11 * DAY, START - 10 * DAY, START - 5 * DAY, START, START + DAY)
    assert [in_force(app, versions, at) for at in moments] == [[], [2], [3], [1], [1]]


def test_a_push_of_the_past_again_is_unchanged(app: Installation, source: Source) -> None:
    app.record(source, make_draft("a", "Now.", valid_from=START))
    older = make_draft("a", "Before.", valid_from=START - 10 * DAY)
    app.record(source, older)
    assert app.record(source, older).outcome == "unchanged"
    assert len(app.versions(app.document(source, "a"))) == 2


def test_a_push_of_the_future_is_in_force_then(app: Installation, source: Source) -> None:
    app.record(source, make_draft("a", "Now."))
    app.record(source, make_draft("a", "Then.", valid_from=START + 10 * DAY))
    versions = app.versions(app.document(source, "a"))
    assert ranges(versions) == [(START, START + 10 * DAY), (START + 10 * DAY, None)]
    assert [in_force(app, versions, START + days * DAY) for days in (0, 9, 10)] == [[1], [1], [2]]


def test_a_change_now_does_not_wait_for_a_future_version(app: Installation, source: Source, clock: Clock) -> None:
    then = START + 10 * DAY
    app.record(source, make_draft("a", "Now."))
    app.record(source, make_draft("a", "Then.", valid_from=then))
    now = clock.go(hours=1)
    assert app.record(source, make_draft("a", "Now, corrected.")).outcome == "changed"
    versions = app.versions(app.document(source, "a"))
    assert ranges(versions) == [(START, now), (then, None), (now, then)]
    assert [in_force(app, versions, at) for at in (START, now, then)] == [[1], [3], [2]]


def test_the_text_in_force_is_unchanged_beside_a_future_version(app: Installation, source: Source) -> None:
    app.record(source, make_draft("a", "Now."))
    app.record(source, make_draft("a", "Then.", valid_from=START + DAY))
    assert app.record(source, make_draft("a", "Now.")).outcome == "unchanged"


def test_a_document_that_begins_in_the_future_can_be_given_a_present(
    app: Installation, source: Source, clock: Clock
) -> None:
    then = START + DAY
    app.record(source, make_draft("a", "Then.", valid_from=then))
    now = clock.go(hours=1)
    app.record(source, make_draft("a", "Now."))
    assert ranges(app.versions(app.document(source, "a"))) == [(then, None), (now, then)]


def test_the_same_valid_from_with_another_text_replaces(app: Installation, source: Source, clock: Clock) -> None:
    app.record(source, make_draft("a", "Typo.", valid_from=START - DAY))
    clock.go(hours=1)
    app.record(source, make_draft("a", "Right.", valid_from=START - DAY))
    versions = app.versions(app.document(source, "a"))
    assert ranges(versions) == [(START - DAY, START - DAY), (START - DAY, None)]
    assert in_force(app, versions, START) == [2]
    assert in_force(app, versions, START - DAY) == [2]


def test_a_clock_that_was_set_back_cannot_hide_a_change(app: Installation, source: Source, clock: Clock) -> None:
    app.record(source, make_draft("a", "One."))
    clock.go(hours=1)
    app.record(source, make_draft("a", "Two."))
    clock.go(hours=-3)
    app.record(source, make_draft("a", "Three."))
    versions = app.versions(app.document(source, "a"))
    assert in_force(app, versions, START + DAY) == [3]
    assert all(a.recorded_from < b.recorded_from for a, b in itertools.pairwise(versions))
    assert app.record(source, make_draft("a", "Three.")).outcome == "unchanged"


steps = st.lists(
    st.tuples(
        st.sampled_from(["A", "B", "C"]),
        st.none() | st.integers(-5, 5),
        st.sampled_from(["record", "record", "record", "retire"]),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=8,
)


def test_at_every_moment_at_most_one_version_is_in_force_and_now_it_is_the_last_one_told(
    app: Installation, source: Source, clock: Clock
) -> None:
    uris = (f"d{number}" for number in range(10_000))

    @settings(max_examples=50)
    @given(steps=steps)
    def check(steps: list[tuple[str, int | None, str, int]]) -> None:
        uri = next(uris)
        for text, days, what, hours in steps:
            now = clock.go(hours=hours)
            document = app.catalog.documents.find(source.id, uri)
            if what == "retire":
                if document is not None:
                    app.catalog.recording.retire([document.id], now=now)
                    assert in_force(app, app.versions(document), now) == []
                continue
            was_deleted = document is not None and document.deleted_at is not None
            stated = None if days is None else now + days * DAY
            app.record(source, make_draft(uri, text, valid_from=stated))
            versions = app.versions(app.document(source, uri))
            for moment in {v.valid_from for v in versions} | {v.valid_to for v in versions if v.valid_to} | {now}:
                assert len(in_force(app, versions, moment)) <= 1
            told_for = now if stated is None else stated
            if was_deleted:
                told_for = max(told_for, now)
            (ordinal,) = in_force(app, versions, told_for)
            assert app.catalog.documents.text(versions[ordinal - 1].id).text == text

    check()


# ---------------------------------------------------------------- leaving, moving and coming back


def test_a_retired_document_is_out_of_force_but_keeps_its_history(
    app: Installation, source: Source, clock: Clock
) -> None:
    recorded = app.record(source, make_draft("a", "One."))
    gone = clock.go(hours=2)
    app.catalog.recording.retire([recorded.document_id, "doc_of_nobody"], now=gone)
    document = app.document(source, "a")
    assert document.deleted_at == gone
    assert app.catalog.documents.of_source(source.id) == {}
    assert app.catalog.documents.count(source.id) == 0
    (version,) = app.versions(document)
    assert version.valid_to == gone
    assert app.catalog.documents.text(version.id).text == "One."
    assert in_force(app, (version,), gone) == []
    assert in_force(app, (version,), gone - HOUR) == [1]
    before = app.catalog.changes.last_seq()
    app.catalog.recording.retire([recorded.document_id], now=clock.go(hours=1))
    assert app.catalog.changes.last_seq() == before
    assert app.document(source, "a").deleted_at == gone


def test_retiring_takes_future_versions_along(app: Installation, source: Source, clock: Clock) -> None:
    app.record(source, make_draft("a", "Now."))
    app.record(source, make_draft("a", "Then.", valid_from=START + 10 * DAY))
    document = app.document(source, "a")
    app.catalog.recording.retire([document.id], now=clock.go(hours=1))
    assert [in_force(app, app.versions(document), START + d * DAY) for d in (0, 1, 10, 20)] == [[1], [], [], []]


def test_a_document_that_comes_back_goes_on_with_its_history(app: Installation, source: Source, clock: Clock) -> None:
    first = app.record(source, make_draft("a", "One."))
    gone = clock.go(hours=1)
    app.catalog.recording.retire([first.document_id], now=gone)
    back = clock.go(hours=1)
    again = app.record(source, make_draft("a", "One."))
    assert (again.document_id, again.outcome) == (first.document_id, "changed")
    versions = app.versions(app.document(source, "a"))
    assert ranges(versions) == [(START, gone), (back, None)]
    assert in_force(app, versions, back) == [2]
    assert in_force(app, versions, gone) == []


def test_a_document_comes_back_for_good_though_it_once_had_a_future(
    app: Installation, source: Source, clock: Clock
) -> None:
    app.record(source, make_draft("a", "Now."))
    app.record(source, make_draft("a", "Then.", valid_from=START + 10 * DAY))
    document = app.document(source, "a")
    app.catalog.recording.retire([document.id], now=clock.go(hours=1))
    clock.go(hours=1)
    app.record(source, make_draft("a", "Back."))
    versions = app.versions(document)
    assert versions[-1].valid_to is None
    assert in_force(app, versions, START + 20 * DAY) == [3]
    assert app.document(source, "a").current_version_id == versions[-1].id


def test_a_push_brings_a_deleted_document_back_whatever_its_valid_from(
    app: Installation, source: Source, clock: Clock
) -> None:
    app.record(source, make_draft("a", "One."))
    gone = clock.go(hours=1)
    app.catalog.recording.retire([app.document(source, "a").id], now=gone)
    now = clock.go(hours=1)
    app.record(source, make_draft("a", "Two.", valid_from=START - DAY))
    versions = app.versions(app.document(source, "a"))
    assert ranges(versions) == [(START, gone), (gone, None)]
    assert in_force(app, versions, now) == [2]


def test_a_rename_keeps_everything(app: Installation, source: Source, clock: Clock) -> None:
    recorded = app.record(source, make_draft("old", "One."))
    before, chunks = app.versions(app.document(source, "old")), app.chunk_table()
    seq = app.catalog.changes.last_seq()
    app.catalog.recording.rename(recorded.document_id, uri="new", title="New", fingerprint="f2", now=clock.go(hours=1))
    assert app.catalog.documents.find(source.id, "old") is None
    document = app.document(source, "new")
    assert (document.id, document.title, document.fingerprint) == (recorded.document_id, "New", "f2")
    assert app.versions(document) == before
    assert app.chunk_table() == chunks
    entries = app.catalog.changes.since(seq, collection_ids=[app.collection.id], limit=10)
    assert [entry.kind for entry in entries] == ["describe"]


def test_a_new_document_at_the_old_name_is_another_one(app: Installation, source: Source) -> None:
    moved = app.record(source, make_draft("old", "One."))
    app.catalog.recording.rename(moved.document_id, uri="new", title="New", fingerprint="f2", now=START)
    fresh = app.record(source, make_draft("old", "Another."))
    assert fresh.outcome == "new"
    assert fresh.document_id != moved.document_id
    assert set(app.catalog.documents.of_source(source.id)) == {"old", "new"}


def test_suspects_are_marked_and_cleared(app: Installation, source: Source) -> None:
    ids = [app.record(source, make_draft(uri, uri)).document_id for uri in ("a", "b", "c")]
    app.catalog.recording.suspect(ids[:2], "missing")
    assert [app.document(source, uri).suspect for uri in "abc"] == ["missing", "missing", None]
    app.catalog.recording.touch(ids[0], fingerprint="f", now=START + HOUR)
    app.catalog.recording.suspect(ids[1:], None)
    assert [app.document(source, uri).suspect for uri in "abc"] == [None, None, None]
    assert app.document(source, "a").last_verified_at == START + HOUR


# ---------------------------------------------------------------- ids and contents

LONG = "# Leave\n\nEvery employee has 30 days. Ask your manager.\n\n# Parking\n\nBehind the building. It is free."


def drafts() -> list[Draft]:
    return [make_draft("a", LONG), make_draft("b", "Ü 東京. Naïve 🙂 café!"), make_draft("a", LONG + "\n\nNew words.")]


def test_ids_are_the_same_in_every_installation(tmp_path: Path) -> None:
    tables = []
    for number in range(2):
        app = Installation(tmp_path / str(number), clock=Clock(START + number * DAY))
        tables.append(([app.record(app.source(), draft) for draft in drafts()], app.chunk_table()))
        app.close()
    assert tables[0] == tables[1]


def test_ids_do_not_depend_on_order_or_batches(tmp_path: Path) -> None:
    one, other = Installation(tmp_path / "one"), Installation(tmp_path / "other")
    for draft in drafts()[:2]:
        one.record(one.source(), draft)
    batch = drafts()[1::-1]
    for draft, embedded in zip(batch, other.embedding.embed(batch), strict=True):
        other.catalog.recording.record(other.source(), draft, embedded, generation=other.generation, now=START)
    assert one.chunk_table() == other.chunk_table()
    one.close()
    other.close()


def test_content_ids_tell_their_parts_apart() -> None:
    assert content_id("x", "ab", "c") != content_id("x", "a", "bc") != content_id("x", "abc")
    assert content_id("x", "a", 1) == content_id("x", "a", "1")
    assert content_id("x", "\udcff").startswith("x_")
    assert len({random_id("job") for _ in range(100)}) == 100
    assert vector_key("m", "a") != vector_key("n", "a")
    assert len(vector_key("m", "\udcff")) == 16


def test_text_outline_and_sentences_come_back(app: Installation, source: Source) -> None:
    draft = make_draft("a", LONG)
    recorded = app.record(source, draft)
    stored = app.catalog.documents.text(recorded.version_id)
    assert (stored.text, stored.blocks, stored.sentences) == (draft.text.text, draft.text.blocks, draft.sentences)
    assert app.catalog.documents.text(recorded.version_id) is stored  # versions never change: kept
    with pytest.raises(NotFound):
        app.catalog.documents.text("ver_none")


def test_chunks_and_vectors_come_back(app: Installation, source: Source) -> None:
    draft = make_draft("a", LONG)
    (embedded,) = app.embedding.embed([draft])
    recorded = app.catalog.recording.record(source, draft, embedded, generation=app.generation, now=START)
    generation_id = app.generation.id
    stored = app.catalog.changes.chunks_of([recorded.version_id], generation_id=generation_id)[recorded.version_id]
    assert tuple(chunk.draft for chunk in stored) == draft.chunks
    assert [chunk.ordinal for chunk in stored] == [*range(len(draft.chunks))]
    np.testing.assert_allclose([chunk.vector for chunk in stored], embedded.chunk_vectors, atol=1e-3)
    for chunk in stored:
        assert np.linalg.norm(chunk.vector) == pytest.approx(1, abs=1e-6)
    by_id = app.catalog.documents.chunks([c.id for c in stored] + ["chk_none"], generation_id=generation_id)
    assert by_id.keys() == {chunk.id for chunk in stored}
    assert all(by_id[c.id].draft == c.draft and (by_id[c.id].vector == c.vector).all() for c in stored)
    assert app.catalog.documents.chunks([stored[0].id], generation_id="gen_other") == {}


def test_sentence_vectors_come_back_by_key(app: Installation, source: Source) -> None:
    draft = make_draft("a", " ".join(f"Sentence number {n} is here." for n in range(1200)))
    app.record(source, draft)
    texts = [sentence_input(draft.text.text, span) for span in draft.sentences]
    keys = [vector_key(app.embedder.id, text) for text in texts]
    assert len(set(keys)) > 1000  # more than one question to the database
    at, matrix = app.catalog.documents.vectors([*keys, b"\0" * 16], dimensions=64)
    assert at.keys() == set(keys)
    np.testing.assert_allclose(matrix[[at[key] for key in keys]], app.embedder.encode(texts), atol=1e-3)
    empty, none = app.catalog.documents.vectors([b"\0" * 16], dimensions=64)
    assert (empty, none.shape) == ({}, (0, 64))


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4))
def test_storing_twice_is_storing_once(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float32)
    once = as_stored(vector[None])[0]
    assert (bytes_matrix([vector_bytes(vector)], 4)[0] == once).all()
    np.testing.assert_allclose(bytes_vector(vector_bytes(vector)), once, rtol=1e-6, atol=1e-7)


def test_a_document_without_chunks_is_recorded(app: Installation, source: Source) -> None:
    draft = replace(make_draft("a", "x"), chunks=(), sentences=())
    recorded = app.record(source, draft)
    assert app.catalog.documents.text(recorded.version_id).sentences == ()
    assert app.chunk_table() == []


def test_offsets_count_code_points(app: Installation, source: Source) -> None:
    draft = make_draft("a", "🙂🙂 First one. Second one.")
    recorded = app.record(source, draft)
    stored = app.catalog.documents.text(recorded.version_id)
    assert [stored.text[s.start : s.end] for s in stored.sentences][-1] == "Second one."
    assert stored.sentences[0].start == 0
    assert isinstance(stored.sentences[0], Span)


# ---------------------------------------------------------------- who may see it


def test_forbidden_and_absent_are_the_same(app: Installation, source: Source) -> None:
    recorded = app.record(source, make_draft("a", "Secret.", access=frozenset({"group:hr"})))
    hr, stranger, empty = Allowed.of("group:hr"), Allowed.of("group:it"), Allowed(frozenset())
    assert app.catalog.documents.get(recorded.document_id, allowed=hr).id == recorded.document_id
    for allowed in (stranger, empty):
        for real, made_up, ask in (
            (recorded.document_id, "doc_none", app.catalog.documents.get),
            (recorded.version_id, "ver_none", app.catalog.documents.version),
        ):
            with pytest.raises(NotFound) as forbidden:
                ask(real, allowed=allowed)
            with pytest.raises(NotFound) as absent:
                ask(made_up, allowed=allowed)
            assert str(forbidden.value).replace(real, "X") == str(absent.value).replace(made_up, "X")
            assert forbidden.value.hint == absent.value.hint
    ids = [recorded.version_id]
    assert app.catalog.documents.in_force(ids, allowed=stranger, at=to_us(START)) == {}
    assert app.catalog.documents.in_force(ids, allowed=hr, at=to_us(START)).keys() == set(ids)
    assert app.catalog.documents.version(recorded.version_id, allowed=hr)[1].access == {"group:hr"}


def test_nobody_reads_a_document_with_an_empty_list_but_the_owner(app: Installation, source: Source) -> None:
    recorded = app.record(source, make_draft("a", "Sealed.", access=frozenset()))
    with pytest.raises(NotFound):
        app.catalog.documents.get(recorded.document_id, allowed=Allowed.of("group:hr", "user:ann"))
    assert app.catalog.documents.get(recorded.document_id, allowed=ALL)


def test_pages_hold_only_what_may_be_read_and_miss_nothing(app: Installation, source: Source) -> None:
    access = [frozenset({"public"}) if n % 3 == 0 else frozenset({"group:hr"}) for n in range(31)]
    with app.catalog.write():
        for n, names in enumerate(access):
            app.record(source, make_draft(f"d{n}", f"Text {n}.", access=names))
    everything = {document.id for document in app.catalog.documents.of_source(source.id).values()}
    public = {d.id for d in app.catalog.documents.of_source(source.id).values() if "public" in d.access}
    for allowed, expected in ((ALL, everything), (Allowed.of(), public), (Allowed(frozenset({"x"})), set())):
        for limit in (1, 2, 7, 31, 100):
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                page, after = app.catalog.documents.page(
                    collection_id=app.collection.id, allowed=allowed, limit=limit, after=after
                )
                assert len(page) <= limit
                assert after is None or len(page) == limit
                found += [document.id for document in page]
            assert found == sorted(expected)


def test_pages_leave_out_the_deleted_unless_asked(app: Installation, source: Source) -> None:
    ids = [app.record(source, make_draft(uri, uri)).document_id for uri in ("a", "b")]
    app.catalog.recording.retire(ids[:1], now=START)

    def page(deleted: bool) -> set[str]:
        found, _ = app.catalog.documents.page(collection_id=None, allowed=ALL, limit=10, after="", deleted=deleted)
        return {document.id for document in found}

    assert page(False) == {ids[1]}
    assert page(True) == set(ids)


def test_every_closing_of_a_version_is_kept(app: Installation, source: Source, clock: Clock) -> None:
    def seq() -> int:
        return app.catalog.changes.last_seq()

    app.record(source, make_draft("a", "One.", valid_from=START - 10 * DAY))
    opened = seq()
    app.record(source, make_draft("a", "Two.", valid_from=START - 2 * DAY))
    first = seq()
    app.record(source, make_draft("a", "Between.", valid_from=START - 6 * DAY))
    second = seq()
    app.catalog.recording.retire([app.document(source, "a").id], now=clock.go(hours=1))
    app.record(source, make_draft("a", "Long ago.", valid_from=START - 8 * DAY))  # begins at the deletion
    versions = app.versions(app.document(source, "a"))
    moments = [START - days * DAY for days in (9, 7, 5, 1)]
    for at_seq, expected in (
        (opened, [[1], [1], [1], [1]]),
        (first, [[1], [1], [1], [2]]),
        (second, [[1], [1], [3], [2]]),
        (None, [[1], [1], [3], [2]]),
    ):
        assert [in_force(app, versions, at, at_seq) for at in moments] == expected
    state = app.catalog.changes.version_states([versions[0].id])[versions[0].id]
    ends = [to_us(START - days * DAY) for days in (2, 6)]
    assert [(closing.valid_to, closing.seq <= first) for closing in state.closings] == [
        (ends[0], True),
        (ends[1], False),
    ]
    assert state.up_to(first).closings == state.closings[:1]
    assert state.up_to(opened).closings == ()


def test_the_log_never_goes_back_in_time(app: Installation, source: Source, clock: Clock) -> None:
    app.record(source, make_draft("a", "One."))
    before = app.catalog.changes.committed_at(app.catalog.changes.last_seq())
    clock.go(hours=-5)
    app.record(source, make_draft("b", "Two."))
    assert app.catalog.changes.committed_at(app.catalog.changes.last_seq()) == before
    assert app.versions(app.document(source, "b"))[0].valid_from == START - 5 * HOUR


def test_what_is_recorded_as_of_now_is_in_force_when_it_is_recorded(app: Installation, source: Source) -> None:
    """Also right after a version that its owner let begin in the same microsecond."""
    app.record(source, make_draft("a", "One.", valid_from=START + timedelta(microseconds=1)))
    app.record(source, make_draft("a", "Two."))
    versions = app.versions(app.document(source, "a"))
    committed = app.catalog.changes.committed_at(app.catalog.changes.last_seq())
    assert in_force(app, versions, START + timedelta(microseconds=committed - to_us(START))) == [2]


def test_languages_are_known_from_their_first_version_on(app: Installation, source: Source, clock: Clock) -> None:
    for uri, lang in (("a", "de"), ("b", "en"), ("c", None), ("d", "en")):
        app.record(source, make_draft(uri, uri, lang=lang))
    languages, before = app.catalog.changes.languages, app.catalog.changes.last_seq()
    first = languages(app.collection.id, after=0)
    assert list(first) == ["de", "en"]
    assert first["de"] < first["en"] < before
    clock.go(hours=1)
    app.record(source, make_draft("a", "now in French", lang="fr"))
    assert list(languages(app.collection.id, after=before)) == ["fr"]
    app.catalog.recording.retire([app.document(source, "a").id], now=clock.go(hours=1))
    assert languages(app.collection.id, after=0).keys() == {"de", "en", "fr"}  # `as_of` and replays still ask for them
    assert languages("col_none", after=0) == {}


def test_metadata_keeps_its_types(app: Installation, source: Source) -> None:
    metadata = {"team": "people", "year": 2026, "share": 0.5, "final": True, "tags": ("a", "b")}
    app.record(source, make_draft("a", "One.", metadata=metadata))
    assert app.document(source, "a").metadata == metadata
