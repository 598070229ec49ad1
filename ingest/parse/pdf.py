"""PDF through pdfium: text by page, lines joined to paragraphs by their distances."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import pypdfium2
import pypdfium2.raw as pdfium

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentWithoutText
from ingest.model import Element, Parsed

PARAGRAPH_GAP = 1.35
"""A line further below than this many usual line distances begins a paragraph."""
SIZE_CHANGE = 1.15
"""Text this much larger or smaller belongs to another paragraph."""
SHIFT = 0.45
"""Baselines closer than this part of the height belong to one line (superscripts, cells of a row)."""
SENTENCE_END = (".", "!", "?", ":", "\u3002", "\uff01", "\uff1f")
HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010\u0002\ufffe]$")
HYPHENS = {0xAD: None, 0x02: "-", 0xFFFE: "-"}
LIST_MARK = re.compile(r"^(?:[\u2022\u2023\u25aa\u25cf\u25e6\uf0b7\u2043*\u2013-]\s+|\(?\d{1,2}[.)]\s+)")
BULLET = re.compile(r"^[\u2022\u2023\u25aa\u25cf\u25e6\uf0b7\u2043*]\s+")
PROGRAM_TITLE = re.compile(
    r"^(?:untitled|microsoft (?:word|powerpoint|excel) - .*|.*\.(?:docx?|pptx?|xlsx?|indd|tex|dvi|qxd))$", re.I
)
MAX_OUTLINE = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page with its place in points: `top` is its baseline, growing upwards, `size` its height."""

    text: str
    top: float
    left: float
    size: float


class PdfParser:
    """The text layer of a PDF. Entries of its outline become headings where they are found on their page."""

    media_types = frozenset({"application/pdf"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser."""
        document = _open(data, name)
        outline = _outline(document)
        elements: list[Element] = []
        without: list[int] = []
        for number in range(1, len(document) + 1):
            found = list(_page(document, number, outline.get(number, {})))
            elements.extend(found)
            if not found:
                without.append(number)
        if not elements:
            pages = "its only page" if len(document) == 1 else f"any of its {len(document)} pages"
            raise DocumentWithoutText(f"{name} has no text on {pages}: scanned, or empty.")
        title = " ".join(document.get_metadata_value("Title").split())
        author = " ".join(document.get_metadata_value("Author").split())
        return Parsed(
            tuple(elements),
            title=title if title and not PROGRAM_TITLE.match(title) else None,
            metadata={"author": author} if author else {},
            warnings=(f"Pages without text (scanned or empty): {_ranges(without)}.",) if without else (),
        )


def _open(data: bytes, name: str) -> pypdfium2.PdfDocument:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as refused:
        if refused.err_code in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            raise DocumentEncrypted(f"{name} is protected by a password.") from refused
        raise DocumentDamaged(f"{name} is not a readable PDF: {refused}") from refused
    if len(document) == 0:
        raise DocumentDamaged(f"{name} is a PDF without pages.")
    return document


def _outline(document: pypdfium2.PdfDocument) -> dict[int, dict[str, int]]:
    """Page number -> {squeezed title: heading level}."""
    found: dict[int, dict[str, int]] = {}
    for _, entry in zip(range(MAX_OUTLINE), document.get_toc(), strict=False):
        target = entry.get_dest()
        page = target.get_index() if target is not None else None
        if page is not None and (key := _squeeze(entry.get_title())):
            found.setdefault(page + 1, {}).setdefault(key, min(6, entry.level + 1))
    return found


def _squeeze(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def _page(document: pypdfium2.PdfDocument, number: int, outline: Mapping[str, int]) -> Iterator[Element]:
    try:
        page = document[number - 1]
        text = page.get_textpage()
    except pypdfium2.PdfiumError:
        return  # named among the pages without text
    lines = _lines(text)
    text.close()
    page.close()
    for group in _groups(lines, outline):
        joined = _join(group)
        level = outline.get(_squeeze(joined), 0)
        if level:
            yield Element("heading", joined, level=level, page=number)
        elif BULLET.match(joined):
            yield Element("list_item", BULLET.sub("", joined), page=number)
        elif joined:
            yield Element("paragraph", joined, page=number)


def _lines(text: pypdfium2.PdfTextPage) -> list[Line]:
    count = text.count_chars()
    if count <= 0:
        return []
    content = text.get_text_range()
    lines = []
    start = 0
    # pdfium marks a hyphen at a line's end by U+FFFE (or U+0002) and leaves that line break out.
    for raw in re.findall(r"[^\n\ufffe\x02]*[\n\ufffe\x02]|[^\n\ufffe\x02]+$", content):
        stripped = raw.strip()
        if stripped:
            first = start + len(raw) - len(raw.lstrip())
            last = first + len(stripped) - 1
            lines.append(_line(text, stripped, first, last))
        start += len(raw)
    return _merged(lines)


def _line(text: pypdfium2.PdfTextPage, content: str, first: int, last: int) -> Line:
    """A line's place, by the boxes of its first, middle and last characters."""
    places = []
    for position in {first, (first + last) // 2, last}:
        index = pdfium.FPDFText_GetCharIndexFromTextIndex(text, position)
        x, y = ctypes.c_double(), ctypes.c_double()
        # The origin lies on the baseline; a box's bottom would depend on which letter it is.
        if index >= 0 and pdfium.FPDFText_GetCharOrigin(text, index, ctypes.byref(x), ctypes.byref(y)):
            places.append((y.value, x.value, _height(text, index)))
    cleaned = " ".join(content.replace("\x00", "").split())
    if not places:
        return Line(cleaned, 0.0, 0.0, 0.0)
    return Line(cleaned, median(p[0] for p in places), min(p[1] for p in places), median(p[2] for p in places))


def _height(text: pypdfium2.PdfTextPage, index: int) -> float:
    """A character's size on the page: the font's size alone knows nothing of the page's scaling."""
    box = pdfium.FS_RECTF()
    if pdfium.FPDFText_GetLooseCharBox(text, index, ctypes.byref(box)):
        return abs(float(box.top) - float(box.bottom))
    return 0.0


def _same_line(before: Line, after: Line) -> bool:
    """Whether pdfium broke a line where only a superscript or a wide gap is."""
    return after.left > before.left and abs(before.top - after.top) < SHIFT * max(before.size, after.size)


def _merged(lines: list[Line]) -> list[Line]:
    whole: list[Line] = []
    for line in lines:
        if whole and _same_line(whole[-1], line):
            before = whole[-1]
            main = max(before, line, key=lambda part: len(part.text))
            whole[-1] = Line(f"{before.text} {line.text}", main.top, before.left, main.size)
        else:
            whole.append(line)
    return whole


def _groups(lines: list[Line], outline: Mapping[str, int]) -> Iterator[list[Line]]:
    """Lines of one paragraph together."""
    steps = sorted(
        above.top - below.top for above, below in pairwise(lines) if above.top - below.top > 0.8 * below.size
    )
    # Not the median: on a page of one-line paragraphs most distances are gaps.
    usual = steps[(len(steps) - 1) // 5] if steps else 0.0
    group: list[Line] = []
    for line in lines:
        if group and _begins(group, line, usual, outline):
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _begins(group: list[Line], line: Line, usual: float, outline: Mapping[str, int]) -> bool:
    """Whether `line` begins a new paragraph after `group`."""
    before = group[-1]
    if _squeeze(line.text) in outline or _squeeze(_join(group)) in outline or LIST_MARK.match(line.text):
        return True
    small, large = sorted((before.size, line.size))
    if small > 0 and large > small * SIZE_CHANGE and abs(before.top - line.top) > 0.5:
        return True
    step = before.top - line.top
    if step < -0.5:  # further up: a new column or box; a sentence may go on in it
        return before.text.endswith(SENTENCE_END) or not line.text[:1].islower()
    return usual > 0 and step > PARAGRAPH_GAP * usual


def _join(group: list[Line]) -> str:
    """Lines to one text. A hyphen at a line's end goes when the word goes on in lower case."""
    text = ""
    for line in group:
        if text and HYPHEN.search(text) and line.text[:1].islower():
            text = text[:-1] + line.text
        else:
            glue = "" if not text or text.endswith(("\x02", "\ufffe")) else " "
            text = f"{text}{glue}{line.text}"
    return text.translate(HYPHENS)


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 -> "1-3, 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
