"""How fresh a passage is: four times, an age, an SLA and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ingest.model import Document, Source, Version

Status = Literal["fresh", "stale", "unverified", "superseded", "deleted_at_source"]


@dataclass(frozen=True, slots=True)
class Freshness:
    """The freshness of one version of a document. `age_s` counts from the source's last change."""

    source_modified_at: datetime
    ingested_at: datetime
    indexed_at: datetime
    last_verified_at: datetime
    age_s: int
    verified_age_s: int
    sla_s: int
    status: Status


def freshness_of(
    version: Version, document: Document, source: Source | None, *, now: datetime, default_sla_s: int
) -> Freshness:
    """Judge a version. A complete listing of its source verifies a document unless that listing found fault with it.

    A pushed document is verified by the push: nobody can know better than its owner, unless the source has an SLA.
    """
    pushed = source is not None and source.kind == "push"
    verified = document.last_verified_at
    if source is not None and source.last_verified_at is not None and document.suspect is None:
        verified = max(verified, source.last_verified_at)
    own_sla = source.freshness_sla_s if source is not None else None
    sla_s = own_sla if own_sla is not None else default_sla_s
    verified_age = max(0, int((now - verified).total_seconds()))
    modified = version.source_modified_at or version.recorded_from
    return Freshness(
        source_modified_at=modified,
        ingested_at=version.recorded_from,
        indexed_at=version.recorded_from,
        last_verified_at=verified,
        age_s=max(0, int((now - modified).total_seconds())),
        verified_age_s=verified_age,
        sla_s=sla_s,
        status=_status(version, document, source, now=now, late=verified_age > sla_s and not (pushed and not own_sla)),
    )


def _status(version: Version, document: Document, source: Source | None, *, now: datetime, late: bool) -> Status:
    if document.deleted_at is not None and document.deleted_at <= now:
        return "deleted_at_source"
    if version.valid_to is not None and version.valid_to <= now:
        return "superseded"
    if source is not None and source.status == "error":
        return "unverified"
    if late or document.suspect is not None:
        return "stale"
    return "fresh"
