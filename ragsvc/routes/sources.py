"""Watched places, and the documents of them that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from ingest.catalog.sources import PUSH
from ingest.duration import seconds_of
from ingest.errors import NotFound
from ingest.ingestion import open_connector
from ingest.model import DeadLetter, Job, Source
from ingest.pipeline import now_utc
from ingest.schedule import next_run, trigger_of
from ragsvc import schemas, views
from ragsvc.auth import Caller
from ragsvc.bootstrap import Service
from ragsvc.routes.edge import (
    PROBLEMS,
    Calls,
    Cursor,
    Guarded,
    Limit,
    json_response,
    page,
    run,
    service_of,
    visible_part,
)
from ragsvc.sourcing import NewSource, add_source, remove_source, retry_letter

router = APIRouter(prefix="/v1", tags=["sources"], responses=PROBLEMS, route_class=Guarded)
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


def shown(service: Service, source: Source) -> dict[str, Any]:
    """A source as the wire has it."""
    return views.source(
        source,
        collection=service.catalog.collections.by_id(source.collection_id).name,
        documents=service.catalog.documents.count(source.id),
        next_run_at=next_run(source, now_utc()),
    )


def visible(service: Service, caller: Caller, source_id: str) -> Source:
    """Raises NotFound, also for a source of a collection that the caller may not use."""
    source = service.catalog.sources.get(source_id)
    if not caller.sees(service.catalog.collections.by_id(source.collection_id).name):
        raise NotFound(f"There is no source {source_id}.", hint="List them with GET /v1/sources.")
    return source


def _schedule(stated: schemas.IntervalSchedule | schemas.CronSchedule | None) -> dict[str, str] | None:
    if stated is None:
        return None
    schedule = stated.model_dump()
    trigger_of(schedule)
    return schedule


@router.post("/sources", status_code=201)
async def create_source(request: Request, caller: Calls, asked: schemas.SourceRequest) -> Response:
    """Watch a place: registered, and its first sync queued at once. The collection is made if there is none."""
    caller.need("admin")
    caller.check(asked.collection)
    service = service_of(request)

    def work() -> dict[str, Any]:
        new = NewSource(
            collection=asked.collection,
            kind=asked.kind,
            uri=asked.uri,
            options=asked.options,
            watch=asked.watch,
            schedule=_schedule(asked.schedule),
            freshness_sla_s=None if asked.freshness_sla is None else round(seconds_of(asked.freshness_sla)),
            access=None if asked.access is None else frozenset(asked.access),
            metadata={k: tuple(v) if isinstance(v, list) else v for k, v in asked.metadata.items()},
        )
        source, _ = add_source(service, new, actor=caller.actor)
        return shown(service, source)

    return json_response(await run(request, work), 201)


@router.get("/sources")
async def list_sources(
    request: Request, caller: Calls, collection: Annotated[str | None, Query(max_length=128)] = None
) -> Response:
    """Sources with their state."""
    caller.need("ingest")
    service = service_of(request)

    def work() -> list[dict[str, Any]]:
        entries = [shown(service, source) for source in service.catalog.sources.all()]
        return [e for e in entries if caller.sees(e["collection"]) and collection in (None, e["collection"])]

    return page(await run(request, work), None)


@router.get("/sources/{source_id}")
async def get_source(request: Request, caller: Calls, source_id: str) -> Response:
    """One source with its state."""
    caller.need("ingest")
    service = service_of(request)
    return json_response(await run(request, lambda: shown(service, visible(service, caller, source_id))))


@router.patch("/sources/{source_id}")
async def change_source(request: Request, caller: Calls, source_id: str, asked: schemas.SourceChange) -> Response:
    """Change how a source is watched. A field that is not sent stays as it is."""
    caller.need("admin")
    service = service_of(request)

    def work() -> dict[str, Any]:
        source = visible(service, caller, source_id)
        changes: dict[str, Any] = {
            name: getattr(asked, name)
            for name in ("watch", "paused")
            if name in asked.model_fields_set and getattr(asked, name) is not None
        }
        if "schedule" in asked.model_fields_set:
            changes["schedule"] = _schedule(asked.schedule)
        if "freshness_sla" in asked.model_fields_set:
            changes["freshness_sla_s"] = asked.freshness_sla and round(seconds_of(asked.freshness_sla))
        if asked.options is not None:
            changes["options"] = asked.options
        with service.catalog.write():
            changed = service.catalog.sources.update(source.id, changes) if changes else source
            if changed.kind != PUSH:
                open_connector(changed)
            service.catalog.audit.record("source.change", source.id, actor=caller.actor, now=now_utc())
        return shown(service, changed)

    return json_response(await run(request, work))


@router.delete("/sources/{source_id}", status_code=204, response_class=Response)
async def delete_source(request: Request, caller: Calls, source_id: str) -> Response:
    """Stop watching a place; its documents are out of force before this answers, their citations stay."""
    caller.need("admin")
    service = service_of(request)
    await run(request, lambda: remove_source(service, visible(service, caller, source_id), actor=caller.actor))
    return Response(status_code=204)


@router.post("/sources/{source_id}/sync", status_code=202)
async def sync_source(
    request: Request,
    caller: Calls,
    source_id: str,
    asked: schemas.SyncRequest | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a sync; the answer is its job."""
    caller.need("ingest")
    service = service_of(request)

    def work() -> Job:
        source = visible(service, caller, source_id)
        payload = {"approve_deletions": asked.approve_deletions} if asked and asked.approve_deletions else {}
        return service.catalog.jobs.enqueue(
            "sync", now=now_utc(), source_id=source.id, payload=payload, idempotency_key=idempotency_key
        )

    job = await run(request, work)
    return json_response(views.job(job), 202, {"Location": f"/v1/jobs/{job.id}"})


@router.get("/dead-letters")
async def list_dead_letters(request: Request, caller: Calls, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Documents that could not be ingested, and why."""
    caller.need("ingest")
    service = service_of(request)

    def work() -> tuple[list[dict[str, Any]], str | None]:
        names = {c.id: c.name for c in service.catalog.collections.all()}
        seen = {s.id for s in service.catalog.sources.all() if caller.sees(names[s.collection_id])}

        def fetch(after: str | None) -> tuple[Sequence[DeadLetter], str | None]:
            return service.catalog.dead_letters.page(limit=limit, after=after or "")

        letters, more = visible_part(fetch, lambda letter: letter.source_id in seen, limit=limit, after=cursor)
        return [views.dead_letter(letter) for letter in letters], letters[-1].id if more else None

    return page(*await run(request, work))


@router.post("/dead-letters/{letter_id}/retry", status_code=202)
async def retry_dead_letter(request: Request, caller: Calls, letter_id: str) -> Response:
    """Try a document again now; the answer is the job."""
    caller.need("ingest")
    service = service_of(request)

    def work() -> Job:
        letter = service.catalog.dead_letters.get(letter_id)
        visible(service, caller, letter.source_id)
        return retry_letter(service, letter)

    job = await run(request, work)
    return json_response(views.job(job), 202, {"Location": f"/v1/jobs/{job.id}"})
