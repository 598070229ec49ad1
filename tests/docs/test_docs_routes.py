"""docs/api.md says what the OpenAPI document has, and its examples work with the scope that it names."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.testclient import TestClient

from ingest.catalog.keys import SCOPES
from ingest.pipeline import now_utc
from ragsvc import responses, schemas
from ragsvc.app import make_app
from ragsvc.bootstrap import Service, build
from ragsvc.settings import Settings
from tests.docs.pages import Section, fences, read, rows, sections

PAGE = read("api.md")
ROUTES: dict[tuple[str, str], Section] = {}
for _section in sections(PAGE, 3):
    _found = re.fullmatch(r"`(GET|POST|PUT|PATCH|DELETE) (/\S+)`", _section.title)
    assert _found, f"{_section.title} is not a route"
    assert (_found[1], _found[2]) not in ROUTES, f"{_section.title} is there twice"
    ROUTES[_found[1], _found[2]] = _section
CASES = pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{m} {p}" for m, p in ROUTES])
SPECIAL = {
    ("GET", "/readyz", "503"): "a report for machines that wait, with a problem for each part",
    ("GET", "/v1/citations/{citation_id}", "410"): "a tombstone is an answer, not a fault",
}
NOT_YET = (
    ("POST", "/v1/verify"),
    ("POST", "/v1/vector_stores/handbook/search"),
    ("POST", "/mcp"),
    ("GET", "/"),
)


@dataclass(frozen=True)
class Served:
    """An empty installation behind its API, with a key for each set of scopes."""

    app: FastAPI
    client: TestClient
    service: Service
    folder: Path

    def key(self, *scopes: str) -> str:
        """The secret of a new key."""
        with self.service.catalog.write():
            _, secret = self.service.catalog.keys.create(name="", scopes=scopes, principals=["user:me"], now=now_utc())
        return secret


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("docs-routes")
    (folder / "handbook").mkdir()
    with build(Settings(data=folder / "data", embedder="hash:32"), writable=False) as service:
        app = make_app(service)
        with TestClient(app) as client:
            yield Served(app, client, service, folder)


@pytest.fixture(scope="module")
def openapi(served: Served) -> dict[str, Any]:
    return dict(served.app.openapi())


# ---------------------------------------------------------------- the page against the OpenAPI document


def operations(openapi: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every operation by method and path."""
    return {(m.upper(), path): entry for path, item in openapi["paths"].items() for m, entry in item.items()}


def resolved(openapi: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference, or an optional one, stands for."""
    if "anyOf" in schema:
        schema = next(one for one in schema["anyOf"] if one.get("type") != "null")
    return openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def test_every_route_has_a_section_and_nothing_else(openapi: dict[str, Any]) -> None:
    assert set(ROUTES) == set(operations(openapi))


def test_openapi_names_the_service_and_its_version(openapi: dict[str, Any]) -> None:
    from ragsvc import __version__

    assert openapi["info"]["title"] == "ragsvc"
    assert openapi["info"]["version"] == __version__


@CASES
def test_route_says_what_it_does(method: str, path: str, openapi: dict[str, Any]) -> None:
    operation = operations(openapi)[method, path]
    assert operation["summary"]
    assert operation["description"].strip().endswith(".")
    assert ROUTES[method, path].body.strip().split("\n\n")[0].rstrip().endswith((".", "`"))


def test_operation_ids_are_unique(openapi: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(openapi).values()]
    assert len(ids) == len(set(ids))


@CASES
def test_fields_and_parameters_are_documented(method: str, path: str, openapi: dict[str, Any]) -> None:
    operation = operations(openapi)[method, path]
    wanted = {p["name"] for p in operation.get("parameters", []) if p["in"] != "path"}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        wanted |= set(resolved(openapi, body)["properties"])
    written = ROUTES[method, path].body.lower()
    missing = {name for name in wanted - {"authorization"} if not re.search(rf"`{re.escape(name.lower())}\b", written)}
    assert not missing


@CASES
def test_path_parameters_have_the_same_names(method: str, path: str, openapi: dict[str, Any]) -> None:
    declared = {p["name"] for p in operations(openapi)[method, path].get("parameters", []) if p["in"] == "path"}
    assert declared == set(re.findall(r"\{(\w+)\}", path))


@CASES
def test_declared_errors_are_problem_documents(method: str, path: str, openapi: dict[str, Any]) -> None:
    for status, response in operations(openapi)[method, path]["responses"].items():
        if status[0] in "45" and (method, path, status) not in SPECIAL:
            assert list(response["content"]) == ["application/problem+json"], status
            schema = resolved(openapi, response["content"]["application/problem+json"]["schema"])
            assert set(schema["properties"]) == {"type", "title", "status", "detail", "hint"}


@CASES
def test_routes_behind_keys_declare_what_can_go_wrong(method: str, path: str, openapi: dict[str, Any]) -> None:
    declared = set(operations(openapi)[method, path]["responses"])
    if path.startswith("/v1/"):
        assert {"401", "403", "404", "409", "422", "503"} <= declared


def test_table_of_a_question_has_its_defaults() -> None:
    fields = schemas.RetrieveRequest.model_fields
    table = {row[0].strip("`"): row[1] for row in rows(ROUTES["POST", "/v1/retrieve"].body)}
    assert set(table) == set(fields)
    for name, field in fields.items():
        shown = "required" if field.is_required() else json.dumps(field.default)
        assert table[name].strip("`") in (shown, "all"), name


def test_example_of_an_answer_has_exactly_the_declared_members() -> None:
    example = json.loads(fences(ROUTES["POST", "/v1/retrieve"].body, "json")[0])
    compare(responses.RetrieveResponse, example)


def compare(model: type[BaseModel], example: dict[str, Any]) -> None:
    """Members of the example and of the model, all the way down."""
    assert set(example) == set(model.model_fields) - {"explain"}, model.__name__
    for name, value in example.items():
        inner = list(models(model.model_fields[name].annotation))
        for one in value if isinstance(value, list) else [value]:
            if inner and one is not None:
                compare(inner[0], one)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def test_filter_operators_are_documented() -> None:
    section = next(s for s in sections(PAGE, 4) if s.title == "Filters")
    operators = {
        operator
        for model in (schemas.LeafFilter, schemas.GroupFilter, schemas.NotFilter)
        for operator in get_args(model.model_fields["op"].annotation)
    }
    for operator in operators:
        assert re.search(rf'[`"]{operator}[`"]', section.body), operator


# ---------------------------------------------------------------- what is not there yet


@pytest.mark.parametrize(("method", "path"), NOT_YET)
def test_routes_of_later_releases_are_absent(method: str, path: str, served: Served, openapi: dict[str, Any]) -> None:
    response = served.client.request(method, path, headers={"Authorization": f"Bearer {served.key('admin')}"})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:ragsvc:error:NoRoute"
    absent = next(s for s in sections(PAGE, 2) if s.title == "Not there yet").body
    shown = path.replace("handbook", "{collection}")
    assert f"`{shown}`" in absent
    assert shown not in openapi["paths"]


def test_jobs_scopes_and_fields_of_later_releases_are_absent() -> None:
    absent = next(s for s in sections(PAGE, 2) if s.title == "Not there yet").body
    later = set(re.findall(r"`([a-z_:]+)`", absent))
    assert {"purge", "erase", "evaluate", "delegate", "vectors:read", "on_behalf_of"} <= later
    assert not later & set(get_args(schemas.JobRequest.model_fields["kind"].annotation))
    assert not later & set(SCOPES)
    assert later & set(schemas.RetrieveRequest.model_fields) == {"rerank", "diversity"}


# ---------------------------------------------------------------- the examples, called


@dataclass(frozen=True)
class Call:
    """A curl command of the page."""

    method: str
    target: str
    headers: dict[str, str]
    content: str | None


def parse_curl(command: str) -> Call:
    """What a curl command sends."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "curl"
    method, url, content, headers = "", "", None, {}
    rest = iter(words[1:])
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word in ("-d", "--data-binary"):
            content = next(rest)
        elif not word.startswith("-"):
            url = word
    parts = urlsplit(url)
    assert parts.netloc == "127.0.0.1:8080"
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return Call(method or ("GET" if content is None else "POST"), target, headers, content)


def curl_of(method: str, path: str) -> Call:
    """The one example of a route."""
    examples = fences(ROUTES[method, path].body, "sh")
    assert len(examples) == 1
    return parse_curl(examples[0])


def scope_of(section: Section) -> str | None:
    """The scope that the example needs; None where any key does, or none at all."""
    line = re.search(r"^Scope: (.+)$", section.body, flags=re.M)
    assert line, f"{section.title} says no scope"
    named = re.findall(r"`(\w+)`", line[1])
    assert named or line[1] in ("any key.", "none, no key.")
    return named[-1] if named else None


def send(served: Served, call: Call, secret: str | None, names: dict[str, str] | None = None) -> Any:
    """Call the API as the page says, with the ids of things that are there in place of its own."""
    headers = dict(call.headers)
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret}"
    if call.method == "PUT":
        headers["Prefer"] = "respond-async"
    target = call.target
    for placeholder, name in (names or {}).items():
        target = target.replace(placeholder, name)
    content = call.content and call.content.replace("file:///srv/handbook", (served.folder / "handbook").as_uri())
    return served.client.request(call.method, target, headers=headers, content=content)


@CASES
def test_example_calls_its_route(method: str, path: str) -> None:
    call = curl_of(method, path)
    pattern = re.sub(r"\\\{uri\\\}", ".+", re.escape(path))
    pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", pattern)
    assert call.method == method
    assert re.fullmatch(pattern, call.target.partition("?")[0])


@pytest.mark.parametrize(("method", "path"), [route for route, section in ROUTES.items() if "Scope: `" in section.body])
def test_a_key_without_the_documented_scope_is_refused(method: str, path: str, served: Served) -> None:
    scope = scope_of(ROUTES[method, path])
    assert scope is not None
    others = [other for other in SCOPES if other not in (scope, "admin")]
    response = send(served, curl_of(method, path), served.key(*others))
    assert response.status_code == 403, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert scope in response.json()["detail"]


@CASES
def test_without_a_key_only_operations_answer(method: str, path: str, served: Served) -> None:
    served.key("retrieve")
    response = send(served, curl_of(method, path), None)
    if "none, no key" in ROUTES[method, path].body:
        assert response.status_code == 200
    else:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"


def test_examples_work_in_their_order_with_just_their_scope(served: Served) -> None:
    """Each answers as the page says: status and members. What names a thing that is not there is a 404."""
    names: dict[str, str] = {}
    worked = 0
    for (method, path), section in ROUTES.items():
        scope = scope_of(section)
        response = send(served, curl_of(method, path), served.key(scope or "retrieve"), names)
        successes = {int(status) for status in re.findall(r"\b(20[0-4])\b", section.body.split("Answer")[1])}
        where = f"{method} {path}: {response.status_code} {response.text[:300]}"
        assert response.status_code in successes | {404}, where
        if response.status_code == 404:
            assert response.headers["content-type"] == "application/problem+json", where
            assert response.json()["hint"], where
            continue
        worked += 1
        if response.headers.get("content-type") == "application/json":
            body = response.json()
            names.update({f"{kind}_ID": body["id"] for kind in ("src", "job") if body.get("id", "").startswith(kind)})
            if response.status_code != 202:  # a job, whatever else the page says of the answer that was not waited for
                members(section, body, where)
    assert worked >= 20


def members(section: Section, body: dict[str, Any], where: str) -> None:
    """Compare the members that the page lists, as `{"a", "b"}`, with those of the answer."""
    listed = re.search(r"`\{((?:\"\w+\"(?:, )?)+)\}`", section.body.split("Answer")[1])
    shown = body.get("data", [body])
    if listed and shown:
        assert set(re.findall(r"\w+", listed[1])) == set(shown[0]), where


def test_unknown_fields_are_refused_as_promised(served: Served) -> None:
    secret = served.key("admin")
    for (method, path), section in ROUTES.items():
        call = curl_of(method, path)
        if call.content and call.headers.get("Content-Type") == "application/json":
            content = json.dumps({**json.loads(call.content), "no_such_field": 1})
            response = send(served, Call(method, call.target, call.headers, content), secret)
            assert response.status_code == 422, section.title
            assert "no_such_field" in response.json()["detail"]


def test_alias_of_retrieve_answers_the_same(served: Served) -> None:
    headers = {"Authorization": f"Bearer {served.key('retrieve')}"}
    bodies = [served.client.post(path, json={"query": "x"}, headers=headers) for path in ("/v1/retrieve", "/retrieve")]
    assert [response.status_code for response in bodies] == [200, 200]
    assert bodies[0].json().keys() == bodies[1].json().keys()
    assert "`POST /retrieve`" in PAGE
