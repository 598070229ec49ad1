"""Plain text and delimited tables, and how bytes become text."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from io import StringIO
from itertools import islice

from charset_normalizer import from_bytes

from ingest.errors import DocumentDamaged, DocumentWithoutText
from ingest.model import Element, Parsed

ROWS_PER_TABLE = 50
"""A long table becomes several, each with the header row, so that no chunk of it loses the column names."""
BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.I)
MAX_FIELD = 2**31 - 1
"""The module's own limit of 131,072 characters refuses tables with long texts; the jail limits the whole."""
DELIMITERS = (",", ";", "\t", "|")


def decode(data: bytes, *, charset: str | None = None) -> str:
    """Bytes to text: byte order mark, declared charset, UTF-8, then the likeliest charset. Never fails."""
    for bom, encoding in BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace")
    for encoding in filter(None, (charset, _wide(data), "utf-8")):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    # A sample is enough to tell, and detection is slow. \x00 aside, the best guess is taken whatever it is.
    best = from_bytes(data[:65536]).best()
    return data.decode(best.encoding if best else "cp1252", "replace")


def _wide(data: bytes) -> str | None:
    """UTF-16 without a byte order mark: in most scripts every second byte is often zero, and only that one."""
    sample = data[:4096]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) * 5 < len(sample) or min(even, odd) * 20 > max(even, odd):
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def as_utf8(data: bytes) -> bytes:
    """Wide text (UTF-16, UTF-32) as UTF-8, for parsers that read bytes; anything else as it is."""
    if any(data.startswith(bom) for bom, _ in BOMS[1:]) or _wide(data):
        return decode(data).encode("utf-8", "replace")
    return data


def decode_text_file(data: bytes, *, media_type: str, name: str) -> str:
    """`decode`, for a whole file that claims to be text. Raises DocumentDamaged when it is binary."""
    declared = CHARSET.search(media_type)
    text = decode(data, charset=declared[1] if declared else None)
    sample = text[:100_000]
    if len(CONTROL.findall(sample)) + sample.count("\ufffd") > len(sample) // 50:
        raise DocumentDamaged(f"{name} is named as text but holds binary data.")
    return CONTROL.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def paragraphs(text: str, *, page: int | None = None) -> Iterator[Element]:
    """One paragraph for each run of lines between blank lines."""
    for block in re.split(r"\n[^\S\n]*(?:\n[^\S\n]*)+|\f", text):
        body = block.strip("\n").rstrip()
        if body.strip():
            yield Element("paragraph", body if body[0].isspace() and "\n" in body else body.strip(), page=page)


def table_elements(rows: Iterable[Iterable[str]], *, page: int | None = None) -> Iterator[Element]:
    """Rows, the first of which is the header, as Markdown tables of at most ROWS_PER_TABLE rows."""
    cells = (tuple(_cell(value) for value in row) for row in rows)
    filled = (row for row in cells if any(row))
    header = next(filled, None)
    if header is None:
        return
    first = True
    while (part := list(islice(filled, ROWS_PER_TABLE))) or first:
        first = False
        width = max(len(row) for row in (header, *part))
        ruled = (header, ("---",) * width, *part)
        yield Element("table", "\n".join(_row(row, width) for row in ruled), page=page)


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


def _row(cells: tuple[str, ...], width: int) -> str:
    return "| " + " | ".join((*cells, *[""] * (width - len(cells)))) + " |"


class PlainParser:
    """Text without markup: paragraphs by blank lines."""

    media_types = frozenset(
        {"text/plain", "application/json", "application/x-ndjson", "application/yaml", "application/toml"}
    )

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser."""
        elements = tuple(paragraphs(decode_text_file(data, media_type=media_type, name=name)))
        if not elements:
            raise DocumentWithoutText(f"{name} is empty.", hint="Save some text in it, or delete it.")
        return Parsed(elements)


class DelimitedParser:
    """CSV and TSV: one table, split into parts when it is long."""

    media_types = frozenset({"text/csv", "text/tab-separated-values"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser."""
        text = decode_text_file(data, media_type=media_type, name=name)
        delimiter = "\t" if media_type.startswith("text/tab") else sniff_delimiter(text)
        csv.field_size_limit(MAX_FIELD)
        try:
            elements = tuple(table_elements(csv.reader(StringIO(text, newline=""), delimiter=delimiter)))
        except csv.Error as broken:
            raise DocumentDamaged(f"{name} is not a readable table: {broken}.") from broken
        if not elements:
            raise DocumentWithoutText(f"{name} holds no cells.", hint="Save some rows in it, or delete it.")
        return Parsed(elements)


def sniff_delimiter(text: str) -> str:
    """The delimiter that splits the first lines into the most columns, most evenly."""
    lines = [line for line in text[:20_000].splitlines()[:20] if line.strip()]

    def evidence(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        if not widths or max(widths) == 1:
            return 0.0, 0
        usual = max(set(widths), key=lambda width: (widths.count(width), width))
        return (widths.count(usual) / len(widths) if usual > 1 else 0.0), usual

    return max(DELIMITERS, key=evidence)
