"""PDF, from files made by hand."""

from __future__ import annotations

import pytest

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentWithoutText
from ingest.model import Parsed
from ingest.parse.pdf import PdfParser
from tests.contracts.parser import ParserContract
from tests.contracts.parser_documents import lines_from, pdf_document

FIRST = [
    *lines_from(780, "1 Arrival"),
    *lines_from(
        750, "The harbour is open all year, and the mas-", "ter of the port greets every ship that comes", "in."
    ),
    *lines_from(690, "A well-", "Known inn stands by the quay."),
]
SECOND = lines_from(780, "On the second page there is more.")


class TestPdfParser(ParserContract):
    media_type, name, paged = "application/pdf", "harbour.pdf", True
    words = ("1 Arrival", "the master of the port", "A well-", "On the second page")

    def parser(self) -> PdfParser:
        return PdfParser()

    def sample(self) -> bytes:
        return pdf_document(FIRST, SECOND)


def parse(data: bytes) -> Parsed:
    return PdfParser().parse(data, media_type="application/pdf", name="h.pdf")


def texts(data: bytes) -> list[tuple[int | None, str]]:
    return [(e.page, e.text) for e in parse(data).elements]


def test_lines_become_paragraphs_by_page() -> None:
    assert texts(pdf_document(FIRST, SECOND)) == [
        (1, "1 Arrival"),
        (1, "The harbour is open all year, and the master of the port greets every ship that comes in."),
        (1, "A well-Known inn stands by the quay."),
        (2, "On the second page there is more."),
    ]


def test_one_line_paragraphs_stay_apart() -> None:
    memo = [*lines_from(780, "May 5, 2023", "To all:", step=28), *lines_from(724, "It is late.", "Go home.")]
    assert texts(pdf_document(memo)) == [(1, "May 5, 2023"), (1, "To all:"), (1, "It is late. Go home.")]


def test_a_sentence_goes_on_in_the_next_column() -> None:
    left = lines_from(780, "The left column ends in the middle", "of a sentence that")
    right = lines_from(780, "goes on in the right one.", "And ends.", x=320)
    assert texts(pdf_document([*left, *right])) == [
        (1, "The left column ends in the middle of a sentence that goes on in the right one. And ends.")
    ]


def test_a_raised_number_stays_in_its_line() -> None:
    page = [(72, 780, "The measured area"), (185, 785, "2"), (200, 780, "is large."), *lines_from(766, "Next line.")]
    assert texts(pdf_document(page)) == [(1, "The measured area 2 is large. Next line.")]


def test_bullets_are_list_items() -> None:
    page = lines_from(780, "We need:", "\u2022 ropes and", "anchors", "\u2022 sails")
    data = pdf_document([(x, y, text.replace("\u2022", "\x95")) for x, y, text in page])
    assert [(e.kind, e.text) for e in parse(data).elements] == [
        ("paragraph", "We need:"),
        ("list_item", "ropes and anchors"),
        ("list_item", "sails"),
    ]


def test_outline_entries_become_headings_where_they_stand() -> None:
    data = pdf_document(FIRST, SECOND, outline=[("1  ARRIVAL", 1), ("Not on the page", 2)])
    assert [(e.page, e.level, e.text) for e in parse(data).elements if e.kind == "heading"] == [(1, 1, "1 Arrival")]


def test_title_and_author_as_declared() -> None:
    parsed = parse(pdf_document(SECOND, info={"Title": "The Harbour (2nd edition)", "Author": "Ada"}))
    assert parsed.title == "The Harbour (2nd edition)"
    assert parsed.metadata == {"author": "Ada"}


@pytest.mark.parametrize("title", ["", "Microsoft Word - draft7.doc", "untitled", "final_v2.docx"])
def test_titles_made_by_programs_are_not_titles(title: str) -> None:
    assert parse(pdf_document(SECOND, info={"Title": title})).title is None


def test_scanned() -> None:
    with pytest.raises(DocumentWithoutText, match=r"h\.pdf has no text on any of its 3 pages: scanned") as refused:
        parse(pdf_document([], [], []))
    assert "OCR" in refused.value.hint


def test_scanned_in_part_is_a_warning() -> None:
    parsed = parse(pdf_document([], SECOND, [], [], [], SECOND, []))
    assert parsed.warnings == ("Pages without text (scanned or empty): 1, 3-5, 7.",)
    assert {e.page for e in parsed.elements} == {2, 6}


def test_encrypted() -> None:
    with pytest.raises(DocumentEncrypted, match=r"h\.pdf is protected by a password"):
        parse(pdf_document(SECOND, password="secret"))


@pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.4\n" + b"\x00" * 500, b"no pdf at all"])
def test_damaged(data: bytes) -> None:
    with pytest.raises(DocumentDamaged, match=r"h\.pdf is not a readable PDF"):
        parse(data)


def test_a_lost_cross_reference_table_is_mended() -> None:
    data = pdf_document(SECOND)
    assert texts(data[: data.rindex(b"startxref")])[0] == (1, "On the second page there is more.")
