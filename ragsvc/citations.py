"""Citations: a name for exact characters of an immutable version, resolvable for ever.

A citation id holds what it cites (version, spans) and a check sum, so it needs no row to be found again: it
resolves as long as its version is kept, whatever happened to chunks and indexes, and to a tombstone after.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from indexes.model import Allowed, Span
from ingest.catalog.database import from_us
from ingest.catalog.documents import Documents
from ingest.errors import NotFound
from ingest.model import Document, StoredText, Version

SEPARATOR = " ... "
_CHECK_BYTES = 4
_VERSION_BYTES = 12


@dataclass(frozen=True, slots=True)
class Location:
    """Where a quote stands. Pages count from 1 where the format has pages."""

    spans: tuple[Span, ...]
    page_start: int | None
    page_end: int | None
    heading_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A citation with what it cites."""

    id: str
    quote: str
    quote_sha256: str
    version: Version
    document: Document
    location: Location


@dataclass(frozen=True, slots=True)
class Erased:
    """A citation whose document was erased."""

    id: str
    deleted_at: str
    reason: str


def citation_id(version_id: str, spans: Sequence[Span]) -> str:
    """`cit_...`: version and spans, delta coded as variable-length integers, with a check sum."""
    body = bytes.fromhex(version_id.removeprefix("ver_")) + b"".join(_varint(n) for n in _deltas(spans))
    return "cit_" + base64.urlsafe_b64encode(_check(body) + body).decode().rstrip("=")


def parse_citation_id(text: str) -> tuple[str, tuple[Span, ...]]:
    """The inverse of citation_id. Raises NotFound for anything that citation_id did not make."""
    unknown = NotFound(f"There is no citation {text[:200]!r}.", hint="Check the id: it must be copied whole.")
    coded = text.removeprefix("cit_")
    try:
        raw = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        body = raw[_CHECK_BYTES:]
        numbers = _numbers(body[_VERSION_BYTES:])
    except (binascii.Error, ValueError, IndexError) as error:
        raise unknown from error
    if coded == text or raw[:_CHECK_BYTES] != _check(body) or not numbers or len(numbers) % 2:
        raise unknown
    spans, at = [], 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        spans.append(Span(at + gap, at + gap + length))
        at += gap + length
    version_id = f"ver_{body[:_VERSION_BYTES].hex()}"
    if citation_id(version_id, spans) != text:  # exactly one spelling of each citation
        raise unknown
    return version_id, tuple(spans)


def _check(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECK_BYTES, person=b"ragsvc-cit").digest()


def _deltas(spans: Sequence[Span]) -> list[int]:
    numbers, at = [], 0
    for span in spans:
        numbers += [span.start - at, span.end - span.start]
        at = span.end
    return numbers


def _varint(number: int) -> bytes:
    if number < 0:
        raise ValueError("spans must be in order and must not overlap")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _numbers(data: bytes) -> list[int]:
    numbers, current, shift = [], 0, 0
    for byte in data:
        current |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(current)
            current = shift = 0
    if shift:
        raise ValueError("cut off")
    return numbers


def quote_of(text: str, spans: Sequence[Span]) -> str:
    """The cited characters, joined by ` ... `."""
    return SEPARATOR.join(text[span.start : span.end] for span in spans)


def sha256_of(text: str) -> str:
    """SHA-256 of the UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def heading_path(text: StoredText, at: int) -> tuple[str, ...]:
    """The headings above a place of a version, outermost first; a heading stands below itself."""
    return text.headings[bisect_right(text.headings, at, key=lambda change: change[0]) - 1][1]


def location_of(text: StoredText, spans: Sequence[Span]) -> Location:
    """Headings above and pages of the spans, from the version's own outline: chunks may come and go."""
    first = max(bisect_right(text.blocks, spans[0].start, key=lambda block: block.span.start) - 1, 0)
    pages = [
        block.page
        for block in takewhile(lambda block: block.span.start < spans[-1].end, text.blocks[first:])
        if block.page is not None and any(block.span.start < span.end and span.start < block.span.end for span in spans)
    ]
    path = heading_path(text, spans[0].start)
    return Location(tuple(spans), min(pages, default=None), max(pages, default=None), path)


def resolve(documents: Documents, text: str, *, allowed: Allowed) -> Resolved | Erased:
    """Find what a citation cites. Raises NotFound, also for what the caller may not read."""
    version_id, spans = parse_citation_id(text)
    gone = documents.erased_at(version_id)
    if gone is not None:
        return Erased(text, from_us(gone[0]).isoformat(), gone[1])
    try:
        version, document = documents.version(version_id, allowed=allowed)
    except NotFound as error:
        raise NotFound(f"There is no citation {text}.", hint="Check the id: it must be copied whole.") from error
    stored = documents.text(version_id)
    if spans[-1].end > len(stored.text):
        raise NotFound(f"There is no citation {text}.", hint="Check the id: it must be copied whole.")
    quote = quote_of(stored.text, spans)
    return Resolved(text, quote, sha256_of(quote), version, document, location_of(stored, spans))
