"""Every format through the jail: sound documents, hostile ones, and the shared collections."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.errors import (
    DocumentDamaged,
    DocumentEncrypted,
    DocumentTooLarge,
    DocumentWithoutText,
    ParseError,
    ParserKilled,
    TypeNotSupported,
)
from ingest.parse.jail import Jail
from tests.contracts.parser_documents import (
    bomb_docx,
    docx_document,
    eml_message,
    epub_book,
    lines_from,
    pdf_document,
    pptx_document,
    xlsx_document,
    zip_of,
)

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LAUGHS = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;">]><package>&b;</package>'


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail(workers=2) as jail:
        yield jail


def works(jail: Jail) -> bool:
    return jail.parse(b"Still here.", media_type=None, name="a.txt").elements[0].text == "Still here."


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"Plain words.", "Plain words."),
        ("a.md", b"# Title\n\nWords.", "Words."),
        ("a.csv", b"a,b\n1,2\n", "| 1 | 2 |"),
        ("a.html", b"<p>Page words</p>", "Page words"),
        ("a.eml", eml_message(), "The harbour opens on Monday."),
        ("a.epub", epub_book(), "A ship sails."),
        ("a.pdf", pdf_document(lines_from(700, "Printed words.")), "Printed words."),
        ("a.docx", docx_document(), "thirty days"),
        ("a.pptx", pptx_document(), "Where we go"),
        ("a.xlsx", xlsx_document(), "| item1 | 1.5 |"),
    ],
)
def test_every_format_passes_through(jail: Jail, name: str, data: bytes, words: str) -> None:
    assert words in "\n".join(element.text for element in jail.parse(data, media_type=None, name=name).elements)


def test_title_metadata_and_warnings_come_along(jail: Jail) -> None:
    parsed = jail.parse(eml_message(attachment=True), media_type="message/rfc822", name="a.eml")
    assert parsed.title == "Grüße from Bonn"
    assert parsed.metadata["to"] == "bob@example.org"
    assert parsed.warnings == ("Attachments were not read: plan.pdf.",)


@pytest.mark.parametrize(
    ("name", "data", "error", "says"),
    [
        ("bomb.docx", bomb_docx(mebibytes=60), DocumentTooLarge, "unpacks to"),
        ("laughs.epub", zip_of({"a.opf": LAUGHS}), DocumentDamaged, "entities"),
        ("locked.pdf", pdf_document(lines_from(700, "x"), password="s"), DocumentEncrypted, "password"),
        ("scan.pdf", pdf_document([], []), DocumentWithoutText, "scanned"),
        ("broken.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 20, DocumentDamaged, "not a readable PDF"),
        ("half.docx", docx_document()[:9000], DocumentDamaged, "not a readable container"),
        ("empty.md", b"", DocumentWithoutText, "empty"),
        ("junk.txt", bytes(range(256)) * 40, DocumentDamaged, "binary data"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(99), TypeNotSupported, "image/png"),
        ("deep.xml", b"<a>" * 200_000, ParseError, "deep"),
        ("deep.md", b"> " * 200_000 + b"x", ParseError, "deep"),
        ("deep.json", b"[" * 1_000_000, None, ""),
    ],
)
def test_bad_documents_are_refused_with_a_reason(
    jail: Jail, name: str, data: bytes, error: type[ParseError] | None, says: str
) -> None:
    if error is None:
        assert jail.parse(data, media_type=None, name=name).elements
        return
    with pytest.raises(error, match=says) as refused:
        jail.parse(data, media_type=None, name=name)
    assert name in refused.value.message or isinstance(refused.value, TypeNotSupported)
    assert refused.value.hint
    assert works(jail)


EXPECTED = {".txt", ".md", ".html", ".htm", ".pdf", ".docx", ".pptx", ".xlsx", ".csv", ".tsv", ".eml", ".epub"}


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "ingest_pypdf").is_dir(), reason="the shared collections of documents are not here")
def test_every_file_of_the_shared_collections(jail: Jail) -> None:
    files = [path for folder in ("ingest_unstructured", "ingest_pypdf") for path in (DATA / folder).rglob("files/**/*")]
    tally: Counter[tuple[str, str]] = Counter()
    killed = []
    for path in sorted(filter(Path.is_file, files)):
        start = time.monotonic()
        try:
            parsed = jail.parse(path.read_bytes(), media_type=None, name=path.name)
            assert any(element.text.strip() for element in parsed.elements), path
            outcome = "read"
        except ParserKilled as stopped:
            killed.append(stopped.message)
            outcome = "killed"
        except ParseError as refused:
            outcome = type(refused).__name__ if refused.message and refused.hint else "without a reason"
        assert time.monotonic() - start < jail.limits.timeout_s + 5, path
        tally[path.suffix.lower(), outcome] += 1
    assert works(jail)
    assert not killed
    print(*sorted(tally.items()), sep="\n")
    assert not any(outcome == "without a reason" for _, outcome in tally)
    refused_types = {ending for (ending, outcome) in tally if outcome == "TypeNotSupported"}
    assert not refused_types & EXPECTED
    wanted = sum(count for (ending, _), count in tally.items() if ending in EXPECTED)
    read = sum(count for (ending, outcome), count in tally.items() if ending in EXPECTED and outcome == "read")
    assert read / wanted > 0.85, "the rest is empty, scanned or locked"
