"""Generations and evaluation sets over HTTP: reindex, refusal, force, rollback, and who may do which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ingest.pipeline import now_utc
from ragsvc.app import make_app
from ragsvc.bootstrap import Backstage, Service, build
from tests.contracts.installation import settings_in, until

BASE = "http://127.0.0.1:8080"
TOPICS = ("notice", "holiday", "expense", "laptop", "parking", "canteen", "badge", "printer", "travel", "pension")


@contextmanager
def running(folder: Path) -> Iterator[tuple[Service, TestClient]]:
    with build(settings_in(folder), writable=True) as service:
        backstage = Backstage(service)
        patch = pytest.MonkeyPatch()
        patch.setattr("ingest.worker._POLL_S", 0.02)
        backstage.start()
        try:
            with TestClient(make_app(service), base_url=BASE, raise_server_exceptions=False) as client:
                yield service, client
        finally:
            backstage.stop()
            patch.undo()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, TestClient]]:
    with running(tmp_path_factory.mktemp("generations")) as made:
        yield made


def fill(client: TestClient, collection: str) -> None:
    for topic in TOPICS:
        body = " ".join(f"The {topic} rule number {n} is written down here for everyone." for n in range(4))
        put = client.put(
            f"/v1/documents/{collection}/{topic}.md",
            content=f"# {topic}\n\n{body}",
            headers={"content-type": "text/markdown"},
        )
        assert put.status_code == 201, put.text


@pytest.fixture(scope="module")
def client(pair: tuple[Service, TestClient]) -> TestClient:
    fill(pair[1], "handbook")
    return pair[1]


def ended(client: TestClient, job: Any) -> dict[str, Any]:
    assert job.status_code == 202, job.text

    def look() -> Any:
        found = client.get(job.headers.get("location") or f"/v1/jobs/{job.json()['id']}").json()
        return found if found["state"] in ("succeeded", "failed", "cancelled") else None

    found: dict[str, Any] = until(look, timeout_s=30)
    return found


def reindex(client: TestClient, **wanted: Any) -> dict[str, Any]:
    return ended(client, client.post("/v1/jobs", json={"kind": "reindex", **wanted}))


def generations(client: TestClient, collection: str = "handbook") -> dict[str, dict[str, Any]]:
    found = client.get("/v1/generations", params={"collection": collection}).json()["data"]
    return {one["state"]: one for one in found}


def problem(response: Any, status: int, said: str) -> None:
    assert response.status_code == status, response.text
    assert said in response.text
    assert response.json()["hint"]


def test_an_evaluation_set_is_kept_as_it_was_put(client: TestClient) -> None:
    path = "/v1/collections/handbook/evaluation"
    problem(client.get(path), 404, "no evaluation set")
    asked = [{"query": f"the {topic} rule", "relevant": {f"{topic}.md": 1}} for topic in TOPICS]
    put = client.put(path, json={"queries": asked})
    assert put.status_code == 200
    assert put.json()["queries"][0] == {"id": "q1", **asked[0]}
    assert client.get(path).json() == put.json()
    problem(client.put(path, json={"queries": []}), 422, "queries")
    problem(client.put(path, json={"queries": [{"query": "x", "relevant": {"a": -1}}]}), 422, "relevant")
    problem(client.put("/v1/collections/none/evaluation", json={"queries": asked}), 404, "none")
    assert client.delete(path).status_code == 204
    problem(client.delete(path), 404, "evaluation")


def test_reindex_refusal_force_and_rollback(client: TestClient) -> None:
    asked = [{"query": f"the {topic} rule", "relevant": {f"{topic}.md": 1}} for topic in TOPICS]
    client.put("/v1/collections/handbook/evaluation", json={"queries": asked})
    before = generations(client)["serving"]
    assert before["complete"]
    assert before["index"]["chunks"] > 0
    assert before["model"] == "hash:256@1"
    refused = reindex(client, collection="handbook", embedder="hash:1")
    assert refused["state"] == "failed"
    assert refused["error"]["type"] == "ReindexRefused"
    shown = generations(client)
    assert shown["serving"]["id"] == before["id"]
    assert shown["standby"]["report"]["refused"] is True
    evaluation = shown["standby"]["report"]["evaluation"]
    assert (evaluation["source"], evaluation["queries"]) == ("stored", len(TOPICS))
    assert evaluation["new"]["dense_ndcg_at_10"] <= evaluation["old"]["dense_ndcg_at_10"]
    assert shown["standby"]["index"]["segments"][0]["dense"]["kind"]
    forced = reindex(client, collection="handbook", embedder="hash:1", force=True)
    assert forced["state"] == "succeeded"
    now = generations(client)
    assert (now["serving"]["id"], now["standby"]["id"]) == (shown["standby"]["id"], before["id"])
    answer = client.post("/v1/retrieve", json={"query": "the notice rule"}).json()
    assert answer["snapshot"]["generation"] == now["serving"]["id"]
    client.put(
        "/v1/documents/handbook/new.md", content="The brandnew rule came later.", headers={"content-type": "text/plain"}
    )
    assert generations(client)["standby"]["gap"] == 1
    back = client.post(f"/v1/generations/{before['id']}/activate")
    assert back.status_code == 200
    assert back.json()["state"] == "serving"
    assert client.post(f"/v1/generations/{before['id']}/activate").json()["id"] == before["id"]
    answer = client.post("/v1/retrieve", json={"query": "the brandnew rule"}).json()
    assert answer["snapshot"]["generation"] == before["id"]
    assert answer["results"][0]["document"]["uri"] == "new.md"


def test_a_large_gap_is_filled_by_a_job(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(client, "gap")
    assert reindex(client, collection="gap", chunker="structure-300-1")["state"] == "succeeded"
    client.put("/v1/documents/gap/more.md", content="More.", headers={"content-type": "text/plain"})
    monkeypatch.setattr("ragsvc.rebuilding.SMALL_GAP", 0)
    old = generations(client, "gap")["standby"]
    job = client.post(f"/v1/generations/{old['id']}/activate")
    assert job.json()["kind"] == "reindex"
    assert ended(client, job)["state"] == "succeeded"
    assert generations(client, "gap")["serving"]["id"] == old["id"]


def test_wrong_wishes_are_refused_before_anything_begins(client: TestClient) -> None:
    def ask(**body: Any) -> Any:
        return client.post("/v1/jobs", json={"kind": "reindex", **body})

    problem(ask(), 422, "collection")
    problem(ask(collection="none", chunker="structure-300-1"), 404, "none")
    problem(ask(collection="handbook"), 409, "already")
    problem(ask(collection="handbook", embedder="psychic"), 422, "psychic")
    problem(ask(collection="handbook", chunker="random-1"), 422, "random-1")
    problem(ask(collection="handbook", analyzer="psychic-1"), 422, "psychic-1")
    problem(ask(collection="handbook", chunker="structure-300-1", tolerance=2), 422, "tolerance")
    problem(client.post("/v1/jobs", json={"kind": "verify", "chunker": "structure-300-1"}), 422, "chunker")
    problem(client.post("/v1/jobs", json={"kind": "verify", "collection": "handbook"}), 422, "collection")
    problem(client.post("/v1/generations/gen_none/activate"), 404, "gen_none")
    assert not [j for j in client.get("/v1/jobs?state=queued").json()["data"] if j["kind"] == "reindex"]


def test_one_reindex_of_a_collection_at_a_time(tmp_path: Path) -> None:
    with build(settings_in(tmp_path), writable=True) as service, TestClient(make_app(service), base_url=BASE) as client:
        service.ensure_collection("handbook")
        body = {"kind": "reindex", "collection": "handbook", "chunker": "structure-300-1"}
        first = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"})
        assert first.status_code == 202
        assert client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"}).json()["id"] == first.json()["id"]
        problem(client.post("/v1/jobs", json=body), 409, first.json()["id"])
        assert client.post(f"/v1/jobs/{first.json()['id']}/cancel").json()["state"] == "cancelled"
        assert client.post("/v1/jobs", json=body).status_code == 202


def test_who_may_do_which(tmp_path: Path) -> None:
    with build(settings_in(tmp_path), writable=True) as service, TestClient(make_app(service), base_url=BASE) as client:
        for name in ("mine", "theirs"):
            service.ensure_collection(name)
        theirs = service.catalog.collections.get("theirs").generation_id

        def key(*scopes: str) -> dict[str, str]:
            with service.catalog.write():
                _, secret = service.catalog.keys.create(
                    name="", scopes=scopes, principals=[], collections=["mine"], now=now_utc()
                )
            return {"authorization": f"Bearer {secret}"}

        admin, ingest, reader = key("admin"), key("ingest"), key("retrieve")
        wish = {"kind": "reindex", "chunker": "structure-300-1"}
        assert client.get("/v1/generations", headers=reader).status_code == 403
        assert client.get("/v1/collections/mine/evaluation", headers=reader).status_code == 403
        assert client.post(f"/v1/generations/{theirs}/activate", headers=ingest).status_code == 403
        assert client.post("/v1/jobs", json={**wish, "collection": "mine"}, headers=ingest).status_code == 403
        assert [g["collection"] for g in client.get("/v1/generations", headers=ingest).json()["data"]] == ["mine"]
        for call in (
            client.get("/v1/generations", params={"collection": "theirs"}, headers=admin),
            client.get("/v1/collections/theirs/evaluation", headers=admin),
            client.post(f"/v1/generations/{theirs}/activate", headers=admin),
            client.post("/v1/jobs", json={**wish, "collection": "theirs"}, headers=admin),
        ):
            assert call.status_code == 404, call.text
        mine = client.post("/v1/jobs", json={**wish, "collection": "mine"}, headers=admin).json()
        assert client.get(f"/v1/jobs/{mine['id']}", headers=ingest).status_code == 200
        other = client.post("/v1/jobs", json={"kind": "verify"}, headers=admin).json()
        assert client.get(f"/v1/jobs/{other['id']}", headers=ingest).status_code == 404


def test_a_reader_shows_the_serving_index_alone(tmp_path: Path) -> None:
    with running(tmp_path) as (service, client):
        fill(client, "handbook")
        assert reindex(client, collection="handbook", chunker="structure-300-1")["state"] == "succeeded"
        settings = service.settings
        with build(settings, writable=False) as reader, TestClient(make_app(reader), base_url=BASE) as other:
            shown = generations(other)
            assert shown["serving"]["index"]["chunks"] > 0
            assert shown["standby"]["index"]["error"]
            assert shown["standby"]["index"]["segments"] == []
            back = other.post(f"/v1/generations/{shown['standby']['id']}/activate")  # any process may switch
            assert back.status_code == 200
            answer = client.post("/v1/retrieve", json={"query": "the badge rule"}).json()
            assert answer["snapshot"]["generation"] == shown["standby"]["id"]
