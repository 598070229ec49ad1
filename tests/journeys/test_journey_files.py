"""The journeys of content owners and callers, against real server processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingest.pipeline import now_utc
from ragsvc.bootstrap import build
from tests.contracts.embedder import installed_minilm
from tests.contracts.installation import HASH, Server, process, server, settings_in, until

pytestmark = [pytest.mark.journey, pytest.mark.slow]

V1 = "# Handbook\n\n## Notice\n\nThe notice period is four weeks to a month's end.\n\n## Lunch\n\nLunch is at noon.\n"
V2 = V1.replace("four weeks", "six weeks")
QUESTION = "How long is the notice period?"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of installed models that all data folders share."""
    return installed_minilm(tmp_path_factory)


@pytest.fixture
def data(tmp_path: Path, models: Path) -> Path:
    """A data folder with the default model in it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "models").symlink_to(models, target_is_directory=True)
    return folder


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


@dataclass
class Caller:
    """What a program that uses the service does, and what it keeps: every citation that it was ever given."""

    client: httpx.Client
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def get(self, path: str, **params: Any) -> Any:
        response = self.client.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def ask(self, query: str = QUESTION, **more: Any) -> list[dict[str, Any]]:
        response = self.client.post("/v1/retrieve", json={"query": query, "on_insufficient": "return", **more})
        assert response.status_code == 200, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        self.kept.update({result["id"]: result for result in results})
        return results

    def says(self, what: str) -> dict[str, Any] | None:
        """The result that says this, if the best answers do."""
        return next((result for result in self.ask() if what in result["text"]), None)

    def add(self, folder: Path, **more: Any) -> dict[str, Any]:
        body = {"collection": "handbook", "uri": folder.as_uri(), "watch": True, "options": {"settle_s": 0.2}, **more}
        response = self.client.post("/v1/sources", json=body)
        assert response.status_code == 201, response.text
        return dict(response.json())

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.get("/v1/jobs")["data"])

    def check_citations(self) -> dict[str, str]:
        """Each citation resolves to the same quote, byte for byte that of its version's text; id -> status."""
        statuses = {}
        for name, given in self.kept.items():
            found = self.get(f"/v1/citations/{name}")
            text = self.client.get(f"/v1/versions/{found['version']['id']}/text").text
            joined = " ... ".join(text[span["char_start"] : span["char_end"]] for span in found["spans"])
            assert joined == found["quote"] == given["citation"]["quote"]
            assert found["quote_sha256"] == given["citation"]["quote_sha256"]
            assert found["version"]["id"] == given["version"]["id"]
            assert found["spans"] == given["location"]["spans"]
            statuses[name] = found["freshness"]["status"]
        return statuses


@contextmanager
def calling(running: Server, kept: dict[str, dict[str, Any]] | None = None, **headers: str) -> Iterator[Caller]:
    """A caller of a server, with what it kept from before."""
    with running.client(headers=headers) as client:
        yield Caller(client, dict(kept or {}))


def gist(results: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    return [(result["id"], result["text"], round(result["score"], 5)) for result in results]


def test_a_file_from_drop_to_deletion(data: Path, docs: Path) -> None:
    """Drop -> cited -> edit -> cited anew, the old one by as_of -> rename -> delete -> gone, still resolvable."""
    with server(data) as running, calling(running) as caller:
        caller.add(docs)

        (docs / "handbook.md").write_text(V1)
        first = until(lambda: caller.says("four weeks"))
        assert first["document"]["uri"] == (docs / "handbook.md").as_uri()
        assert first["location"]["heading_path"] == ["Handbook", "Notice"]
        assert (first["version"]["ordinal"], first["freshness"]["status"]) == (1, "fresh")
        assert set(caller.check_citations().values()) == {"fresh"}

        (docs / "handbook.md").write_text(V2)
        second = until(lambda: caller.says("six weeks"))
        assert second["document"]["id"] == first["document"]["id"]
        assert (second["version"]["ordinal"], second["version"]["is_current"]) == (2, True)
        assert caller.says("four weeks") is None
        (old, *_) = caller.ask(as_of=first["version"]["valid_from"])
        assert "four weeks" in old["text"]
        assert old["version"]["id"] == first["version"]["id"]
        assert old["freshness"]["status"] == "superseded"
        assert caller.check_citations()[first["id"]] == "superseded"

        known = {job["id"] for job in caller.jobs()}
        (docs / "handbook.md").rename(docs / "staff-handbook.md")
        moved = until(
            lambda: (r := caller.says("six weeks")) and r["document"]["uri"].endswith("staff-handbook.md") and r
        )
        assert moved["document"]["id"] == first["document"]["id"]
        assert moved["version"]["id"] == second["version"]["id"]
        until(lambda: all(job["state"] == "succeeded" for job in caller.jobs()))
        since = [job for job in caller.jobs() if job["id"] not in known]
        assert since
        assert {job["progress"].get("embedded", 0) for job in since} == {0}
        assert sum(job["counts"]["new"] + job["counts"]["deleted"] for job in since) == 0
        versions = caller.get(f"/v1/documents/{first['document']['id']}/versions")["data"]
        assert [version["ordinal"] for version in versions] == [1, 2]
        diff = caller.get(f"/v1/versions/{versions[0]['id']}/diff/{versions[1]['id']}")
        assert (diff["added"], diff["removed"]) == (1, 1)
        caller.check_citations()

        (docs / "staff-handbook.md").unlink()
        began = time.monotonic()
        until(lambda: not caller.ask())
        assert time.monotonic() - began < 5
        statuses = caller.check_citations()
        assert set(statuses) >= {first["id"], second["id"]}
        assert set(statuses.values()) == {"deleted_at_source"}
        changes = caller.get("/v1/changes", collection="handbook")["data"]
        assert [change["kind"] for change in changes if change["kind"] != "describe"] == [
            "put",
            "close",
            "put",
            "close",
        ]


def test_two_processes_one_installation(tmp_path: Path, docs: Path) -> None:
    """`work` ingests, `serve` answers: what was edited is seen through the other process at once."""
    data = tmp_path / "data"
    with process(data, "work", ready="working", RAGSVC_EMBEDDER=HASH) as (worker, _):
        with server(data, "serve", RAGSVC_EMBEDDER=HASH) as running, calling(running) as caller:
            (docs / "handbook.md").write_text(V1)
            caller.add(docs)
            until(lambda: caller.says("four weeks"))
            (docs / "handbook.md").write_text(V2)
            until(lambda: caller.says("six weeks"))
            assert caller.says("four weeks") is None
            pushed = caller.client.put("/v1/documents/pushed/a.md", content="Tea is at four.")
            assert pushed.status_code == 201
            assert [r["text"] for r in caller.ask("tea", collections=["pushed"])] == ["Tea is at four."]
            caller.check_citations()
            assert running.stop() == 0
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0


def test_a_key_sees_its_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with server(data, RAGSVC_EMBEDDER=HASH) as running, calling(running) as owner:
        for name, text in (("ann", "Ann's salary is xylophone."), ("bob", "Bob's salary is zeppelin.")):
            params = {"access": f"user:{name}"}
            assert owner.client.put(f"/v1/documents/pay/{name}.md", content=text, params=params).status_code == 201
        assert len(owner.ask("salary")) == 2
        with build(settings_in(data), writable=False) as beside:  # as `ragsvc keys create` does, in another process
            key, secret = beside.catalog.keys.create(
                name="", scopes=["retrieve"], principals=["user:ann"], now=now_utc()
            )
        assert owner.client.post("/v1/retrieve", json={"query": "salary"}).status_code == 401
        with calling(running, Authorization=f"Bearer {secret}") as ann:
            results = ann.ask("salary zeppelin")
            assert [result["text"] for result in results] == ["Ann's salary is xylophone."]
            (theirs,) = [name for name, given in owner.kept.items() if "zeppelin" in given["text"]]
            assert ann.client.get(f"/v1/citations/{theirs}").status_code == 404
            assert ann.client.get(f"/v1/citations/{results[0]['id']}").status_code == 200
            assert ann.client.put("/v1/documents/pay/x.md", content="x").status_code == 403
            with build(settings_in(data), writable=False) as beside:
                beside.catalog.keys.revoke(key.id, now=now_utc())
            assert ann.client.post("/v1/retrieve", json={"query": "salary"}).status_code == 401


def test_killed_restarted_and_without_its_indexes(tmp_path: Path, docs: Path) -> None:
    """kill -9, then all index files lost: the same answers and citations each time, and nothing is embedded again."""
    data = tmp_path / "data"
    for number in range(8):
        (docs / f"{number}.md").write_text(f"# Rule {number}\n\nRule {number} is about topic {number * 7}.\n")
    (docs / "handbook.md").write_text(V1)
    questions = [QUESTION, "When is lunch?", "topic 7", "topic 42"]

    def everything(caller: Caller) -> list[list[tuple[str, str, float]]]:
        return [gist(caller.ask(question)) for question in questions]

    with server(data, RAGSVC_EMBEDDER=HASH) as running, calling(running) as caller:
        source = caller.add(docs, watch=False, options={"settle_s": 0})
        until(lambda: caller.get(f"/v1/sources/{source['id']}")["state"]["documents"] == 9)
        until(lambda: all(job["state"] == "succeeded" for job in caller.jobs()))
        before = everything(caller)
        kept = dict(caller.kept)
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    with server(data, RAGSVC_EMBEDDER=HASH) as running, calling(running, kept) as caller:
        assert everything(caller) == before
        assert set(caller.check_citations().values()) == {"fresh"}
        assert running.stop() == 0
    assert any(path.is_file() for path in (data / "indexes").rglob("*"))
    shutil.rmtree(data / "indexes")
    with server(data, RAGSVC_EMBEDDER=HASH) as running, calling(running, kept) as caller:
        assert everything(caller) == before
        assert caller.client.post(f"/v1/sources/{source['id']}/sync").status_code == 202
        until(lambda: all(job["state"] == "succeeded" for job in caller.jobs()))
        assert caller.jobs()[0]["progress"]["embedded"] == 0
        assert caller.jobs()[0]["counts"]["unchanged"] == 9
        assert running.stop() == 0
    with build(settings_in(data), writable=False) as service:
        assert [p for g in service.catalog.collections.generations() for p in service.follower.check(g)] == []


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Every child that a test started has ended."""
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
