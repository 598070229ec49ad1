"""Values to the JSON of API.md. The shapes are declared in schemas.py and compared in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from indexes.model import Generation, LegScore, Span
from ingest.model import Change, Collection, DeadLetter, Document, Job, Key, Source, Version
from ragsvc.answer import Answer, Result
from ragsvc.citations import Location, Resolved
from ragsvc.freshness import Freshness


def moment(value: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def answer(value: Answer, *, explain: bool, dropped: bool) -> dict[str, Any]:
    """The response of /v1/retrieve."""
    state, usage = value.state, value.usage
    body: dict[str, Any] = {
        "id": value.id,
        "object": "retrieval",
        "query": value.question.text,
        "snapshot": {
            "id": state.id,
            "generation": state.generation,
            "seq": state.seq,
            "as_of": moment(state.as_of),
            "committed_at": moment(state.committed_at),
        },
        "context": value.context,
        "results": [_result(result, explain=explain) for result in value.results],
        "sufficiency": {
            "on_topic": round(value.sufficiency.on_topic, 4),
            "sufficient": round(value.sufficiency.sufficient, 4),
            "verdict": value.sufficiency.verdict,
        },
        "usage": {
            "context_tokens": usage.context_tokens,
            "candidate_tokens": usage.candidate_tokens,
            "baseline_tokens": usage.baseline_tokens,
            "saved_tokens": usage.baseline_tokens - usage.context_tokens,
            "baseline": usage.baseline,
            "tokenizer": usage.tokenizer,
        },
        "timings_ms": value.timings_ms,
        "warnings": list(value.warnings),
    }
    if dropped:
        body["dropped"] = [{"id": citation, "reason": reason} for citation, reason in value.dropped]
    return body


def _result(value: Result, *, explain: bool) -> dict[str, Any]:
    passage, version, document = value.passage, value.version, value.document
    body: dict[str, Any] = {
        "ref": passage.ref,
        "id": value.id,
        "text": passage.text,
        "score": value.fused,
        "scores": {
            "dense": _leg(value.hit.dense),
            "lexical": _leg(value.hit.lexical),
            "fused": value.fused,
            "rerank": None,
        },
        "document": document_ref(document, value.collection),
        "version": version_ref(version, is_current=value.is_current),
        "location": location(value.location),
        "citation": {
            "url": f"/v1/citations/{value.id}",
            "quote": passage.text,
            "quote_sha256": value.quote_sha256,
        },
        "freshness": freshness(value.freshness),
        "metadata": dict(document.metadata),
    }
    if explain:
        body["explain"] = {"chunks": list(passage.chunk_ids), "packed_score": passage.score}
    return body


def _leg(value: LegScore | None) -> dict[str, Any] | None:
    return None if value is None else {"rank": value.rank, "score": value.score}


def document_ref(document: Document, collection: str) -> dict[str, Any]:
    """A document as a passage names it."""
    return {
        "id": document.id,
        "title": document.title,
        "uri": document.uri,
        "collection": collection,
        "media_type": document.media_type,
    }


def version_ref(version: Version, *, is_current: bool) -> dict[str, Any]:
    """A version as a passage names it."""
    return {
        "id": version.id,
        "ordinal": version.ordinal,
        "sha256": version.sha256,
        "valid_from": moment(version.valid_from),
        "valid_to": moment(version.valid_to),
        "is_current": is_current,
    }


def spans(values: Sequence[Span]) -> list[dict[str, int]]:
    """Half-open ranges."""
    return [{"char_start": span.start, "char_end": span.end} for span in values]


def location(value: Location) -> dict[str, Any]:
    """Where a quote stands."""
    return {
        "spans": spans(value.spans),
        "page_start": value.page_start,
        "page_end": value.page_end,
        "heading_path": list(value.heading_path),
    }


def freshness(value: Freshness) -> dict[str, Any]:
    """Four times, age, SLA and verdict."""
    return {
        "source_modified_at": moment(value.source_modified_at),
        "ingested_at": moment(value.ingested_at),
        "indexed_at": moment(value.indexed_at),
        "last_verified_at": moment(value.last_verified_at),
        "age_s": value.age_s,
        "sla_s": value.sla_s,
        "status": value.status,
    }


def citation(value: Resolved, fresh: Freshness, collection: str) -> dict[str, Any]:
    """A resolved citation."""
    current = fresh.status not in ("superseded", "deleted_at_source")
    return {
        "id": value.id,
        "quote": value.quote,
        "quote_sha256": value.quote_sha256,
        "spans": spans(value.location.spans),
        "document": document_ref(value.document, collection),
        "version": version_ref(value.version, is_current=current),
        "location": location(value.location),
        "freshness": freshness(fresh),
    }


def version(value: Version) -> dict[str, Any]:
    """An entry of a document's history."""
    return {
        "id": value.id,
        "ordinal": value.ordinal,
        "sha256": value.sha256,
        "valid_from": moment(value.valid_from),
        "valid_to": moment(value.valid_to),
        "recorded_from": moment(value.recorded_from),
        "recorded_to": moment(value.recorded_to),
        "characters": value.characters,
    }


def document(value: Document, *, collection: str, current: Version | None) -> dict[str, Any]:
    """A document with its current version."""
    return {
        **document_ref(value, collection),
        "source": value.source_id,
        "access": sorted(value.access),
        "metadata": dict(value.metadata),
        "current": None if current is None else version(current),
        "deleted_at": moment(value.deleted_at),
        "last_verified_at": moment(value.last_verified_at),
    }


def collection(value: Collection, generation: Generation) -> dict[str, Any]:
    """A collection with what its index was built with."""
    return {
        "id": value.id,
        "name": value.name,
        "access": sorted(value.access),
        "generation": value.generation_id,
        "embedder": generation.embedder,
        "chunker": generation.chunker,
        "created_at": moment(value.created_at),
    }


def source(value: Source, *, collection: str, documents: int, next_run_at: datetime | None) -> dict[str, Any]:
    """A source with its state."""
    return {
        "id": value.id,
        "collection": collection,
        "kind": value.kind,
        "uri": value.uri,
        "options": dict(value.options),
        "watch": value.watch,
        "schedule": None if value.schedule is None else dict(value.schedule),
        "freshness_sla": None if value.freshness_sla_s is None else f"{value.freshness_sla_s}s",
        "access": None if value.access is None else sorted(value.access),
        "metadata": dict(value.metadata),
        "paused": value.paused,
        "created_at": moment(value.created_at),
        "state": {
            "status": value.status,
            "error": value.error,
            "last_run_at": moment(value.last_run_at),
            "last_success_at": moment(value.last_success_at),
            "last_verified_at": moment(value.last_verified_at),
            "next_run_at": moment(next_run_at),
            "documents": documents,
            "withheld_deletions": value.withheld_deletions,
        },
    }


def job(value: Job) -> dict[str, Any]:
    """A job."""
    return {
        "id": value.id,
        "kind": value.kind,
        "state": value.state,
        "source": value.source_id,
        "progress": dict(value.progress),
        "counts": dict(value.counts),
        "error": None if value.error is None else dict(value.error),
        "attempts": value.attempts,
        "created_at": moment(value.created_at),
        "started_at": moment(value.started_at),
        "finished_at": moment(value.finished_at),
    }


def dead_letter(value: DeadLetter) -> dict[str, Any]:
    """A document that could not be ingested."""
    return {
        "id": value.id,
        "source": value.source_id,
        "uri": value.uri,
        "reason": value.reason,
        "hint": value.hint,
        "error_type": value.error_type,
        "attempts": value.attempts,
        "retry_at": moment(value.retry_at),
        "first_at": moment(value.first_at),
        "last_at": moment(value.last_at),
    }


def change(value: Change) -> dict[str, Any]:
    """An entry of the change log."""
    return {
        "seq": value.seq,
        "kind": value.kind,
        "document": value.document_id,
        "version": value.version_id,
        "at": moment(value.at),
    }


def key(value: Key) -> dict[str, Any]:
    """An API key without its secret."""
    return {
        "id": value.id,
        "name": value.name,
        "scopes": sorted(value.scopes),
        "principals": sorted(value.principals),
        "collections": None if value.collections is None else sorted(value.collections),
        "created_at": moment(value.created_at),
        "expires_at": moment(value.expires_at),
        "revoked_at": moment(value.revoked_at),
    }
