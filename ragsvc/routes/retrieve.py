"""Questions and citations."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ingest.duration import seconds_of
from ingest.errors import NotFound
from ingest.pipeline import now_utc
from ragsvc import responses, schemas, views
from ragsvc.answer import Answer, Question
from ragsvc.auth import Caller
from ragsvc.bootstrap import Service
from ragsvc.citations import Erased, Resolved, resolve
from ragsvc.freshness import Freshness, freshness_of
from ragsvc.routes.edge import PROBLEMS, Calls, Guarded, json_response, run, service_of

router = APIRouter(tags=["retrieve"], responses=PROBLEMS, route_class=Guarded)


def question_of(asked: schemas.RetrieveRequest, caller: Caller, service: Service) -> Question:
    """The request as the core takes it. Raises NotFound for a collection that is not there for this caller."""
    if asked.collections is None:
        names = tuple(c.name for c in service.catalog.collections.all() if caller.sees(c.name))
    else:
        names = tuple(dict.fromkeys(asked.collections))
        for name in names:
            caller.check(name)
    return Question(
        text=asked.query,
        allowed=caller.allowed,
        collections=names,
        top_k=asked.top_k,
        max_tokens=asked.max_tokens,
        tokenizer=asked.tokenizer,
        mode=asked.mode,
        filter=None if asked.filters is None else schemas.to_filter(asked.filters),
        as_of=asked.as_of,
        snapshot=asked.snapshot,
        max_staleness_s=None if asked.max_staleness is None else seconds_of(asked.max_staleness),
        on_stale=asked.on_stale,
        compression=asked.compression,
        min_score=asked.min_score,
        return_insufficient=asked.on_insufficient == "return",
    )


@router.post("/v1/retrieve", response_model=responses.RetrieveResponse, response_model_exclude_unset=True)
@router.post("/retrieve", response_model=responses.RetrieveResponse, include_in_schema=False)
async def retrieve(request: Request, caller: Calls, asked: schemas.RetrieveRequest) -> Response:
    """Question -> grounded context with citations and freshness."""
    caller.need("retrieve")
    service = service_of(request)

    def work() -> Answer:
        return service.retriever.retrieve(question_of(asked, caller, service))

    answer = await run(request, work)
    return json_response(views.answer(answer, explain="explain" in asked.include, dropped="dropped" in asked.include))


@router.get(
    "/v1/citations/{citation_id}",
    response_model=responses.CitationOut,
    responses={410: {"description": "A tombstone: its document was erased", "content": {"application/json": {}}}},
)
async def citation(request: Request, caller: Calls, citation_id: str) -> Response:
    """Resolve a citation, for ever: its exact quote, or a tombstone (410) once its document was erased."""
    caller.need("retrieve")
    service = service_of(request)
    status, body = await run(request, lambda: cited(service, caller, citation_id))
    return json_response(body, status)


def cited(service: Service, caller: Caller, citation_id: str) -> tuple[int, dict[str, object]]:
    """Status and body of a citation. Raises NotFound."""
    found = resolve(service.catalog.documents, citation_id, allowed=caller.allowed)
    if isinstance(found, Erased):
        return 410, {"id": found.id, "deleted_at": found.deleted_at, "reason": found.reason}
    collection = service.catalog.collections.by_id(found.document.collection_id).name
    if not caller.sees(collection):
        raise NotFound(f"There is no citation {citation_id}.", hint="Check the id: it must be copied whole.")
    return 200, views.citation(found, _freshness(service, found), collection)


def _freshness(service: Service, found: Resolved) -> Freshness:
    sources = service.catalog.sources.by_ids([found.document.source_id])
    return freshness_of(
        found.version,
        found.document,
        sources.get(found.document.source_id),
        now=now_utc(),
        default_sla_s=service.retriever.default_sla_s,
    )
