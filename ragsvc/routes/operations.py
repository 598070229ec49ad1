"""Health, readiness and metrics: the routes that need no key, and say nothing that needs one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from indexes.errors import RagsvcError
from ragsvc.routes.edge import json_response, run, service_of

router = APIRouter(tags=["operations"])
PUBLIC = ("/healthz", "/readyz", "/metrics", "/openapi.json")


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get(
    "/readyz", responses={503: {"description": "Not ready; says what to do", "content": {"application/json": {}}}}
)
async def readyz(request: Request) -> Response:
    """The catalogue can be read, every index opens and the model is there; else 503 with what to do."""
    service = service_of(request)

    def work() -> list[dict[str, str]]:
        problems = []
        for collection in service.catalog.collections.all():
            try:
                service.follower.pin(collection.generation_id)
                service.embedder_of(service.catalog.collections.generation(collection.generation_id).embedder)
            except RagsvcError as error:
                problems.append({"part": collection.generation_id, "detail": error.message, "hint": error.hint})
        return problems

    problems: list[Any] = await run(request, work)
    status = "ready" if not problems else "not ready"
    return json_response({"status": status, "problems": problems}, 503 if problems else 200)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    body = await run(request, lambda: generate_latest(request.app.state.registry))
    return Response(body, media_type=CONTENT_TYPE_LATEST)
