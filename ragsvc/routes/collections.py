"""Collections, and what changed in them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ingest.errors import Conflict
from ingest.pipeline import now_utc
from ragsvc import schemas, views
from ragsvc.bootstrap import Service
from ragsvc.routes.edge import PROBLEMS, Calls, Guarded, Limit, json_response, page, run, service_of

router = APIRouter(prefix="/v1", tags=["collections"], responses=PROBLEMS, route_class=Guarded)


def _shown(service: Service, name: str) -> dict[str, Any]:
    found = service.catalog.collections.get(name)
    return views.collection(found, service.catalog.collections.generation(found.generation_id))


@router.get("/collections")
async def list_collections(request: Request, caller: Calls) -> Response:
    """Every collection that the caller may use."""
    service = service_of(request)

    def work() -> list[dict[str, Any]]:
        return [_shown(service, c.name) for c in service.catalog.collections.all() if caller.sees(c.name)]

    return page(await run(request, work), None)


@router.post("/collections", status_code=201)
async def create_collection(request: Request, caller: Calls, asked: schemas.CollectionRequest) -> Response:
    """Make an empty collection."""
    caller.need("admin")
    caller.check(asked.name)
    service = service_of(request)

    def work() -> dict[str, Any]:
        with service.catalog.write():
            if any(c.name == asked.name for c in service.catalog.collections.all()):
                raise Conflict(f"There is a collection {asked.name!r} already.", hint="Change it with PATCH.")
            service.ensure_collection(asked.name, access=tuple(asked.access))
            service.catalog.audit.record("collection.create", asked.name, actor=caller.actor, now=now_utc())
        return _shown(service, asked.name)

    return json_response(await run(request, work), 201)


@router.get("/collections/{name}")
async def get_collection(request: Request, caller: Calls, name: str) -> Response:
    """One collection."""
    caller.check(name)
    service = service_of(request)
    return json_response(await run(request, lambda: _shown(service, name)))


@router.patch("/collections/{name}")
async def change_collection(request: Request, caller: Calls, name: str, asked: schemas.CollectionChange) -> Response:
    """Change the default access list."""
    caller.need("admin")
    caller.check(name)
    service = service_of(request)

    def work() -> dict[str, Any]:
        with service.catalog.write():
            service.catalog.collections.update(name, {"access": asked.access})
            service.catalog.audit.record("collection.change", name, actor=caller.actor, now=now_utc())
        return _shown(service, name)

    return json_response(await run(request, work))


@router.delete("/collections/{name}", status_code=204, response_class=Response)
async def delete_collection(request: Request, caller: Calls, name: str) -> Response:
    """Remove a collection that never held a document."""
    caller.need("admin")
    caller.check(name)
    service = service_of(request)

    def work() -> None:
        with service.catalog.write():
            service.catalog.collections.delete(name)
            service.catalog.audit.record("collection.delete", name, actor=caller.actor, now=now_utc())

    await run(request, work)
    return Response(status_code=204)


@router.get("/changes")
async def list_changes(
    request: Request,
    caller: Calls,
    collection: Annotated[str, Query(max_length=128)],
    since: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Limit = 100,
) -> Response:
    """What changed in a collection after the sequence number `since`, for documents that the caller may read."""
    caller.need("retrieve")
    caller.check(collection)
    service = service_of(request)

    def work() -> tuple[list[dict[str, Any]], str | None]:
        found = service.catalog.collections.get(collection)
        entries = service.catalog.changes.since(since, collection_ids=[found.id], limit=limit)
        documents = service.catalog.changes.documents(list({entry.document_id for entry in entries}))
        readable = {d.id for d in documents.values() if caller.allowed.may_read(d.access)}
        shown = [views.change(entry) for entry in entries if entry.document_id in readable]
        return shown, str(entries[-1].seq) if entries else str(since)

    return page(*await run(request, work))
