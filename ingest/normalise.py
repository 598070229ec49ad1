"""Elements of a parser to the one normalised text of a version: what every offset and citation counts in.

NFC, one kind of newline, no invisible characters (they hide instructions from people but not from models, and split
words for search), blanks collapsed outside code and tables. Deterministic, and idempotent: normalising the blocks of
a result gives the same text.
"""

from __future__ import annotations

import re
import unicodedata

from indexes.model import Span
from ingest.model import Block, Element, ElementKind, Parsed, Text

BETWEEN_BLOCKS = "\n\n"
BETWEEN_ITEMS = "\n"

_SURROGATES = re.compile("[\ud800-\udfff]")
_NEWLINES = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_SEPARATORS = re.compile("[\x1c-\x1f]")
# Controls, soft hyphen, zero width, bidi marks and overrides, Hangul fillers, invisible operators, BOM, interlinear
# marks, noncharacters, tags (U+E0000-7F). ZWNJ, ZWJ and variation selectors are judged by their neighbours below.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
)
# Arabic and Syriac, Mongolian, and the Indic and South-East Asian scripts shape letters with joiners.
_JOINING = "\u0620-\u06ff\u0700-\u08ff\u0900-\u109f\u1780-\u17d3\u1820-\u18aa"
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u27bf\u2934-\u2b55\u3030\u303d\u3297"
    "\u3299\ufe0f\U0001f000-\U0001faff"
)
_JOINER = re.compile("[\u200c\u200d]+")
_KEPT_JOINER = re.compile(
    f"(?<=[{_JOINING}])[\u200c\u200d](?=[{_JOINING}])|(?<=[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca])\u200d"
    f"|(?<=[{_EMOJI}])\u200d(?=[{_EMOJI}])"
)
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_WIDE_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BLANKS = re.compile("[ \t]+")
_AROUND_NEWLINES = re.compile("[ \t]*\n[ \t\n]*")
_TRAILING = re.compile("[ \t]+(?=\n|\\Z)")


def normalise(parsed: Parsed) -> Text:
    """The normalised text of a parsed document, with the exact span of each element that was not empty."""
    pieces: list[str] = []
    blocks: list[Block] = []
    position = 0
    for element in parsed.elements:
        content = _content(element)
        if not content:
            continue
        if blocks:
            both_items = element.kind == "list_item" and blocks[-1].kind == "list_item"
            separator = BETWEEN_ITEMS if both_items else BETWEEN_BLOCKS
            pieces.append(separator)
            position += len(separator)
        pieces.append(content)
        level = min(max(element.level, 1), 6) if element.kind == "heading" else 0
        blocks.append(Block(element.kind, Span(position, position + len(content)), level, element.page))
        position += len(content)
    return Text("".join(pieces), tuple(blocks))


def _content(element: Element) -> str:
    return _layout(visible(element.text), element.kind)


def visible(text: str) -> str:
    """`text` in NFC with one kind of newline and nothing that people cannot see; lone surrogates become U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    if _SURROGATES.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = _SEPARATORS.sub(" ", _NEWLINES.sub("\n", text))
    text = _INVISIBLE.sub("", text)
    if not text.isascii():
        text = _JOINER.sub(_joiner, text)
        text = _SELECTORS.sub(_selector, text)
        text = unicodedata.normalize("NFC", text)
        text = _WIDE_BLANKS.sub(" ", text)
    return text


def _joiner(match: re.Match[str]) -> str:
    """A single joiner where writing needs it; runs of them hide messages."""
    single = len(match[0]) == 1 and _KEPT_JOINER.match(match.string, match.start())
    return match[0] if single else ""


def _selector(match: re.Match[str]) -> str:
    """One variation selector after a visible character; the supplementary ones only after an ideograph."""
    before = match.string[match.start() - 1 : match.start()]
    first = match[0][0]
    if not before or before.isspace():
        return ""
    return first if first <= "\ufe0f" or _IDEOGRAPH.match(before) else ""


def _layout(text: str, kind: ElementKind) -> str:
    if kind == "code":
        return _TRAILING.sub("", text).strip("\n") if text.strip() else ""
    if kind == "table":  # rows keep their inner blanks (they align columns), a blank line would end the table
        return re.sub("\n{2,}", "\n", _TRAILING.sub("", text)).strip()
    text = _AROUND_NEWLINES.sub("\n", _BLANKS.sub(" ", text)).strip()
    return text.replace("\n", " ") if kind == "heading" else text
