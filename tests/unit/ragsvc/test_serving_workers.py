"""Several reading processes: one address, one count of requests, an orderly end, and none that is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ragsvc import workers
from ragsvc.app import make_app
from ragsvc.bootstrap import Service, build
from ragsvc.errors import ReaderFailed, Unsafe
from ragsvc.serving import SharedServer, listen
from ragsvc.settings import load
from ragsvc.workers import Readers, serve_many
from tests.contracts.installation import HASH, Server, ragsvc, server, settings_in, until

pytestmark = pytest.mark.slow


def children(server: Server) -> set[int]:
    """The reading processes, not the parser's jail."""
    found = set()
    for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that ended in this moment
            if b"ragsvc.reader" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(int(pid))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ask(client: httpx.Client, query: str) -> str:
    response = client.post("/v1/retrieve", json={"query": query, "on_insufficient": "return", "mode": "lexical"})
    assert response.status_code == 200, response.text
    return str(response.json()["context"])


def counted(client: httpx.Client) -> dict[tuple[str, str], float]:
    """(route, status) -> requests that /metrics knows."""
    body = client.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(body) for s in family.samples]
    return {(s.labels["route"], s.labels["status"]): s.value for s in samples if s.name == "ragsvc_requests_total"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers") / "data"


@pytest.fixture(scope="module")
def two(data: Path) -> Iterator[Server]:
    """One process that ingests, and two that answer."""
    with server(data, "up", "--workers", "2", RAGSVC_EMBEDDER=HASH) as running:
        yield running


def test_what_one_acknowledges_all_others_find_and_no_count_is_lost(two: Server) -> None:
    assert len(children(two)) == 2
    clients = [two.client() for _ in range(12)]  # connections stay with the process that took them
    try:
        before = [counted(client).get(("/v1/retrieve", "200"), 0.0) for client in clients]
        assert len(set(before)) == 1, "whichever process is asked, the count is of all"
        for number in range(15):
            writer = clients[number % 12]
            put = writer.put("/v1/documents/notes/a.md", content=f"# A\n\nThe word of the day is zulu{number}.")
            assert put.status_code in (200, 201), put.text
            for client in clients:
                assert f"zulu{number}." in ask(client, f"word of the day zulu{number}")
        assert clients[3].delete("/v1/documents/notes/a.md").status_code == 204
        for client in clients:
            assert "zulu" not in ask(client, "word of the day")
        after = {counted(client)[("/v1/retrieve", "200")] for client in clients}
        assert after == {before[0] + 16 * 12}
        assert sum(n for (route, _), n in counted(clients[0]).items() if route.startswith("/v1/documents")) == 16
    finally:
        for client in clients:
            client.close()


def test_a_process_takes_one_connection_and_leaves_the_next_to_others(tmp_path: Path) -> None:
    """asyncio would take all that wait at once; and the kernel goes on to queue as many as before."""
    said: list[str] = []

    async def one_turn(service: Service, listener: socket.socket) -> int:
        server = SharedServer(make_app(service), accepting=lambda: said.append("ready"))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([listener])
        clients = [socket.create_connection(listener.getsockname(), timeout=5) for _ in range(20)]
        for _ in range(2):  # the loop hears of them, then takes what it takes
            await asyncio.sleep(0)
        others = list[socket.socket]()
        with contextlib.suppress(BlockingIOError):  # another process
            while True:
                others.append(listener.accept()[0])
        for one in (*others, *clients):
            one.close()
        await asyncio.sleep(0.2)  # what it took is a connection by now, and has ended
        await server.shutdown([listener])
        await asyncio.sleep(0)  # transports close one turn later
        return len(others)

    with build(settings_in(tmp_path), writable=False) as service, listen("127.0.0.1", 0) as listener:
        assert asyncio.run(one_turn(service, listener)) >= 18
    assert said == ["ready"]


def test_one_that_dies_is_replaced_and_its_count_is_kept(two: Server) -> None:
    with two.client() as client:
        before = counted(client)[("/v1/retrieve", "200")]
    old = children(two)
    victim = min(old)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not alive(victim))
    for _ in range(20):  # nobody is turned away meanwhile
        with two.client() as client:
            assert client.get("/healthz").status_code == 200
    until(lambda: len(children(two) - {victim}) == 2, timeout_s=30)
    assert len(children(two) - old) == 1
    with two.client() as client:
        assert counted(client)[("/v1/retrieve", "200")] == before
    assert any(f"reading process {victim} ended (-9)" in line for line in two.lines)


def test_the_end_is_orderly(two: Server, data: Path) -> None:
    """What was begun is answered, the exit status is 0, nothing is left: `serve`, beside an `up`."""
    with two.client() as client:
        client.put("/v1/documents/notes/end.md", content="# End\n\nOmega.").raise_for_status()
    with server(data, "serve", "--workers", "2", RAGSVC_EMBEDDER=HASH) as readers:
        pids = children(readers)
        answered, broken, stop = [0], list[str](), threading.Event()

        def ask_on() -> None:
            with readers.client() as client:
                while not stop.is_set():
                    try:
                        assert "Omega" in ask(client, "omega")
                        answered[0] += 1
                    except httpx.RemoteProtocolError as error:
                        broken.extend([] if "without sending" in str(error) else [str(error)])
                        return
                    except httpx.TransportError:
                        return  # refused or closed before an answer began

        threads = [threading.Thread(target=ask_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: answered[0] > 20)
        began = time.monotonic()
        assert readers.stop(signal.SIGTERM) == 0, "".join(readers.lines)
        assert time.monotonic() - began < 10
        stop.set()
        for thread in threads:
            thread.join(10)
        assert not broken
        assert len(pids) == 2
        assert not [pid for pid in pids if alive(pid)]
        assert not [line[-3000:] for line in readers.lines if "Traceback" in line]
    with two.client() as client:
        assert "Omega" in ask(client, "omega")


def test_the_rules_of_one_process_hold_for_several(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, host="0.0.0.0", port=0, serve_workers=2)
    with build(settings, writable=False) as service, pytest.raises(Unsafe, match="without an API key"):
        serve_many(service)
    assert ragsvc(tmp_path, "serve", "--workers", "0").returncode == 2


def test_one_that_cannot_begin_is_said_and_the_others_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen("127.0.0.1", 0) as listener:
        monkeypatch.setattr(workers, "_BOOT", "raise SystemExit(7)")
        readers = Readers(settings_in(tmp_path, serve_workers=2), listener, str(tmp_path))
        with pytest.raises(ReaderFailed, match="status 7"):
            readers.start(threading.Event())
        readers.stop()
        monkeypatch.setattr(workers, "_BOOT", "import time; time.sleep(60)")
        monkeypatch.setattr(workers, "_START_S", 0.3)
        readers = Readers(settings_in(tmp_path, serve_workers=2), listener, str(tmp_path))
        with pytest.raises(ReaderFailed, match="did not begin"):
            readers.start(threading.Event())
        began = time.monotonic()
        readers.stop()
        assert time.monotonic() - began < 2


def test_one_that_hangs_is_killed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "import signal, sys, time; signal.signal(15, lambda *_: None); print('ready', flush=True); time.sleep(60)"
    monkeypatch.setattr(workers, "_BOOT", body)
    monkeypatch.setattr(workers, "_STOP_S", 0.3)
    with listen("127.0.0.1", 0) as listener:
        readers = Readers(settings_in(tmp_path, serve_workers=2), listener, str(tmp_path))
        readers.start(threading.Event())
        pids = [place.process.pid for place in readers._places]
        readers.stop()
    assert not [pid for pid in pids if alive(pid)]


def test_one_that_ends_again_and_again_is_started_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_BOOT", "print('ready', flush=True)")
    monkeypatch.setattr(workers, "_FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(workers, "_MOST_DELAY_S", 0.16)
    with listen("127.0.0.1", 0) as listener:
        readers = Readers(settings_in(tmp_path, serve_workers=1), listener, str(tmp_path))
        readers.start(threading.Event())

        def delays() -> list[float]:
            readers.tend()
            return [float(delay) for delay in re.findall(r"another in ([\d.]+) s", caplog.text)]

        until(lambda: len(delays()) >= 5, every_s=0.01)
        readers.stop()
    assert delays()[:5] == [0.0, 0.1, 0.2, 0.2, 0.2]


def test_readers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    for threads in (0, 5):
        with listen("127.0.0.1", 0) as listener:
            readers = Readers(load(data=tmp_path, serve_workers=3, threads=threads), listener, str(tmp_path))
        told.append(json.loads(readers._orders)["settings"])
    assert [one["threads"] for one in told] == [2, 5]
    assert Path(told[0]["data"]).is_absolute()


def test_no_reader_outlives_a_killed_parent(two: Server) -> None:
    """The last test of this file: it kills what the others use."""
    pids = children(two)
    assert len(pids) == 2
    two.process.kill()
    two.process.wait()
    until(lambda: not [pid for pid in pids if alive(pid)])
    with pytest.raises(httpx.ConnectError), two.client() as client:
        client.get("/healthz")
