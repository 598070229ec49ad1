"""Word processing, spreadsheets and slides."""

from __future__ import annotations

from io import BytesIO

import openpyxl
import pptx
import pytest

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentTooLarge, DocumentWithoutText
from ingest.model import Parsed
from ingest.parse.office import DOCX, OfficeParser
from ingest.parse.registry import PPTX, XLSX
from ingest.parse.slides import SlidesParser
from tests.contracts.parser import ParserContract
from tests.contracts.parser_documents import (
    OLE_HEADER,
    bomb_docx,
    docx_document,
    pptx_document,
    xlsx_document,
    zip_of,
)


class TestWordDocuments(ParserContract):
    media_type, name = DOCX, "handbook.docx"
    words = ("Leave", "thirty days", "Sick leave", "Tell your manager", "See a doctor", "| 2024 | 30 |")

    def parser(self) -> OfficeParser:
        return OfficeParser()

    def sample(self) -> bytes:
        return docx_document()


class TestSpreadsheets(ParserContract):
    media_type, name = XLSX, "prices.xlsx"
    words = ("Prices", "Price list", "| Item | Price |", "item1", "Sites", "| City | Staff |", "| Car | Seats |")

    def parser(self) -> OfficeParser:
        return OfficeParser()

    def sample(self) -> bytes:
        return xlsx_document()


class TestSlides(ParserContract):
    media_type, name, paged = PPTX, "strategy.pptx", True
    words = ("Where we go", "An outlook", "Markets", "Europe", "Asia", "| Europe | 40 % |", "Mention the harbour.")

    def parser(self) -> SlidesParser:
        return SlidesParser()

    def sample(self) -> bytes:
        return pptx_document()


def office(data: bytes, media_type: str, name: str) -> Parsed:
    return OfficeParser().parse(data, media_type=media_type, name=name)


def slides(data: bytes) -> Parsed:
    return SlidesParser().parse(data, media_type=PPTX, name="s.pptx")


def test_a_word_document() -> None:
    parsed = office(docx_document(), DOCX, "h.docx")
    assert [(e.kind, e.level, e.text) for e in parsed.elements] == [
        ("heading", 1, "Leave"),
        ("paragraph", 0, "Everyone has thirty days of leave. Prices_like *this* stay as they are."),
        ("heading", 2, "Sick leave"),
        ("list_item", 0, "Tell your manager"),
        ("list_item", 0, "See a doctor"),
        ("table", 0, "| Year | Days |\n| --- | --- |\n| 2024 | 30 |"),
    ]
    assert parsed.title == "Handbook"
    assert parsed.metadata["author"] == "Ada"


def test_a_word_document_without_a_title_of_its_own() -> None:
    assert office(docx_document(title=""), DOCX, "h.docx").title is None


def test_a_workbook() -> None:
    parsed = office(xlsx_document(), XLSX, "p.xlsx")
    assert [(e.kind, e.text) for e in parsed.elements] == [
        ("heading", "Prices"),
        ("paragraph", "Price list"),
        ("table", "| Item | Price |\n| --- | --- |\n| item0 | 0.5 |\n| item1 | 1.5 |"),
        ("heading", "Sites"),
        ("table", "| City | Staff |\n| --- | --- |\n| Bonn | 7 |"),
        ("table", "| Car | Seats |\n| --- | --- |\n| a\\|b | 4 |"),
    ]


def test_long_sheets_are_split_and_keep_their_header() -> None:
    tables = [e.text for e in office(xlsx_document(rows=120), XLSX, "p.xlsx").elements if e.kind == "table"]
    assert [table.split("\n")[0] for table in tables[:3]] == ["| Item | Price |"] * 3
    assert sum("| item" in table for table in tables) == 3


def test_dates_are_readable() -> None:
    import datetime

    book = openpyxl.Workbook()
    book.active.append(["Day", "Count"])
    book.active.append([datetime.date(2024, 5, 6), 3])
    saved = BytesIO()
    book.save(saved)
    assert "2024-05-06" in office(saved.getvalue(), XLSX, "d.xlsx").elements[-1].text


def test_an_empty_workbook() -> None:
    saved = BytesIO()
    openpyxl.Workbook().save(saved)
    with pytest.raises(DocumentWithoutText, match=r"e\.xlsx"):
        office(saved.getvalue(), XLSX, "e.xlsx")


def test_rich_text_format() -> None:
    data = rb"{\rtf1\ansi{\fonttbl\f0 Arial;}\f0 The harbour opens.\par And closes.\par}"
    assert [e.text for e in office(data, "application/rtf", "h.rtf").elements] == ["The harbour opens.", "And closes."]


@pytest.mark.parametrize("media_type", [DOCX, XLSX, PPTX])
def test_encrypted(media_type: str) -> None:
    parser = SlidesParser() if media_type == PPTX else OfficeParser()
    data = OLE_HEADER + bytes(504) + "EncryptedPackage".encode("utf-16-le") + bytes(1000)
    with pytest.raises(DocumentEncrypted, match=r"x\.bin is protected by a password"):
        parser.parse(data, media_type=media_type, name="x.bin")


def test_an_old_format_under_a_new_name() -> None:
    with pytest.raises(DocumentDamaged, match="older binary format"):
        office(OLE_HEADER + bytes(1000), DOCX, "old.docx")


def test_zip_bomb() -> None:
    with pytest.raises(DocumentTooLarge, match=r"bomb\.docx has [\d,]+ bytes but unpacks to [\d,]+"):
        office(bomb_docx(mebibytes=60), DOCX, "bomb.docx")


def test_slides_are_numbered_as_shown() -> None:
    parsed = slides(pptx_document())
    assert [(e.page, e.kind, e.text) for e in parsed.elements] == [
        (1, "heading", "Where we go"),
        (1, "paragraph", "An outlook"),
        (3, "heading", "Markets"),
        (3, "list_item", "Europe"),
        (3, "list_item", "Asia"),
        (3, "table", "| Region | Share |\n| --- | --- |\n| Europe | 40 % |"),
        (3, "paragraph", "Mention the harbour."),
    ]
    assert parsed.title == "Strategy"


def test_slides_follow_the_presentation_and_not_the_file_names() -> None:
    deck = pptx.Presentation(BytesIO(pptx_document()))
    order = deck.slides._sldIdLst
    order.insert(0, order[2])
    saved = BytesIO()
    deck.save(saved)
    assert [(e.page, e.text) for e in slides(saved.getvalue()).elements if e.kind == "heading"] == [
        (1, "Markets"),
        (2, "Where we go"),
    ]


def test_slides_of_pictures() -> None:
    deck = pptx.Presentation()
    deck.slides.add_slide(deck.slide_layouts[6])
    saved = BytesIO()
    deck.save(saved)
    with pytest.raises(DocumentWithoutText, match=r"s\.pptx has no text on its slides"):
        slides(saved.getvalue())


def test_a_zip_that_is_no_presentation() -> None:
    with pytest.raises(DocumentDamaged, match=r"s\.pptx is not a presentation"):
        slides(zip_of({"ppt/other.xml": "<a/>"}))


def test_entities_in_slides_are_refused() -> None:
    attack = '<!DOCTYPE p [<!ENTITY e SYSTEM "file:///etc/passwd">]><p>&e;</p>'
    with pytest.raises(DocumentDamaged, match="entities"):
        slides(zip_of({"ppt/presentation.xml": attack}))
