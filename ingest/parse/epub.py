"""E-books (EPUB 2 and 3): the chapters in reading order."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote
from xml.etree.ElementTree import Element as XmlElement

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentWithoutText
from ingest.model import Element, Parsed
from ingest.parse.archive import Archive
from ingest.parse.markup import html_document, parse_xml
from ingest.parse.plain import decode

CONTAINER = "META-INF/container.xml"
PAGES = ("application/xhtml+xml", "text/html")
DC = "{http://purl.org/dc/elements/1.1/}"
FIELDS = {"creator": "author", "language": "lang", "date": "date", "publisher": "publisher"}


class EpubParser:
    """The spine's chapters through the HTML parser."""

    media_types = frozenset({"application/epub+zip"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser."""
        book = Archive(data, name=name)
        package_path = _package_path(book, name)
        package = parse_xml(book.read(package_path), name=name)
        chapters = _spine(package, posixpath.dirname(package_path))
        if locked := _encrypted(book, name).intersection(chapters):
            raise DocumentEncrypted(f"{name} is protected: {len(locked)} of its chapters are encrypted.")
        elements: list[Element] = []
        missing = [chapter for chapter in chapters if not book.has(chapter)]
        for chapter in chapters:
            if book.has(chapter):
                elements.extend(html_document(decode(book.read(chapter))).elements)
        if not elements:
            raise DocumentWithoutText(f"{name} has no text in its {len(chapters)} chapters.")
        warnings = (f"Chapters are missing in the file: {', '.join(missing)}.",) if missing else ()
        title, metadata = _described(package)
        return Parsed(tuple(elements), title=title, metadata=metadata, warnings=warnings)


def _package_path(book: Archive, name: str) -> str:
    if book.has(CONTAINER):
        for node in parse_xml(book.read(CONTAINER), name=name).iter():
            if _tag(node) == "rootfile" and (path := node.get("full-path")):
                return path.lstrip("/")
    found = next((part for part in book.names if part.endswith(".opf")), None)
    if found is None:
        raise DocumentDamaged(f"{name} is not an e-book: it has no package file.")
    return found


def _spine(package: XmlElement, folder: str) -> list[str]:
    manifest = {node.get("id"): node for node in package.iter() if _tag(node) == "item"}
    order = [manifest.get(node.get("idref")) for node in package.iter() if _tag(node) == "itemref"]
    chosen = [node for node in order if node is not None] or list(manifest.values())
    hrefs = [node.get("href", "") for node in chosen if node.get("media-type") in PAGES]
    return list(dict.fromkeys(_resolve(folder, href) for href in hrefs if href))


def _resolve(folder: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(href.partition("#")[0]))).lstrip("/")


def _encrypted(book: Archive, name: str) -> set[str]:
    """Parts listed as encrypted. Fonts often are, in freely readable books too."""
    if not book.has("META-INF/encryption.xml"):
        return set()
    listing = parse_xml(book.read("META-INF/encryption.xml"), name=name)
    return {_resolve("", node.get("URI", "")) for node in listing.iter() if _tag(node) == "CipherReference"}


def _described(package: XmlElement) -> tuple[str | None, dict[str, str]]:
    def first(field: str) -> str:
        node = package.find(f".//{DC}{field}")
        return " ".join((node.text or "").split()) if node is not None else ""

    metadata = {key: value for field, key in FIELDS.items() if (value := first(field))}
    return first("title") or None, metadata


def _tag(node: XmlElement) -> str:
    return str(node.tag).rpartition("}")[2]
