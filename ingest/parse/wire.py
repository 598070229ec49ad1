"""What crosses the border of the jail: length-prefixed JSON, nothing else (never pickle)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, get_args

import orjson

from indexes.model import MetadataValue, Scalar
from ingest import errors
from ingest.errors import ParseError
from ingest.model import Element, ElementKind, Parsed

HEADER = struct.Struct("!Q")
KINDS: frozenset[str] = frozenset(get_args(ElementKind))
PARSE_ERRORS: Mapping[str, type[ParseError]] = {
    cls.__name__: cls
    for cls in (
        ParseError,
        errors.DocumentEncrypted,
        errors.DocumentDamaged,
        errors.DocumentWithoutText,
        errors.DocumentTooLarge,
        errors.TypeNotSupported,
        errors.ParserKilled,
    )
}


class WireError(ValueError):
    """The other side sent something that is not an answer."""


def frame(value: object) -> bytes:
    """JSON with its length in front: 8 bytes, big endian."""
    body = orjson.dumps(value)
    return HEADER.pack(len(body)) + body


def encode_parsed(parsed: Parsed) -> dict[str, Any]:
    """A parser's result as JSON values; text is made fit for every store (no NUL, no lone surrogates)."""
    return {
        "elements": [[e.kind, _storable(e.text), e.level, e.page] for e in parsed.elements],
        "title": _storable(parsed.title) if parsed.title else None,
        "metadata": {_storable(key): _storable_value(value) for key, value in parsed.metadata.items()},
        "warnings": [_storable(w) for w in parsed.warnings],
    }


def encode_error(error: ParseError) -> dict[str, Any]:
    """A parser's refusal as JSON values."""
    return {"error": type(error).__name__, "message": _storable(error.message), "hint": _storable(error.hint)}


def decode_answer(body: bytes) -> Parsed:
    """What the child sent. It may be hostile: every field is checked.

    Raises the ParseError that it reports, or WireError when it is not an answer.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as broken:
        raise WireError(f"not JSON: {broken}") from broken
    if not isinstance(answer, dict):
        raise WireError("not an object")
    if "error" in answer:
        cls = PARSE_ERRORS.get(str(answer["error"]), ParseError)
        raise cls(str(answer.get("message", "")), hint=str(answer.get("hint", cls.hint)))
    return _parsed(answer)


def _parsed(answer: dict[str, Any]) -> Parsed:
    rows, title, metadata = answer.get("elements"), answer.get("title"), answer.get("metadata")
    warnings = answer.get("warnings")
    if not (isinstance(rows, list) and isinstance(metadata, dict) and isinstance(warnings, list)):
        raise WireError("fields are missing")
    if title is not None and not isinstance(title, str):
        raise WireError("the title is not text")
    return Parsed(
        elements=tuple(_element(row) for row in rows),
        title=title,
        metadata={str(key): _metadata_value(value) for key, value in metadata.items()},
        warnings=tuple(str(w) for w in warnings),
    )


def _element(row: Any) -> Element:
    if not isinstance(row, list) or len(row) != 4:
        raise WireError("an element does not have four fields")
    kind, text, level, page = row
    numbers = isinstance(level, int) and 0 <= level <= 6 and (page is None or (isinstance(page, int) and page >= 1))
    if kind not in KINDS or not isinstance(text, str) or not numbers:
        raise WireError(f"an element of kind {kind!r:.40} is malformed")
    return Element(kind=kind, text=text, level=level, page=page)


def _metadata_value(value: Any) -> MetadataValue:
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list) and all(isinstance(part, str | int | float | bool) for part in value):
        return tuple(value)
    raise WireError("a metadata value is neither a scalar nor a list of scalars")


def _storable_value(value: MetadataValue) -> Scalar | list[Scalar]:
    if isinstance(value, tuple):
        return [_storable(part) if isinstance(part, str) else part for part in value]
    return _storable(value) if isinstance(value, str) else value


def _storable(text: str) -> str:
    # Databases refuse U+0000, and UTF-8 has no lone surrogates: both occur in damaged documents.
    text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
