"""The journey of an operator: saved while it runs, lost, brought back, and nobody who kept a citation notices."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.contracts.installation import HASH, ragsvc, server

pytestmark = [pytest.mark.journey, pytest.mark.slow]
V1 = "# Handbook\n\nThe notice period is four weeks to a month's end.\n"
QUESTION = {"query": "How long is the notice period?", "on_insufficient": "return"}


def test_saved_lost_and_restored(tmp_path: Path) -> None:
    data, saved = tmp_path / "data", tmp_path / "monday"
    with server(data, RAGSVC_EMBEDDER=HASH) as running, running.client() as client:
        client.put("/v1/documents/handbook/staff.md", content=V1).raise_for_status()
        client.put("/v1/documents/handbook/staff.md", content=V1.replace("four", "six")).raise_for_status()
        (before, *_) = client.post("/v1/retrieve", json=QUESTION).json()["results"]
        assert "six weeks" in before["text"]
        done = ragsvc(data, "backup", str(saved), RAGSVC_EMBEDDER=HASH)
        assert done.returncode == 0, done.stderr
        assert "saved in" in done.stdout
        running.stop(signal.SIGKILL)
    shutil.rmtree(data)
    done = ragsvc(data, "restore", str(saved))
    assert done.returncode == 0, done.stderr
    with server(data, "up", "--workers", "2", RAGSVC_EMBEDDER=HASH) as running, running.client() as client:
        (after, *_) = client.post("/v1/retrieve", json=QUESTION).json()["results"]
        assert (after["id"], after["text"], after["score"]) == (before["id"], before["text"], before["score"])
        cited = client.get(f"/v1/citations/{before['id']}").json()
        assert cited["quote"] == before["citation"]["quote"]
        history = client.get(f"/v1/documents/{before['document']['id']}/versions").json()["data"]
        assert [version["ordinal"] for version in history] == [1, 2]
        client.put("/v1/documents/handbook/staff.md", content=V1.replace("four", "eight")).raise_for_status()
        assert "eight weeks" in client.post("/v1/retrieve", json=QUESTION).json()["context"]
