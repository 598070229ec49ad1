"""Four times, an age, an SLA and a verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ingest.model import Document, Source, Version
from ragsvc.freshness import Freshness, freshness_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SLA = 7200
VERSION = Version(
    id="ver_1",
    document_id="doc_1",
    ordinal=1,
    sha256="",
    valid_from=NOW - 10 * HOUR,
    valid_to=None,
    recorded_from=NOW - 9 * HOUR,
    recorded_to=None,
    title="A",
    lang="en",
    characters=1,
    source_modified_at=NOW - 10 * HOUR,
)
DOCUMENT = Document(
    id="doc_1",
    collection_id="col_1",
    source_id="src_1",
    uri="file:///a",
    title="A",
    media_type="text/plain",
    fingerprint="",
    content_sha256="",
    access=frozenset({"public"}),
    metadata={},
    current_version_id="ver_1",
    deleted_at=None,
    last_verified_at=NOW - 9 * HOUR,
)
SOURCE = Source(
    id="src_1",
    collection_id="col_1",
    kind="files",
    uri="file:///",
    options={},
    watch=False,
    schedule=None,
    freshness_sla_s=None,
    access=None,
    metadata={},
    created_at=NOW - 20 * HOUR,
    status="ok",
    last_verified_at=NOW - HOUR,
)


def judged(
    version: dict[str, Any] | None = None, document: dict[str, Any] | None = None, source: dict[str, Any] | None = None
) -> Freshness:
    return freshness_of(
        replace(VERSION, **version or {}),
        replace(DOCUMENT, **document or {}),
        replace(SOURCE, **source or {}),
        now=NOW,
        default_sla_s=SLA,
    )


def test_the_four_times() -> None:
    found = judged()
    assert found.source_modified_at == NOW - 10 * HOUR
    assert found.ingested_at == found.indexed_at == NOW - 9 * HOUR
    assert found.last_verified_at == NOW - HOUR
    assert found.age_s == 36_000
    assert found.verified_age_s == 3_600
    assert found.sla_s == SLA
    assert found.status == "fresh"


def test_a_source_that_says_no_time_was_changed_when_it_was_ingested() -> None:
    found = judged(version={"source_modified_at": None})
    assert found.source_modified_at == NOW - 9 * HOUR
    assert found.age_s == 9 * 3600


def test_a_complete_listing_verifies_what_it_found_no_fault_with() -> None:
    assert judged(source={"last_verified_at": NOW}).last_verified_at == NOW
    suspect = judged(source={"last_verified_at": NOW}, document={"suspect": "missing"})
    assert suspect.last_verified_at == NOW - 9 * HOUR
    assert suspect.status == "stale"


def test_a_later_look_at_the_document_itself_counts() -> None:
    assert judged(document={"last_verified_at": NOW - timedelta(minutes=1)}).verified_age_s == 60


@pytest.mark.parametrize(("age_s", "status"), [(0, "fresh"), (SLA, "fresh"), (SLA + 1, "stale"), (10 * SLA, "stale")])
def test_later_than_the_sla_is_stale(age_s: int, status: str) -> None:
    assert (
        judged(
            source={"last_verified_at": NOW - timedelta(seconds=age_s)}, document={"last_verified_at": NOW - 100 * HOUR}
        ).status
        == status
    )


def test_a_source_has_its_own_sla() -> None:
    found = judged(source={"freshness_sla_s": 60})
    assert found.sla_s == 60
    assert found.status == "stale"


def test_a_source_that_was_not_reached_is_unverified() -> None:
    assert judged(source={"status": "error"}).status == "unverified"


def test_withheld_deletions_do_not_hide_the_others() -> None:
    assert judged(source={"status": "withheld"}).status == "fresh"


@pytest.mark.parametrize(
    ("version", "document", "status"),
    [
        ({"valid_to": NOW}, {}, "superseded"),
        ({"valid_to": NOW - HOUR}, {}, "superseded"),
        ({"valid_to": NOW + HOUR}, {}, "fresh"),
        ({"valid_to": NOW - HOUR}, {"deleted_at": NOW - HOUR}, "deleted_at_source"),
        ({}, {"deleted_at": NOW}, "deleted_at_source"),
        ({}, {"deleted_at": NOW + HOUR}, "fresh"),
    ],
)
def test_what_is_no_longer_in_force(version: dict[str, Any], document: dict[str, Any], status: str) -> None:
    assert judged(version, document).status == status
    assert judged(version, document, {"status": "error"}).status == ("unverified" if status == "fresh" else status)


def test_a_pushed_document_is_verified_by_its_push() -> None:
    pushed = {"kind": "push", "last_verified_at": None}
    assert judged(source=pushed).status == "fresh"
    assert judged(source={**pushed, "freshness_sla_s": 60}).status == "stale"


def test_a_document_without_a_source_is_judged_by_itself() -> None:
    found = freshness_of(VERSION, DOCUMENT, None, now=NOW, default_sla_s=SLA)
    assert found.verified_age_s == 9 * 3600
    assert found.status == "stale"
    assert found.sla_s == SLA


def test_ages_are_never_negative() -> None:
    ahead = NOW + HOUR
    found = judged({"source_modified_at": ahead}, {"last_verified_at": ahead})
    assert (found.age_s, found.verified_age_s) == (0, 0)
    assert found.status == "fresh"
