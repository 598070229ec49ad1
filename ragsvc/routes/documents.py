"""Documents: pushed, listed, with their versions, texts and differences."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import TypeAdapter, ValidationError

from indexes.errors import revive
from indexes.model import MetadataValue
from ingest.catalog.sources import PUSH
from ingest.errors import Conflict, NotFound
from ingest.ingestion import release
from ingest.model import Document, Job, Push, Version
from ingest.pipeline import now_utc
from ragsvc import schemas, views
from ragsvc.auth import Caller
from ragsvc.bootstrap import Service
from ragsvc.errors import Invalid
from ragsvc.routes.edge import (
    ANY_BODY,
    PROBLEMS,
    PUSHED,
    Calls,
    Cursor,
    Guarded,
    Limit,
    body_of,
    json_response,
    page,
    run,
    service_of,
    visible_part,
)

router = APIRouter(prefix="/v1", tags=["documents"], responses=PROBLEMS, route_class=Guarded)
_METADATA: TypeAdapter[dict[str, schemas.MetadataValue]] = TypeAdapter(schemas.Metadata)
_POLL_S = 0.05
_WAIT_S = 120.0


def visible(service: Service, caller: Caller, document_id: str) -> tuple[Document, str]:
    """The document and its collection's name. Raises NotFound, also for what the caller may not see."""
    document = service.catalog.documents.get(document_id, allowed=caller.allowed)
    collection = service.catalog.collections.by_id(document.collection_id).name
    if not caller.sees(collection):
        raise NotFound(f"There is no document {document_id}.")
    return document, collection


def _in_force(service: Service, document_id: str, at: datetime) -> Version | None:
    versions = service.catalog.documents.versions_of(document_id)
    in_force = [v for v in versions if v.valid_from <= at and (v.valid_to is None or v.valid_to > at)]
    return max(in_force, key=lambda version: version.ordinal, default=None)


def _shown(service: Service, caller: Caller, document_id: str) -> dict[str, Any]:
    document, collection = visible(service, caller, document_id)
    return views.document(document, collection=collection, current=_in_force(service, document_id, now_utc()))


def _parse_metadata(text: str | None) -> dict[str, MetadataValue]:
    try:
        stated = _METADATA.validate_python(orjson.loads(text) if text else {})
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise Invalid("`metadata` is not a JSON object of strings, numbers, booleans or lists of them.") from error
    return {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()}


def _push(service: Service, caller: Caller, collection: str, push: Mapping[str, Any], body: bytes) -> Job:
    """Keep the bytes and queue their ingestion: from then on nothing is lost."""
    service.embedder_of(service.settings.embedder)  # loading a model must not hold the catalogue's write lock
    sha256 = service.blobs.put(body)
    with service.catalog.write():
        if not service.blobs.path(sha256).exists():  # the end of another push of the same bytes has just deleted them
            service.blobs.put(body)
        found = service.ensure_collection(collection)
        source = service.catalog.sources.push_source(found.id, now=now_utc())
        service.catalog.sources.put_push(Push(source_id=source.id, blob_sha256=sha256, pushed_at=now_utc(), **push))
        service.catalog.audit.record("document.push", push["uri"], actor=caller.actor, now=now_utc())
        return service.catalog.jobs.enqueue("push", now=now_utc(), source_id=source.id, payload={"uri": push["uri"]})


async def _finished(request: Request, job: Job) -> Job:
    """The job when it has ended, without holding a thread meanwhile."""
    service = service_of(request)
    deadline = asyncio.get_running_loop().time() + _WAIT_S
    job_id = job.id
    while job.state in ("queued", "running") and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_POLL_S)
        job = await run(request, lambda: service.catalog.jobs.get(job_id))
    return job


def _outcome(service: Service, caller: Caller, job: Job, valid_from: datetime | None) -> tuple[int, dict[str, Any]]:
    """Status and body of an ended push. Raises the error of a failure.

    Whoever pushes a document may know what it pushed, but not what else there is of a document it may not read.
    """
    if job.state != "succeeded":
        if job.error is None:
            raise Conflict(f"The job {job.id} was {job.state}.", hint="Push the document again.")
        raise revive(str(job.error["type"]), str(job.error["title"]), str(job.error["hint"]))
    assert job.source_id is not None
    document = service.catalog.documents.find(job.source_id, str(job.payload["uri"]))
    if document is None:
        raise NotFound(f"{job.payload['uri']} was deleted meanwhile.")
    pushed = _in_force(service, document.id, valid_from or now_utc())
    version = pushed or service.catalog.documents.versions_of(document.id)[-1]  # deleted meanwhile: the last
    readable = caller.allowed.may_read(document.access)
    current = _in_force(service, document.id, now_utc()) if readable else version
    collection = service.catalog.collections.by_id(document.collection_id).name
    body = {
        "document": views.document(document, collection=collection, current=current),
        "version": views.version(version),
        "changed": bool(job.counts.get("new") or job.counts.get("changed")),
    }
    return (201 if job.counts.get("new") else 200), body


@router.put("/documents/{collection}/{uri:path}", responses=PUSHED, openapi_extra=ANY_BODY)
async def put_document(
    request: Request,
    caller: Calls,
    collection: schemas.Name,
    uri: str,
    title: Annotated[str | None, Query(max_length=1024)] = None,
    valid_from: schemas.Moment | None = None,
    access: Annotated[list[schemas.Principal] | None, Query(max_length=256)] = None,
    metadata: Annotated[str | None, Query(max_length=65536)] = None,
    prefer: Annotated[str | None, Header()] = None,
) -> Response:
    """Push a document: the body is the file. Answers when it is retrievable, or 202 with `Prefer: respond-async`."""
    caller.need("ingest")
    caller.check(collection)
    service = service_of(request)
    stated: dict[str, Any] = {
        "uri": uri,
        "media_type": request.headers.get("content-type", "").split(";")[0].strip().lower(),
        "title": title,
        "valid_from": valid_from,
        "access": frozenset(access) if access else None,
        "metadata": _parse_metadata(metadata),
    }
    body = await body_of(request)
    job = await run(request, lambda: _push(service, caller, collection, stated, body))
    if prefer is not None and "respond-async" in prefer:
        return json_response(views.job(job), 202, {"Location": f"/v1/jobs/{job.id}"})
    ended = await _finished(request, job)
    if ended.state in ("queued", "running"):
        return json_response(views.job(ended), 202, {"Location": f"/v1/jobs/{job.id}"})
    status, shown = await run(request, lambda: _outcome(service, caller, ended, valid_from))
    return json_response(shown, status)


def _pushed(service: Service, caller: Caller, collection: str, uri: str) -> Document:
    """The document that was pushed under a name. Raises NotFound."""
    found = service.catalog.collections.get(collection)
    source = service.catalog.sources.find(collection_id=found.id, kind=PUSH, uri="push:")
    document = None if source is None else service.catalog.documents.find(source.id, uri)
    if document is None or not caller.allowed.may_read(document.access):
        raise NotFound(
            f"There is no pushed document {uri!r} in {collection!r}.",
            hint="A document of a watched source is found by its id and deleted at its source.",
        )
    return document


def _withdraw(service: Service, document: Document) -> Push | None:
    """A push that waits to be ingested came before the deletion, so it must not bring the document back."""
    push = service.catalog.sources.get_push(document.source_id, document.uri)
    if push is not None:
        service.catalog.sources.done_push(push)
    return push


@router.delete("/documents/{collection}/{uri:path}", status_code=204, response_class=Response)
async def delete_document(request: Request, caller: Calls, collection: schemas.Name, uri: str) -> Response:
    """Hide a pushed document before this answers; its citations stay."""
    caller.need("ingest")
    caller.check(collection)
    service = service_of(request)

    def work() -> None:
        document = _pushed(service, caller, collection, uri)
        if document.deleted_at is not None:
            raise NotFound(f"{uri!r} was deleted already.")
        with service.catalog.write():
            service.catalog.recording.retire([document.id], now=now_utc())
            withdrawn = _withdraw(service, document)
            service.catalog.audit.record("document.delete", document.id, actor=caller.actor, now=now_utc())
        if withdrawn is not None:
            release(service.catalog, service.blobs, withdrawn.blob_sha256)

    await run(request, work)
    return Response(status_code=204)


@router.get("/documents")
async def list_documents(
    request: Request,
    caller: Calls,
    collection: Annotated[str | None, Query(max_length=128)] = None,
    deleted: bool = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Documents that the caller may read."""
    caller.need("retrieve")
    service = service_of(request)
    if collection is not None:
        caller.check(collection)

    def work() -> tuple[list[dict[str, Any]], str | None]:
        collection_id = None if collection is None else service.catalog.collections.get(collection).id
        names = {c.id: c.name for c in service.catalog.collections.all() if caller.sees(c.name)}

        def fetch(after: str | None) -> tuple[Sequence[Document], str | None]:
            return service.catalog.documents.page(
                collection_id=collection_id, allowed=caller.allowed, limit=limit, after=after or "", deleted=deleted
            )

        found, more = visible_part(fetch, lambda d: d.collection_id in names, limit=limit, after=cursor)
        return [_shown(service, caller, d.id) for d in found], found[-1].id if more else None

    return page(*await run(request, work))


@router.get("/documents/{document_id}")
async def get_document(request: Request, caller: Calls, document_id: str) -> Response:
    """One document with its current version."""
    caller.need("retrieve")
    service = service_of(request)
    return json_response(await run(request, lambda: _shown(service, caller, document_id)))


@router.get("/documents/{document_id}/versions")
async def list_versions(request: Request, caller: Calls, document_id: str) -> Response:
    """The history of a document, in order of recording."""
    caller.need("retrieve")
    service = service_of(request)

    def work() -> list[dict[str, Any]]:
        visible(service, caller, document_id)
        return [views.version(version) for version in service.catalog.documents.versions_of(document_id)]

    return page(await run(request, work), None)


@router.get("/documents/{collection}/{uri:path}")
async def get_pushed(request: Request, caller: Calls, collection: schemas.Name, uri: str) -> Response:
    """The pushed document of a name."""
    caller.need("retrieve")
    caller.check(collection)
    service = service_of(request)

    def work() -> dict[str, Any]:
        document = _pushed(service, caller, collection, uri)
        return _shown(service, caller, document.id)

    return json_response(await run(request, work))
