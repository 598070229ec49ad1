"""Presentations (pptx): read from their XML, because the page of an element must be the slide's number.

Kreuzberg numbers only some slides and drops empty ones from the count, so it is not used here.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from xml.etree.ElementTree import Element as XmlElement

from ingest.errors import DocumentDamaged, DocumentWithoutText
from ingest.model import Element, Parsed
from ingest.parse.archive import Archive
from ingest.parse.markup import parse_xml
from ingest.parse.office import core_properties, refuse_ole
from ingest.parse.plain import table_elements

A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
R_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
STRICT = {  # ISO 29500 Strict uses other names for the same things
    b"http://purl.oclc.org/ooxml/drawingml/main": b"http://schemas.openxmlformats.org/drawingml/2006/main",
    b"http://purl.oclc.org/ooxml/presentationml/main": b"http://schemas.openxmlformats.org/presentationml/2006/main",
    b"http://purl.oclc.org/ooxml/officeDocument/relationships": (
        b"http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    ),
}
PRESENTATION = "ppt/presentation.xml"
TITLES = ("title", "ctrTitle")
FURNITURE = ("sldNum", "dt", "ftr", "hdr", "sldImg")


class SlidesParser:
    """Slides in their order: title, text, tables, then the speaker's notes."""

    media_types = frozenset({"application/vnd.openxmlformats-officedocument.presentationml.presentation"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser. `page` is the slide's number, hidden and empty slides counted."""
        refuse_ole(data, name=name)
        deck = _Deck(Archive(data, name=name), name)
        elements: list[Element] = []
        missing: list[str] = []
        for number, slide in enumerate(deck.slides(), start=1):
            if deck.archive.has(slide):
                elements.extend(deck.elements(slide, number))
            else:
                missing.append(str(number))
        if not elements:
            raise DocumentWithoutText(f"{name} has no text on its slides: they are empty or pictures.")
        warnings = (f"Slides are missing in the file: {', '.join(missing)}.",) if missing else ()
        title, metadata = core_properties(deck.archive, name=name)
        return Parsed(tuple(elements), title=title, metadata=metadata, warnings=warnings)


class _Deck:
    def __init__(self, archive: Archive, name: str) -> None:
        self.archive, self.name = archive, name

    def slides(self) -> list[str]:
        """The slides' parts in the order of the presentation."""
        if not self.archive.has(PRESENTATION):
            raise DocumentDamaged(f"{self.name} is not a presentation: it has no {PRESENTATION}.")
        targets = {key: target for key, (_, target) in self._relations(PRESENTATION).items()}
        listed = [targets.get(node.get(R_ID, "")) for node in self._xml(PRESENTATION).iter(f"{P}sldId")]
        return [part for part in listed if part is not None]

    def elements(self, slide: str, number: int) -> Iterator[Element]:
        """One slide's title first, then the rest in reading order, then its notes."""
        shapes = list(_shapes(self._xml(slide)))
        for shape in sorted(shapes, key=lambda shape: _role(shape) not in TITLES):
            yield from _shape_elements(shape, number)
        for kind, part in self._relations(slide).values():
            if kind == "notesSlide" and self.archive.has(part):
                for shape in _shapes(self._xml(part)):
                    if _role(shape) == "body":
                        yield from _shape_elements(shape, number, plain=True)
            elif kind == "diagramData" and self.archive.has(part):
                yield from _paragraphs(self._xml(part), number, plain=True)

    def _xml(self, part: str) -> XmlElement:
        data = self.archive.read(part)
        if b"purl.oclc.org" in data[:4096]:
            for strict, usual in STRICT.items():
                data = data.replace(strict, usual)
        return parse_xml(data, name=f"{self.name} ({part})")

    def _relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Relation id -> (kind, part that it points to)."""
        folder, base = posixpath.split(part)
        listing = f"{folder}/_rels/{base}.rels"
        if not self.archive.has(listing):
            return {}
        found = {}
        for node in self._xml(listing):
            target = node.get("Target", "")
            path = target if target.startswith("/") else posixpath.join(folder, target)
            found[node.get("Id", "")] = (node.get("Type", "").rpartition("/")[2], posixpath.normpath(path).lstrip("/"))
        return found


def _shapes(slide: XmlElement) -> Iterator[XmlElement]:
    """Text boxes and table frames, groups unfolded, in the order of the file."""
    yield from (node for node in slide.iter() if node.tag in (f"{P}sp", f"{P}graphicFrame"))


def _role(shape: XmlElement) -> str:
    placeholder = shape.find(f"./{P}nvSpPr/{P}nvPr/{P}ph")
    return placeholder.get("type", "obj") if placeholder is not None else ""


def _shape_elements(shape: XmlElement, page: int, *, plain: bool = False) -> Iterator[Element]:
    role = _role(shape)
    if role in FURNITURE:
        return
    if role in TITLES:
        text = " ".join(" ".join(_runs(p).split()) for p in shape.iter(f"{A}p")).strip()
        if text:
            yield Element("heading", text, level=1 if role == "ctrTitle" else 2, page=page)
    elif (table := shape.find(f".//{A}tbl")) is not None:
        yield from table_elements(_rows(table), page=page)
    else:
        # The bullets of a content placeholder come from the layout; a text box has them only if it says so.
        yield from _paragraphs(shape, page, plain=plain or role not in ("obj", "body"))


def _rows(table: XmlElement) -> Iterator[list[str]]:
    for row in table.iter(f"{A}tr"):
        yield [" ".join(map(_runs, cell.iter(f"{A}p"))) for cell in row.iter(f"{A}tc")]


def _paragraphs(shape: XmlElement, page: int, *, plain: bool) -> Iterator[Element]:
    for paragraph in shape.iter(f"{A}p"):
        text = _runs(paragraph).strip()
        if not text:
            continue
        marked = any(paragraph.find(f"./{A}pPr/{A}{mark}") is not None for mark in ("buChar", "buAutoNum", "buBlip"))
        unmarked = paragraph.find(f"./{A}pPr/{A}buNone") is not None
        bullet = marked or not (plain or unmarked)
        yield Element("list_item" if bullet else "paragraph", text, page=page)


def _runs(paragraph: XmlElement) -> str:
    parts = []
    for node in paragraph.iter():
        if node.tag == f"{A}t":
            parts.append(node.text or "")
        elif node.tag == f"{A}br":
            parts.append("\n")
    return "".join(parts)
