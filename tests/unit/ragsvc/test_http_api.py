"""The HTTP API in this process, with worker, clock and watch running: every route, its answers and its refusals."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from ingest.ingestion import release
from ingest.pipeline import now_utc
from ragsvc.app import make_app
from ragsvc.bootstrap import Backstage, Service, build
from ragsvc.responses import CitationOut, Problem, RetrieveResponse
from ragsvc.routes.operations import PUBLIC
from tests.contracts.installation import settings_in, until

BASE = "http://127.0.0.1:8080"
SEEN: set[tuple[str, str]] = set()
"""(method, route template) of every call that these tests made."""


class Client(TestClient):
    """Remembers which routes were called."""

    def request(self, method: str, url: Any, **more: Any) -> httpx.Response:  # type: ignore[override]
        response = super().request(method, url, **more)
        SEEN.add((method.upper(), str(response.request.url.path)))
        return response


@contextmanager
def running(folder: Path, **more: Any) -> Iterator[tuple[Service, Client]]:
    """A service with everything behind it, and a client on the loopback."""
    with build(settings_in(folder, **more), writable=True) as service:
        backstage = Backstage(service)
        patch = pytest.MonkeyPatch()
        patch.setattr("ingest.worker._POLL_S", 0.02)  # an installation of its own can afford to look more often
        backstage.start()
        try:
            with Client(make_app(service), base_url=BASE, raise_server_exceptions=False) as client:
                yield service, client
        finally:
            backstage.stop()
            patch.undo()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Client]]:
    with running(tmp_path_factory.mktemp("api"), max_body_bytes=100_000) as made:
        yield made


@pytest.fixture(scope="module")
def service(pair: tuple[Service, Client]) -> Service:
    return pair[0]


@pytest.fixture(scope="module")
def client(pair: tuple[Service, Client]) -> Client:
    return pair[1]


def problem(response: httpx.Response, status: int, kind: str | None = None) -> Problem:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate(response.json())
    assert found.status == status
    if kind is not None:
        assert found.type == f"urn:ragsvc:error:{kind}"
    return found


def put(client: Client, place: str, text: str, expect: int | None = None, **more: Any) -> dict[str, Any]:
    headers = {"Content-Type": "text/markdown", **more.pop("headers", {})}
    response = client.put(f"/v1/documents/{place}", content=text, headers=headers, **more)
    assert response.status_code == expect or (expect is None and response.is_success), response.text
    return response.json()


def ask(client: Client, query: str, **more: Any) -> dict[str, Any]:
    response = client.post("/v1/retrieve", json={"query": query, "on_insufficient": "return", **more})
    assert response.status_code == 200, response.text
    RetrieveResponse.model_validate(response.json(), strict=False)
    return response.json()


def ended(client: Client, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = client.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    found = until(look)
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "docs"
    place.mkdir()
    (place / "tea.md").write_text("# Tea\n\nTea is served at four o'clock.\n")
    return place


def add_source(client: Client, folder: Path, collection: str, **more: Any) -> dict[str, Any]:
    options = {"settle_s": 0, **more.pop("options", {})}
    body = {"collection": collection, "kind": "files", "uri": folder.as_uri(), "options": options, **more}
    response = client.post("/v1/sources", json=body)
    assert response.status_code == 201, response.text
    return response.json()


def synced(client: Client, source: dict[str, Any]) -> dict[str, Any]:
    """The source after the sync that was queued last."""
    jobs = client.get("/v1/jobs", params={"source": source["id"]}).json()["data"]
    assert ended(client, jobs[0]["id"])["state"] == "succeeded"
    return client.get(f"/v1/sources/{source['id']}").json()


# ---------------------------------------------------------------- retrieve and citations


def test_retrieve_and_its_alias(client: Client) -> None:
    put(client, "alias/a.md", "Lunch is at noon in the canteen.")
    body = {"query": "When is lunch?", "collections": ["alias"], "include": ["explain", "dropped"]}
    one, two = (client.post(path, json=body).json() for path in ("/v1/retrieve", "/retrieve"))
    for answer in (one, two):
        RetrieveResponse.model_validate(answer)
        for changing in ("id", "timings_ms"):
            answer.pop(changing)
        answer["results"][0]["freshness"].pop("age_s")
    assert one == two
    assert one["object"] == "retrieval"
    assert one["results"][0]["explain"]["chunks"]
    assert one["dropped"] == []


def test_what_is_not_included_is_not_there(client: Client) -> None:
    put(client, "alias/a.md", "Lunch is at noon in the canteen.")
    answer = ask(client, "lunch", collections=["alias"])
    assert "dropped" not in answer
    assert "explain" not in answer["results"][0]


def test_shape_of_a_response(client: Client) -> None:
    text = "# Rules of the house\n\nLunch is served at noon in the canteen on the ground floor."
    put(client, "shape/a.md", text, params={"metadata": '{"team": "people", "n": [1, 2]}'})
    answer = ask(client, "lunch", collections=["shape"])
    assert set(answer) == {
        "id", "object", "query", "snapshot", "context", "results", "sufficiency", "usage", "timings_ms", "warnings"
    }  # fmt: skip
    result = answer["results"][0]
    assert set(result) == {
        "ref", "id", "text", "score", "scores", "document", "version", "location", "citation", "freshness", "metadata"
    }  # fmt: skip
    assert result["document"]["uri"] == "a.md"
    assert result["metadata"] == {"lang": "en", "media_type": "text/markdown", "team": "people", "n": [1, 2]}
    assert result["citation"] == {
        "url": f"/v1/citations/{result['id']}",
        "quote": result["text"],
        "quote_sha256": result["citation"]["quote_sha256"],
    }
    for moment in ("source_modified_at", "ingested_at", "indexed_at", "last_verified_at"):
        assert result["freshness"][moment].endswith("Z")
    assert answer["context"].splitlines()[1] == result["text"]


def test_a_citation_resolves_and_after_an_edit_and_a_deletion_too(client: Client) -> None:
    put(client, "cite/a.md", "Lunch is at noon.")
    cited = ask(client, "lunch", collections=["cite"])["results"][0]
    for step, status in (("", "fresh"), ("Lunch is at one.", "superseded"), ("DELETE", "deleted_at_source")):
        if step == "DELETE":
            assert client.delete("/v1/documents/cite/a.md").status_code == 204
        elif step:
            put(client, "cite/a.md", step)
        found = client.get(cited["citation"]["url"])
        assert found.status_code == 200
        CitationOut.model_validate(found.json())
        assert found.json()["quote"] == "Lunch is at noon."
        assert found.json()["quote_sha256"] == cited["citation"]["quote_sha256"]
        assert found.json()["freshness"]["status"] == status
        assert found.json()["version"]["is_current"] is (status == "fresh")
        text = client.get(f"/v1/versions/{found.json()['version']['id']}/text").text
        assert [text[s["char_start"] : s["char_end"]] for s in found.json()["spans"]] == ["Lunch is at noon."]


def test_an_erased_citation_is_a_tombstone(client: Client, service: Service) -> None:
    import sqlalchemy as sa

    from ingest.catalog.database import to_us
    from ingest.catalog.tables import erased

    pushed = put(client, "cite/gone.md", "Forget this text.")
    cited = ask(client, "forget", collections=["cite"])["results"][0]
    with service.catalog._db.write() as conn:
        values = {"version_id": pushed["version"]["id"], "document_id": pushed["document"]["id"]}
        conn.execute(sa.insert(erased).values(**values, deleted_at=to_us(now_utc()), reason="asked for"))
    found = client.get(cited["citation"]["url"])
    assert found.status_code == 410
    assert set(found.json()) == {"id", "deleted_at", "reason"}
    assert found.json()["reason"] == "asked for"


@pytest.mark.parametrize("name", ["cit_", "x", "cit_AAAA", "%00", "cit_" + "A" * 5000])
def test_no_such_citation(client: Client, name: str) -> None:
    problem(client.get(f"/v1/citations/{name}"), 404, "NotFound")


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"query": ""}, 422, "Invalid"),
        ({"query": "x", "no_such_field": 1}, 422, "Invalid"),
        ({"query": "x", "top_k": 10**9}, 422, "Invalid"),
        ({"query": "x", "tokenizer": "gpt9"}, 422, "QueryInvalid"),
        ({"query": "x", "snapshot": "snap_x_1"}, 422, "QueryInvalid"),
        ({"query": "x", "collections": ["nothing"]}, 404, "NotFound"),
        ({"query": "x", "collections": ["') OR 1=1"]}, 404, "NotFound"),
        ({"query": "x", "as_of": "0001-01-01T00:00:00+14:00"}, 422, "Invalid"),
        ({"query": "x", "filters": {"op": "in", "key": "a", "value": 1}}, 422, "Invalid"),
        ({"query": "x", "filters": {"op": "gt", "key": "a", "value": True}}, 422, "QueryInvalid"),
    ],
    ids=str,
)
def test_questions_that_are_refused(client: Client, fields: dict[str, Any], status: int, kind: str) -> None:
    problem(client.post("/v1/retrieve", json=fields), status, kind)


def test_what_is_too_old_is_refused_if_wished(client: Client) -> None:
    put(client, "old/a.md", "Lunch is at noon.")
    time.sleep(1.1)
    body = {"query": "lunch", "collections": ["old"], "max_staleness": "500ms", "on_insufficient": "return"}
    assert client.post("/v1/retrieve", json=body).json()["results"][0]["freshness"]["status"] == "stale"
    problem(client.post("/v1/retrieve", json={**body, "on_stale": "error"}), 409, "Stale")
    dropped = client.post("/v1/retrieve", json={**body, "on_stale": "drop", "include": ["dropped"]}).json()
    assert dropped["results"] == []
    assert [one["reason"] for one in dropped["dropped"]] == ["stale"]


# ---------------------------------------------------------------- documents


def test_a_push_is_new_then_the_same_then_changed(client: Client) -> None:
    first = put(client, "docs/rules/a.md", "# Rules\n\nNo dogs.", 201)
    assert (first["changed"], first["version"]["ordinal"]) == (True, 1)
    assert first["document"]["uri"] == "rules/a.md"
    assert first["document"]["title"] == "Rules"
    assert first["document"]["current"] == first["version"]
    same = put(client, "docs/rules/a.md", "# Rules\n\nNo dogs.", 200)
    assert same["changed"] is False
    assert same["version"] == first["version"]
    other = put(client, "docs/rules/a.md", "# Rules\n\nDogs are welcome.", 200)
    assert (other["changed"], other["version"]["ordinal"]) == (True, 2)
    assert other["document"]["id"] == first["document"]["id"]
    got = client.get("/v1/documents/docs/rules/a.md")
    assert got.json() == client.get(f"/v1/documents/{first['document']['id']}").json()
    assert got.json()["current"] == other["version"]


def test_a_push_says_what_the_document_is(client: Client) -> None:
    params = {
        "title": "House rules",
        "access": ["group:staff", "user:ann"],
        "metadata": json.dumps({"team": "people", "tags": ["a", "b"], "n": 3}),
    }
    plain = {"Content-Type": "text/plain"}
    document = put(client, "docs/told.txt", "No dogs.", params=params, headers=plain)["document"]
    assert document["title"] == "House rules"
    assert document["access"] == ["group:staff", "user:ann"]
    assert document["media_type"] == "text/plain"
    assert document["metadata"]["tags"] == ["a", "b"]


def test_a_version_of_the_past(client: Client) -> None:
    put(client, "past/a.md", "The rule of today.")
    old = put(client, "past/a.md", "The rule of old.", params={"valid_from": "2020-01-01T00:00:00Z"})
    assert old["version"]["valid_from"] == "2020-01-01T00:00:00Z"
    assert old["version"]["valid_to"] is not None
    assert old["changed"] is True
    assert [r["text"] for r in ask(client, "rule", collections=["past"])["results"]] == ["The rule of today."]
    before = ask(client, "rule", collections=["past"], as_of="2021-01-01T00:00:00Z")["results"]
    assert [r["text"] for r in before] == ["The rule of old."]
    again = put(client, "past/a.md", "The rule of today.", 200)
    assert again["changed"] is False
    assert again["version"]["ordinal"] == 1, "what was pushed is in force as version 1, not as the one recorded last"


def test_a_deletion_hides_before_it_answers(client: Client) -> None:
    put(client, "del/a.md", "Cake on Fridays.")
    assert ask(client, "cake", collections=["del"])["results"]
    response = client.delete("/v1/documents/del/a.md")
    assert (response.status_code, response.content) == (204, b"")
    assert ask(client, "cake", collections=["del"])["results"] == []
    problem(client.delete("/v1/documents/del/a.md"), 404, "NotFound")
    assert client.get("/v1/documents", params={"collection": "del"}).json()["data"] == []
    kept = client.get("/v1/documents", params={"collection": "del", "deleted": True}).json()["data"]
    assert [one["uri"] for one in kept] == ["a.md"]
    assert kept[0]["deleted_at"] is not None
    assert kept[0]["current"] is None
    back = put(client, "del/a.md", "Cake on Fridays.")
    assert back["changed"] is True
    assert ask(client, "cake", collections=["del"])["results"]


def test_a_push_may_answer_before_it_is_done(client: Client) -> None:
    response = client.put(
        "/v1/documents/async/a.md",
        content="Tea at four.",
        headers={"Content-Type": "text/plain", "Prefer": "respond-async"},
    )
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["kind"] == "push"
    assert ended(client, job["id"])["counts"]["new"] == 1
    assert ask(client, "tea", collections=["async"])["results"]


def test_a_deletion_comes_after_the_push_before_it(tmp_path: Path) -> None:
    """Without a worker, a push waits; a deletion meanwhile must not be undone by it."""
    with build(settings_in(tmp_path), writable=True) as service, Client(make_app(service), base_url=BASE) as client:
        headers = {"Content-Type": "text/plain", "Prefer": "respond-async"}
        worker = Backstage(service).worker
        client.put("/v1/documents/a/x.txt", content="First.", headers=headers)
        assert worker.work_once()
        client.put("/v1/documents/a/x.txt", content="Second.", headers=headers)
        assert client.delete("/v1/documents/a/x.txt").status_code == 204
        while worker.work_once():
            pass
        assert client.get("/v1/documents/a/x.txt").json()["deleted_at"] is not None
        assert {job["state"] for job in client.get("/v1/jobs").json()["data"]} == {"succeeded"}
        assert not any(path.is_file() for path in (tmp_path / "blobs").rglob("*"))


def test_equal_bytes_may_be_pushed_while_others_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the end of another push deletes between storing and recording is stored again."""
    with build(settings_in(tmp_path), writable=True) as service, Client(make_app(service), base_url=BASE) as client:
        put, stored = service.blobs.put, []

        def overtaken(data: bytes) -> str:
            stored.append(put(data))
            if len(stored) == 1:
                release(service.catalog, service.blobs, stored[0])
            return stored[0]

        monkeypatch.setattr(service.blobs, "put", overtaken)
        headers = {"Content-Type": "text/plain", "Prefer": "respond-async"}
        client.put("/v1/documents/a/x.txt", content="Twice the same.", headers=headers)
        release(service.catalog, service.blobs, stored[0])  # a push waits for them: they stay
        assert Backstage(service).worker.work_once()
        assert client.get("/v1/jobs").json()["data"][0]["state"] == "succeeded"
        assert not service.blobs.path(stored[0]).exists()


@pytest.mark.parametrize(
    ("kind", "body", "status", "error"),
    [
        ("application/pdf", b"%PDF-1.4 broken", 422, "DocumentDamaged"),
        ("application/x-unheard-of", b"\x00\x01", 422, "TypeNotSupported"),
        ("text/plain", b"", 422, "DocumentWithoutText"),
    ],
)
def test_a_push_that_cannot_be_read(client: Client, kind: str, body: bytes, status: int, error: str) -> None:
    found = problem(client.put("/v1/documents/broken/x", content=body, headers={"Content-Type": kind}), status, error)
    assert len(found.hint) > 10
    letters = client.get("/v1/dead-letters").json()["data"]
    assert "x" in {letter["uri"] for letter in letters}


@pytest.mark.parametrize(
    "params",
    [
        {"metadata": "{"},
        {"metadata": "[]"},
        {"metadata": '{"a": {"b": 1}}'},
        {"metadata": '{"a": null}'},
        {"valid_from": "yesterday"},
        {"access": ""},
        {"title": "x" * 2000},
    ],
    ids=str,
)
def test_a_push_with_a_wrong_parameter(client: Client, params: dict[str, str]) -> None:
    problem(client.put("/v1/documents/wrong/a.md", content="x", params=params), 422, "Invalid")


def test_a_name_that_no_collection_can_have(client: Client) -> None:
    problem(client.put("/v1/documents/-x/a.md", content="x"), 409, "Conflict")
    problem(client.put(f"/v1/documents/{'x' * 129}/a.md", content="x"), 422, "Invalid")


def test_a_body_that_is_too_large(client: Client) -> None:
    problem(client.put("/v1/documents/large/a.md", content=b"x" * 100_001), 413, "BodyTooLarge")
    problem(client.put("/v1/documents/large/a.md", content=(b"x" * 50_000 for _ in range(3))), 413, "BodyTooLarge")
    large = json.dumps({"query": "x" * 100_001}).encode()
    problem(client.post("/v1/retrieve", content=large, headers={"Content-Type": "application/json"}), 413)
    problem(client.get("/v1/collections/large"), 404)


def test_versions_texts_and_differences(client: Client) -> None:
    texts = ["One.\n\nTwo.", "One.\n\nThree.\n\nFour."]
    versions = [put(client, "hist/a.md", text)["version"] for text in texts]
    document = client.get("/v1/documents/hist/a.md").json()
    listed = client.get(f"/v1/documents/{document['id']}/versions").json()
    assert listed["next_cursor"] is None
    assert [v["id"] for v in listed["data"]] == [v["id"] for v in versions]
    assert set(listed["data"][0]) == {
        "id", "ordinal", "sha256", "valid_from", "valid_to", "recorded_from", "recorded_to", "characters"
    }  # fmt: skip
    assert listed["data"][0]["valid_to"] == listed["data"][1]["valid_from"]
    for version, text in zip(versions, texts, strict=True):
        got = client.get(f"/v1/versions/{version['id']}/text")
        assert got.headers["content-type"] == "text/plain; charset=utf-8"
        assert got.text.split() == text.split()
        assert len(got.text) == version["characters"]
    diff = client.get(f"/v1/versions/{versions[0]['id']}/diff/{versions[1]['id']}").json()
    assert (diff["from"], diff["to"]) == (versions[0]["id"], versions[1]["id"])
    assert "-Two." in diff["diff"].splitlines()
    assert "+Four." in diff["diff"].splitlines()
    assert diff["removed"] == 1
    assert diff["added"] >= 2
    same = client.get(f"/v1/versions/{versions[0]['id']}/diff/{versions[0]['id']}").json()
    assert (same["added"], same["removed"], same["diff"]) == (0, 0, "")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/documents/doc_000000000000000000000000",
        "/v1/documents/doc_0/versions",
        "/v1/documents/nothing/a.md",
        "/v1/versions/ver_0/text",
        "/v1/versions/ver_0/diff/ver_1",
        "/v1/collections/nothing",
        "/v1/sources/src_0",
        "/v1/jobs/job_0",
        "/v1/jobs/job_0/events",
        "/v1/documents?collection=nothing",
        "/v1/changes?collection=nothing",
        "/v1/nothing",
    ],
)
def test_what_is_not_there(client: Client, path: str) -> None:
    problem(client.get(path), 404)


def test_documents_are_listed_in_pages(client: Client) -> None:
    for number in range(5):
        put(client, f"pages/{number}.md", f"Document {number}.")
    seen, cursor, pages = [], None, 0
    while True:
        params = {"collection": "pages", "limit": 2, **({"cursor": cursor} if cursor else {})}
        body = client.get("/v1/documents", params=params).json()
        seen += [one["uri"] for one in body["data"]]
        cursor, pages = body["next_cursor"], pages + 1
        if cursor is None:
            break
    assert sorted(seen) == [f"{n}.md" for n in range(5)]
    assert pages == 3


# ---------------------------------------------------------------- collections, changes, generations


def test_collections(client: Client) -> None:
    made = client.post("/v1/collections", json={"name": "house", "access": ["group:staff"]})
    assert made.status_code == 201
    assert made.json()["access"] == ["group:staff"]
    assert made.json()["embedder"] == "hash:256"
    problem(client.post("/v1/collections", json={"name": "house"}), 409, "Conflict")
    problem(client.post("/v1/collections", json={"name": "a b"}), 409, "Conflict")
    problem(client.post("/v1/collections", json={"name": "x", "access": []}), 422)
    assert client.get("/v1/collections/house").json() == made.json()
    assert "house" in {c["name"] for c in client.get("/v1/collections").json()["data"]}
    changed = client.patch("/v1/collections/house", json={"access": ["user:ann"]})
    assert changed.json()["access"] == ["user:ann"]
    assert put(client, "house/a.md", "x y z")["document"]["access"] == ["user:ann"]
    problem(client.delete("/v1/collections/house"), 409, "Conflict")
    client.post("/v1/collections", json={"name": "empty-house"})
    generations = client.get("/v1/generations").json()["data"]
    mine = [g for g in generations if g["collection"] == "house"]
    assert [g["serving"] for g in mine] == [True]
    assert mine[0]["id"] == made.json()["generation"]
    assert client.delete("/v1/collections/empty-house").status_code == 204
    problem(client.get("/v1/collections/empty-house"), 404)
    problem(client.delete("/v1/collections/empty-house"), 404)
    problem(client.patch("/v1/collections/empty-house", json={"access": ["a"]}), 404)


def test_changes_since_the_last_call(client: Client) -> None:
    put(client, "log/a.md", "One.")
    first = client.get("/v1/changes", params={"collection": "log"}).json()
    assert [c["kind"] for c in first["data"]] == ["describe", "put"]
    again = client.get("/v1/changes", params={"collection": "log", "since": first["next_cursor"]}).json()
    assert again == {"data": [], "next_cursor": first["next_cursor"]}
    put(client, "log/a.md", "Two.")
    client.delete("/v1/documents/log/a.md")
    later = client.get("/v1/changes", params={"collection": "log", "since": first["next_cursor"]}).json()
    assert [c["kind"] for c in later["data"]] == ["close", "put", "close"]
    assert {c["document"] for c in later["data"]} == {first["data"][0]["document"]}
    for wrong in ("-1", "x", "9" * 30):
        problem(client.get("/v1/changes", params={"collection": "log", "since": wrong}), 422)


# ---------------------------------------------------------------- sources, jobs, dead letters


def test_sources(client: Client, folder: Path) -> None:
    more = {"freshness_sla": "1h", "access": ["public", "group:staff"], "metadata": {"team": "people"}}
    source = add_source(client, folder, "src", schedule={"interval": "60s"}, **more)
    assert source["freshness_sla"] == "3600s"
    assert source["state"]["status"] == "new"
    state = synced(client, source)["state"]
    assert (state["status"], state["documents"], state["withheld_deletions"]) == ("ok", 1, 0)
    assert state["last_verified_at"] is not None
    assert state["next_run_at"] is not None
    result = ask(client, "tea", collections=["src"])["results"][0]
    assert result["metadata"]["team"] == "people"
    assert result["freshness"]["sla_s"] == 3600
    assert source["id"] in {s["id"] for s in client.get("/v1/sources").json()["data"]}
    assert [s["id"] for s in client.get("/v1/sources", params={"collection": "src"}).json()["data"]] == [source["id"]]
    changes = {"watch": True, "schedule": {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}, "freshness_sla": None}
    changed = client.patch(f"/v1/sources/{source['id']}", json=changes).json()
    assert changed["watch"] is True
    assert changed["schedule"] == {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}
    assert changed["freshness_sla"] is None
    assert changed["metadata"] == {"team": "people"}
    paused = client.patch(f"/v1/sources/{source['id']}", json={"paused": True, "schedule": None}).json()
    assert (paused["paused"], paused["schedule"], paused["state"]["next_run_at"]) == (True, None, None)
    (folder / "coffee.md").write_text("Coffee is served all day.")
    job = client.post(f"/v1/sources/{source['id']}/sync", json={"approve_deletions": 3})
    assert job.status_code == 202
    counts = ended(client, job.json()["id"])["counts"]
    assert (counts["listed"], counts["new"], counts["unchanged"]) == (2, 1, 1)
    assert client.delete(f"/v1/sources/{source['id']}").status_code == 204
    assert ask(client, "tea", collections=["src"])["results"] == []
    assert client.get(result["citation"]["url"]).json()["freshness"]["status"] == "deleted_at_source"
    problem(client.get(f"/v1/sources/{source['id']}"), 404)


def test_sources_that_are_refused(client: Client, folder: Path, tmp_path: Path, service: Service) -> None:
    good = {"collection": "no", "uri": folder.as_uri()}
    add_source(client, folder, "taken")
    for body, status in (
        ({**good, "uri": (tmp_path / "nothing").as_uri()}, 409),
        ({**good, "uri": "http://example.org/"}, 409),
        ({**good, "uri": "file://elsewhere/x"}, 409),
        ({**good, "uri": service.settings.data.as_uri()}, 409),
        ({**good, "uri": "file:///"}, 409),
        ({**good, "collection": "taken"}, 409),
        ({**good, "options": {"depth": 3}}, 409),
        ({**good, "options": {"include": "*.md"}}, 409),
        ({**good, "schedule": {"cron": "99 99 * * *"}}, 409),
        ({**good, "schedule": {"cron": "0 6 * * *", "timezone": "Mars/Crater"}}, 409),
        ({**good, "schedule": {"interval": "soon"}}, 422),
        ({**good, "freshness_sla": "9" * 30 + "w"}, 422),
        ({**good, "kind": "web"}, 422),
        ({**good, "metadata": {"a": {}}}, 422),
    ):
        problem(client.post("/v1/sources", json=body), status)
    problem(client.get("/v1/collections/no"), 404)
    (source,) = (s for s in client.get("/v1/sources", params={"collection": "taken"}).json()["data"])
    problem(client.patch(f"/v1/sources/{source['id']}", json={"options": {"depth": 3}}), 409)
    problem(client.patch(f"/v1/sources/{source['id']}", json={"uri": "file:///x"}), 422)
    assert client.get(f"/v1/sources/{source['id']}").json()["options"] == source["options"]
    for call in ("patch", "delete"):
        more = {"json": {"watch": True}} if call == "patch" else {}
        problem(getattr(client, call)("/v1/sources/src_0", **more), 404)
    problem(client.post("/v1/sources/src_0/sync"), 404)


def test_one_key_one_job(client: Client, folder: Path) -> None:
    source = add_source(client, folder, "idem")
    synced(client, source)
    key = {"Idempotency-Key": "a-key-of-mine"}
    path = f"/v1/sources/{source['id']}/sync"
    first, second = (client.post(path, headers=key).json() for _ in range(2))
    assert first["id"] == second["id"]
    ended(client, first["id"])
    assert client.post(path, headers=key).json()["id"] == first["id"]
    body = {"kind": "sync", "source": source["id"]}
    assert client.post("/v1/jobs", json=body, headers=key).json()["id"] == first["id"]
    assert client.post("/v1/jobs", json=body).json()["id"] != first["id"]
    problem(client.post("/v1/jobs", json={"kind": "verify"}, headers=key), 409, "Conflict")
    problem(client.post(path, headers={"Idempotency-Key": "x" * 201}), 422)


@pytest.mark.parametrize("kind", ["verify", "compact"])
def test_jobs_of_the_whole_installation(client: Client, kind: str) -> None:
    response = client.post("/v1/jobs", json={"kind": kind})
    assert response.status_code == 202
    job = ended(client, response.json()["id"])
    assert (job["state"], job["error"], job["source"]) == ("succeeded", None, None)
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["started_at"] <= job["finished_at"]


def test_jobs_that_are_refused(client: Client, folder: Path) -> None:
    source = add_source(client, folder, "jobs")
    for body, status in (
        ({"kind": "sync"}, 422),
        ({"kind": "verify", "source": source["id"]}, 422),
        ({"kind": "sync", "source": "src_0"}, 404),
        ({"kind": "push"}, 422),
        ({"kind": "sync", "source": source["id"], "approve_deletions": -1}, 422),
    ):
        problem(client.post("/v1/jobs", json=body), status)
    problem(client.post("/v1/jobs/job_0/cancel"), 404)
    for query in ("state=odd", "limit=0", "limit=501", "cursor=x", "cursor=" + "9" * 25):
        problem(client.get(f"/v1/jobs?{query}"), 422)


def test_jobs_are_listed_newest_first_in_pages(client: Client) -> None:
    ids = [client.post("/v1/jobs", json={"kind": "compact"}).json()["id"] for _ in range(3)]
    for one in ids:
        ended(client, one)
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    second = client.get("/v1/jobs", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in first["data"] + second["data"]] == ids[::-1]
    assert {job["state"] for job in client.get("/v1/jobs?state=failed").json()["data"]} <= {"failed"}


def test_a_waiting_job_is_cancelled_at_once(client: Client, service: Service, folder: Path) -> None:
    source = add_source(client, folder, "cancel")
    synced(client, source)
    later = service.catalog.jobs.enqueue("verify", now=now_utc(), not_before=now_utc() + timedelta(hours=1))
    cancelled = client.post(f"/v1/jobs/{later.id}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    problem(client.post(f"/v1/jobs/{later.id}/cancel"), 409, "Conflict")


def test_events_of_a_job_until_it_has_ended(client: Client, service: Service) -> None:
    later = service.catalog.jobs.enqueue("compact", now=now_utc(), not_before=now_utc() + timedelta(seconds=0.6))
    with client.stream("GET", f"/v1/jobs/{later.id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    SEEN.add(("GET", f"/v1/jobs/{later.id}/events"))
    assert {line for line in lines if not line.startswith("data: ")} == {"event: job"}
    states = [json.loads(line.removeprefix("data: "))["state"] for line in lines if line.startswith("data: ")]
    assert states[0] == "queued"
    assert states[-1] == "succeeded"


def test_a_dead_letter_and_its_retry(client: Client, folder: Path) -> None:
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 this is not one")
    source = add_source(client, folder, "dead")
    assert synced(client, source)["state"]["documents"] == 1
    letters = [x for x in client.get("/v1/dead-letters").json()["data"] if x["source"] == source["id"]]
    assert [letter["uri"].rsplit("/", 1)[1] for letter in letters] == ["bad.pdf"]
    assert letters[0]["reason"]
    assert letters[0]["hint"]
    retry = client.post(f"/v1/dead-letters/{letters[0]['id']}/retry")
    assert retry.status_code == 202
    assert ended(client, retry.json()["id"])["counts"]["failed"] == 1
    (folder / "bad.pdf").unlink()
    (folder / "bad.pdf").write_text("Now it is text.")
    ended(client, client.post(f"/v1/sources/{source['id']}/sync").json()["id"])
    problem(client.post("/v1/dead-letters/dl_0/retry"), 404)


def test_dead_letters_are_listed_in_pages(client: Client) -> None:
    for number in range(3):
        client.put(f"/v1/documents/letters/{number}", content=b"", headers={"Content-Type": "text/plain"})
    seen: list[str] = []
    cursor = None
    while True:
        body = client.get("/v1/dead-letters", params={"limit": 1, **({"cursor": cursor} if cursor else {})}).json()
        seen += [one["id"] for one in body["data"]]
        assert len(body["data"]) <= 1
        cursor = body["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == len(client.get("/v1/dead-letters").json()["data"])


# ---------------------------------------------------------------- operations


def test_health_readiness_and_metrics(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    client.request("FROBNICATE", "/v1/nothing/at/all")
    client.get("/v1/nothing/at/all/17")
    text = client.get("/metrics").text
    assert 'route="/v1/documents/{collection}/{uri:path}"' in text
    assert 'method="other",route="unmatched"' in text
    assert "FROBNICATE" not in text
    assert "/at/all/17" not in text


def test_a_missing_model_is_not_ready(tmp_path: Path) -> None:
    with build(settings_in(tmp_path), writable=True) as service, Client(make_app(service), base_url=BASE) as client:
        assert client.get("/readyz").status_code == 200
        service.ensure_collection("a")
        with service.catalog._db.write() as conn:
            conn.exec_driver_sql("UPDATE generations SET embedder = 'all-MiniLM-L6-v2'")
        body = client.get("/readyz")
        assert body.status_code == 503
        assert "ragsvc model install" in body.json()["problems"][0]["hint"]


def test_too_many_requests_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragsvc.routes.edge._WAITING_PER_SLOT", 1)
    with build(settings_in(tmp_path, searches=1), writable=True) as service:
        go, inside = threading.Event(), threading.Event()

        def slow(_question: Any) -> Any:
            inside.set()
            go.wait(10)
            raise AssertionError("never")

        monkeypatch.setattr(service.retriever, "retrieve", slow)
        with Client(make_app(service), base_url=BASE, raise_server_exceptions=False) as client:
            statuses: list[int] = []

            def call() -> None:
                statuses.append(client.post("/v1/retrieve", json={"query": "x"}).status_code)

            threads = [threading.Thread(target=call) for _ in range(2)]
            threads[0].start()
            assert inside.wait(5)
            threads[1].start()
            executor = client.app.state.executor  # type: ignore[attr-defined]
            until(lambda: executor._inside == 2, every_s=0.01)
            refused = client.post("/v1/retrieve", json={"query": "x"})
            problem(refused, 503, "Overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/healthz").status_code == 200
            go.set()
            for thread in threads:
                thread.join(5)
            assert statuses == [500, 500]
            until(lambda: executor._inside == 0, every_s=0.01)


# ---------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def locked(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Service, Client, Callable[..., dict[str, str]]]]:
    """A running service with two collections, and a function that makes keys."""
    with running(tmp_path_factory.mktemp("locked")) as (service, client):
        put(client, "mine/a.md", "My apples are red.", params={"access": ["user:ann"]})
        put(client, "theirs/b.md", "Their apples are xylophone.", params={"access": ["user:bob"]})

        def key(*scopes: str, principals: tuple[str, ...] = ("user:ann",), **more: Any) -> dict[str, str]:
            found, secret = service.catalog.keys.create(
                name="", scopes=scopes, principals=principals, now=now_utc(), **more
            )
            return {"Authorization": f"Bearer {secret}", "X-Key": found.id}

        yield service, client, key


def test_every_route_asks_who_calls_before_it_reads(locked: tuple[Service, Client, Any]) -> None:
    _, client, key = locked
    key("admin")
    routes = client.get("/openapi.json").json()["paths"]
    for path, methods in routes.items():
        for method in methods:
            concrete = path.replace("{", "").replace("}", "")
            json_type = {"Content-Type": "application/json"}
            response = client.request(method, concrete, content=b"{broken", headers=json_type)
            if path in PUBLIC:
                assert response.status_code == 200
            else:
                problem(response, 401, "Unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"


def test_a_body_is_not_read_for_a_stranger(locked: tuple[Service, Client, Any]) -> None:
    _, client, key = locked
    key("admin")
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    problem(client.post("/v1/retrieve", content=body(), headers={"Content-Type": "application/json"}), 401)


NEEDS = {
    "retrieve": ["POST /v1/retrieve", "GET /v1/citations/x", "GET /v1/documents", "GET /v1/versions/x/text"],
    "ingest": [
        "PUT /v1/documents/mine/x",
        "DELETE /v1/documents/mine/x",
        "GET /v1/jobs",
        "GET /v1/sources",
        "GET /v1/dead-letters",
        "POST /v1/sources/x/sync",
    ],
    "admin": [
        "POST /v1/sources",
        "DELETE /v1/sources/x",
        "POST /v1/collections",
        "PATCH /v1/collections/mine",
        "DELETE /v1/collections/mine",
    ],
}
BODIES: dict[str, Any] = {
    "/v1/retrieve": {"query": "x"},
    "/v1/sources": {"collection": "mine", "uri": "file:///nothing/there"},
    "/v1/collections": {"name": "mine"},
    "/v1/collections/mine": {"access": ["public"]},
}


def test_a_key_can_do_what_its_scopes_say(locked: tuple[Service, Client, Any]) -> None:
    _, client, key = locked
    for held in NEEDS:
        headers = key(held)
        for needed, calls in NEEDS.items():
            for method, path in map(str.split, calls):
                more = {"json": BODIES[path]} if path in BODIES and method in ("POST", "PATCH") else {}
                response = client.request(method, path, headers=headers, **more)
                assert (response.status_code == 403) is (held not in (needed, "admin")), (held, method, path)
    jobs = {held: client.post("/v1/jobs", json={"kind": "verify"}, headers=key(held)).status_code for held in NEEDS}
    assert jobs == {"retrieve": 403, "ingest": 403, "admin": 202}


def test_expired_and_revoked_keys(locked: tuple[Service, Client, Any]) -> None:
    service, client, key = locked
    problem(client.get("/v1/collections", headers=key("admin", expires_at=now_utc())), 401)
    headers = key("admin")
    assert client.get("/v1/collections", headers=headers).status_code == 200
    service.catalog.keys.revoke(headers["X-Key"], now=now_utc())
    problem(client.get("/v1/collections", headers=headers), 401)


def test_a_caller_reads_only_what_it_may(locked: tuple[Service, Client, Any]) -> None:
    _, client, key = locked
    owner = key("admin", principals=("user:ann", "user:bob"))
    ann, bob = key("retrieve"), key("retrieve", principals=("user:bob",))
    theirs = client.post("/v1/retrieve", json={"query": "xylophone apples"}, headers=bob).json()
    cited = theirs["results"][0]
    assert "xylophone" in cited["text"]
    body = {"query": "xylophone apples", "include": ["dropped", "explain"], "on_insufficient": "return"}
    mine = client.post("/v1/retrieve", json=body, headers=ann)
    assert mine.json()["results"]
    assert "Their apples" not in mine.text
    assert cited["document"]["id"] not in mine.text
    ids = {"doc_": cited["document"]["id"], "ver_": cited["version"]["id"], "cit_": cited["id"]}
    for path in (
        "/v1/documents/{doc_}",
        "/v1/documents/{doc_}/versions",
        "/v1/versions/{ver_}/text",
        "/v1/versions/{ver_}/diff/{ver_}",
        "/v1/citations/{cit_}",
    ):
        assert client.get(path.format(**ids), headers=owner).status_code == 200
        hidden = problem(client.get(path.format(**ids), headers=ann), 404)
        absent = problem(client.get(path.format(**{k: k + "0" * 24 for k in ids}), headers=ann), 404)
        assert (hidden.type, hidden.title, hidden.hint) == (absent.type, absent.title, absent.hint)
    for path in ("/v1/documents/theirs/b.md", "/v1/documents/theirs/c.md"):
        problem(client.get(path, headers=ann), 404)
    listed = client.get("/v1/documents", headers=ann).json()
    assert {d["collection"] for d in listed["data"]} == {"mine"}
    assert "b.md" not in {d["uri"] for d in listed["data"]}
    changes = client.get("/v1/changes", params={"collection": "theirs"}, headers=ann).json()
    assert changes["data"] == []


def test_a_key_for_one_collection_sees_no_other(locked: tuple[Service, Client, Any], folder: Path) -> None:
    _, client, key = locked
    both = ("user:ann", "user:bob")
    owner, mine = key("admin", principals=both), key("admin", principals=both, collections=["mine"])
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 bad")
    body = {"collection": "theirs", "uri": folder.as_uri(), "options": {"settle_s": 0}}
    source = client.post("/v1/sources", json=body, headers=owner).json()
    job = client.post(f"/v1/sources/{source['id']}/sync", headers=owner).json()
    until(lambda: client.get(f"/v1/jobs/{job['id']}", headers=owner).json()["state"] == "succeeded")
    letters = client.get("/v1/dead-letters", headers=owner).json()["data"]
    (letter,) = [one for one in letters if one["source"] == source["id"]]
    cited = client.post("/v1/retrieve", json={"query": "xylophone"}, headers=owner).json()["results"][0]
    assert [c["name"] for c in client.get("/v1/collections", headers=mine).json()["data"]] == ["mine"]
    answer = client.post("/v1/retrieve", json={"query": "xylophone apples"}, headers=mine)
    assert {r["document"]["collection"] for r in answer.json()["results"]} == {"mine"}
    for method, path in (
        ("GET", "/v1/collections/{c}"),
        ("GET", "/v1/documents/{c}/b.md"),
        ("PUT", "/v1/documents/{c}/b.md"),
        ("DELETE", "/v1/documents/{c}/b.md"),
        ("GET", "/v1/documents?collection={c}"),
        ("GET", "/v1/changes?collection={c}"),
        ("DELETE", "/v1/collections/{c}"),
    ):
        hidden, absent = (
            problem(client.request(method, path.format(c=name), headers=mine), 404) for name in ("theirs", "absent")
        )
        assert hidden.detail == absent.detail.replace("absent", "theirs")
    problem(client.post("/v1/retrieve", json={"query": "x", "collections": ["theirs"]}, headers=mine), 404)
    for method, path in (
        ("GET", f"/v1/documents/{cited['document']['id']}"),
        ("GET", f"/v1/versions/{cited['version']['id']}/text"),
        ("GET", f"/v1/citations/{cited['id']}"),
        ("GET", f"/v1/sources/{source['id']}"),
        ("DELETE", f"/v1/sources/{source['id']}"),
        ("POST", f"/v1/sources/{source['id']}/sync"),
        ("GET", f"/v1/jobs/{job['id']}"),
        ("GET", f"/v1/jobs/{job['id']}/events"),
        ("POST", f"/v1/jobs/{job['id']}/cancel"),
        ("POST", f"/v1/dead-letters/{letter['id']}/retry"),
    ):
        problem(client.request(method, path, headers=mine), 404)
    for path in ("/v1/sources", "/v1/jobs", "/v1/dead-letters", "/v1/documents", "/v1/generations"):
        shown = client.get(path, headers=mine)
        assert "theirs" not in shown.text
        assert source["id"] not in shown.text
        for limit in (1, 2):  # what is left out must not show as a short page or as a cursor either
            if path in ("/v1/jobs", "/v1/dead-letters", "/v1/documents"):
                body = client.get(path, params={"limit": limit}, headers=mine).json()
                wanted = len(shown.json()["data"])
                assert len(body["data"]) == min(limit, wanted)
                assert (body["next_cursor"] is None) is (wanted <= limit)


def test_a_pusher_need_not_be_a_reader(locked: tuple[Service, Client, Any]) -> None:
    _, client, key = locked
    pusher = key("ingest", principals=("svc:import",))
    made = put(client, "mine/new.md", "Fresh text.", 201, params={"access": ["user:ann"]}, headers=pusher)
    assert made["document"]["uri"] == "new.md"
    problem(client.get(f"/v1/documents/{made['document']['id']}", headers=pusher), 403)
    reader = key("retrieve", principals=("svc:import",))
    problem(client.get(f"/v1/documents/{made['document']['id']}", headers=reader), 404)
    problem(client.delete("/v1/documents/mine/new.md", headers=pusher), 404)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[e]", "localhost.", "a]"]
)
def test_another_host_name_is_refused_without_keys(client: Client, host: str) -> None:
    problem(client.get("/v1/collections", headers={"Host": host}), 401, "Unauthorized")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8080", "[::1]", "[::1]:8080"])
def test_names_of_the_loopback(client: Client, host: str) -> None:
    assert client.get("/v1/collections", headers={"Host": host}).status_code == 200


def test_any_host_name_will_do_with_a_key(locked: tuple[Service, Client, Any]) -> None:
    _, client, key = locked
    assert client.get("/v1/collections", headers={**key("retrieve"), "Host": "rag.example"}).status_code == 200


# ---------------------------------------------------------------- hostile requests

DEEP = b'{"query": "x", "filters": ' + b'{"op": "not", "filter": ' * 5000 + b"1" + b"}" * 5000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b'{"query": "\\u0000"}',
        b'{"query": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"query": "' + b"(" * 10_000 + b'"}',
        b'{"query": "' + b"(" * 8_000 + b'"}',
        b'{"query": "x", "top_k": 1000000000000000000000000000000}',
        b'{"query": "x", "top_k": 1e400}',
        b'{"query": "x", "min_score": NaN}',
        b'{"query": "x", "collections": ["\\u0000"]}',
        b'{"query": "x", "snapshot": "\\u0000"}',
        b'{"query": "x", "filters": {"op": "eq", "key": "\\u0000", "value": 1e308}}',
        b'{"query": "x", "filters": {"op": "gt", "key": "a", "value": ' + b"9" * 300 + b"}}",
        b"[" * 90_000,
        DEEP[:99_000],
        DEEP,
        b"\xff\xfe",
        b'{"query": "x", "query": 5}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_hostile_bodies_get_an_answer_or_a_refusal(client: Client, body: bytes) -> None:
    response = client.post("/v1/retrieve", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        problem(response, response.status_code)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/collections/%00",
        "/v1/documents/a/%00",
        "/v1/documents/a/..%2F..%2Fetc%2Fpasswd",
        "/v1/documents?cursor=%00",
        "/v1/documents?collection=%ff",
        "/v1/jobs/%F0%9F%99%82",
        "/v1/versions/ver_%27%20OR%201=1--/text",
        "/v1/changes?collection=a&since=1e5",
        "/v1/citations/cit_%ED%A0%80",
        "/v1/" + "a/" * 2000,
    ],
)
def test_hostile_paths_are_not_found_or_refused(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (200, 404, 422), response.text
    if path.startswith("/v1/documents?cursor"):
        assert response.status_code == 200
    else:
        problem(response, response.status_code)


def test_zz_every_route_was_called(client: Client) -> None:
    """Runs last in this file: each operation of the OpenAPI document was called at least once above."""
    import re

    for path, methods in client.get("/openapi.json").json()["paths"].items():
        pattern = re.compile(re.sub(r"\{[^}]*\}", lambda m: ".+" if m[0] == "{uri}" else "[^/]+", path))
        for method in methods:
            assert any(m == method.upper() and pattern.fullmatch(p) for m, p in SEEN), (method, path)
