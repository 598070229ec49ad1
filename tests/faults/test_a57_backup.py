"""Online backup under load, restored elsewhere: all that was acknowledged before is there, nothing torn, all sound."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ingest.backup import back_up, restore
from ingest.pipeline import now_utc
from ragsvc import __version__
from ragsvc.bootstrap import Backstage, build
from tests.contracts.installation import HASH, ragsvc, server, settings_in, until, workshop


@dataclass
class Load:
    """Clients that push, edit and delete documents, and ask, all the time; and what was acknowledged to them."""

    url: str
    acknowledged: dict[str, str | None] = field(default_factory=dict)
    answers: int = 0
    slowest_s: float = 0.0
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def push(self, name: str) -> None:
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            count = 0
            while not self.stop.is_set():
                uri, text = f"{name}-{count % 7}.txt", f"Words of {name}, number {count}."
                if count % 11 == 10:
                    self.expect(client.delete(f"/v1/documents/pushed/{uri}"), 204)
                    self.acknowledged[uri] = None
                else:
                    self.expect(client.put(f"/v1/documents/pushed/{uri}", content=text), 200, 201)
                    self.acknowledged[uri] = text
                if count % 3 == 0:  # these wait in the blob store
                    later = {"prefer": "respond-async"}
                    self.expect(client.put(f"/v1/documents/pushed/late-{name}.txt", content=text, headers=later), 202)
                count += 1

    def ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            while not self.stop.is_set():
                began = time.monotonic()
                self.expect(client.post("/v1/retrieve", json={"query": "words of a", "mode": "lexical"}), 200)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.answers += 1

    def expect(self, response: httpx.Response, *statuses: int) -> None:
        if response.status_code not in statuses:
            self.failed.append(f"{response.status_code}: {response.text[:200]}")

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.push, args=(name,)) for name in ("a", "b")]
        threads += [threading.Thread(target=self.ask)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(60)


def numbers(text: str | None) -> int:
    return -1 if text is None else int(text.rstrip(".\n").rsplit(" ", 1)[1])


def holds(data: Path, before: dict[str, str | None], after: dict[str, str | None]) -> None:
    """The restored installation is sound, and each document is as it was acknowledged, or as changed meanwhile."""
    with build(settings_in(data, embedder=HASH), writable=False) as service:
        assert service.catalog.integrity() == ()
        for generation in service.catalog.collections.generations():
            assert service.follower.check(generation) == ()
        source = service.catalog.sources.push_source(service.catalog.collections.get("pushed").id, now=now_utc())
        for uri, text in before.items():
            document = service.catalog.documents.find(source.id, uri)
            if document is None or document.deleted_at is not None:
                assert text is None or text != after[uri], f"{uri} is missing"
                continue
            assert document.current_version_id is not None
            found = service.catalog.documents.text(document.current_version_id).text
            assert numbers(found) >= numbers(text), f"{uri}: {found!r} is older than {text!r}"
        for name in ("a", "b"):
            push = service.catalog.sources.get_push(source.id, f"late-{name}.txt")
            assert push is None or service.blobs.get(push.blob_sha256)


def save(data: Path, dest: Path) -> None:
    """What `ragsvc backup` does, in this process: another one than the server's."""
    with build(settings_in(data, embedder=HASH), writable=False) as service:
        assert back_up(service.catalog, data, dest, release=__version__, now=now_utc()).left_out == ()


def save_and_restore(load: Load, data: Path, times: int, folder: Path) -> list[dict[str, Any]]:
    """Each time: what was acknowledged before, and what a client noticed meanwhile."""
    figures = []
    for number in range(times):
        saved, other = folder / f"saved{number}", folder / f"data{number}"
        until(lambda: load.answers and load.acknowledged)
        before, answers, load.slowest_s, began = dict(load.acknowledged), load.answers, 0.0, time.monotonic()
        save(data, saved)
        seconds, slowest = time.monotonic() - began, load.slowest_s
        assert load.answers > answers, "questions were answered meanwhile"
        after = dict(load.acknowledged)
        made = restore(saved, other)
        holds(other, before, after)
        figures.append({"seconds": round(seconds, 2), "bytes": made.size, "slowest_s": round(slowest, 3)})
    assert not load.failed, load.failed[:3]
    return figures


@pytest.mark.acceptance
def test_a57_online_backup_under_load(tmp_path: Path) -> None:
    with server(tmp_path / "data", RAGSVC_EMBEDDER=HASH) as running:
        load = Load(running.url)
        with load.running():
            save_and_restore(load, tmp_path / "data", 2, tmp_path)
    with build(settings_in(tmp_path / "data1", embedder=HASH), writable=True) as service:
        backstage = Backstage(service)  # what waited to be ingested when the backup was made is ingested now
        backstage.start()
        until(lambda: {job.state for job in service.catalog.jobs.page(limit=500)[0]} == {"succeeded"}, timeout_s=60)
        backstage.stop()
        assert service.catalog.dead_letters.page(limit=9)[0] == ()


# ---------------------------------------------------------------- N: ten times, and 100,000 chunks

EACH = 100


def fill(data: Path, chunks: int) -> int:
    """At least so many chunks with vectors as wide as the default model's."""
    chance = random.Random(1)
    words = [f"word{number}" for number in range(5_000)]
    with workshop(data, embedder="hash:384") as shop:
        generation = shop.service.catalog.collections.generation(shop.service.ensure_collection("bulk").generation_id)
        held = 0
        for number in itertools.count():
            lines = [" ".join(chance.choices(words, k=75)) + "." for _ in range(EACH)]
            shop.push(f"{number}.md", f"# Text {number}\n\n" + "\n\n".join(lines), collection="bulk")
            if number % 50 == 49:
                shop.service.follower.maintain()
                held = sum(1 for _ in shop.service.follower.pin(generation.id).scan())
                if held >= chunks:
                    return held
    raise AssertionError


@pytest.mark.soak
def test_a57_ten_backups_under_load(tmp_path: Path) -> None:
    with server(tmp_path / "data", RAGSVC_EMBEDDER=HASH) as running:
        load = Load(running.url)
        with load.running():
            figures = save_and_restore(load, tmp_path / "data", 10, tmp_path)
    print(json.dumps(figures))


@pytest.mark.soak
def test_a57_100000_chunks_are_back_within_a_minute(tmp_path: Path) -> None:
    held = fill(tmp_path / "data", 100_000)
    with server(tmp_path / "data", RAGSVC_EMBEDDER="hash:384") as running:
        load = Load(running.url)
        with load.running():
            until(lambda: load.answers)
            saved = ragsvc(tmp_path / "data", "backup", str(tmp_path / "saved"), "--json", timeout_s=300)
            assert saved.returncode == 0, saved.stderr
        assert not load.failed, load.failed[:3]
    made = json.loads(saved.stdout)
    began = time.monotonic()
    restored = ragsvc(tmp_path / "other", "restore", str(tmp_path / "saved"), "--json", timeout_s=300)
    assert restored.returncode == 0, restored.stderr
    with server(tmp_path / "other", RAGSVC_EMBEDDER="hash:384") as again, again.client() as client:
        answer = client.post("/v1/retrieve", json={"query": "word17 word18", "on_insufficient": "return"}).json()
        rto = time.monotonic() - began
    assert answer["results"]
    figures = {"chunks": held, "bytes": made["bytes"], "backup_s": made["seconds"], "slowest_answer_s": load.slowest_s}
    print(json.dumps({**figures, "restore_s": json.loads(restored.stdout)["seconds"], "rto_s": rto}))
    verified = ragsvc(tmp_path / "other", "verify", RAGSVC_EMBEDDER="hash:384", timeout_s=600)
    assert verified.returncode == 0, verified.stderr
    assert rto <= 60
