"""Office documents through kreuzberg: word processing as Markdown, spreadsheets by their cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import kreuzberg

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentWithoutText
from ingest.model import Element, Parsed
from ingest.parse.archive import Archive
from ingest.parse.markdown import markdown_elements
from ingest.parse.markup import parse_xml
from ingest.parse.plain import table_elements

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
DC = "{http://purl.org/dc/elements/1.1/}"
SHEETS = frozenset(
    {
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.ms-excel",
        "application/vnd.oasis.opendocument.spreadsheet",
    }
)
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
TEXTS = frozenset(
    {DOCX, "application/vnd.oasis.opendocument.text", "application/rtf", "application/msword"}
    | {"application/vnd.ms-powerpoint", "application/vnd.ms-outlook"}
)


class OfficeParser:
    """docx, xlsx, odt, ods, rtf and the older binary doc, xls, ppt, msg."""

    media_types = SHEETS | TEXTS

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser. Sheets become headings with their names."""
        base = media_type.partition(";")[0].strip()
        title: str | None = None
        metadata: dict[str, str] = {}
        if "openxml" in base or "opendocument" in base:
            refuse_ole(data, name=name)
            archive = Archive(data, name=name)
            if "openxml" in base:
                title, metadata = core_properties(archive, name=name)
        result = _extract(data, base, name)
        elements = tuple(_sheets(result) if base in SHEETS else markdown_elements(result.content))
        if not elements:
            raise DocumentWithoutText(f"{name} has no text: it is empty or holds only pictures.")
        if not title and not metadata:
            title, metadata = _declared(result.metadata)
        return Parsed(elements, title=title, metadata=metadata)


def refuse_ole(data: bytes, *, name: str) -> None:
    """Raise when a file that should be a zip is an OLE container: that is how Office encrypts."""
    if data.startswith(OLE):
        if ENCRYPTED_PACKAGE in data:
            raise DocumentEncrypted(f"{name} is protected by a password.")
        raise DocumentDamaged(f"{name} holds an older binary format than its type says.")


def core_properties(archive: Archive, *, name: str) -> tuple[str | None, dict[str, str]]:
    """Title and author as an Office Open XML document declares them."""
    if not archive.has("docProps/core.xml"):
        return None, {}
    try:
        root = parse_xml(archive.read("docProps/core.xml"), name=name)
    except DocumentDamaged:
        return None, {}  # the text is worth having without them

    def first(tag: str) -> str:
        return " ".join((root.findtext(f"{DC}{tag}") or "").split())

    fields = {"author": first("creator"), "lang": first("language")}
    return first("title") or None, {key: value for key, value in fields.items() if value}


def _extract(data: bytes, media_type: str, name: str) -> kreuzberg.ExtractionResult:
    config = kreuzberg.ExtractionConfig(output_format="markdown", use_cache=False)
    try:
        return kreuzberg.extract_bytes_sync(data, media_type, config)
    except kreuzberg.KreuzbergError as refused:
        reason = " ".join(str(refused).split())[:300]
        if "password" in reason.lower() or "encrypted" in reason.lower():
            raise DocumentEncrypted(f"{name} is protected by a password.") from refused
        if "out of memory" in reason.lower():
            raise MemoryError(reason) from refused
        raise DocumentDamaged(f"{name} cannot be read: {reason}") from refused


def _sheets(result: kreuzberg.ExtractionResult) -> Iterator[Element]:
    metadata: dict[str, Any] = dict(result.metadata)
    names = [str(sheet) for sheet in metadata.get("sheet_names") or ()]
    for table in result.tables:
        body = [element for block in _blocks(table.cells) for element in block]
        if body:
            if 1 <= table.page_number <= len(names):
                yield Element("heading", names[table.page_number - 1], level=2)
            yield from body


def _blocks(cells: Sequence[Sequence[str]]) -> Iterator[list[Element]]:
    """A sheet's tables: runs of rows between empty rows, without their empty columns.

    A lone cell, or one above a wider table, is a caption: it must not become the header row.
    """
    rows = [[cell.strip() for cell in row] for row in cells]
    for filled, run in groupby(rows, key=any):
        if not filled:
            continue
        block = list(run)
        elements = []
        while block and sum(map(bool, block[0])) == 1 and (len(block) == 1 or _width(block) > 1):
            elements.append(Element("paragraph", next(cell for cell in block.pop(0) if cell)))
        columns = [i for i in range(max(map(len, block), default=0)) if any(i < len(row) and row[i] for row in block)]
        elements += table_elements([row[i] if i < len(row) else "" for i in columns] for row in block)
        yield elements


def _width(block: Sequence[Sequence[str]]) -> int:
    return len({i for row in block for i, cell in enumerate(row) if cell})


def _declared(metadata: Any) -> tuple[str | None, dict[str, str]]:
    found: dict[str, Any] = dict(metadata)
    authors = found.get("authors") or ()
    title = found.get("title") or found.get("subject")
    return (str(title) if title else None), ({"author": ", ".join(map(str, authors))} if authors else {})
