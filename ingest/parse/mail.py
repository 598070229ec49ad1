"""E-mail messages (RFC 5322 and MIME)."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from datetime import UTC
from email.message import EmailMessage, Message
from email.utils import parsedate_to_datetime

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentWithoutText
from ingest.model import Element, Parsed
from ingest.parse.markup import html_document
from ingest.parse.plain import as_utf8, decode, paragraphs

# The standard library's header parser fails in many ways on headers that real mail has.
MALFORMED = (ValueError, IndexError, AttributeError, LookupError, TypeError)
BODY_TYPES = ("text/plain", "text/html")
SEALED = ("application/pkcs7-mime", "application/x-pkcs7-mime")
MAX_PARTS = 1000


class MailParser:
    """One message: its plain text, else its HTML. The subject is the title, attachments are named in a warning."""

    media_types = frozenset({"message/rfc822"})

    def parse(self, data: bytes, *, media_type: str, name: str) -> Parsed:
        """See ingest.protocols.Parser."""
        message = email.message_from_bytes(as_utf8(data), policy=email.policy.default)
        if not message.keys():
            raise DocumentDamaged(f"{name} is not an e-mail message: it has no headers.")
        parts = [part for _, part in zip(range(MAX_PARTS), message.walk(), strict=False)]
        if any(_sealed(part) for part in parts):
            raise DocumentEncrypted(f"{name} is an encrypted message.", hint="Save the decrypted message instead.")
        attachments = tuple(filter(None, map(_attachment, parts)))
        elements = _body(parts)
        warnings = (f"Attachments were not read: {', '.join(attachments)}.",) if attachments else ()
        if not elements:
            also = f" {warnings[0]}" if warnings else ""
            raise DocumentWithoutText(f"{name} has no readable body.{also}", hint="Save the attachments as documents.")
        subject = _header(message, "subject") or None
        return Parsed(elements, title=subject, metadata=_metadata(message), warnings=warnings)


def _body(parts: list[EmailMessage]) -> tuple[Element, ...]:
    """The first kind of body that has text: plain before HTML."""
    for wanted in BODY_TYPES:
        found: list[Element] = []
        for part in parts:
            if part.get_content_type() == wanted and not part.is_multipart() and not _attachment(part):
                found.extend(_text(part))
        if found:
            return tuple(found)
    return ()


def _text(part: EmailMessage) -> Iterator[Element]:
    payload = part.get_payload(decode=True)
    text = decode(payload if isinstance(payload, bytes) else b"", charset=_parameter(part, "charset"))
    text = text.replace("\r\n", "\n").replace("\x00", "")
    if part.get_content_type() == "text/html":
        yield from html_document(text).elements
        return
    if _parameter(part, "format") == "flowed":  # RFC 3676: a space at the end continues the paragraph
        text = re.sub(r"(?<!^--) \n(?!>)", " ", text, flags=re.M)
    yield from paragraphs(text)


def _attachment(part: Message) -> str:
    """The name of an attached file; nothing for parts that are read or only wrap others."""
    try:
        name, disposition = part.get_filename(), part.get_content_disposition()
    except MALFORMED:
        name, disposition = None, None
    if part.is_multipart() and part.get_content_type() != "message/rfc822":
        return ""
    attached = disposition == "attachment" or part.get_content_type() not in (*BODY_TYPES, "message/rfc822")
    return " ".join((name or part.get_content_type()).split())[:200] if attached else ""


def _sealed(part: Message) -> bool:
    kind = part.get_content_type()
    if kind == "multipart/encrypted":
        return True
    return kind in SEALED and _parameter(part, "smime-type") not in ("signed-data", "certs-only")


def _parameter(part: Message, key: str) -> str | None:
    try:
        value = part.get_param(key)
    except MALFORMED:
        return None
    return value.lower() if isinstance(value, str) else None


def _metadata(message: Message) -> dict[str, str]:
    found = {key: _header(message, key) for key in ("from", "to", "date")}
    try:
        sent = parsedate_to_datetime(found["date"])
        found["date"] = sent.astimezone(UTC).isoformat() if sent.tzinfo else sent.isoformat()
    except MALFORMED:
        pass  # an unreadable date is kept as it is written
    return {key: value for key, value in found.items() if value}


def _header(message: Message, key: str) -> str:
    try:
        value = str(message.get(key) or "")
    except MALFORMED:
        value = next((str(raw) for name, raw in message.raw_items() if name.lower() == key), "")
    return " ".join(value.split())
