"""What holds for every test: no network but loopback, nothing reported home, the same random examples each run."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]

# Before any library reads them; child processes of the tests inherit them.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "SCARF_NO_ANALYTICS": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
# A developer's own settings must not decide a test.
for name in [name for name in os.environ if name.startswith("RAGSVC_")]:
    del os.environ[name]

# "repeatable": the same examples on every machine, so that a red run can be run again. "search": look for new ones.
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


class NetworkForbidden(RuntimeError):
    """A test tried to reach another machine."""


def is_loopback(family: int, address: object) -> bool:
    """Whether a socket address stays on this machine. Names other than localhost do not."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = address[0] if isinstance(address, tuple) else str(address)
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return host in ("localhost", "")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connecting anywhere but to loopback is an error, in this process; children have their own limits."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(sock: socket.socket, address: object) -> None:
        if not is_loopback(sock.family, address):
            raise NetworkForbidden(f"a test tried to connect to {address}")

    def guarded(sock: socket.socket, address: object) -> None:
        check(sock, address)
        connect(sock, address)  # type: ignore[arg-type]

    def guarded_ex(sock: socket.socket, address: object) -> int:
        check(sock, address)
        return connect_ex(sock, address)  # type: ignore[arg-type]

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    patch.setattr(socket.socket, "connect_ex", guarded_ex)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def handbook() -> Path:
    """The sample handbook that is shipped; copy it before changing it."""
    return ROOT / "ragsvc" / "samples" / "handbook"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's data sets, which lie beside a checkout where there are any; else the test is skipped."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data beside this checkout")
    return folder


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name: the path of a Unix socket may have 107 bytes, those of tmp_path are longer."""
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        yield Path(folder)
