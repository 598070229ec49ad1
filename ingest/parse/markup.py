"""HTML, and XML that is not HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element as XmlElement
from xml.etree.ElementTree import ParseError as XmlSyntaxError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from selectolax.lexbor import LexborHTMLParser, LexborNode

from ingest.errors import DocumentDamaged, DocumentWithoutText
from ingest.model import Element, ElementKind, Parsed
from ingest.parse.plain import CHARSET, as_utf8, decode, paragraphs, table_elements

NOT_SHOWN = frozenset({"script", "style", "template", "noscript", "head", "datalist", "map"})
NOT_TEXT = frozenset({"svg", "iframe", "object", "embed", "canvas", "audio", "video"})
CONTROLS = frozenset({"button", "select", "textarea", "input", "option"})
DROPPED = NOT_SHOWN | NOT_TEXT | CONTROLS
FURNITURE = frozenset({"nav", "footer", "aside"})
SECTIONS = frozenset({"html", "body", "main", "article", "section", "header", "footer", "nav", "aside", "hgroup"})
GROUPS = frozenset({"div", "p", "blockquote", "center", "address", "figure", "figcaption", "hr", "form", "fieldset"})
LISTS = frozenset({"ol", "ul", "dl", "dt", "dd", "legend", "details", "summary", "dialog"})
TABLES = frozenset({"table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th"})
BLOCKS = SECTIONS | GROUPS | LISTS | TABLES
HEADINGS = {f"h{level}": level for level in range(1, 7)}
NO_DISPLAY = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
XML_DECLARATION = re.compile(rb"^\s*<\?xml[^>]*\?>")
MAX_SPAN = 100
"""A cell that claims more columns than this is a mistake or an attack."""


class HtmlParser:
    """Web pages: what a reader sees, without the furniture around it."""

    media_types = frozenset({"text/html", "application/xhtml+xml"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser. The title is <title>; lang, author and description are metadata."""
        declared = CHARSET.search(media_type) or CHARSET.search(data[:4096].decode("latin-1"))
        parsed = html_document(decode(data, charset=declared[1] if declared else None))
        if not parsed.elements:
            raise DocumentWithoutText(
                f"{name} shows no text without running its scripts.", hint="Save the page's content as a document."
            )
        return parsed


def html_document(source: str) -> Parsed:
    """A whole page; its elements may be empty."""
    tree = LexborHTMLParser(source.replace("\x00", ""))
    root = tree.root
    if root is None:
        return Parsed(())
    content = _content(tree, root)
    elements = tuple(_Walk(content).elements())
    if not elements:  # an unclosed <nav> or a page that is one big <aside>
        elements = tuple(_Walk(root, dropped=DROPPED).elements())
    title = tree.css_first("title")
    heading = _line(title.text()) if title is not None else ""
    return Parsed(elements, title=heading or None, metadata=_metadata(tree, root))


def html_elements(fragment: str) -> Iterator[Element]:
    """The blocks of a piece of HTML."""
    root = LexborHTMLParser(fragment).root
    if root is not None:
        yield from _Walk(root).elements()


def _content(tree: LexborHTMLParser, root: LexborNode) -> LexborNode:
    """The main part when the page marks one and it holds most of the text; else the whole page."""
    whole = sum(len(e.text) for e in _Walk(root).elements())
    for selector in ("main", "[role=main]", "article"):
        marked = tree.css(selector)
        if len(marked) == 1 and 2 * sum(len(e.text) for e in _Walk(marked[0]).elements()) > whole:
            return marked[0]
    return root


def _metadata(tree: LexborHTMLParser, root: LexborNode) -> dict[str, str]:
    found = {}
    html = tree.css_first("html")
    if html is not None and (lang := html.attributes.get("lang") or html.attributes.get("xml:lang")):
        found["lang"] = lang.strip()
    for key in ("author", "description"):
        meta = tree.css_first(f"meta[name={key}]")
        if meta is not None and (value := _line(meta.attributes.get("content") or "")):
            found[key] = value
    return found


def _line(text: str) -> str:
    return " ".join(text.split())


def _hidden(node: LexborNode) -> bool:
    attributes = node.attributes
    if not attributes:
        return False
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or NO_DISPLAY.search(attributes.get("style") or "") is not None
    )


@dataclass(slots=True)
class _Walk:
    """One pass over a subtree in document order, with a stack of its own: pages nest deeper than Python may."""

    root: LexborNode
    dropped: frozenset[str] = DROPPED | FURNITURE
    words: list[str] = field(default_factory=list)
    kinds: list[tuple[ElementKind, int]] = field(default_factory=list)

    def elements(self) -> Iterator[Element]:
        pending: list[tuple[LexborNode, bool]] = [(self.root, False)]
        while pending:
            node, leaving = pending.pop()
            if leaving:
                yield from self._leave(node.tag or "")
                continue
            if node.is_text_node:
                # A line break in the source is a space; only <br> breaks a line.
                self.words.append((node.text_content or "").replace("\n", " "))
                continue
            tag = node.tag or ""
            if tag in self.dropped or (node.is_element_node and _hidden(node)):
                continue
            if tag == "pre" or (tag == "table" and _is_grid(node)):
                yield from self._flush()
                yield from self._whole(node, tag)
                continue
            yield from self._enter(tag)
            pending.append((node, True))
            pending.extend((child, False) for child in reversed(_children(node)))
        yield from self._flush()

    def _enter(self, tag: str) -> Iterator[Element]:
        if tag == "br":
            self.words.append("\n")
        elif tag in HEADINGS or tag == "li" or tag in BLOCKS:
            yield from self._flush()
            if tag in HEADINGS:
                self.kinds.append(("heading", HEADINGS[tag]))
            elif tag == "li":
                self.kinds.append(("list_item", 0))

    def _leave(self, tag: str) -> Iterator[Element]:
        if tag in HEADINGS or tag == "li" or tag in BLOCKS:
            yield from self._flush()
            if tag in HEADINGS or tag == "li":
                self.kinds.pop()

    def _flush(self) -> Iterator[Element]:
        text = "".join(self.words)
        self.words.clear()
        kind, level = self.kinds[-1] if self.kinds else ("paragraph", 0)
        # Two <br> in a row stand for a paragraph's end on many pages; a heading is one line.
        for block in [text] if kind == "heading" else re.split(r"\n\s*\n", text):
            lines = filter(None, map(_line, block.split("\n")))
            kept = (" " if kind == "heading" else "\n").join(lines)
            if kept:
                yield Element(kind, kept, level=level)

    def _whole(self, node: LexborNode, tag: str) -> Iterator[Element]:
        if tag == "pre":
            text = node.text().strip("\n").rstrip()
            if text.strip():
                yield Element("code", text)
        else:
            caption = node.css_first("caption")
            if caption is not None and (text := _line(caption.text())):
                yield Element("paragraph", text)
            yield from table_elements(_grid(node))


def _children(node: LexborNode) -> list[LexborNode]:
    return list(node.iter(include_text=True))


def _rows(table: LexborNode) -> Iterator[list[LexborNode]]:
    for row in table.css("tr"):
        yield [cell for cell in row.iter() if cell.tag in ("td", "th")]


def _is_grid(table: LexborNode) -> bool:
    """Whether a table holds facts in rows and columns, rather than laying out the page."""
    if table.attributes.get("role") in ("presentation", "none") or table.css_first("h1, h2, h3, pre") is not None:
        return False
    if any(inner.mem_id != table.mem_id for inner in table.css("table")):
        return False
    widths = [len(cells) for cells in _rows(table)]
    return len(widths) > 1 and max(widths) > 1


def _grid(table: LexborNode) -> Iterator[list[str]]:
    for cells in _rows(table):
        row: list[str] = []
        for cell in cells:
            span = cell.attributes.get("colspan") or "1"
            width = min(int(span), MAX_SPAN) if span.isascii() and span.isdigit() else 1
            text = "" if _hidden(cell) else " ".join(e.text for e in _Walk(cell).elements())
            row += [text, *[""] * (width - 1)]
        yield row


class XmlParser:
    """XML of no particular kind: the text of each leaf-most element with text, in order."""

    media_types = frozenset({"application/xml"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser."""
        root = parse_xml(data, name=name)
        texts = [text for node in root.iter() if (text := _own_text(node))]
        elements = tuple(e for text in texts for e in paragraphs(text))
        if not elements:
            raise DocumentWithoutText(f"{name} holds no text between its tags.")
        return Parsed(elements)


def parse_xml(data: bytes, *, name: str) -> XmlElement:
    """The root of an XML part; entities and external references are refused. Raises DocumentDamaged."""
    wide = as_utf8(data)
    if wide is not data:  # what its declaration says of the encoding no longer holds
        data = XML_DECLARATION.sub(b"", wide, count=1)
    try:
        root: XmlElement = fromstring(data, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as refused:
        raise DocumentDamaged(f"{name} declares XML entities, which are refused: attacks use them.") from refused
    except (XmlSyntaxError, ValueError, LookupError) as broken:
        raise DocumentDamaged(f"{name} is not well-formed XML: {broken}.") from broken
    return root


def _own_text(node: XmlElement) -> str:
    parts = [node.text or "", *(child.tail or "" for child in node)]
    return "\n".join(" ".join(part.split()) for part in parts if part.strip())
