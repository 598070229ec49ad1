"""E-books, and the containers that they share with office files."""

from __future__ import annotations

import struct

import pytest

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentTooLarge, DocumentWithoutText
from ingest.model import Parsed
from ingest.parse import archive
from ingest.parse.archive import Archive
from ingest.parse.epub import EpubParser
from tests.contracts.parser import ParserContract
from tests.contracts.parser_documents import bomb_docx, epub_book, zip_of


class TestEpubParser(ParserContract):
    media_type, name = "application/epub+zip", "voyage.epub"
    words = ("First", "A ship sails.", "Second", "The end of the voyage.")

    def parser(self) -> EpubParser:
        return EpubParser()

    def sample(self) -> bytes:
        return epub_book()


def parse(data: bytes) -> Parsed:
    return EpubParser().parse(data, media_type="application/epub+zip", name="b.epub")


def test_the_book_describes_itself() -> None:
    parsed = parse(epub_book())
    assert parsed.title == "The Voyage"
    assert parsed.metadata == {"author": "A. Author", "lang": "en"}


def test_encrypted_chapters() -> None:
    with pytest.raises(DocumentEncrypted, match="1 of its chapters"):
        parse(epub_book(encryption="OEBPS/two.xhtml"))


def test_encrypted_fonts_do_not_matter() -> None:
    assert parse(epub_book(encryption="OEBPS/fonts/a.otf")).elements


def test_chapters_without_text() -> None:
    empty = "<html><body><img src='cover.png'/></body></html>"
    assert [e.text for e in parse(epub_book(chapter=empty)).elements] == ["Second", "The end of the voyage."]


def test_no_chapter_has_text() -> None:
    package = '<package xmlns="http://www.idpf.org/2007/opf"><manifest/><spine/></package>'
    with pytest.raises(DocumentWithoutText):
        parse(zip_of({"a.opf": package}))


def test_billion_laughs_in_the_package() -> None:
    laughs = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><package>&b;</package>'
    with pytest.raises(DocumentDamaged, match="entities"):
        parse(zip_of({"a.opf": laughs}))


def test_a_missing_chapter_is_a_warning() -> None:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><manifest>'
        '<item id="a" href="../../../etc/passwd" media-type="text/html"/>'
        '<item id="b" href="b.html" media-type="text/html"/></manifest>'
        '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    parsed = parse(zip_of({"a.opf": package, "b.html": "<p>Here.</p>"}))
    assert [e.text for e in parsed.elements] == ["Here."]
    assert "etc/passwd" in parsed.warnings[0]


def test_a_zip_of_something_else() -> None:
    with pytest.raises(DocumentDamaged, match=r"b\.epub is not an e-book"):
        parse(zip_of({"a.txt": "text"}))


def test_a_declared_bomb_is_not_opened() -> None:
    with pytest.raises(DocumentTooLarge, match="unpacks to"):
        Archive(bomb_docx(mebibytes=60), name="bomb.docx")


def test_a_lying_bomb_is_stopped_while_it_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(zip_of({"part": "A" * 100_000}))
    place = data.rfind(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 10)  # it says: 10 bytes
    monkeypatch.setattr(archive, "PART_BYTES", 1000)
    with pytest.raises((DocumentTooLarge, DocumentDamaged), match=r"x\.zip"):
        Archive(bytes(data), name="x.zip").read("part")


def test_a_part_over_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PART_BYTES", 1000)
    with pytest.raises(DocumentTooLarge, match="part"):
        Archive(zip_of({"part": "A" * 1001}), name="x.zip").read("part")


def test_a_part_with_a_password() -> None:
    data = bytearray(zip_of({"part": "text"}))
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DocumentEncrypted):
        Archive(bytes(data), name="x.zip").read("part")
