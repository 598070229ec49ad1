"""Number 14: the disk is full, or fails. Nothing acknowledged is lost, reading goes on, writing says what to do.

A full disk is waited for; a sync that failed is not tried again, and stops all writing until the service is restarted.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexes import durable
from indexes.errors import DiskFull
from tests.contracts.installation import HASH, Server, Workshop, ragsvc, server, until, workshop
from tests.contracts.killable import Killable
from tests.faults.ingest_churn import NAMES, State, account, on_disk

DISK_BYTES = 24 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", place], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr!r}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that leaves so many bytes of a disk free."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    os.truncate(filler, max(filler.stat().st_size - leave, 0))
    return filler


def leftovers(data: Path) -> list[Path]:
    return [path for path in data.rglob("*") if path.name.startswith(durable.ASIDE)]


def words(name: str, sentences: int = 300) -> str:
    told = (f"Sentence {number} tells about {name} and {number * 7}." for number in range(sentences))
    return f"# About {name}\n\n" + "\n\n".join(told)


def put(client: httpx.Client, name: str, **headers: str) -> httpx.Response:
    return client.put(
        f"/v1/documents/pushed/{name}.md", content=words(name), headers={"content-type": "text/markdown", **headers}
    )


def served(client: httpx.Client, name: str, collection: str = "pushed") -> bool:
    response = client.post("/v1/retrieve", json={"query": f"Sentence about {name}", "collections": [collection]})
    assert response.status_code == 200, response.text
    return any(name in result["text"] for result in response.json()["results"])


def refused(response: httpx.Response, *kinds: str) -> None:
    """It is a problem document of one of these kinds, with the status that goes with it and what to do."""
    problem = response.json()
    kind = problem["type"].removeprefix("urn:ragsvc:error:")
    assert kind in kinds, problem
    assert response.status_code == {"DiskFull": 507}.get(kind, 503)
    assert response.headers["content-type"] == "application/problem+json"
    assert {"DiskFull": "Free some space", "StorageHalted": "restart"}.get(kind, "") in problem["hint"]


# ---------------------------------------------------------------- full


@pytest.mark.root
@pytest.mark.acceptance
def test_a14_disk_full_is_told_and_waited_for(small_disk: Path, tmp_path: Path) -> None:
    data, docs = small_disk / "data", tmp_path / "docs"
    docs.mkdir()
    (docs / "early.md").write_text(words("early"))
    with server(data, RAGSVC_EMBEDDER=HASH) as running, running.client() as client:
        body: dict[str, Any] = {
            "collection": "files",
            "uri": docs.as_uri(),
            "watch": True,
            "schedule": None,
            "options": {"settle_s": 0},
        }
        client.post("/v1/sources", json=body).raise_for_status()
        until(lambda: served(client, "early", "files"))
        assert put(client, "first").status_code == 201
        assert put(client, "victim").status_code == 201
        filler = fill(small_disk, leave=1 << 20)
        promised = ["first"]
        for number in range(200):
            response = put(client, f"word{number}", prefer="respond-async")
            if response.is_error:
                break
            promised.append(f"word{number}")
        refused(response, "DiskFull", "StorageFailed")
        fill(small_disk)
        gone = False
        for _ in range(3):
            refused(put(client, "refused"), "DiskFull", "StorageFailed")
            if not gone:  # a deletion may still find room in the log that SQLite keeps
                response = client.delete("/v1/documents/pushed/victim.md")
                gone = response.status_code == 204
                if not gone:
                    refused(response, "DiskFull", "StorageFailed")
            assert served(client, "victim") is not gone
            assert served(client, "first")
            assert served(client, "early", "files")
        (docs / "late.md").write_text(words("late"))
        time.sleep(2)
        assert client.get("/readyz").status_code == 200, "it can answer"
        assert not served(client, "late", "files")
        filler.unlink()
        until(lambda: served(client, "late", "files"), timeout_s=30)  # nobody did anything about it
        for name in promised:
            until(lambda name=name: served(client, name), timeout_s=30)
        assert client.get("/v1/jobs", params={"state": "failed"}).json()["data"] == []
        assert put(client, "after").status_code == 201
        until(lambda: leftovers(data) == [])
        assert running.stop() == 0, "".join(running.lines)
    checked = ragsvc(data, "verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def found(shop: Workshop, names: list[str]) -> list[str]:
    return [name for name in names if shop.ask(f"Sentence about {name}").results]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("work", ["publish", "merge", "rebuild"])
def test_a14_disk_full_while_segments_are_written(small_disk: Path, work: str) -> None:
    """At each size of the free space the same: refused, nothing left behind, all is found; then it goes on."""
    names, refusals = [], 0
    with workshop(small_disk / "data") as shop:
        follower = shop.service.follower
        for number in range(3):
            names.append(f"name{number}")
            shop.push(f"{number}.md", words(names[-1], 100))
            if work == "merge":
                follower.publish()
        names.append("name3")
        shop.push("3.md", words("name3", 100))
        (generation,) = shop.service.catalog.collections.generations()
        write = (lambda: follower.rebuild(generation)) if work == "rebuild" else follower.publish
        for leave in (0, 8 << 10, 64 << 10, 128 << 10, 256 << 10):
            filler, free = fill(small_disk, leave=leave), []
            for _ in range(3):
                with contextlib.suppress(DiskFull):
                    write()
                    break
                free.append(shutil.disk_usage(small_disk).free)
                assert leftovers(small_disk / "data") == []
                assert found(shop, names) == names
            refusals += len(free)
            # The first may publish and then have no room to merge: that is no leftover.
            assert len(free) < 3 or free[2] >= free[1], "each try fills the disk further"
            filler.unlink()
        assert refusals >= 6
        follower.publish()
        assert follower.check(generation) == ()
        assert found(shop, names) == names


# ---------------------------------------------------------------- broken


@pytest.fixture(scope="module")
def broken_disk(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, str]:
    """The environment of a process whose disk fails while the file BROKEN_DISK is there."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to build a disk that fails")
    folder = tmp_path_factory.mktemp("broken")
    library, source = folder / "broken_disk.so", root / "tests" / "faults" / "broken_disk.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "BROKEN_DISK": str(folder / "control")}


def until_halted(running: Server, client: httpx.Client) -> dict[str, Any]:
    def halted() -> list[dict[str, Any]]:
        problems = client.get("/readyz").json()["problems"]
        return [problem for problem in problems if problem["part"] == "storage"]

    (problem,) = until(halted, timeout_s=20)
    return problem


@pytest.mark.acceptance
@pytest.mark.parametrize("part", ["/blobs/", "/catalog.db-wal", "/indexes/"])
def test_a14_disk_full_or_not_a_failed_fsync_stops_writes(
    tmp_path: Path, broken_disk: dict[str, str], part: str
) -> None:
    control = Path(broken_disk["BROKEN_DISK"])
    with server(tmp_path, RAGSVC_EMBEDDER=HASH, **broken_disk) as running, running.client() as client:
        assert put(client, "before").status_code == 201
        try:
            control.write_text(f"0 0 100 {part}")
            response = put(client, "during")
            if part == "/indexes/":  # it is committed; to publish it fails
                assert response.status_code == 201
            else:
                refused(response, "StorageHalted")
            problem = until_halted(running, client)
        finally:
            control.unlink()
        assert "restart" in problem["hint"]
        for _ in range(2):  # the disk is well again: too late
            refused(put(client, "after"), "StorageHalted")
            refused(client.delete("/v1/documents/pushed/before.md"), "StorageHalted")
            assert served(client, "before")
        assert running.stop() == 0, "".join(running.lines)
    with server(tmp_path, RAGSVC_EMBEDDER=HASH) as running, running.client() as client:
        assert served(client, "before")
        assert served(client, "during") or part != "/indexes/"
        assert not served(client, "after"), "what was refused came true"
        assert put(client, "after").status_code == 201
        assert client.get("/readyz").status_code == 200
    checked = ragsvc(tmp_path, "verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.soak
def test_a14_disk_that_fails_at_random(tmp_path: Path, root: Path, broken_disk: dict[str, str]) -> None:
    """A tenth of all writes find no space, a twentieth fails, and now and then a sync does, for sixty processes."""
    docs, data, control = tmp_path / "docs", tmp_path / "data", Path(broken_disk["BROKEN_DISK"])
    docs.mkdir()
    data.mkdir()
    ok = Killable("tests.faults.ingest_churn", root)
    chooser = random.Random(4)
    acked: State = dict.fromkeys(NAMES)
    step, acks = 1, 0
    with ok, Killable("tests.faults.ingest_churn", root, **broken_disk) as worker:
        for number in range(60):
            in_flight = on_disk(docs)
            worker.begin(what="churn", folder=str(data), docs=str(docs), seed=number, first=step)
            lines = [worker.line() for _ in range(2)]
            control.write_text(f"10 5 {chooser.choice([0, 0, 1, 5])} {data}")
            time.sleep(chooser.uniform(0.1, 2))
            control.unlink()
            lines += worker.kill()
            acked, in_flight, more, steps = account(lines, acked, in_flight)
            acks, step = acks + more, step + steps
            ok.begin(what="look", folder=str(data), docs=str(docs), acked=acked, in_flight=in_flight)
            assert ok.rest()[1] == 0, "see the traceback below"
    assert acks >= 60
