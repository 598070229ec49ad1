"""One run of a source, with the real catalogue, the real jail and real files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from indexes.analyze import analyzer_of
from indexes.errors import StorageFailed
from ingest.blobs import FolderBlobStore
from ingest.catalog.sources import PUSH
from ingest.chunk import StructureChunker
from ingest.connectors.files import file_uri
from ingest.connectors.push import PushConnector
from ingest.drafting import Drafting, title_of
from ingest.errors import Conflict, DocumentDamaged, NotFound, SourceUnreachable
from ingest.ingestion import Ingestion, open_connector
from ingest.model import Push, Source
from ingest.parse.jail import Jail
from ingest.pipeline import Pipeline
from ingest.reindex import Reindexing
from ingest.run import Cancelled, Run
from tests.contracts.ingest_parts import CountingEmbedder, Installation, write

LEAVE = "# Leave\n\nEvery employee has 30 days of leave a year. Ask your manager first.\n"
PARKING = "# Parking\n\nParking is behind the building. Visitors sign in at the desk.\n"
ENCRYPTED_PDF = b"%PDF-1.7\nthis is not really a pdf\n%%EOF"


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail(workers=1) as running:
        yield running


@pytest.fixture
def app(tmp_path: Path, jail: Jail) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data", jail=jail)
    yield installation
    installation.close()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    write(tmp_path / "docs" / "leave.md", LEAVE)
    write(tmp_path / "docs" / "parking.md", PARKING)
    return tmp_path / "docs"


@pytest.fixture
def source(app: Installation, docs: Path) -> Source:
    return app.folder_source(docs)


def uri(docs: Path, name: str) -> str:
    return file_uri(docs / name)


def counts(run: Run) -> dict[str, int]:
    return {name: count for name, count in run.counts.items() if count}


def letters(app: Installation, source: Source) -> dict[str, str]:
    return {where: letter.error_type for where, letter in app.catalog.dead_letters.of_source(source.id).items()}


# ---------------------------------------------------------------- the plain story


def test_new_then_unchanged(app: Installation, source: Source, docs: Path) -> None:
    run = app.sync(source)
    assert counts(run) == {"listed": 2, "new": 2}
    document = app.document(source, uri(docs, "leave.md"))
    assert (document.title, document.media_type, document.access) == ("Leave", "text/markdown", {"public"})
    assert document.metadata["lang"] == "en"
    assert app.served(source)[document.uri].startswith("Leave\n\nEvery employee")
    found = app.catalog.sources.get(source.id)
    assert found.status == "ok"
    assert found.last_verified_at is not None
    assert run.progress()["embedded"] == len(app.embedder.texts) > 0
    seq = app.catalog.changes.last_seq()
    app.embedder.texts.clear()
    assert counts(app.sync(source)) == {"listed": 2, "unchanged": 2}
    assert app.embedder.texts == []
    assert app.catalog.changes.last_seq() == seq


def test_a_change_is_a_new_version_and_embeds_only_what_is_new(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    before = app.document(source, uri(docs, "leave.md"))
    app.embedder.texts.clear()
    write(docs / "leave.md", LEAVE.replace("30 days", "32 days"), age_s=30)
    assert counts(app.sync(source)) == {"listed": 2, "unchanged": 1, "changed": 1}
    assert app.embedder.texts == ["Every employee has 32 days of leave a year."]
    after = app.document(source, uri(docs, "leave.md"))
    assert after.id == before.id
    assert len(app.versions(after)) == 2
    assert "32 days" in app.served(source)[after.uri]


def test_a_touched_file_is_read_but_not_changed(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    before = app.document(source, uri(docs, "leave.md"))
    app.embedder.texts.clear()
    write(docs / "leave.md", LEAVE, age_s=30)
    assert counts(app.sync(source)) == {"listed": 2, "unchanged": 2}
    after = app.document(source, uri(docs, "leave.md"))
    assert after.fingerprint != before.fingerprint
    assert len(app.versions(after)) == 1
    assert app.embedder.texts == []


def test_another_type_of_the_same_bytes_is_a_change(app: Installation, source: Source, docs: Path) -> None:
    write(docs / "note.txt", "# Not a heading")
    app.sync(source)
    assert app.served(source)[uri(docs, "note.txt")] == "# Not a heading"
    (docs / "note.txt").rename(docs / "note.md")
    app.sync(source)
    assert app.served(source)[uri(docs, "note.md")] == "Not a heading"
    assert uri(docs, "note.txt") not in app.served(source)


def test_a_deleted_file_is_out_of_force_without_embedding(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    app.embedder.texts.clear()
    (docs / "leave.md").unlink()
    assert counts(app.sync(source)) == {"listed": 1, "unchanged": 1, "deleted": 1}
    document = app.document(source, uri(docs, "leave.md"))
    assert document.deleted_at is not None
    (version,) = app.versions(document)
    assert version.valid_to == document.deleted_at
    assert app.embedder.texts == []


def test_a_file_that_comes_back_goes_on_with_its_history(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    before = app.document(source, uri(docs, "leave.md"))
    (docs / "leave.md").unlink()
    app.sync(source)
    app.embedder.texts.clear()
    write(docs / "leave.md", LEAVE)
    app.sync(source)
    after = app.document(source, uri(docs, "leave.md"))
    assert (after.id, after.deleted_at) == (before.id, None)
    assert [version.valid_to is None for version in app.versions(after)] == [False, True]
    assert app.embedder.texts == []


# ---------------------------------------------------------------- renames


def test_a_rename_keeps_history_and_embeds_nothing(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    before = app.document(source, uri(docs, "parking.md"))
    app.embedder.texts.clear()
    (docs / "sub").mkdir()
    (docs / "parking.md").rename(docs / "sub" / "where-to-park.md")
    assert counts(app.sync(source)) == {"listed": 2, "unchanged": 1, "changed": 1}
    after = app.document(source, uri(docs, "sub/where-to-park.md"))
    assert (after.id, after.title) == (before.id, "Parking")
    assert len(app.versions(after)) == 1
    assert app.embedder.texts == []
    assert uri(docs, "parking.md") not in app.served(source)


def test_a_document_named_by_its_place_is_renamed_with_it(app: Installation, source: Source, docs: Path) -> None:
    write(docs / "old_name.txt", "Some words.")
    app.sync(source)
    assert app.document(source, uri(docs, "old_name.txt")).title == "old name"
    (docs / "old_name.txt").rename(docs / "new-name.txt")
    app.sync(source)
    assert app.document(source, uri(docs, "new-name.txt")).title == "new name"


def test_many_renames_with_equal_contents_keep_each_a_history(app: Installation, source: Source, docs: Path) -> None:
    for number in range(30):  # three of each content
        write(docs / "in" / f"f{number}.txt", f"Content number {number % 10}.")
    app.sync(source)
    before = {d.id: d.content_sha256 for d in app.catalog.documents.of_source(source.id).values()}
    app.embedder.texts.clear()
    (docs / "in").rename(docs / "out")
    run = app.sync(source)
    assert counts(run) == {"listed": 32, "unchanged": 2, "changed": 30}
    after = {d.id: d.content_sha256 for d in app.catalog.documents.of_source(source.id).values()}
    assert after == before
    assert app.embedder.texts == []
    assert app.catalog.sources.get(source.id).withheld_deletions == 0


def test_of_two_copies_one_is_the_moved_document(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    before = app.document(source, uri(docs, "leave.md"))
    app.embedder.texts.clear()
    shutil.copy2(docs / "leave.md", docs / "copy.md")
    (docs / "leave.md").rename(docs / "moved.md")
    assert counts(app.sync(source)) == {"listed": 3, "unchanged": 1, "changed": 1, "new": 1}
    found = {app.document(source, uri(docs, name)).id for name in ("copy.md", "moved.md")}
    assert before.id in found
    assert len(found) == 2
    assert app.embedder.texts == []


def test_two_files_that_swap_places_swap_contents(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    app.embedder.texts.clear()
    (docs / "leave.md").rename(docs / "x")
    (docs / "parking.md").rename(docs / "leave.md")
    (docs / "x").rename(docs / "parking.md")
    assert counts(app.sync(source)) == {"listed": 2, "changed": 2}
    served = app.served(source)
    assert served[uri(docs, "leave.md")].startswith("Parking")
    assert served[uri(docs, "parking.md")].startswith("Leave")
    assert app.embedder.texts == []


def test_a_file_moved_right_after_it_was_written_keeps_its_history(app: Installation, docs: Path) -> None:
    source = app.source(file_uri(docs), options={"settle_s": 5})
    app.sync(source)
    before = app.document(source, uri(docs, "leave.md"))
    write(docs / "leave.md", LEAVE, age_s=0)  # saved and moved: it is not settled at its new place
    (docs / "leave.md").rename(docs / "moved.md")
    run = app.sync(source)
    assert (run.counts["deleted"], run.again_in_s) == (0, 1)
    document = app.document(source, uri(docs, "leave.md"))
    assert (document.deleted_at, document.suspect) == (None, "missing")  # findable meanwhile
    write(docs / "moved.md", LEAVE, age_s=10)
    assert counts(app.sync(source)) == {"listed": 2, "unchanged": 1, "changed": 1}
    moved = app.document(source, uri(docs, "moved.md"))
    assert (moved.id, moved.suspect) == (before.id, None)


def test_a_file_that_is_always_being_written_delays_deletions_only_once(app: Installation, docs: Path) -> None:
    source = app.source(file_uri(docs), options={"settle_s": 5})
    app.sync(source)
    (docs / "leave.md").unlink()
    write(docs / "log.txt", "line", age_s=0)
    assert app.sync(source).counts["deleted"] == 0
    write(docs / "log.txt", "line\nline", age_s=0)
    assert app.sync(source).counts["deleted"] == 1


# ---------------------------------------------------------------- what cannot be ingested


def test_a_poisoned_file_is_a_dead_letter_and_the_others_go_on(app: Installation, source: Source, docs: Path) -> None:
    write(docs / "bad.pdf", ENCRYPTED_PDF)
    write(docs / "empty.txt", "")
    write(docs / "image.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    run = app.sync(source)
    assert counts(run) == {"listed": 5, "new": 2, "failed": 3}
    assert letters(app, source) == {
        uri(docs, "bad.pdf"): "DocumentDamaged",
        uri(docs, "empty.txt"): "DocumentWithoutText",
        uri(docs, "image.png"): "TypeNotSupported",
    }
    for letter in app.catalog.dead_letters.of_source(source.id).values():
        assert letter.reason
        assert letter.hint


def test_a_dead_letter_is_not_tried_again_until_it_changes(app: Installation, source: Source, docs: Path) -> None:
    write(docs / "empty.txt", "")
    app.sync(source)
    assert counts(app.sync(source)) == {"listed": 3, "unchanged": 2, "skipped": 1}
    assert app.catalog.dead_letters.of_source(source.id)[uri(docs, "empty.txt")].attempts == 1
    write(docs / "empty.txt", "Not any more.")
    assert counts(app.sync(source)) == {"listed": 3, "unchanged": 2, "new": 1}
    assert letters(app, source) == {}


def test_a_dead_letter_can_be_retried(app: Installation, source: Source, docs: Path) -> None:
    write(docs / "empty.txt", "")
    app.sync(source)
    (letter,) = app.catalog.dead_letters.of_source(source.id).values()
    app.catalog.dead_letters.retry(letter.id, now=app.clock())
    assert counts(app.sync(source)) == {"listed": 3, "unchanged": 2, "failed": 1}
    assert counts(app.sync(source)) == {"listed": 3, "unchanged": 2, "skipped": 1}


def test_a_dead_letter_whose_file_is_gone_is_forgotten(app: Installation, source: Source, docs: Path) -> None:
    write(docs / "empty.txt", "")
    app.sync(source)
    (docs / "empty.txt").unlink()
    app.sync(source)
    assert letters(app, source) == {}


def test_what_cannot_be_read_is_tried_three_times_and_a_run_says_when(
    app: Installation, source: Source, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.sync(source)
    now = app.clock()
    app.clock = lambda: now
    app.pipeline = Pipeline(app.catalog, clock=lambda: now)
    real = os.open

    def refused(path: object, flags: int, *args: object, **more: object) -> int:
        if path == "leave.md":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args, **more)  # type: ignore[call-overload, no-any-return]

    write(docs / "leave.md", LEAVE + "\nMore.\n", age_s=20)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        tries = 0
        for _ in range(10):
            run = app.sync(source)
            tries += run.counts["failed"]
            (letter,) = app.catalog.dead_letters.of_source(source.id).values()
            if letter.retry_at is None:
                break
            assert run.again_in_s == pytest.approx((letter.retry_at - now).total_seconds())
            assert app.sync(source).again_in_s == run.again_in_s, "an event in between must not lose the appointment"
            now = letter.retry_at
        assert (tries, letter.attempts) == (3, 3)
        assert app.sync(source).again_in_s is None
        served = app.document(source, uri(docs, "leave.md"))
        assert served.suspect == "changed"
        assert "30 days" in app.served(source)[served.uri]  # the last good state
    write(docs / "leave.md", LEAVE, age_s=19)  # readable again, and as it was
    assert counts(app.sync(source)) == {"listed": 2, "unchanged": 2}
    assert letters(app, source) == {}
    assert app.document(source, uri(docs, "leave.md")).suspect is None


def test_a_file_that_is_being_written_waits(app: Installation, docs: Path) -> None:
    source = app.source(file_uri(docs), options={"settle_s": 5})
    write(docs / "half.txt", "Half a sent", age_s=0)
    run = app.sync(source)
    assert counts(run) == {"listed": 3, "new": 2, "skipped": 1}
    assert run.again_in_s == 1
    assert letters(app, source) == {}


def test_names_that_are_not_utf8_do_not_stop_a_run(app: Installation, source: Source, docs: Path) -> None:
    for name, data in ((b"caf\xe9.txt", b"Coffee is free."), (b"bad\xff.txt", b"")):
        with open(os.path.join(os.fsencode(docs), name), "wb") as file:
            file.write(data)
    assert counts(app.sync(source)) == {"listed": 4, "new": 3, "failed": 1}
    assert "Coffee is free." in app.served(source).values()


def test_a_full_disk_ends_the_run(app: Installation, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise StorageFailed("disk full")

    monkeypatch.setattr(app.catalog.recording, "record", refuse)
    with pytest.raises(StorageFailed):
        app.sync(source)
    assert letters(app, source) == {}


# ---------------------------------------------------------------- absence is not deletion


@pytest.fixture
def many(app: Installation, docs: Path) -> Source:
    for number in range(40):
        write(docs / "many" / f"d{number}.txt", f"Document number {number}.")
    source = app.folder_source(docs)
    app.sync(source)
    return source


def test_a_mass_deletion_is_withheld_until_it_is_approved(app: Installation, many: Source, docs: Path) -> None:
    for number in range(20):
        (docs / "many" / f"d{number}.txt").unlink()
    write(docs / "new.txt", "An addition.")
    assert counts(app.sync(many)) == {"listed": 23, "new": 1, "unchanged": 22, "withheld": 20}
    found = app.catalog.sources.get(many.id)
    assert (found.status, found.withheld_deletions) == ("withheld", 20)
    assert len(app.served(many)) == 43
    suspects = [d for d in app.catalog.documents.of_source(many.id).values() if d.suspect == "missing"]
    assert len(suspects) == 20
    assert app.sync(many, approved=19).counts["withheld"] == 20  # a ceiling
    assert app.sync(many, approved=20).counts["deleted"] == 20
    assert len(app.served(many)) == 23
    assert app.catalog.sources.get(many.id).status == "ok"


def test_withheld_documents_that_come_back_are_not_suspect_any_more(
    app: Installation, many: Source, docs: Path
) -> None:
    (docs / "many").rename(docs / ".unmounted")
    assert app.sync(many).counts["withheld"] == 40
    (docs / ".unmounted").rename(docs / "many")  # a folder's move leaves the files' fingerprints as they were
    assert counts(app.sync(many)) == {"listed": 42, "unchanged": 42}
    assert all(d.suspect is None for d in app.catalog.documents.of_source(many.id).values())
    assert app.catalog.sources.get(many.id).withheld_deletions == 0


def test_an_unreachable_source_keeps_its_documents(app: Installation, many: Source, docs: Path) -> None:
    before, verified = app.served(many), app.catalog.sources.get(many.id).last_verified_at
    docs.rename(docs.with_name("elsewhere"))
    with pytest.raises(SourceUnreachable):
        app.sync(many)
    assert app.served(many) == before
    found = app.catalog.sources.get(many.id)
    assert found.status == "error"
    assert "docs" in str(found.error)
    assert found.last_verified_at == verified
    docs.with_name("elsewhere").rename(docs)
    assert counts(app.sync(many)) == {"listed": 42, "unchanged": 42}


def test_a_listing_that_raced_a_rename_is_not_believed(app: Installation, source: Source, docs: Path) -> None:
    app.sync(source)
    drafting = app.drafting(source)
    real = drafting.connector.list
    listings = []

    def racing() -> list[object]:
        items = list(real())
        listings.append(len(items))
        return items[:1] if len(listings) == 1 else items  # the first misses a file under both its names

    drafting.connector.list = racing  # type: ignore[method-assign, assignment]
    run = Run()
    app.pipeline.sync(drafting, app.embedding, app.generation, run)
    assert counts(run) == {"listed": 2, "unchanged": 2}
    assert len(listings) == 2


def test_a_source_that_was_removed_meanwhile_gets_nothing_more(app: Installation, source: Source) -> None:
    drafting, run = app.drafting(source), Run()
    app.catalog.sources.delete(source.id)
    with pytest.raises(NotFound):
        app.pipeline.sync(drafting, app.embedding, app.generation, run)
    assert app.catalog.documents.of_source(source.id) == {}


def test_a_cancelled_run_keeps_what_it_recorded_and_goes_on_later(
    app: Installation, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.pipeline._BATCH_DRAFTS", 5)
    for number in range(20):
        write(docs / "many" / f"d{number:02}.txt", f"Document number {number}.")
    source, run = app.folder_source(docs), Run()
    real = app.catalog.recording.record
    recorded = []

    def record(*args: object, **named: object) -> object:
        recorded.append(1)
        run.stopping = len(recorded) >= 5
        return real(*args, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(app.catalog.recording, "record", record)
        with pytest.raises(Cancelled):
            app.pipeline.sync(app.drafting(source), app.embedding, app.generation, run)
    assert len(app.served(source)) == 5
    assert app.catalog.sources.get(source.id).last_verified_at is None
    assert counts(app.sync(source)) == {"listed": 22, "unchanged": 5, "new": 17}


# ---------------------------------------------------------------- access, metadata, options


def test_a_sources_access_and_metadata_are_its_documents(app: Installation, docs: Path) -> None:
    source = app.source(
        file_uri(docs), options={"settle_s": 0}, access={"group:hr"}, metadata={"team": "people", "lang": "xx"}
    )
    app.sync(source)
    document = app.document(source, uri(docs, "leave.md"))
    assert document.access == {"group:hr"}
    assert (document.metadata["team"], document.metadata["lang"]) == ("people", "xx")
    assert document.metadata["media_type"] == "text/markdown"


def test_an_empty_access_list_means_nobody(app: Installation, docs: Path) -> None:
    source = app.source(file_uri(docs), options={"settle_s": 0}, access=frozenset())
    app.sync(source)
    assert app.document(source, uri(docs, "leave.md")).access == frozenset()


def test_titles_come_from_the_place_when_the_document_has_none() -> None:
    expected = {
        "file:///a/travel_policy-2026.txt": "travel policy 2026",
        "file:///a/caf%C3%A9.txt": "café",
        "a/b/notes": "notes",
        "file:///a/caf%E9.txt": "caf\ufffd",
        "file:///a/.txt": ".txt",
        "team/report.final.docx": "report.final",
    }
    assert {place: title_of(place) for place in expected} == expected


# ---------------------------------------------------------------- pushed documents and the handlers


@pytest.fixture
def ingestion(app: Installation, tmp_path: Path) -> Ingestion:
    def embedder_of(_: str) -> CountingEmbedder:
        return app.embedder

    def chunker_of(_: str) -> StructureChunker:
        return app.chunker

    reindexing = Reindexing(
        app.catalog, app.follower, embedder_of, chunker_of, analyzer_of, lambda *_: None, writable=True
    )
    blobs = FolderBlobStore(tmp_path / "blobs")
    return Ingestion(app.catalog, app.follower, app.jail, blobs, embedder_of, chunker_of, app.pipeline, reindexing)


def push(app: Installation, ingestion: Ingestion, uri: str, data: bytes, **fields: object) -> Run:
    source = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    values: dict[str, object] = {
        "media_type": "text/plain", "title": None, "valid_from": None, "access": None, "metadata": {}, **fields
    }  # fmt: skip
    waiting = Push(source.id, uri, ingestion.blobs.put(data), pushed_at=app.clock(), **values)  # type: ignore[arg-type]
    app.catalog.sources.put_push(waiting)
    app.catalog.jobs.enqueue("push", now=app.clock(), source_id=source.id, payload={"uri": uri})
    job = app.catalog.jobs.claim("w", now=app.clock())
    assert job is not None
    run = Run()
    try:
        ingestion.handlers()[job.kind](job, run)
    finally:
        app.catalog.jobs.finish(job.id, "w", "succeeded", now=app.clock())
    return run


def test_a_push_is_ingested_and_its_bytes_are_forgotten(app: Installation, ingestion: Ingestion) -> None:
    run = push(
        app, ingestion, "team/a", b"Pushed words.", title="Told", access=frozenset({"user:ann"}), metadata={"x": 1}
    )
    assert counts(run) == {"listed": 1, "new": 1}
    source = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    document = app.document(source, "team/a")
    assert (document.title, document.access, document.metadata["x"]) == ("Told", {"user:ann"}, 1)
    assert app.served(source) == {"team/a": "Pushed words."}
    assert app.catalog.sources.get_push(source.id, "team/a") is None
    assert [path for path in (app.folder.parent / "blobs").rglob("*") if path.is_file()] == []


def test_the_same_push_again_changes_nothing_and_others_stay(app: Installation, ingestion: Ingestion) -> None:
    push(app, ingestion, "a", b"First.")
    push(app, ingestion, "b", b"Other.")
    assert counts(push(app, ingestion, "a", b"First.")) == {"listed": 1, "unchanged": 1}
    assert counts(push(app, ingestion, "a", b"First.", access=frozenset({"x"}))) == {"listed": 1, "unchanged": 1}
    source = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    assert app.document(source, "a").access == {"x"}
    assert counts(push(app, ingestion, "a", b"Second.")) == {"listed": 1, "changed": 1}
    assert app.served(source) == {"a": "Second.", "b": "Other."}


def test_a_push_with_a_past_valid_from_makes_an_older_version(app: Installation, ingestion: Ingestion) -> None:
    push(app, ingestion, "a", b"Now.")
    past = app.clock() - timedelta(days=30)
    assert counts(push(app, ingestion, "a", b"Then.", valid_from=past)) == {"listed": 1, "changed": 1}
    source = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    assert app.served(source) == {"a": "Now."}
    assert [version.valid_from == past for version in app.versions(app.document(source, "a"))] == [False, True]


def test_a_push_that_fails_says_why_and_can_be_retried(app: Installation, ingestion: Ingestion) -> None:
    with pytest.raises(DocumentDamaged) as caught:
        push(app, ingestion, "a", b"%PDF-broken", media_type="application/pdf")
    assert caught.value.hint
    source = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    waiting = app.catalog.sources.get_push(source.id, "a")
    assert waiting is not None
    assert ingestion.blobs.get(waiting.blob_sha256) == b"%PDF-broken"
    assert letters(app, source) == {"a": "DocumentDamaged"}
    assert counts(push(app, ingestion, "a", b"Sound now.")) == {"listed": 1, "new": 1}
    assert letters(app, source) == {}


def test_a_push_done_before_a_crash_is_fine(app: Installation, ingestion: Ingestion) -> None:
    source = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    app.catalog.jobs.enqueue("push", now=app.clock(), source_id=source.id, payload={"uri": "gone"})
    job = app.catalog.jobs.claim("w", now=app.clock())
    assert job is not None
    ingestion.push(job, Run())


def test_an_empty_access_list_of_a_push_means_nobody(app: Installation, ingestion: Ingestion) -> None:
    push(app, ingestion, "a", b"Sealed.", access=frozenset())
    source = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    assert app.document(source, "a").access == frozenset()


def test_drafting_a_push_never_takes_the_short_way(app: Installation, tmp_path: Path) -> None:
    """Equal bytes may come with another title, access or valid_from: a push is always drafted whole."""
    blobs = FolderBlobStore(tmp_path / "b")
    source = app.source("push:")
    waiting = Push(source.id, "a", blobs.put(b"Words."), "text/plain", "T", None, None, {}, app.clock())
    connector = PushConnector(waiting, blobs)
    drafting = Drafting(source, connector, app.jail, app.chunker, frozenset({"public"}), waiting)
    (item,) = connector.list()
    app.record(source, drafting.draft(item, None))  # type: ignore[arg-type]
    again = drafting.draft(item, app.document(source, "a"))
    assert type(again).__name__ == "Draft"


def test_a_sync_job_syncs_with_its_approval(app: Installation, ingestion: Ingestion, many: Source, docs: Path) -> None:
    shutil.rmtree(docs / "many")
    for payload, deleted in (({}, 0), ({"approve_deletions": 40}, 40)):
        app.catalog.jobs.enqueue("sync", now=app.clock(), source_id=many.id, payload=payload)
        job = app.catalog.jobs.claim("w", now=app.clock())
        assert job is not None
        run = Run()
        ingestion.sync(job, run)
        app.catalog.jobs.finish(job.id, "w", "succeeded", now=app.clock())
        assert run.counts["deleted"] == deleted


def test_what_cannot_be_done_says_so(app: Installation, ingestion: Ingestion, source: Source) -> None:
    with pytest.raises(Conflict, match="kind 'ftp'"):
        open_connector(app.catalog.sources.add(
            collection_id=app.collection.id, kind="ftp", uri="ftp://x", now=app.clock()
        ))  # fmt: skip
    pushed = app.catalog.sources.push_source(app.collection.id, now=app.clock())
    assert pushed.kind == PUSH
    app.catalog.jobs.enqueue("sync", now=app.clock(), source_id=pushed.id)
    job = app.catalog.jobs.claim("w", now=app.clock())
    assert job is not None
    with pytest.raises(Conflict, match="no place"):
        ingestion.sync(job, Run())


def test_verify_and_compact_run_as_jobs(app: Installation, ingestion: Ingestion, source: Source) -> None:
    app.sync(source)
    app.find("leave")
    for kind in ("compact", "verify"):
        app.catalog.jobs.enqueue(kind, now=app.clock())  # type: ignore[arg-type]
        job = app.catalog.jobs.claim("w", now=app.clock())
        assert job is not None
        run = Run()
        ingestion.handlers()[kind](job, run)
        assert run.done == 1
