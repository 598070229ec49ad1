"""A service without keys is for this machine only: it refuses to start on any other address."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import httpx
import pytest

from ingest.pipeline import now_utc
from ragsvc import cli
from ragsvc.bootstrap import build
from ragsvc.errors import Unsafe
from ragsvc.serving import check_address, listen, serve
from ragsvc.settings import load
from tests.contracts.installation import HASH, server, settings_in


@pytest.mark.parametrize("command", ["up", "serve"])
def test_another_address_needs_a_key_first(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAGSVC_DATA", str(tmp_path))
    monkeypatch.setenv("RAGSVC_EMBEDDER", HASH)
    monkeypatch.setattr(sys, "argv", ["ragsvc", command, "--host", "0.0.0.0", "--port", "0"])
    monkeypatch.setattr(cli, "ready_settings", load)  # it would set up the logging of this process
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "Refusing to listen on 0.0.0.0 without an API key" in said.err
    assert "ragsvc keys create" in said.err
    assert "answers on" not in said.out


def test_with_a_key_it_starts_and_asks_for_it(tmp_path: Path) -> None:
    with build(settings_in(tmp_path), writable=False) as service:
        _, secret = service.catalog.keys.create(name="", scopes=["retrieve"], principals=[], now=now_utc())
    with server(tmp_path, "up", "--host", "0.0.0.0", RAGSVC_EMBEDDER=HASH) as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1") + "/v1/collections"
        with httpx.Client(trust_env=False, timeout=20) as client:
            assert client.get(url).status_code == 401
            assert client.get(url, headers={"Authorization": f"Bearer {secret}"}).status_code == 200
        assert running.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.org"])
def test_every_address_but_the_loopback(tmp_path: Path, host: str) -> None:
    service = build(settings_in(tmp_path, host=host), writable=False)
    with service, pytest.raises(Unsafe, match="without an API key"):
        check_address(service)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_the_loopback_needs_none(tmp_path: Path, host: str) -> None:
    with build(settings_in(tmp_path, host=host), writable=False) as service:
        check_address(service)


def test_an_address_that_cannot_be_had(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        service = build(settings_in(tmp_path, port=port), writable=False)
        with service, pytest.raises(Unsafe, match=f"Cannot listen on 127.0.0.1:{port}"):
            serve(service)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_accepted_connections_send_without_delay(host: str) -> None:
    async def ask() -> int:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("socket")
            told.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            found = await asyncio.wait_for(told, 10)
            writer.close()
            await writer.wait_closed()
        return found

    listener = listen(host, 0)
    assert asyncio.run(ask()) != 0
