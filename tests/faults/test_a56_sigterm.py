"""SIGTERM with requests and a job in flight: what was begun is answered, what was acknowledged is there afterwards."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contracts.installation import HASH, server, until

pytestmark = pytest.mark.slow
FILES = 120
DRAIN_S = 10.0


def test_a56_sigterm_drains_and_loses_nothing(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(FILES):
        (docs / f"{number}.md").write_text(f"# File {number}\n\n" + f"Sentence {number} of many. " * 20)
    data = tmp_path / "data"
    acknowledged: dict[str, str] = {}
    complete, broken, stop = [0], [0], threading.Event()

    def push(url: str, name: str) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            for number in range(10_000):
                if stop.is_set():
                    return
                uri, text = f"{name}-{number}.txt", f"Pushed {name} number {number}."
                try:
                    response = client.put(f"/v1/documents/pushed/{uri}", content=text)
                except httpx.TransportError:
                    return  # refused or closed before an answer began: nothing was acknowledged
                if response.is_success:
                    assert response.json()["version"]["characters"] > 0
                    acknowledged[uri] = text

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                try:
                    response = client.post("/v1/retrieve", json={"query": "sentence of many"})
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                    if "without sending" not in str(error) and not isinstance(error, httpx.ConnectError):
                        broken[0] += isinstance(error, httpx.RemoteProtocolError)
                    return
                assert response.status_code in (200, 503)
                response.json()  # whole
                complete[0] += 1

    with server(data, RAGSVC_EMBEDDER=HASH) as running:
        with running.client() as client:
            body: dict[str, Any] = {"collection": "files", "uri": docs.as_uri(), "options": {"settle_s": 0}}
            source = client.post("/v1/sources", json=body).json()
            until(lambda: client.get("/v1/documents", params={"collection": "files"}).json()["data"])
        threads = [threading.Thread(target=push, args=(running.url, name)) for name in ("a", "b")]
        threads += [threading.Thread(target=ask, args=(running.url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) >= 4 and complete[0] >= 4)
        began = time.monotonic()
        assert running.stop(signal.SIGTERM) == 0, "".join(running.lines)
        took = time.monotonic() - began
        stop.set()
        for thread in threads:
            thread.join(10)
    assert took <= DRAIN_S
    assert broken[0] == 0
    assert "Traceback" not in "".join(running.lines)

    with server(data, RAGSVC_EMBEDDER=HASH) as running, running.client() as client:
        for uri, text in acknowledged.items():
            document = client.get(f"/v1/documents/pushed/{uri}").json()
            assert document["deleted_at"] is None
            assert client.get(f"/v1/versions/{document['current']['id']}/text").text.strip() == text
        # the job that was interrupted goes on by itself
        until(lambda: client.get(f"/v1/sources/{source['id']}").json()["state"]["documents"] == FILES, timeout_s=60)
        until(lambda: not client.get("/v1/jobs?state=running").json()["data"])
        jobs = client.get("/v1/jobs", params={"source": source["id"]}).json()["data"]
        assert {job["state"] for job in jobs} == {"succeeded"}
        began = time.monotonic()
        assert running.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 5, "with nothing in flight it ends at once"
