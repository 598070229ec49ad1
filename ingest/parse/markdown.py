"""Markdown by its blocks, and what other parsers turn into Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ingest.errors import DocumentWithoutText
from ingest.model import Element, Parsed
from ingest.parse.markup import html_elements
from ingest.parse.plain import decode_text_file, table_elements

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
FIELD = re.compile(r"^([A-Za-z][\w-]*)[ \t]*:[ \t]+(.+?)[ \t]*$", re.M)
KEPT_FIELDS = {"author": "author", "date": "date", "lang": "lang", "language": "lang", "description": "description"}
MAX_NESTING = 100


class MarkdownParser:
    """CommonMark with tables and strikethrough; the text of a block keeps its words and loses its marks."""

    media_types = frozenset({"text/markdown"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser. The title is the front matter's, else the first H1."""
        text = decode_text_file(data, media_type=media_type, name=name)
        fields: dict[str, str] = {}
        if front := FRONT_MATTER.match(text):
            fields = {key.lower(): value.strip("\"'") for key, value in FIELD.findall(front[1])}
            text = text[front.end() :]
        elements = tuple(markdown_elements(text, source_tables=True))
        if not elements:
            raise DocumentWithoutText(f"{name} holds no text.", hint="Save some text in it, or delete it.")
        first = next((e.text for e in elements if e.kind == "heading" and e.level == 1), None)
        kept = {KEPT_FIELDS[key]: value for key, value in fields.items() if key in KEPT_FIELDS}
        return Parsed(elements, title=fields.get("title") or first, metadata=kept)


def markdown_elements(text: str, *, source_tables: bool = False) -> Iterator[Element]:
    """Blocks in order. Tables are the source's lines, or written anew from their cells' readable text."""
    parser = MarkdownIt("commonmark", {"maxNesting": MAX_NESTING}).enable(["table", "strikethrough"])
    lines = text.split("\n")
    tokens = parser.parse(text)
    heading, items, index = 0, 0, 0
    while index < len(tokens):
        token = tokens[index]
        if token.type == "table_open":
            end = next(i for i in range(index, len(tokens)) if tokens[i].type == "table_close")
            yield from _table(tokens[index:end], lines, source=source_tables)
            index = end
        elif token.type == "heading_open":
            heading = int(token.tag[1])
        elif token.type == "heading_close":
            heading = 0
        elif token.type in ("list_item_open", "list_item_close"):
            items += token.nesting
        else:
            yield from _block(token, heading=heading, in_item=items > 0)
        index += 1


def _block(token: Token, *, heading: int, in_item: bool) -> Iterator[Element]:
    if token.type == "inline":
        text = inline_text(token).strip()
        if text:
            yield Element("heading" if heading else "list_item" if in_item else "paragraph", text, level=heading)
    elif token.type in ("fence", "code_block") and token.content.strip():
        yield Element("code", token.content.rstrip("\n"))
    elif token.type == "html_block":
        yield from html_elements(token.content)


def _table(tokens: Sequence[Token], lines: list[str], *, source: bool) -> Iterator[Element]:
    span = tokens[0].map
    if source and span:
        yield Element("table", "\n".join(line.strip() for line in lines[span[0] : span[1]] if line.strip()))
        return
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(inline_text(token))
    yield from table_elements(rows)


def inline_text(token: Token) -> str:
    """The words of an inline token: emphasis, link targets and tags dropped, image descriptions kept."""
    parts = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type == "image":
            parts.append(inline_text(child))
        elif child.type == "softbreak":
            parts.append(" ")
        elif child.type == "hardbreak" or (child.type == "html_inline" and child.content.lower().startswith("<br")):
            parts.append("\n")
    return "".join(parts)
