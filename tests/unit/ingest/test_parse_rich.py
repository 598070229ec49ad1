"""The parser by the package unstructured, where that extra is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from ingest.errors import DocumentEncrypted, DocumentTooLarge, TypeNotSupported
from ingest.parse.jail import Jail
from ingest.parse.office import DOCX
from ingest.parse.registry import PPTX
from tests.contracts.parser_documents import (
    OLE_HEADER,
    bomb_docx,
    docx_document,
    lines_from,
    pdf_document,
    pptx_document,
)

INSTALLED = importlib.util.find_spec("unstructured") is not None


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail(workers=1) as jail:
        yield jail


@pytest.mark.extras
@pytest.mark.skipif(not INSTALLED, reason="the extra unstructured is not installed")
class TestUnstructured:
    def test_categories_become_kinds(self, jail: Jail) -> None:
        parsed = jail.parse(docx_document(), media_type=DOCX, name="h.docx", parser="unstructured")
        assert [(e.kind, e.level) for e in parsed.elements] == [
            ("heading", 1),
            ("paragraph", 0),
            ("heading", 2),
            ("list_item", 0),
            ("list_item", 0),
            ("table", 0),
        ]
        assert parsed.elements[-1].text == "| Year | Days |\n| --- | --- |\n| 2024 | 30 |"

    def test_slide_numbers_are_pages(self, jail: Jail) -> None:
        parsed = jail.parse(pptx_document(), media_type=PPTX, name="s.pptx", parser="unstructured")
        assert {e.page for e in parsed.elements} == {1, 3}

    def test_sentences_need_no_model(self, jail: Jail) -> None:
        text = b"The harbour opens at noon. It closes at five.\n\nShips wait outside. They are patient.\n"
        parsed = jail.parse(text, media_type="text/plain", name="a.txt", parser="unstructured")
        assert [e.text for e in parsed.elements] == text.decode().strip().split("\n\n")

    def test_what_it_does_not_read_goes_to_the_default_parser(self, jail: Jail) -> None:
        data = pdf_document(lines_from(700, "A page."))
        parsed = jail.parse(data, media_type=None, name="a.pdf", parser="unstructured")
        assert (parsed.elements[0].page, parsed.elements[0].text) == (1, "A page.")

    def test_refusals(self, jail: Jail) -> None:
        locked = OLE_HEADER + bytes(504) + "EncryptedPackage".encode("utf-16-le") + bytes(1000)
        with pytest.raises(DocumentEncrypted):
            jail.parse(locked, media_type=DOCX, name="x.docx", parser="unstructured")
        with pytest.raises(DocumentTooLarge):
            jail.parse(bomb_docx(mebibytes=60), media_type=DOCX, name="x.docx", parser="unstructured")


@pytest.mark.skipif(INSTALLED, reason="the extra unstructured is installed")
def test_without_the_extra_the_refusal_says_how_to_get_it() -> None:
    with Jail(workers=1) as jail, pytest.raises(TypeNotSupported, match="not installed") as refused:
        jail.parse(b"text", media_type="text/plain", name="a.txt", parser="unstructured")
    assert "ragsvc[unstructured]" in refused.value.hint
