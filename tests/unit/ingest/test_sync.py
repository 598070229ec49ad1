"""What a listing means: a pure comparison, and the brake that keeps a broken listing from deleting everything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.model import DeadLetter, Document, Item
from ingest.sync import BRAKE_COUNT, BRAKE_SHARE, diff, is_mass_deletion
from tests.contracts.ingest_parts import START


def item(uri: str, fingerprint: str = "f") -> Item:
    return Item(uri, uri, fingerprint)


def document(uri: str, fingerprint: str = "f") -> Document:
    return Document(
        id=f"doc_{uri}", collection_id="c", source_id="s", uri=uri, title=uri, media_type="text/plain",
        fingerprint=fingerprint, content_sha256="", access=frozenset(), metadata={}, current_version_id=None,
        deleted_at=None, last_verified_at=START,
    )  # fmt: skip


def known(*uris: str) -> dict[str, Document]:
    return {uri: document(uri) for uri in uris}


def letter(uri: str, fingerprint: str = "f", retry_s: float | None = None) -> DeadLetter:
    retry_at = None if retry_s is None else START + timedelta(seconds=retry_s)
    return DeadLetter(f"dl_{uri}", "s", uri, "bad", "mend", "ParseError", fingerprint, 1, retry_at, START, START)


def uris(entries: tuple[Item, ...] | tuple[Document, ...]) -> list[str]:
    return [entry.uri for entry in entries]


def test_new_changed_unchanged_and_missing() -> None:
    plan = diff([item("new"), item("same"), item("edited", "g")], known("same", "edited", "gone"), {}, now=START)
    assert (uris(plan.fetch), uris(plan.unchanged), uris(plan.missing)) == (["new", "edited"], ["same"], ["gone"])
    assert (plan.skipped, plan.withheld) == ((), ())


def test_nothing_known_and_nothing_listed() -> None:
    plan = diff([], {}, {}, now=START)
    assert plan == diff([], {}, {"x": letter("x")}, now=START, approved=9)
    assert (plan.fetch, plan.missing) == ((), ())


@pytest.mark.parametrize(
    ("found", "where"),
    [
        (letter("a"), "skipped"),
        (letter("a", retry_s=1), "skipped"),
        (letter("a", retry_s=0), "fetch"),
        (letter("a", retry_s=-1), "fetch"),
        (letter("a", fingerprint="older"), "fetch"),
    ],
)
@pytest.mark.parametrize("served", [True, False])
def test_a_dead_letter_waits_until_it_is_due_or_its_item_changes(found: DeadLetter, where: str, served: bool) -> None:
    before = {"a": document("a", "an earlier one")} if served else {}
    plan = diff([item("a")], before, {"a": found}, now=START)
    assert uris(getattr(plan, where)) == ["a"]
    assert sum(len(part) for part in (plan.fetch, plan.unchanged, plan.skipped)) == 1
    assert plan.missing == ()


def test_a_letter_of_an_item_that_is_served_as_it_is_does_not_matter() -> None:
    plan = diff([item("a")], known("a"), {"a": letter("a", fingerprint="in between")}, now=START)
    assert uris(plan.unchanged) == ["a"]


@pytest.mark.parametrize(
    ("missing", "total", "expected"),
    [(0, 0, False), (10, 10, False), (11, 11, True), (11, 110, False), (11, 109, True), (100, 1000, False),
     (101, 1000, True), (10, 50, False), (1, 1, False)],
)  # fmt: skip
def test_a_mass_deletion_is_more_than_ten_and_more_than_a_tenth(missing: int, total: int, expected: bool) -> None:
    assert is_mass_deletion(missing, total) is expected


sizes = st.integers(0, 150).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))


def listing_of(total: int, missing: int) -> tuple[list[Item], Mapping[str, Document]]:
    names = [f"d{number}" for number in range(total)]
    return [item(name) for name in names[missing:]], known(*names)


@given(sizes, st.integers(0, 200), st.integers(0, 20))
def test_the_brake_and_the_ceiling(size: tuple[int, int], approved: int, new: int) -> None:
    total, missing = size
    listing, before = listing_of(total, missing)
    plan = diff([*listing, *(item(f"new{n}") for n in range(new))], before, {}, now=START, approved=approved)
    assert len(plan.fetch) == new  # additions never wait for an approval
    assert len(plan.unchanged) == total - missing
    assert len(plan.missing) + len(plan.withheld) == missing
    assert not (plan.missing and plan.withheld), "all or nothing"
    believable = missing <= BRAKE_COUNT or missing <= BRAKE_SHARE * total
    assert bool(plan.withheld) == (not believable and missing > approved)


@given(sizes, st.integers(0, 200))
def test_an_approval_allows_so_many_and_not_one_more(size: tuple[int, int], approved: int) -> None:
    total, missing = size
    listing, before = listing_of(total, missing)
    deleted = len(diff(listing, before, {}, now=START, approved=approved).missing)
    without = len(diff(listing, before, {}, now=START).missing)
    assert deleted in (0, missing)
    assert deleted <= max(approved, without)


entries = st.dictionaries(st.sampled_from([f"d{n}" for n in range(12)]), st.sampled_from("fgh"))


@given(entries, entries, entries)
def test_every_item_and_every_document_goes_to_exactly_one_place(
    listed: dict[str, str], served: dict[str, str], failed: dict[str, str]
) -> None:
    listing = [item(uri, fingerprint) for uri, fingerprint in listed.items()]
    plan = diff(
        listing,
        {uri: document(uri, fingerprint) for uri, fingerprint in served.items()},
        {uri: letter(uri, fingerprint) for uri, fingerprint in failed.items()},
        now=START,
    )
    assert sorted(uris(plan.fetch) + uris(plan.unchanged) + uris(plan.skipped)) == sorted(listed)
    assert sorted(uris(plan.missing) + uris(plan.withheld)) == sorted(served.keys() - listed.keys())
    for entry in plan.unchanged:
        assert served[entry.uri] == entry.fingerprint
    for entry in plan.fetch:
        assert served.get(entry.uri) != entry.fingerprint or entry.uri in failed
