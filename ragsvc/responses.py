"""The wire, outwards: the shapes that OpenAPI declares and the tests hold views.py against."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel


class SpanOut(BaseModel):
    """Half-open range of code points of the version's text."""

    char_start: int
    char_end: int


class LegOut(BaseModel):
    """Rank (null: not among this leg's best) and raw score of one leg."""

    rank: int | None
    score: float


class ScoresOut(BaseModel):
    """The parts of a score."""

    dense: LegOut | None
    lexical: LegOut | None
    fused: float
    rerank: float | None


class DocumentRef(BaseModel):
    """A document as a passage names it."""

    id: str
    title: str
    uri: str
    collection: str
    media_type: str


class VersionRef(BaseModel):
    """A version as a passage names it."""

    id: str
    ordinal: int
    sha256: str
    valid_from: datetime
    valid_to: datetime | None
    is_current: bool


class LocationOut(BaseModel):
    """Where a quote stands in its version."""

    spans: list[SpanOut]
    page_start: int | None
    page_end: int | None
    heading_path: list[str]


class CitationRef(BaseModel):
    """Where a passage can be resolved, now and later."""

    url: str
    quote: str
    quote_sha256: str


class FreshnessOut(BaseModel):
    """Four times, age, SLA and verdict."""

    source_modified_at: datetime
    ingested_at: datetime
    indexed_at: datetime
    last_verified_at: datetime
    age_s: int
    sla_s: int
    status: Literal["fresh", "stale", "unverified", "superseded", "deleted_at_source"]


class ResultOut(BaseModel):
    """One passage of the context."""

    ref: int
    id: str
    text: str
    score: float
    scores: ScoresOut
    document: DocumentRef
    version: VersionRef
    location: LocationOut
    citation: CitationRef
    freshness: FreshnessOut
    metadata: dict[str, Any]
    explain: dict[str, Any] | None = None


class SnapshotOut(BaseModel):
    """The one state that the answer comes from."""

    id: str
    generation: str
    seq: int
    as_of: datetime | None
    committed_at: datetime


class SufficiencyOut(BaseModel):
    """Whether the answer is here."""

    on_topic: float
    sufficient: float
    verdict: Literal["answerable", "weak", "none"]


class UsageOut(BaseModel):
    """Tokens spent and saved."""

    context_tokens: int
    candidate_tokens: int
    baseline_tokens: int
    saved_tokens: int
    baseline: str
    tokenizer: str


class DroppedOut(BaseModel):
    """What was left out, and why."""

    id: str
    reason: Literal["budget", "duplicate", "stale", "threshold"]


class RetrieveResponse(BaseModel):
    """A grounded context with its citations."""

    id: str
    object: Literal["retrieval"]
    query: str
    snapshot: SnapshotOut
    context: str
    results: list[ResultOut]
    sufficiency: SufficiencyOut
    usage: UsageOut
    dropped: list[DroppedOut] | None = None
    timings_ms: dict[str, float]
    warnings: list[str]


class CitationOut(BaseModel):
    """A resolved citation."""

    id: str
    quote: str
    quote_sha256: str
    spans: list[SpanOut]
    document: DocumentRef
    version: VersionRef
    location: LocationOut
    freshness: FreshnessOut


class Problem(BaseModel):
    """RFC 9457 problem document; `hint` says what to do next."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
