"""Which type a document has, which parser reads it, and what crosses the jail's border."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import errors
from ingest.errors import DocumentWithoutText, ParseError, TypeNotSupported
from ingest.model import Element, Parsed
from ingest.parse import registry, wire
from ingest.parse.registry import DOCX, PPTX, XLSX, media_type_of, parser_for
from tests.contracts.parser_documents import (
    OLE_HEADER,
    docx_document,
    eml_message,
    epub_book,
    lines_from,
    pdf_document,
    pptx_document,
    xlsx_document,
    zip_of,
)

HTML = b"<!DOCTYPE html><html><body><p>page</p></body></html>"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", b"text", "text/plain"),
        ("A.MD", b"# x", "text/markdown"),
        ("a.csv", b"a,b", "text/csv"),
        ("a.tsv", b"a\tb", "text/tab-separated-values"),
        ("a.html", HTML, "text/html"),
        ("a.eml", eml_message(), "message/rfc822"),
        ("a.eml", eml_message(attachment=True) + b"%PDF-1.4", "message/rfc822"),
        ("a.docx", docx_document(), DOCX),
        ("a.pptx", pptx_document(), PPTX),
        ("a.xlsx", xlsx_document(), XLSX),
        ("a.epub", epub_book(), "application/epub+zip"),
        ("a.pdf", pdf_document(lines_from(700, "x")), "application/pdf"),
        # no ending: the bytes say it
        ("report", pdf_document(lines_from(700, "x")), "application/pdf"),
        ("report", docx_document(), DOCX),
        ("README", b"plain words", "text/plain"),
        ("page", HTML, "text/html"),
        ("blob", bytes(range(256)), "application/octet-stream"),
        # a wrong ending: the bytes settle it
        ("report.docx", pdf_document(lines_from(700, "x")), "application/pdf"),
        ("report.pdf", docx_document(), DOCX),
        ("report.txt", xlsx_document(), XLSX),
        ("error.pdf", b"\n <!-- proxy --> <html><body>Login</body></html>", "text/html"),
        ("notes.docx", OLE_HEADER + bytes(500) + "WordDocument".encode("utf-16-le"), "application/msword"),
        ("photo.docx", b"\x89PNG\r\n\x1a\n" + bytes(50), "image/png"),
        # text that holds HTML is still what its owner named it
        ("a.txt", HTML, "text/plain"),
        ("a.md", HTML, "text/markdown"),
        ("cut.docx", docx_document()[:500], DOCX),
        ("a.zip", zip_of({"x": "y"}), "application/zip"),
    ],
)
def test_types(name: str, data: bytes, expected: str) -> None:
    assert media_type_of(name, data) == expected


@pytest.mark.parametrize(
    ("declared", "name", "expected"),
    [
        ("text/html", "page", "text/html"),
        ("text/html", "page.txt", "text/html"),
        ("text/plain", "readme.md", "text/markdown"),
        ("application/octet-stream", "a.csv", "text/csv"),
        ("text/plain", "no-ending", "text/plain"),
        ("text/markdown", "a.txt", "text/markdown"),
    ],
)
def test_declared_types(declared: str, name: str, expected: str) -> None:
    assert media_type_of(name, b"words, words", declared=declared) == expected


@pytest.mark.parametrize(
    ("media_type", "parser"),
    [
        ("text/plain; charset=utf-8", "PlainParser"),
        ("TEXT/HTML", "HtmlParser"),
        ("text/x-python", "PlainParser"),
        ("text/xml", "XmlParser"),
        ("application/pdf", "PdfParser"),
        (DOCX, "OfficeParser"),
        (PPTX, "SlidesParser"),
    ],
)
def test_parsers(media_type: str, parser: str) -> None:
    assert type(parser_for(media_type)).__name__ == parser


def test_every_supported_ending_has_a_parser() -> None:
    for media_type in registry.TYPES.values():
        assert parser_for(media_type)


@pytest.mark.parametrize("media_type", ["image/png", "application/zip", "application/octet-stream", ""])
def test_unsupported_types_are_named(media_type: str) -> None:
    with pytest.raises(TypeNotSupported, match=media_type or "unknown") as refused:
        parser_for(media_type)
    assert "docx" in refused.value.hint


def test_unknown_parser_choice() -> None:
    with pytest.raises(TypeNotSupported, match="nonsense"):
        parser_for("text/plain", parser="nonsense")


@pytest.mark.parametrize("data", [b"", b" \r\n\t", b"\x00" * 99, b"\xef\xbb\xbf"])
def test_empty_files(data: bytes) -> None:
    with pytest.raises(DocumentWithoutText, match=r"e\.docx is empty"):
        registry.parse(data, media_type=None, name="e.docx")


def test_a_declared_charset_reaches_the_parser() -> None:
    parsed = registry.parse("Привет".encode("koi8-r"), media_type="text/plain; charset=koi8-r", name="x")
    assert parsed.elements == (Element("paragraph", "Привет"),)


def test_importing_imports_no_parser() -> None:
    code = (
        "import sys, ingest.parse.registry, ingest.parse.jail\n"
        "heavy = {'kreuzberg', 'pypdfium2', 'selectolax', 'unstructured'} & set(sys.modules)\n"
        "raise SystemExit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@given(st.text(max_size=50))
def test_any_text_survives_or_is_made_storable(text: str) -> None:
    parsed = Parsed((Element("paragraph", text),), title=text or None, metadata={"k": text}, warnings=(text,))
    back = wire.decode_answer(wire.frame(wire.encode_parsed(parsed))[wire.HEADER.size :])
    assert back.elements[0].text == text.replace("\x00", "")


def test_surrogates_and_nul_are_made_storable() -> None:
    parsed = Parsed((Element("paragraph", "a\x00b\ud800c"),), metadata={"tags": ("x\udfff", 1)})
    back = wire.decode_answer(wire.frame(wire.encode_parsed(parsed))[wire.HEADER.size :])
    assert back.elements[0].text == "ab\ufffdc"
    assert back.metadata == {"tags": ("x\ufffd", 1)}


@pytest.mark.parametrize("cls", list(wire.PARSE_ERRORS.values()))
def test_errors_come_back_as_they_were(cls: type[ParseError]) -> None:
    with pytest.raises(cls, match="what happened") as back:
        wire.decode_answer(wire.frame(wire.encode_error(cls("what happened", hint="do this")))[wire.HEADER.size :])
    assert type(back.value) is cls
    assert back.value.hint == "do this"


def test_every_parse_error_can_cross() -> None:
    subclasses = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ParseError)}
    assert set(wire.PARSE_ERRORS.values()) == subclasses


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"elements": [[]], "title": null, "metadata": {}, "warnings": []}',
        b'{"elements": [["script", "x", 0, null]], "title": null, "metadata": {}, "warnings": []}',
        b'{"elements": [["paragraph", 7, 0, null]], "title": null, "metadata": {}, "warnings": []}',
        b'{"elements": [["paragraph", "x", 9, null]], "title": null, "metadata": {}, "warnings": []}',
        b'{"elements": [["paragraph", "x", 0, 0]], "title": null, "metadata": {}, "warnings": []}',
        b'{"elements": [], "title": 5, "metadata": {}, "warnings": []}',
        b'{"elements": [], "title": null, "metadata": {"a": {"b": 1}}, "warnings": []}',
    ],
)
def test_hostile_answers_are_refused(answer: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_answer(answer)
