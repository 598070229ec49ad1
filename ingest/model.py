"""The values of ingestion. Frozen; they refer to each other by id, never by object.

Over 300 lines because the nouns of the package stand in one place, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from indexes.model import Generation, Matrix, MetadataValue, Span, Vector

ElementKind = Literal["heading", "paragraph", "list_item", "table", "code"]
JobKind = Literal["sync", "push", "verify", "compact", "reindex"]
GenerationState = Literal["building", "standby", "serving", "failed", "retired"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
COUNTS = ("listed", "new", "changed", "unchanged", "deleted", "withheld", "failed", "skipped")


@dataclass(frozen=True, slots=True)
class Element:
    """One block of a document in reading order.

    `text` is readable text (a table is Markdown pipe rows with its header row). `level` is 1..6 for
    headings, 0 otherwise. `page` counts from 1 where the format has pages (slides count too).
    """

    kind: ElementKind
    text: str
    level: int = 0
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser makes of a document. `title` only if the document itself says it."""

    elements: tuple[Element, ...]
    title: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """An element's place in the normalised text."""

    kind: ElementKind
    span: Span
    level: int = 0
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """The normalised text of a version: what every offset counts in, with its outline."""

    text: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class ChunkDraft:
    """A chunk before it has an id: its range, and the headings above it (outermost first)."""

    span: Span
    heading_path: tuple[str, ...]
    page_start: int | None
    page_end: int | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A fetched and parsed item, ready to be embedded and recorded.

    `content_sha256` is of the bytes, `modified_at` what the source says, `valid_from` what the owner says.
    """

    uri: str
    title: str
    media_type: str
    fingerprint: str
    content_sha256: str
    access: frozenset[str]
    metadata: Mapping[str, MetadataValue]
    lang: str | None
    modified_at: datetime | None
    valid_from: datetime | None
    text: Text
    sentences: tuple[Span, ...]
    chunks: tuple[ChunkDraft, ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a draft: one row per chunk, and those sentence vectors that were not known yet.

    `chunk_vectors` is float32 of shape (chunks, dimensions), rows of unit length; `tokens` counts what
    the model read for `fresh`.
    """

    chunk_vectors: Matrix
    fresh: Mapping[bytes, Vector]
    tokens: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What recording a draft came to."""

    document_id: str
    version_id: str
    outcome: Literal["new", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class StoredText:
    """A version's normalised text with its outline and sentence spans, as recorded.

    `headings` says from which offset on which headings stand above the text (outline.heading_paths).
    """

    version_id: str
    text: str
    blocks: tuple[Block, ...]
    headings: tuple[tuple[int, tuple[str, ...]], ...]
    sentences: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A recorded chunk. `vector` is float32 of unit length."""

    id: str
    version_id: str
    ordinal: int
    draft: ChunkDraft
    vector: Vector


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of a listing. Equal fingerprints mean: surely unchanged, no need to fetch."""

    uri: str
    name: str
    fingerprint: str
    modified_at: datetime | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes of an item, and its fingerprint at the moment of reading."""

    data: bytes
    fingerprint: str
    media_type: str
    modified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """A document that was pushed: where its bytes are kept until they are ingested, and what was said of it."""

    source_id: str
    uri: str
    blob_sha256: str
    media_type: str
    title: str | None
    valid_from: datetime | None
    access: frozenset[str] | None
    metadata: Mapping[str, MetadataValue]
    pushed_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret."""

    id: str
    name: str
    scopes: frozenset[str]
    principals: frozenset[str]
    collections: frozenset[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents. `access` is the default access list of its documents."""

    id: str
    name: str
    access: frozenset[str]
    generation_id: str
    created_at: datetime
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Build:
    """A generation and how far it is. `model` is the embedder's id with the hash of its weights, None if never asked.

    Up to entry `complete_seq` of the change log every version has its chunks in it: FOREVER while it serves.
    `report` holds the plan of its making and how it compared with the one that served.
    """

    generation: Generation
    state: GenerationState
    model: str | None
    complete_seq: int
    report: Mapping[str, Any] | None
    created_at: datetime
    activated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A question of an evaluation set: ids of the documents that answer it, each with its grade (1 and up)."""

    id: str
    text: str
    relevant: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Source:
    """A watched place with its schedule, and what is known about its last runs."""

    id: str
    collection_id: str
    kind: str
    uri: str
    options: Mapping[str, Any]
    watch: bool
    schedule: Mapping[str, str] | None
    freshness_sla_s: int | None
    access: frozenset[str] | None
    metadata: Mapping[str, MetadataValue]
    created_at: datetime
    paused: bool = False
    status: str = "new"
    error: str | None = None
    last_run_at: datetime | None = None
    last_success_at: datetime | None = None
    last_verified_at: datetime | None = None
    withheld_deletions: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """A thing with an identity that outlives its contents and its name."""

    id: str
    collection_id: str
    source_id: str
    uri: str
    title: str
    media_type: str
    fingerprint: str
    content_sha256: str
    access: frozenset[str]
    metadata: Mapping[str, MetadataValue]
    current_version_id: str | None
    deleted_at: datetime | None
    last_verified_at: datetime
    suspect: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable state of a document, with two timelines (module docstring of catalog.py)."""

    id: str
    document_id: str
    ordinal: int
    sha256: str
    valid_from: datetime
    valid_to: datetime | None
    recorded_from: datetime
    recorded_to: datetime | None
    title: str
    lang: str | None
    characters: int
    source_modified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A durable piece of work."""

    id: str
    kind: JobKind
    state: JobState
    source_id: str | None
    payload: Mapping[str, Any]
    priority: int
    attempts: int
    progress: Mapping[str, Any]
    counts: Mapping[str, int]
    error: Mapping[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A document that could not be ingested: where it is, why, and what its owner can do."""

    id: str
    source_id: str
    uri: str
    reason: str
    hint: str
    error_type: str
    fingerprint: str
    attempts: int
    retry_at: datetime | None
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change log."""

    seq: int
    kind: Literal["put", "close", "describe", "drop"]
    collection_id: str
    document_id: str
    version_id: str | None
    at: datetime
