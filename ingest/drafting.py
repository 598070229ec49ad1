"""One item to a draft: fetch, parse in the jail, normalise, split. Nothing is recorded here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from indexes.analyze import detect_language
from indexes.model import MetadataValue
from ingest.model import Document, Draft, Fetched, Item, Parsed, Push, Source
from ingest.normalise import normalise
from ingest.protocols import Chunker, Connector
from ingest.sentences import sentence_spans


class ParsesSafely(Protocol):
    """The jail."""

    def parse(self, data: bytes, *, media_type: str | None, name: str, parser: str = "default") -> Parsed:
        """Raises ParseError."""
        ...


Content = tuple[str, str]
"""SHA-256 of the bytes, and their media type: what makes two files the same document to a parser."""


@dataclass(frozen=True, slots=True)
class Same:
    """The item's content is that of a document that is known: of the one at its place, or of one that is missing."""

    item: Item
    content: Content
    fetched: Fetched


class Moved:
    """Documents that are missing at their place and may turn up at another, by content.

    `pending` says that a new item is still being written: it may be one of them.
    """

    def __init__(self, missing: Iterable[Document]) -> None:
        self.pending = False
        self._by_content: dict[Content, list[Document]] = {}
        for document in missing:
            self._by_content.setdefault((document.content_sha256, document.media_type), []).append(document)
        self.contents = frozenset(self._by_content)

    def claim(self, content: Content) -> Document | None:
        """One of the documents with this content; each can be claimed once."""
        documents = self._by_content.get(content)
        return documents.pop(0) if documents else None

    def left(self) -> frozenset[str]:
        """Ids of those that nothing claimed: they are gone."""
        return frozenset(document.id for documents in self._by_content.values() for document in documents)


@dataclass(frozen=True, slots=True)
class Drafting:
    """Turns items into drafts. `access` and `metadata` come from push, source or collection, in that order."""

    source: Source
    connector: Connector
    jail: ParsesSafely
    chunker: Chunker
    default_access: frozenset[str]
    push: Push | None = None

    def draft(self, item: Item, known: Document | None, moved: Set[Content] = frozenset()) -> Draft | Same:
        """A draft; or Same if the content is that of `known`, or unknown here and in `moved`.

        Raises ParseError, ItemUnreadable, ItemNotSettled.
        """
        fetched = self.connector.fetch(item)
        sha256 = hashlib.sha256(fetched.data).hexdigest()
        content = (sha256, fetched.media_type)
        if self.push is None:
            expected = moved if known is None else {(known.content_sha256, known.media_type)}
            if content in expected:
                return Same(item, content, fetched)
        parser = str(self.source.options.get("parser", "default"))
        parsed = self.jail.parse(fetched.data, media_type=fetched.media_type, name=item.name, parser=parser)
        return self._compose(item, fetched, sha256, parsed)

    def _compose(self, item: Item, fetched: Fetched, sha256: str, parsed: Parsed) -> Draft:
        text = normalise(parsed)
        lang = detect_language(text.text)
        metadata: dict[str, MetadataValue] = {**parsed.metadata, **self.source.metadata}
        if lang is not None:
            metadata.setdefault("lang", lang)
        metadata["media_type"] = fetched.media_type
        push = self.push
        if push is not None:
            metadata.update(push.metadata)
        stated = (push.access if push else None, self.source.access, self.default_access)
        access = next(names for names in stated if names is not None)  # an empty list means nobody, not the default
        return Draft(
            uri=item.uri,
            title=(push.title if push and push.title else None) or parsed.title or title_of(item.uri),
            media_type=fetched.media_type,
            fingerprint=fetched.fingerprint,
            content_sha256=sha256,
            access=access,
            metadata=metadata,
            lang=lang,
            modified_at=fetched.modified_at,
            valid_from=push.valid_from if push else None,
            text=text,
            sentences=sentence_spans(text),
            chunks=self.chunker.chunk(text),
        )


def title_of(uri: str) -> str:
    """A readable name from the last part of a URI."""
    name = PurePosixPath(unquote(urlsplit(uri).path) or uri).name or uri
    stem = name.rsplit(".", 1)[0] or name
    return stem.replace("_", " ").replace("-", " ").strip() or name
