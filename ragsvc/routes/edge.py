"""What every route uses: the caller, the bounded executor, bodies, pages and problem documents."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
import orjson
from fastapi import Depends, Query, Request, Response
from fastapi.routing import APIRoute

from ingest.pipeline import now_utc
from ragsvc import responses
from ragsvc.auth import OWNER, Caller, authenticate
from ragsvc.bootstrap import Service
from ragsvc.errors import BodyTooLarge, Invalid, Overloaded, Unauthorized

T = TypeVar("T")
P = TypeVar("P")
_WAITING_PER_SLOT = 16
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^\[\]:]*)(?::\d*)?")
_PROBLEM = responses.Problem.model_json_schema()  # as `model` FastAPI would declare it as application/json too
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"content": {"application/problem+json": {"schema": _PROBLEM}}, "description": text}
    for status, text in {
        401: "No or no valid API key",
        403: "The key lacks the scope",
        404: "Not there, or not for this caller",
        409: "Contradicts what is there",
        413: "Too large",
        422: "Cannot be understood",
        503: "Overloaded, or a part is damaged",
    }.items()
}
PUSHED: dict[int | str, dict[str, Any]] = {
    201: {"description": "A new document"},
    202: {"description": "Its job, not yet ended"},
}
ANY_BODY: dict[str, Any] = {"requestBody": {"content": {"*/*": {}}}}


class Executor:
    """The synchronous core in a bounded number of threads; more requests wait, far more are turned away."""

    def __init__(self, slots: int) -> None:
        self._limiter = anyio.CapacityLimiter(slots)
        self._most = slots * (1 + _WAITING_PER_SLOT)
        self._inside = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread. Raises Overloaded at once when too many wait."""
        with self._lock:
            if self._inside >= self._most:
                raise Overloaded
            self._inside += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            with self._lock:
                self._inside -= 1


def service_of(request: Request) -> Service:
    """The wired service."""
    service: Service = request.app.state.service
    return service


async def run(request: Request, work: Callable[[], T]) -> T:
    """Run the synchronous core for this request."""
    executor: Executor = request.app.state.executor
    return await executor.run(work)


async def caller_of(request: Request) -> Caller:
    """Who calls. `Guarded` asks before anything of the body is read; the answer is kept. Raises Unauthorized."""
    known: Caller | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    service = service_of(request)
    header = request.headers.get("authorization")

    def check() -> Caller:
        return authenticate(header, service.catalog.keys, loopback=service.settings.is_loopback, now=now_utc())

    caller = await run(request, check)
    said = request.headers.get("host", "")
    host = _HOST.fullmatch(said)
    if caller is OWNER and (host is None or host[1].lower() not in _LOOPBACK_HOSTS):
        # a web page that points its own name at the loopback
        raise Unauthorized(f"Without an API key this service answers only to localhost, not to {said[:100]!r}.")
    request.state.caller = caller
    return caller


class Guarded(APIRoute):
    """A route that knows its caller before it reads a body, and reads no larger one than allowed.

    FastAPI alone reads and parses the whole body first.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the guard."""
        answer, takes_json = super().get_route_handler(), self.body_field is not None

        async def guarded(request: Request) -> Response:
            await caller_of(request)
            if takes_json:
                request._body = await body_of(request)  # what FastAPI parses
            return await answer(request)

        return guarded


Calls = Annotated[Caller, Depends(caller_of)]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=256)]


async def body_of(request: Request) -> bytes:
    """The whole body, read no further than allowed. Raises BodyTooLarge."""
    most = service_of(request).settings.max_body_bytes
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > most:
        raise BodyTooLarge(f"The body has {int(said):,} bytes; the limit is {most:,}.")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise BodyTooLarge(f"The body is larger than the limit of {most:,} bytes.")
        parts.append(part)
    return b"".join(parts)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON by orjson."""
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def page(entries: list[Any], next_cursor: str | None) -> Response:
    """A list response."""
    return json_response({"data": entries, "next_cursor": next_cursor})


def visible_part(
    fetch: Callable[[P | None], tuple[Sequence[T], P | None]],
    sees: Callable[[T], bool],
    *,
    limit: int,
    after: P | None,
) -> tuple[list[T], bool]:
    """Up to `limit` entries that the caller may see, and whether there are more of them.

    Nothing of the others shows: no page is short because of them, and no cursor names one. `fetch` gives the entries
    after a place, and the place to go on from, None at the end.
    """
    found: list[T] = []
    while True:
        part, after = fetch(after)
        found += [one for one in part if sees(one)]
        if len(found) > limit or after is None:
            return found[:limit], len(found) > limit


def number_cursor(cursor: str | None) -> int | None:
    """A cursor that is a number. Raises Invalid."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise Invalid(f"{cursor!r} is not a cursor.", hint="Use `next_cursor` of the page before, as it is.")
    return int(cursor)
