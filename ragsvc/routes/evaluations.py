"""Evaluation sets: what a collection shall answer, asked before another generation may serve it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ingest.errors import NotFound
from ingest.model import Judged
from ingest.pipeline import now_utc
from ragsvc import generation_views, schemas
from ragsvc.routes.edge import PROBLEMS, Calls, Guarded, json_response, run, service_of

router = APIRouter(prefix="/v1", tags=["collections"], responses=PROBLEMS, route_class=Guarded)


@router.get("/collections/{name}/evaluation")
async def get_evaluation(request: Request, caller: Calls, name: str) -> Response:
    """The evaluation set of a collection, as it was put."""
    caller.need("ingest")
    caller.check(name)
    service = service_of(request)

    def work() -> Response:
        judged = service.catalog.evaluations.get(service.catalog.collections.get(name).id)
        if not judged:
            raise NotFound(f"Collection {name!r} has no evaluation set.", hint="Set one with PUT.")
        return json_response(generation_views.evaluation(judged))

    return await run(request, work)


@router.put("/collections/{name}/evaluation")
async def put_evaluation(request: Request, caller: Calls, name: str, asked: schemas.EvaluationRequest) -> Response:
    """Set the questions that a new generation must answer as well as the one that serves."""
    caller.need("ingest")
    caller.check(name)
    service = service_of(request)
    judged = [Judged(one.id or f"q{number}", one.query, one.relevant) for number, one in enumerate(asked.queries, 1)]

    def work() -> Response:
        with service.catalog.write():
            found = service.catalog.collections.get(name)
            service.catalog.evaluations.put(found.id, judged, now=now_utc())
            service.catalog.audit.record("evaluation.put", name, actor=caller.actor, now=now_utc())
        return json_response(generation_views.evaluation(judged))

    return await run(request, work)


@router.delete("/collections/{name}/evaluation", status_code=204, response_class=Response)
async def delete_evaluation(request: Request, caller: Calls, name: str) -> Response:
    """Forget the evaluation set; a reindex then asks for known sentences."""
    caller.need("ingest")
    caller.check(name)
    service = service_of(request)

    def work() -> None:
        with service.catalog.write():
            service.catalog.evaluations.delete(service.catalog.collections.get(name).id)
            service.catalog.audit.record("evaluation.delete", name, actor=caller.actor, now=now_utc())

    await run(request, work)
    return Response(status_code=204)
