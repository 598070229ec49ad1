"""The HTTP edge: routes, errors as problem documents, metrics. It runs the synchronous core in bounded threads."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from indexes.errors import RagsvcError
from ragsvc import __version__
from ragsvc.bootstrap import Service
from ragsvc.errors import Invalid, NoRoute, ServiceError, Unauthorized, problem_of, status_of
from ragsvc.routes import (
    collections,
    documents,
    evaluations,
    generations,
    jobs,
    operations,
    retrieve,
    sources,
    versions,
)
from ragsvc.routes.edge import Executor, json_response
from ragsvc.telemetry import Metrics

log = logging.getLogger("ragsvc.http")
_RETRY_AFTER_S = "1"


def make_app(service: Service, *, metrics: Metrics | None = None) -> FastAPI:
    """The ASGI application of a wired service. `metrics`: its own unless several processes count together."""
    app = FastAPI(
        title="ragsvc",
        version=__version__,
        summary="Grounded context with citations and freshness",
        docs_url=None,
        redoc_url=None,
    )
    counted = metrics or Metrics()
    app.state.service = service
    app.state.executor = Executor(service.settings.searches)
    app.state.registry = counted.shown
    nouns = (retrieve, collections, evaluations, generations, sources, documents, versions, jobs, operations)
    for module in nouns:
        app.include_router(module.router)
    app.add_exception_handler(RagsvcError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)

    @app.middleware("http")
    async def _measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began = perf_counter()
        response = await call_next(request)
        route = getattr(request.scope.get("route"), "path", "unmatched")
        counted.request(route, request.method, response.status_code, perf_counter() - began)
        return response

    return app


def problem(error: RagsvcError) -> Response:
    """An error as an RFC 9457 problem document."""
    status = status_of(error)
    response = json_response(problem_of(error), status)
    response.headers["content-type"] = "application/problem+json"
    if isinstance(error, Unauthorized):
        response.headers["www-authenticate"] = "Bearer"
    if status == 503:
        response.headers["retry-after"] = _RETRY_AFTER_S
    return response


async def _on_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RagsvcError)
    if status_of(error) >= 500:
        log.warning("%s: %s", type(error).__name__, error.message)
    return problem(error)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(str(part) for part in one['loc'])[:200]}: {one['msg'][:200]}" for one in error.errors()[:5]]
    return problem(Invalid("; ".join(told)))


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unknown = error.status_code in (404, 405)
    detail = str(error.detail)
    response = problem(NoRoute(detail, status=error.status_code) if unknown else Invalid(detail))
    response.headers.update(error.headers or {})
    return response


async def _on_fault(request: Request, error: Exception) -> Response:
    log.error("unexpected fault in %s", request.url.path, exc_info=error)
    return problem(ServiceError("An unexpected fault of the service.", hint="See the service's log."))
