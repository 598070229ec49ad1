"""A service without keys is for this machine only: it refuses to start on any other address."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from ragsvc.bootstrap import build
from ragsvc.errors import Unsafe
from ragsvc.serving import check_address
from tests.contracts.installation import HASH, ragsvc, server, settings_in


@pytest.mark.parametrize("command", ["up", "serve"])
def test_another_address_needs_a_key_first(tmp_path: Path, command: str) -> None:
    ended = ragsvc(tmp_path, command, "--host", "0.0.0.0", "--port", "0", RAGSVC_EMBEDDER=HASH)
    assert ended.returncode == 1
    assert "Refusing to listen on 0.0.0.0 without an API key" in ended.stderr
    assert "ragsvc keys create" in ended.stderr
    assert "answers on" not in ended.stdout
    assert "Traceback" not in ended.stderr


def test_with_a_key_it_starts_and_asks_for_it(tmp_path: Path) -> None:
    made = ragsvc(tmp_path, "keys", "create", "--scope", "retrieve", "--principal", "user:me")
    secret = made.stdout.strip()
    with server(tmp_path, "up", "--host", "0.0.0.0", RAGSVC_EMBEDDER=HASH) as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1") + "/v1/collections"
        with httpx.Client(trust_env=False, timeout=20) as client:
            assert client.get(url).status_code == 401
            assert client.get(url, headers={"Authorization": f"Bearer {secret}"}).status_code == 200
        assert running.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.org"])
def test_every_address_but_the_loopback(tmp_path: Path, host: str) -> None:
    with build(settings_in(tmp_path, host=host), writable=False) as service:
        with pytest.raises(Unsafe, match="without an API key"):
            check_address(service)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_the_loopback_needs_none(tmp_path: Path, host: str) -> None:
    with build(settings_in(tmp_path, host=host), writable=False) as service:
        check_address(service)


def test_an_address_that_cannot_be_had(tmp_path: Path) -> None:
    with server(tmp_path / "one", RAGSVC_EMBEDDER=HASH) as running:
        port = running.url.rsplit(":", 1)[1]
        ended = ragsvc(tmp_path / "two", "up", "--port", port, RAGSVC_EMBEDDER=HASH)
        assert ended.returncode == 1
        assert f"Cannot listen on 127.0.0.1:{port}" in ended.stderr
