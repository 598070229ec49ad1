"""Health, readiness and metrics: the routes that need no key, and say nothing that needs one."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from indexes import durable
from indexes.errors import RagsvcError, StorageHalted
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
    """Whether questions are answered; if not all as well as they could be, which part is why, and what to do.

    "degraded" is 200: a load balancer must not take the whole service away for one collection.
    """
    service = service_of(request)

    def work() -> tuple[list[dict[str, str]], bool]:
        problems = []
        collections, answering = service.catalog.collections.all(), 0
        if (why := durable.halted()) is not None:
            problems.append({"part": "storage", "detail": f"Nothing is written: {why}", "hint": StorageHalted.hint})
        for collection in collections:
            part = collection.generation_id
            try:
                view = service.follower.view(part)
                service.embedder_of(service.follower.generation(part).embedder)
            except RagsvcError as error:
                problems.append({"part": part, "detail": error.message, "hint": error.hint})
                continue
            answering += 1
            if view.why_exact is not None:
                detail = f"The index does not answer: {view.why_exact}. Exact search stands in for it."
                problems.append({"part": part, "detail": detail, "hint": view.hint})
        return problems, answering > 0 or not collections

    found: tuple[list[dict[str, str]], bool] = await run(request, work)
    problems, answers = found
    status = "not ready" if not answers else "degraded" if problems else "ready"
    return json_response({"status": status, "problems": problems}, 200 if answers else 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    body = await run(request, lambda: generate_latest(request.app.state.registry))
    return Response(body, media_type=CONTENT_TYPE_LATEST)
