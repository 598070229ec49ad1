"""Versions: their texts, and what changed between two of them."""

from __future__ import annotations

import difflib
from typing import Any

from fastapi import APIRouter, Request, Response

from ingest.errors import NotFound
from ingest.model import Version
from ragsvc.auth import Caller
from ragsvc.bootstrap import Service
from ragsvc.routes.documents import visible
from ragsvc.routes.edge import PROBLEMS, Calls, json_response, run, service_of

router = APIRouter(prefix="/v1", tags=["documents"], responses=PROBLEMS)


def _version(service: Service, caller: Caller, version_id: str) -> Version:
    try:
        version, document = service.catalog.documents.version(version_id, allowed=caller.allowed)
        visible(service, caller, document.id)
    except NotFound as error:
        raise NotFound(f"There is no version {version_id}.") from error
    return version


@router.get("/versions/{version_id}/text", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def version_text(request: Request, caller: Calls, version_id: str) -> Response:
    """Exactly the normalised text that all offsets count in."""
    caller.need("retrieve")
    service = service_of(request)

    def work() -> str:
        return service.catalog.documents.text(_version(service, caller, version_id).id).text

    return Response(await run(request, work), media_type="text/plain; charset=utf-8")


@router.get("/versions/{a}/diff/{b}")
async def version_diff(request: Request, caller: Calls, a: str, b: str) -> Response:
    """What changed from version `a` to version `b`: a unified diff, and the lines added and removed."""
    caller.need("retrieve")
    service = service_of(request)

    def work() -> dict[str, Any]:
        old, new = (service.catalog.documents.text(_version(service, caller, one).id).text for one in (a, b))
        lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), fromfile=a, tofile=b, lineterm=""))
        return {
            "from": a,
            "to": b,
            "added": sum(line.startswith("+") and not line.startswith("+++") for line in lines),
            "removed": sum(line.startswith("-") and not line.startswith("---") for line in lines),
            "diff": "\n".join(lines),
        }

    return json_response(await run(request, work))
