"""Index generations: which there are, what they hold, and which one serves."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from indexes.errors import RagsvcError
from ingest.model import Build, Job
from ragsvc import generation_views, rebuilding, views
from ragsvc.auth import Caller
from ragsvc.bootstrap import Service
from ragsvc.routes.edge import PROBLEMS, Calls, Guarded, json_response, page, run, service_of

router = APIRouter(prefix="/v1", tags=["generations"], responses=PROBLEMS, route_class=Guarded)
_QUEUED: dict[int | str, dict[str, Any]] = {202: {"description": "Much came since it served: the job that fills it in"}}


def shown(service: Service, build: Build, collection: str) -> dict[str, Any]:
    """A generation with the state of its index here; an index that cannot be opened says why."""
    gap = service.reindexing.gap(build.generation.id)
    return generation_views.generation(build, collection=collection, gap=gap, index=_index(service, build))


def _index(service: Service, build: Build) -> dict[str, Any]:
    if build.state != "serving" and service.ingestion is None:
        return generation_views.no_index("This process answers from the serving generation alone.")  # spares memory
    try:
        searcher = service.follower.pin(build.generation.id)
        return generation_views.index(searcher.snapshot, searcher.describe())
    except RagsvcError as error:
        return generation_views.no_index(error.message)


def listed(service: Service, caller: Caller, collection: str | None) -> list[dict[str, Any]]:
    """The generations of the collections that the caller sees, oldest first. Raises NotFound."""
    if collection is not None:
        caller.check(collection)
    only = None if collection is None else service.catalog.collections.get(collection).id
    names = {one.id: one.name for one in service.catalog.collections.all() if caller.sees(one.name)}
    builds = [one for one in service.catalog.generations.all(only) if one.generation.collection_id in names]
    return [shown(service, one, names[one.generation.collection_id]) for one in builds]


@router.get("/generations")
async def list_generations(
    request: Request, caller: Calls, collection: Annotated[str | None, Query(max_length=128)] = None
) -> Response:
    """Index generations: what each was built with, how far it is, what it holds, and which of them serve."""
    caller.need("ingest")
    service = service_of(request)
    return page(await run(request, lambda: listed(service, caller, collection)), None)


@router.post("/generations/{generation_id}/activate", responses=_QUEUED)
async def activate_generation(request: Request, caller: Calls, generation_id: str) -> Response:
    """Let a generation that is kept serve again, in one step for every reader."""
    caller.need("admin")
    service = service_of(request)

    def work() -> tuple[dict[str, Any], int]:
        build = service.catalog.generations.get(generation_id)
        name = service.catalog.collections.by_id(build.generation.collection_id).name
        caller.check(name)
        done = rebuilding.activate(service, generation_id, actor=caller.actor)
        return (views.job(done), 202) if isinstance(done, Job) else (shown(service, done, name), 200)

    return json_response(*await run(request, work))
