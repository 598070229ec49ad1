"""Collections, sources, keys, audit, dead letters and the change log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.catalog.catalog import Catalog
from ingest.catalog.dead_letters import MAX_TRIES
from ingest.catalog.sources import PUSH
from ingest.errors import (
    Conflict,
    DocumentDamaged,
    DocumentEncrypted,
    ItemUnreadable,
    NotFound,
    ParserKilled,
    SourceUnreachable,
)
from ingest.model import Collection, Push, Source
from tests.contracts.ingest_parts import START, Clock, Installation, database_url, make_draft, open_catalog, undone

SECOND = timedelta(seconds=1)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    found = open_catalog(tmp_path)
    yield found
    found.close()


def collection(catalog: Catalog, name: str = "handbook", **fields: Any) -> Collection:
    built = {"embedder": "hash:64", "dimensions": 64, "chunker": "c", "analyzer": "a"}
    return catalog.collections.ensure(name, now=START, **{**built, **fields})


@pytest.fixture
def source(catalog: Catalog) -> Source:
    return catalog.sources.add(collection_id=collection(catalog).id, kind="files", uri="file:///docs", now=START)


# ---------------------------------------------------------------- collections


def test_a_collection_is_made_once_with_its_generation(catalog: Catalog) -> None:
    made = collection(catalog, access=("group:staff", "group:hr"))
    assert collection(catalog, embedder="other", access=("public",)) == made
    assert made.access == {"group:staff", "group:hr"}
    generation = catalog.collections.generation(made.generation_id)
    assert (generation.collection_id, generation.embedder, generation.dimensions) == (made.id, "hash:64", 64)
    assert catalog.collections.generations() == (generation,)
    assert catalog.collections.get("handbook") == catalog.collections.by_id(made.id) == made


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "ä", "x" * 129, "a\n", "../x"])
def test_a_name_that_cannot_be_one_is_refused(catalog: Catalog, name: str) -> None:
    with pytest.raises(Conflict, match="cannot name"):
        collection(catalog, name)
    assert catalog.collections.all() == ()


def test_collections_are_listed_by_name(catalog: Catalog) -> None:
    for name in ("zoo", "Alpha", "handbook.v2_x-1"):
        collection(catalog, name)
    assert [found.name for found in catalog.collections.all()] == ["Alpha", "handbook.v2_x-1", "zoo"]


def test_a_collection_can_change_its_access_and_settings(catalog: Catalog) -> None:
    collection(catalog)
    changed = catalog.collections.update("handbook", {"access": {"b", "a"}, "settings": {"weight": 0.4}})
    assert (changed.access, changed.settings) == ({"a", "b"}, {"weight": 0.4})
    with pytest.raises(NotFound):
        catalog.collections.update("none", {"settings": {}})


def test_only_an_empty_collection_can_be_deleted(catalog: Catalog, source: Source) -> None:
    with pytest.raises(Conflict, match="still has"):
        catalog.collections.delete("handbook")
    catalog.sources.delete(source.id)
    catalog.collections.delete("handbook")
    with pytest.raises(NotFound):
        catalog.collections.get("handbook")
    assert catalog.collections.generations() == ()
    for missing in (lambda: catalog.collections.by_id("col_x"), lambda: catalog.collections.generation("gen_x")):
        with pytest.raises(NotFound):
            missing()


def test_a_collection_with_history_is_kept(tmp_path: Path) -> None:
    app = Installation(tmp_path, clock=Clock())
    source = app.source()
    recorded = app.record(source, make_draft("a", "One."))
    app.catalog.recording.retire([recorded.document_id], now=START)
    app.catalog.sources.delete(source.id)
    with pytest.raises(Conflict):
        app.catalog.collections.delete("handbook")
    app.close()


# ---------------------------------------------------------------- sources


def test_a_source_comes_back_as_it_was_added(catalog: Catalog) -> None:
    fields: dict[str, Any] = {
        "options": {"include": ["**/*.md"], "settle_s": 2},
        "watch": True,
        "schedule": {"interval": "60s"},
        "freshness_sla_s": 3600,
        "access": frozenset({"group:hr"}),
        "metadata": {"team": "people", "tags": ("a", "b")},
    }
    added = catalog.sources.add(
        collection_id=collection(catalog).id, kind="files", uri="file:///d", now=START, **fields
    )
    assert {name: getattr(added, name) for name in fields} == fields
    assert (added.status, added.paused, added.error, added.last_run_at) == ("new", False, None, None)
    assert catalog.sources.get(added.id) == added
    assert catalog.sources.by_ids([added.id, "src_none"]) == {added.id: added}
    assert catalog.sources.find(collection_id=added.collection_id, kind="files", uri="file:///d") == added
    assert catalog.sources.find(collection_id=added.collection_id, kind="files", uri="file:///e") is None


def test_a_place_is_a_source_once(catalog: Catalog, source: Source) -> None:
    with pytest.raises(Conflict, match=source.id):
        catalog.sources.add(collection_id=source.collection_id, kind="files", uri=source.uri, now=START)
    other = collection(catalog, "other")
    assert catalog.sources.add(collection_id=other.id, kind="files", uri=source.uri, now=START).id != source.id
    assert len(catalog.sources.all()) == 2
    assert catalog.sources.all(other.id)[0].collection_id == other.id


def test_a_source_can_be_changed(catalog: Catalog, source: Source) -> None:
    changed = catalog.sources.update(source.id, {"paused": True, "schedule": {"interval": "1h"}, "access": {"b", "a"}})
    assert (changed.paused, changed.schedule, changed.access) == (True, {"interval": "1h"}, {"a", "b"})
    assert catalog.sources.update(source.id, {"schedule": None, "access": None}).schedule is None
    assert catalog.sources.get(source.id).access is None
    with pytest.raises(NotFound):
        catalog.sources.update("src_none", {"paused": True})


def test_only_a_complete_run_verifies(catalog: Catalog, source: Source) -> None:
    catalog.sources.ran(source.id, now=START, complete=True, withheld=0, error=None)
    catalog.sources.ran(source.id, now=START + SECOND, complete=False, withheld=0, error="gone")
    found = catalog.sources.get(source.id)
    assert (found.status, found.error) == ("error", "gone")
    assert (found.last_run_at, found.last_success_at, found.last_verified_at) == (START + SECOND, START, START)
    catalog.sources.ran(source.id, now=START + 2 * SECOND, complete=True, withheld=12, error=None)
    found = catalog.sources.get(source.id)
    assert (found.status, found.error, found.withheld_deletions) == ("withheld", None, 12)
    catalog.sources.ran(source.id, now=START + 3 * SECOND, complete=False, withheld=12, error="gone")
    found = catalog.sources.get(source.id)
    assert (found.status, found.error, found.withheld_deletions) == ("error", "gone", 12)
    catalog.sources.ran(source.id, now=START + 4 * SECOND, complete=True, withheld=0, error=None)
    assert catalog.sources.get(source.id).status == "ok"


def test_a_deleted_source_takes_its_waiting_work_along(catalog: Catalog, source: Source) -> None:
    running = catalog.jobs.enqueue("sync", now=START, source_id=source.id)
    catalog.jobs.claim("w", now=START)
    waiting = catalog.jobs.enqueue("sync", now=START, source_id=source.id)
    letter = catalog.dead_letters.put(source.id, "a", fingerprint="f", error=DocumentDamaged("bad"), now=START)
    catalog.sources.put_push(push(source, "a"))
    catalog.sources.delete(source.id)
    for look in (
        lambda: catalog.sources.get(source.id),
        lambda: catalog.jobs.get(waiting.id),
        lambda: catalog.dead_letters.get(letter.id),
    ):
        with pytest.raises(NotFound):
            look()
    assert catalog.sources.get_push(source.id, "a") is None
    assert catalog.jobs.get(running.id).state == "running"


def push(source: Source, uri: str, **fields: Any) -> Push:
    values: dict[str, Any] = {
        "blob_sha256": "ab" * 32,
        "media_type": "text/plain",
        "title": None,
        "valid_from": None,
        "access": None,
        "metadata": {},
        "pushed_at": START,
    }
    return Push(source_id=source.id, uri=uri, **{**values, **fields})


def test_a_push_waits_until_it_is_done(catalog: Catalog) -> None:
    found = collection(catalog)
    source = catalog.sources.push_source(found.id, now=START)
    assert source.kind == PUSH
    assert catalog.sources.push_source(found.id, now=START + SECOND) == source
    told = push(
        source,
        "a",
        title="T",
        valid_from=START,
        access=frozenset({"x"}),
        metadata={"tags": ("a",)},
        blob_sha256="c" * 64,
    )
    catalog.sources.put_push(told)
    assert catalog.sources.get_push(source.id, "a") == told
    assert catalog.sources.get_push(source.id, "b") is None
    assert catalog.sources.waits_for("c" * 64)
    catalog.sources.done_push(told)
    assert catalog.sources.get_push(source.id, "a") is None
    assert not catalog.sources.waits_for("c" * 64)


def test_a_later_push_of_the_same_name_is_not_forgotten_with_the_earlier(catalog: Catalog) -> None:
    source = catalog.sources.push_source(collection(catalog).id, now=START)
    first, second = push(source, "a"), push(source, "a", pushed_at=START + SECOND, title="second")
    catalog.sources.put_push(first)
    catalog.sources.put_push(second)
    catalog.sources.done_push(first)
    assert catalog.sources.waits_for(second.blob_sha256)
    assert catalog.sources.get_push(source.id, "a") == second


def test_bytes_that_another_push_needs_are_kept(catalog: Catalog) -> None:
    source = catalog.sources.push_source(collection(catalog).id, now=START)
    pushes = [push(source, uri) for uri in ("a", "b")]
    for told in pushes:
        catalog.sources.put_push(told)
    needed = []
    for told in pushes:
        catalog.sources.done_push(told)
        needed.append(catalog.sources.waits_for(told.blob_sha256))
    assert needed == [True, False]


def test_an_empty_access_list_of_a_push_is_not_the_default(catalog: Catalog) -> None:
    source = catalog.sources.push_source(collection(catalog).id, now=START)
    catalog.sources.put_push(push(source, "a", access=frozenset()))
    waiting = catalog.sources.get_push(source.id, "a")
    assert waiting is not None
    assert waiting.access == frozenset()


# ---------------------------------------------------------------- keys and audit


def test_a_key_opens_until_it_is_revoked_or_expired(catalog: Catalog) -> None:
    assert catalog.keys.any() is False
    made, secret = catalog.keys.create(
        name="ci", scopes=["retrieve"], principals=["group:hr"], now=START, expires_at=START + 10 * SECOND
    )
    other, other_secret = catalog.keys.create(
        name="app", scopes=["admin", "ingest"], principals=[], now=START + SECOND, collections=["handbook"]
    )
    assert catalog.keys.any() is True
    assert catalog.keys.authenticate(secret, now=START) == made
    assert (made.scopes, made.principals, made.collections) == ({"retrieve"}, {"group:hr"}, None)
    assert other.collections == {"handbook"}
    assert catalog.keys.authenticate(secret, now=START + 9 * SECOND) is not None
    assert catalog.keys.authenticate(secret, now=START + 10 * SECOND) is None
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), made.id, "rk_"):
        assert catalog.keys.authenticate(wrong, now=START) is None
    revoked = catalog.keys.revoke(other.id, now=START + 2 * SECOND)
    assert revoked.revoked_at == START + 2 * SECOND
    assert catalog.keys.authenticate(other_secret, now=START) is None
    assert catalog.keys.revoke(other.id, now=START + 5 * SECOND) == revoked
    assert [key.name for key in catalog.keys.all()] == ["ci", "app"]
    with pytest.raises(NotFound):
        catalog.keys.revoke("key_none", now=START)


def test_no_secret_is_in_the_files(tmp_path: Path) -> None:
    catalog = Catalog(database_url(tmp_path))
    secrets = [catalog.keys.create(name=f"key {n}", scopes=["admin"], principals=[], now=START)[1] for n in range(20)]
    assert len(set(secrets)) == 20
    assert all(secret.startswith("rk_") and len(secret) >= 3 + 43 for secret in secrets)  # 256 bits in base64
    files = [path.read_bytes() for path in tmp_path.iterdir()]  # with the WAL as it is while the service runs
    catalog.close()
    files += [path.read_bytes() for path in tmp_path.iterdir()]
    assert any(b"key 7" in data for data in files), "the keys were looked for in the wrong place"
    for secret in secrets:
        for data in files:
            assert secret.encode() not in data
            assert secret.removeprefix("rk_").encode() not in data


def test_an_audit_entry_exists_only_with_its_act(catalog: Catalog, source: Source) -> None:
    with undone(catalog):
        catalog.sources.update(source.id, {"paused": True})
        catalog.audit.record("source.pause", source.id, actor="key_1", now=START)
    assert catalog.audit.newest(5) == ()
    assert catalog.sources.get(source.id).paused is False
    for number in range(3):
        catalog.audit.record("act", str(number), actor="me", now=START, detail={"n": number})
    assert [entry["subject"] for entry in catalog.audit.newest(2)] == ["2", "1"]
    assert catalog.audit.newest(1)[0] == {
        "at": START, "actor": "me", "action": "act", "subject": "2", "detail": {"n": 2}
    }  # fmt: skip


# ---------------------------------------------------------------- dead letters


def test_a_fault_that_may_pass_is_tried_three_times_with_growing_delays(catalog: Catalog, source: Source) -> None:
    delays: dict[int, set[float]] = {1: set(), 2: set()}
    for number in range(20):
        uri, now = f"doc{number}", START
        for attempt in range(1, MAX_TRIES + 1):
            letter = catalog.dead_letters.put(source.id, uri, fingerprint="f", error=ItemUnreadable("no"), now=now)
            assert (letter.attempts, letter.first_at, letter.last_at) == (attempt, START, now)
            if attempt == MAX_TRIES:
                assert letter.retry_at is None
            else:
                assert letter.retry_at is not None
                delays[attempt].add((letter.retry_at - now).total_seconds())
                now = letter.retry_at
    assert len(delays[1]) > 10, "there is no jitter"
    assert 2.5 <= min(delays[1]) <= max(delays[1]) <= 7.5
    assert 10 <= min(delays[2]) <= max(delays[2]) <= 30


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (DocumentDamaged("x"), False),
        (DocumentEncrypted("x"), False),
        (ParserKilled("x"), True),
        (ItemUnreadable("x"), True),
        (SourceUnreachable("x"), True),
    ],
)
def test_only_what_may_pass_is_tried_again(catalog: Catalog, source: Source, error: Any, again: bool) -> None:
    letter = catalog.dead_letters.put(source.id, "a", fingerprint="f", error=error, now=START)
    assert (letter.retry_at is not None) is again
    assert (letter.reason, letter.hint, letter.error_type) == ("x", error.hint, type(error).__name__)


def test_a_changed_document_starts_from_its_first_attempt(catalog: Catalog, source: Source) -> None:
    for second in range(3):
        catalog.dead_letters.put(
            source.id, "a", fingerprint="f1", error=ItemUnreadable("no"), now=START + second * SECOND
        )
    changed = catalog.dead_letters.put(
        source.id, "a", fingerprint="f2", error=DocumentDamaged("bad"), now=START + 9 * SECOND
    )
    assert (changed.attempts, changed.first_at, changed.error_type) == (1, START + 9 * SECOND, "DocumentDamaged")
    assert catalog.dead_letters.of_source(source.id) == {"a": changed}


def test_a_letter_can_be_retried_and_cleared(catalog: Catalog, source: Source) -> None:
    letter = catalog.dead_letters.put(source.id, "a", fingerprint="f", error=DocumentDamaged("bad"), now=START)
    retried = catalog.dead_letters.retry(letter.id, now=START + SECOND)
    assert (retried.attempts, retried.retry_at) == (0, START + SECOND)
    again = catalog.dead_letters.put(
        source.id, "a", fingerprint="f", error=DocumentDamaged("bad"), now=START + 2 * SECOND
    )
    assert (again.id, again.attempts, again.retry_at) == (letter.id, 1, None)
    catalog.dead_letters.clear(source.id, "a")
    catalog.dead_letters.clear(source.id, "a")
    assert catalog.dead_letters.of_source(source.id) == {}
    with pytest.raises(NotFound):
        catalog.dead_letters.retry(letter.id, now=START)


def test_letters_are_paged(catalog: Catalog, source: Source) -> None:
    expected = sorted(
        catalog.dead_letters.put(source.id, f"d{n}", fingerprint="f", error=DocumentDamaged("x"), now=START).id
        for n in range(7)
    )
    catalog.dead_letters.put("src_other", "x", fingerprint="f", error=DocumentDamaged("x"), now=START)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page, after = catalog.dead_letters.page(limit=3, after=after, source_id=source.id)
        found += [letter.id for letter in page]
    assert found == expected
    assert len(catalog.dead_letters.page(limit=100)[0]) == 8


# ---------------------------------------------------------------- the change log


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path, clock=Clock())
    yield installation
    installation.close()


def test_the_log_keeps_a_documents_entries_together(app: Installation) -> None:
    source = app.source()
    for text in ("One.", "Two.", "Three."):  # describe+put, close+put, close+put
        for uri in "abcde":
            app.record(source, make_draft(uri, f"{text} {uri}"))
    everything = app.catalog.changes.since(0, collection_ids=[app.collection.id], limit=1000)
    assert [change.seq for change in everything] == sorted({change.seq for change in everything})
    assert len(everything) == 30
    for limit in range(1, 32):
        seq, seen = 0, []
        while batch := app.catalog.changes.since(seq, collection_ids=[app.collection.id], limit=limit):
            if seen:
                assert seen[-1].document_id != batch[0].document_id, f"split at a limit of {limit}"
            seen += batch
            assert len(batch) <= limit + 1
            seq = batch[-1].seq
        assert seen == list(everything)


def test_the_log_of_a_collection_is_its_own(app: Installation) -> None:
    app.record(app.source(), make_draft("a", "One."))
    mine = app.catalog.changes.last_seq(app.collection.id)
    built = {"embedder": "hash:64", "dimensions": 64, "chunker": "c", "analyzer": "a", "now": START}
    other = app.catalog.collections.ensure("other", **built)
    source = app.catalog.sources.add(collection_id=other.id, kind="files", uri="file:///o", now=START)
    app.record(source, make_draft("a", "One."))
    assert app.catalog.changes.last_seq(app.collection.id) == mine
    assert app.catalog.changes.last_seq(other.id) == app.catalog.changes.last_seq() > mine
    assert {c.collection_id for c in app.catalog.changes.since(0, collection_ids=[other.id], limit=9)} == {other.id}
    assert app.catalog.changes.last_seq("col_none") == 0
    assert app.catalog.changes.committed_at(mine) > 0
    assert app.catalog.changes.committed_at(10**9) == 0


def test_sequence_numbers_are_never_used_again(app: Installation) -> None:
    source = app.source()
    app.record(source, make_draft("a", "One."))
    seen = app.catalog.changes.last_seq()
    with undone(app.catalog):
        app.record(source, make_draft("b", "Two."))
    app.record(source, make_draft("c", "Three."))
    entries = app.catalog.changes.since(seen, collection_ids=[app.collection.id], limit=9)
    assert all(entry.seq > seen for entry in entries)
    assert {entry.document_id for entry in entries} == {app.document(source, "c").id}
