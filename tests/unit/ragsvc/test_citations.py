"""A citation id holds what it cites, has one spelling, and resolves for ever or to a tombstone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from indexes.model import Allowed, Span
from ingest.catalog.database import to_us
from ingest.catalog.tables import erased
from ingest.errors import NotFound
from ingest.model import Document
from ragsvc.citations import (
    Erased,
    Resolved,
    citation_id,
    heading_path,
    location_of,
    parse_citation_id,
    quote_of,
    resolve,
    sha256_of,
)
from tests.contracts.installation import EVERYTHING, Workshop, workshop

TEXT = "# Leaving\n\nGood bye.\n\n## Notice\n\nThe notice period is four weeks. It begins on a Monday.\n"


@st.composite
def span_lists(draw: st.DrawFn) -> list[Span]:
    """One to six spans in order that do not overlap."""
    at, spans = 0, []
    for _ in range(draw(st.integers(1, 6))):
        start = at + draw(st.integers(0, 2**20))
        at = start + draw(st.integers(1, 2**20))
        spans.append(Span(start, at))
    return spans


VERSIONS = st.binary(min_size=12, max_size=12).map(lambda body: f"ver_{body.hex()}")
SAMPLE = citation_id("ver_" + "0123456789ab" * 2, [Span(10, 300), Span(320, 400)])


@given(VERSIONS, span_lists())
def test_an_id_gives_back_what_it_was_made_of(version: str, spans: list[Span]) -> None:
    coded = citation_id(version, spans)
    assert parse_citation_id(coded) == (version, tuple(spans))
    assert set(coded.removeprefix("cit_")) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(VERSIONS, span_lists(), st.data())
def test_one_changed_character_is_not_found(version: str, spans: list[Span], data: st.DataObject) -> None:
    coded = citation_id(version, spans)
    at = data.draw(st.integers(0, len(coded) - 1))
    other = data.draw(st.sampled_from("abcXYZ019-_=+/ é\0"))
    changed = coded[:at] + other + coded[at + 1 :]
    if changed != coded:
        with pytest.raises(NotFound):
            parse_citation_id(changed)


@given(st.text(max_size=80))
def test_any_other_text_is_not_found(text: str) -> None:
    for candidate in (text, "cit_" + text):
        with pytest.raises(NotFound, match="no citation"):
            parse_citation_id(candidate)


@pytest.mark.parametrize(
    "spelling",
    [
        SAMPLE + "=",
        SAMPLE + "==",
        SAMPLE + " ",
        " " + SAMPLE,
        SAMPLE + "\n",
        "cit_" + SAMPLE,
        SAMPLE.upper(),
        SAMPLE.removeprefix("cit_"),
        SAMPLE[:-1],
        SAMPLE + "A",
        "cit_",
        "",
    ],
)
def test_there_is_one_spelling_only(spelling: str) -> None:
    assert parse_citation_id(SAMPLE)
    with pytest.raises(NotFound):
        parse_citation_id(spelling)


def test_a_number_may_not_be_padded() -> None:
    """0x81 0x00 is 1 again in variable-length coding: another spelling, with a right check sum."""
    body = bytes(12) + bytes([0x81, 0x00, 5])
    check = hashlib.blake2b(body, digest_size=4, person=b"ragsvc-cit").digest()
    with pytest.raises(NotFound):
        parse_citation_id("cit_" + base64.urlsafe_b64encode(check + body).decode().rstrip("="))


def test_spans_out_of_order_cannot_be_cited() -> None:
    with pytest.raises(ValueError, match="order"):
        citation_id("ver_" + "00" * 12, [Span(10, 20), Span(5, 8)])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with workshop(tmp_path_factory.mktemp("citations")) as made:
        yield made


@pytest.fixture(scope="module")
def document(shop: Workshop) -> Document:
    return shop.push("leaving.md", TEXT, access=["group:staff"])


def cite(shop: Workshop, document: Document, *quotes: str) -> tuple[str, list[Span]]:
    version = shop.versions(document)[-1]
    text = shop.text(version.id)
    spans = [Span(text.index(quote), text.index(quote) + len(quote)) for quote in quotes]
    return citation_id(version.id, spans), spans


def test_a_citation_resolves_to_its_characters_and_place(shop: Workshop, document: Document) -> None:
    coded, spans = cite(shop, document, "The notice period", "on a Monday.")
    found = resolve(shop.service.catalog.documents, coded, allowed=Allowed.of("group:staff"))
    assert isinstance(found, Resolved)
    assert found.quote == "The notice period ... on a Monday."
    assert found.quote_sha256 == hashlib.sha256(found.quote.encode()).hexdigest() == sha256_of(found.quote)
    assert found.location.spans == tuple(spans)
    assert found.location.heading_path == ("Leaving", "Notice")
    assert (found.location.page_start, found.location.page_end) == (None, None)
    assert found.document.id == document.id
    assert found.version.id == shop.versions(document)[-1].id


def test_what_may_not_be_read_is_like_what_is_not_there(shop: Workshop, document: Document) -> None:
    coded, _ = cite(shop, document, "The notice period")
    absent = citation_id("ver_" + "ab" * 12, [Span(0, 5)])
    said = []
    for one in (coded, absent):
        with pytest.raises(NotFound) as error:
            resolve(shop.service.catalog.documents, one, allowed=Allowed.of("user:stranger"))
        said.append((error.value.message.replace(one, "ID"), error.value.hint))
    assert said[0] == said[1]


def test_characters_beyond_the_end_are_not_found(shop: Workshop, document: Document) -> None:
    version = shop.versions(document)[-1]
    inside = citation_id(version.id, [Span(0, version.characters)])
    assert isinstance(resolve(shop.service.catalog.documents, inside, allowed=EVERYTHING), Resolved)
    with pytest.raises(NotFound):
        resolve(
            shop.service.catalog.documents,
            citation_id(version.id, [Span(0, version.characters + 1)]),
            allowed=EVERYTHING,
        )


def test_a_superseded_and_a_deleted_version_still_resolve(shop: Workshop) -> None:
    document = shop.push("kitchen.md", "The kitchen closes at six.")
    coded, _ = cite(shop, document, "closes at six")
    shop.push("kitchen.md", "The kitchen closes at eight.")
    shop.delete(document)
    found = resolve(shop.service.catalog.documents, coded, allowed=EVERYTHING)
    assert isinstance(found, Resolved)
    assert found.quote == "closes at six"
    assert found.version.valid_to is not None
    assert found.document.deleted_at is not None


def test_an_erased_version_is_a_tombstone(shop: Workshop) -> None:
    document = shop.push("secret.md", "A text that will be erased.")
    coded, _ = cite(shop, document, "erased")
    version = shop.versions(document)[-1]
    at = shop.clock()
    with shop.service.catalog._db.write() as conn:
        conn.execute(
            sa.insert(erased).values(
                version_id=version.id, document_id=document.id, deleted_at=to_us(at), reason="Art. 17"
            )
        )
    found = resolve(shop.service.catalog.documents, coded, allowed=EVERYTHING)
    assert found == Erased(coded, at.isoformat(), "Art. 17")


def test_place_of_a_quote_over_two_sections_is_that_of_its_beginning(shop: Workshop, document: Document) -> None:
    version = shop.versions(document)[-1]
    text = shop.service.catalog.documents.text(version.id)
    start = text.text.index("Good bye.")
    whole = location_of(text, [Span(start, len(text.text))])
    assert whole.heading_path == ("Leaving",)
    assert heading_path(text, 0) == ("Leaving",)
    assert quote_of(text.text, [Span(start, start + 4), Span(start + 5, start + 8)]) == "Good ... bye"


def test_pages_come_from_the_blocks_that_a_quote_touches() -> None:
    from ingest.model import Block, StoredText

    blocks = tuple(Block("paragraph", Span(10 * n, 10 * n + 9), page=n + 1) for n in range(4))
    text = StoredText("ver_x", "x" * 40, blocks, ((0, ()),), ())
    for spans, pages in (
        ([Span(0, 9)], (1, 1)),
        ([Span(5, 15)], (1, 2)),
        ([Span(0, 3), Span(35, 38)], (1, 4)),
        ([Span(20, 29)], (3, 3)),
        ([Span(9, 10)], (None, None)),
    ):
        found = location_of(text, spans)
        assert (found.page_start, found.page_end) == pages
