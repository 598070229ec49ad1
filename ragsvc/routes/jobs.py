"""Durable jobs: started, watched, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from ingest.catalog.database import to_us
from ingest.errors import NotFound
from ingest.model import Job
from ingest.pipeline import now_utc
from ragsvc import schemas, views
from ragsvc.auth import Caller
from ragsvc.bootstrap import Service
from ragsvc.errors import Invalid
from ragsvc.rebuilding import queue_reindex
from ragsvc.routes.edge import (
    PROBLEMS,
    Calls,
    Cursor,
    Guarded,
    Limit,
    json_response,
    number_cursor,
    page,
    run,
    service_of,
    visible_part,
)
from ragsvc.routes.sources import IdempotencyKey, visible

router = APIRouter(prefix="/v1", tags=["jobs"], responses=PROBLEMS, route_class=Guarded)
_EVENT_S = 0.25
_ENDED = ("succeeded", "failed", "cancelled")


def _visible(service: Service, caller: Caller, job_id: str) -> Job:
    """Raises NotFound, also for a job of a source that the caller may not see."""
    job = service.catalog.jobs.get(job_id)
    if caller.collections is not None and not _sees(service, caller, job):
        raise NotFound(f"There is no job {job_id}.", hint="List them with GET /v1/jobs.")
    return job


def _sees(service: Service, caller: Caller, job: Job) -> bool:
    if job.source_id is None:
        collection = job.payload.get("collection")
        return caller.collections is None or (isinstance(collection, str) and caller.sees(collection))
    try:
        visible(service, caller, job.source_id)
    except NotFound:
        return caller.collections is None
    return True


@router.post("/jobs", status_code=202)
async def create_job(
    request: Request, caller: Calls, asked: schemas.JobRequest, idempotency_key: IdempotencyKey = None
) -> Response:
    """Queue a job. The same Idempotency-Key gives the same job."""
    caller.need("ingest" if asked.kind == "sync" else "admin")
    service = service_of(request)
    if (asked.kind == "sync") != (asked.source is not None):
        raise Invalid("A sync needs `source`, and no other job has one.")
    if (asked.kind == "reindex") != (asked.collection is not None):
        raise Invalid("A reindex needs `collection`, and no other job has one.")
    wanted = asked.model_dump(include={"embedder", "chunker", "analyzer", "tolerance"}, exclude_none=True)
    if asked.kind != "reindex" and (wanted or asked.force):
        raise Invalid("Only a reindex has `embedder`, `chunker`, `analyzer`, `tolerance` and `force`.")

    def work() -> Job:
        if asked.collection is not None:
            caller.check(asked.collection)
            wish = {**wanted, "force": asked.force}
            return queue_reindex(service, asked.collection, wish, actor=caller.actor, idempotency_key=idempotency_key)
        source_id = None if asked.source is None else visible(service, caller, asked.source).id
        payload = {"approve_deletions": asked.approve_deletions} if asked.approve_deletions else {}
        return service.catalog.jobs.enqueue(
            asked.kind, now=now_utc(), source_id=source_id, payload=payload, idempotency_key=idempotency_key
        )

    job = await run(request, work)
    return json_response(views.job(job), 202, {"Location": f"/v1/jobs/{job.id}"})


@router.get("/jobs")
async def list_jobs(
    request: Request,
    caller: Calls,
    state: Annotated[str | None, Query(pattern="^(queued|running|succeeded|failed|cancelled)$")] = None,
    source: Annotated[str | None, Query(max_length=64)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Jobs, newest first."""
    caller.need("ingest")
    service = service_of(request)
    before = number_cursor(cursor)

    def work() -> tuple[list[dict[str, Any]], str | None]:
        def fetch(before: int | None) -> tuple[Sequence[Job], int | None]:
            return service.catalog.jobs.page(limit=limit, before=before, state=state, source_id=source)

        def sees(job: Job) -> bool:
            return caller.collections is None or _sees(service, caller, job)

        jobs, more = visible_part(fetch, sees, limit=limit, after=before)
        return [views.job(job) for job in jobs], str(to_us(jobs[-1].created_at)) if more else None

    return page(*await run(request, work))


@router.get("/jobs/{job_id}")
async def get_job(request: Request, caller: Calls, job_id: str) -> Response:
    """One job with its progress."""
    caller.need("ingest")
    service = service_of(request)
    return json_response(views.job(await run(request, lambda: _visible(service, caller, job_id))))


@router.post("/jobs/{job_id}/cancel", status_code=202)
async def cancel_job(request: Request, caller: Calls, job_id: str) -> Response:
    """Stop a job: at once if it waits, at its next document if it runs."""
    caller.need("ingest")
    service = service_of(request)

    def work() -> Job:
        return service.catalog.jobs.cancel(_visible(service, caller, job_id).id, now=now_utc())

    return json_response(views.job(await run(request, work)), 202)


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse)
async def job_events(request: Request, caller: Calls, job_id: str) -> StreamingResponse:
    """Progress as server-sent events, until the job has ended."""
    caller.need("ingest")
    service = service_of(request)
    first = await run(request, lambda: _visible(service, caller, job_id))

    async def events() -> AsyncIterator[bytes]:
        job, sent = first, b""
        while True:
            body = orjson.dumps(views.job(job))
            if body != sent:
                yield b"event: job\ndata: " + body + b"\n\n"
                sent = body
            if job.state in _ENDED:
                return
            await asyncio.sleep(_EVENT_S)
            job = await run(request, lambda: service.catalog.jobs.get(job_id))

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
