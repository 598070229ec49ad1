"""Every error is a problem document that says what happened, to what, and what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import indexes.errors as engine_errors
import ingest.errors as ingest_errors
import ragsvc.errors as service_errors
from indexes.errors import (
    EmbedderError,
    EngineError,
    ModelMissing,
    QueryInvalid,
    RagsvcError,
    SegmentDamaged,
    StorageFailed,
    WriterBusy,
)
from ingest.errors import Conflict, DocumentDamaged, DocumentTooLarge, NotFound
from ragsvc.app import make_app, problem
from ragsvc.errors import (
    BodyTooLarge,
    Forbidden,
    Invalid,
    NoRoute,
    Overloaded,
    Stale,
    Unauthorized,
    Unsafe,
    problem_of,
    status_of,
)
from ragsvc.responses import Problem
from tests.contracts.installation import workshop


def every(kind: type[RagsvcError]) -> list[type[RagsvcError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in every(sub))]


MODULES = {module.__name__ for module in (engine_errors, ingest_errors, service_errors)}
ALL = [kind for kind in dict.fromkeys(every(RagsvcError)) if kind.__module__ in MODULES]


def made(kind: type[RagsvcError]) -> RagsvcError:
    return NoRoute("Not there.", status=404) if kind is NoRoute else kind()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_a_whole_problem_document(kind: type[RagsvcError]) -> None:
    body = problem_of(made(kind))
    checked = Problem.model_validate(body)
    assert checked.type == f"urn:ragsvc:error:{kind.__name__}"
    assert checked.title == (kind.__doc__ or "").splitlines()[0]
    assert checked.title.endswith(".")
    assert 400 <= checked.status <= 599
    assert checked.detail
    assert checked.hint.endswith((".", "`"))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Unauthorized, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (Conflict, 409),
        (WriterBusy, 409),
        (Stale, 409),
        (BodyTooLarge, 413),
        (DocumentTooLarge, 413),
        (Invalid, 422),
        (QueryInvalid, 422),
        (DocumentDamaged, 422),
        (Overloaded, 503),
        (StorageFailed, 503),
        (ModelMissing, 503),
        (SegmentDamaged, 503),
        (EngineError, 503),
        (EmbedderError, 503),
        (Unsafe, 500),
        (RagsvcError, 500),
    ],
)
def test_status_of_an_error(kind: type[RagsvcError], status: int) -> None:
    response = problem(kind("what happened", hint="Do this."))
    assert status_of(kind()) == response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in response.headers) == (status == 503)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert b'"detail":"what happened"' in bytes(response.body)
    assert b'"hint":"Do this."' in bytes(response.body)


def test_no_route_has_the_status_that_it_was_given() -> None:
    assert status_of(NoRoute("no", status=405)) == 405


def send(app: FastAPI, method: str, path: str, **more: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **more)

    return asyncio.run(call())


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with workshop(tmp_path_factory.mktemp("errors")) as shop:
        app = make_app(shop.service)

        @app.get("/broken")
        async def broken() -> None:
            raise ValueError("canary-4711")

        yield app


def checked(response: httpx.Response, status: int) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate(response.json())
    assert found.status == status
    assert len(response.content) < 5_000
    return found


def test_unknown_route(app: FastAPI) -> None:
    assert checked(send(app, "GET", "/v1/nothing"), 404).type == "urn:ragsvc:error:NoRoute"


def test_wrong_method_says_which_is_right(app: FastAPI) -> None:
    response = send(app, "PUT", "/v1/retrieve")
    assert checked(response, 405).type == "urn:ragsvc:error:NoRoute"
    assert response.headers["allow"] == "POST"


def test_an_unexpected_fault_says_nothing_of_its_inside(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    response = send(app, "GET", "/broken")
    assert checked(response, 500).hint == "See the service's log."
    assert "canary" not in response.text
    assert "canary-4711" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"query": ""}',
        b'{"query": "x", "quer": 1}',
        b'{"query": "\xff"}',
        b'{"query": "\\ud800"}',
        b'{"query": "x", "\\ud800": 1}',
        b"[" * 100_000,
        b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_means_nothing_is_a_422(app: FastAPI, body: bytes) -> None:
    found = checked(send(app, "POST", "/v1/retrieve", content=body, headers={"Content-Type": "application/json"}), 422)
    assert found.type == "urn:ragsvc:error:Invalid"


def test_json_must_be_declared_as_json(app: FastAPI) -> None:
    """A web page can send text/plain to another origin without asking first; so it is not read."""
    response = send(app, "POST", "/v1/retrieve", content=b'{"query": "x"}', headers={"Content-Type": "text/plain"})
    checked(response, 422)


def test_the_detail_names_the_field(app: FastAPI) -> None:
    found = checked(send(app, "POST", "/v1/retrieve", json={"query": "x", "top_k": 0, "filtres": {}}), 422)
    assert "body.top_k" in found.detail
    assert "body.filtres" in found.detail
