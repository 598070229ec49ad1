"""The command line: exit status 0, 1, 2, tables for people, JSON for machines, variables for options."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ingest.catalog.catalog import Catalog
from ragsvc import cli, cli_admin, cli_shared, cli_sources
from ragsvc.responses import RetrieveResponse
from tests.contracts.installation import HASH, RAGSVC, ragsvc


@dataclass
class Ended:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli") / "data"


@pytest.fixture
def run(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `ragsvc ...` in this process: a command imports for seconds, and there are many."""
    monkeypatch.setenv("RAGSVC_DATA", str(data))
    monkeypatch.setenv("RAGSVC_EMBEDDER", HASH)
    monkeypatch.setattr(cli, "configure_logging", lambda _level: None, raising=False)
    monkeypatch.setattr(cli_shared, "configure_logging", lambda _level: None)

    def call(*arguments: str, **variables: str) -> Ended:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        screen = Console(width=300, file=None, force_terminal=False)
        for module in (cli, cli_admin, cli_sources, cli_shared):
            monkeypatch.setattr(module, "console", screen)
        monkeypatch.setattr(sys, "argv", ["ragsvc", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        for name in variables:
            monkeypatch.delenv(name)
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "leaving.md").write_text("# Leaving\n\nThe notice period is four weeks to the end of a month.\n")
    (folder / "lunch [b].md").write_text("# Lunch [/b] here\n\nLunch is at noon in the canteen.\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 not one")
    return folder


@pytest.fixture
def added(run: Run, docs: Path) -> str:
    """The source of the documents; added by the first test that wants it."""

    def known() -> list[str]:
        return [source["id"] for source in run("sources", "--json").json if source["collection"] == "handbook"]

    if not known():
        ended = run("add", str(docs), "--collection", "handbook")
        assert ended.status == 0, ended.err
    return known()[0]


# ---------------------------------------------------------------- real processes


def test_a_real_process_says_what_it_did(tmp_path: Path, docs: Path) -> None:
    ended = ragsvc(tmp_path, "add", str(docs), "--collection", "real", RAGSVC_EMBEDDER=HASH)
    assert ended.returncode == 0, ended.stderr
    assert "collection real" in ended.stdout
    assert "succeeded: 3 listed, 2 new, 1 failed" in ended.stdout
    assert "dead-letters" in ended.stdout


def test_a_real_process_fails_without_a_trace(tmp_path: Path) -> None:
    assert RAGSVC.exists()
    ended = ragsvc(tmp_path, "jobs", "--cancel")
    assert ended.returncode == 2
    assert "error:" in ended.stderr
    assert "Traceback" not in ended.stderr


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["retrieve"],
        ["retrieve", "x", "--top-k", "0"],
        ["retrieve", "x", "--top-k", "many"],
        ["retrieve", "x", "--mode", "best"],
        ["retrieve", "x", "--max-tokens", "999999999"],
        ["retrieve", "x", "--as-of", "yesterday"],
        ["retrieve", "x", "--filters", "{"],
        ["retrieve", "x", "--filters", '{"op": "like"}'],
        ["retrieve", ""],
        ["add"],
        ["add", ".", "--sla", "soon"],
        ["add", ".", "--interval", "often"],
        ["jobs", "--cancel"],
        ["dead-letters", "--retry"],
        ["dead-letters", "dl_0"],
        ["keys", "create"],
        ["keys", "create", "--scope", "root"],
        ["keys", "create", "--scope", "admin", "--expires", "never"],
        ["up", "--port", "99999"],
        ["documents", "--limit", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.status == 2, ended
    assert ended.err
    assert "Traceback" not in ended.err
    assert not ended.out


def test_a_wrong_variable_is_wrong_usage_and_named(run: Run) -> None:
    ended = run("sources", RAGSVC_PORT="http")
    assert ended.status == 2
    assert "RAGSVC_PORT" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "no-such-folder"], "does not exist"),
        (["add", "http://example.org/a"], "No connector"),
        (["add", "/nothing/[/b]/[red]here"], "/nothing/[/b]/[red]here does not exist"),
        (["sync", "src_0"], "no source src_0"),
        (["documents", "doc_0"], "no document doc_0"),
        (["documents", "--collection", "none"], "no collection 'none'"),
        (["jobs", "job_0"], "no job job_0"),
        (["jobs", "job_0", "--cancel"], "no job job_0"),
        (["dead-letters", "dl_0", "--retry"], "no dead letter dl_0"),
        (["keys", "revoke", "key_0"], "no key key_0"),
        (["retrieve", "x", "--collection", "none"], "no collection 'none'"),
        (["retrieve", "x", "--collection", "[/x]"], "no collection '[/x]'"),
        (["retrieve", "x", "--tokenizer", "gpt9"], "no tokenizer 'gpt9'"),
        (["eval", "."], "has no corpus.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_fails_is_status_1_and_says_what_to_do(run: Run, arguments: list[str], said: str) -> None:
    ended = run(*arguments)
    assert ended.status == 1, ended
    assert said in " ".join(ended.err.split())
    assert "what to do:" in ended.err
    assert not ended.out


@pytest.mark.parametrize("arguments", [["--help"], ["up", "--help"], ["keys", "create", "--help"]], ids=" ".join)
def test_help(run: Run, arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.status == 0
    assert "Usage" in ended.out


# ---------------------------------------------------------------- sources, documents, jobs


def test_add_shows_what_came_of_it(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "a.md").write_text("Tea is at four.")
    (folder / "b.txt").write_text("Coffee all day.")
    access = ("--access", "public", "--sla", "1h")
    ended = run("add", str(folder), "--collection", "more", "--include", "*.md", "--watch", *access)
    assert ended.status == 0, ended.err
    assert "succeeded: 1 listed, 1 new" in ended.out, "a file that was written a moment ago is waited for"
    assert "watched while" in ended.out
    (source,) = [s for s in run("sources", "--json").json if s["collection"] == "more"]
    assert (source["watch"], source["schedule"], source["freshness_sla"]) == (True, {"interval": "60s"}, "3600s")
    assert source["options"] == {"include": ["*.md"]}
    assert source["access"] == ["public"]
    again = run("add", str(folder), "--collection", "more")
    assert again.status == 1
    assert "already" in again.err
    (folder / "c.md").write_text("Milk is in the fridge.")
    synced = run("sync", source["id"])
    assert "succeeded: 2 listed, 1 new, 1 unchanged" in synced.out


def test_sources_and_documents(run: Run, added: str) -> None:
    (source,) = [s for s in run("sources", "--json").json if s["id"] == added]
    assert source["state"]["documents"] == 2
    assert added in run("sources").out
    documents = run("documents", "--json", "--collection", "handbook").json
    assert sorted(d["title"] for d in documents) == ["Leaving", "Lunch [/b] here"]
    assert set(documents[0]) == {"id", "title", "uri", "collection", "media_type"}
    table = run("documents", "--collection", "handbook").out
    assert "Lunch [/b] here" in table, "brackets of a title are not markup"
    assert len(run("documents", "--json", "--limit", "1").json) == 1
    versions = run("documents", documents[0]["id"], "--json").json
    assert [v["ordinal"] for v in versions] == [1]
    assert versions[0]["id"] in run("documents", documents[0]["id"]).out


def test_nothing_here_yet(run: Run, tmp_path: Path) -> None:
    for command in ("sources", "documents", "jobs", "dead-letters"):
        ended = run(command, RAGSVC_DATA=str(tmp_path / "new"))
        assert (ended.status, ended.out.strip()) == (0, "nothing here yet")
    assert run("keys", "list", "--json", RAGSVC_DATA=str(tmp_path / "new")).json == []


def test_jobs(run: Run, added: str) -> None:
    listed = run("jobs", "--json").json
    mine = [job for job in listed if job["source"] == added]
    assert mine[-1]["state"] == "succeeded"
    assert mine[-1]["counts"]["new"] == 2
    assert run("jobs", mine[-1]["id"], "--json").json == [mine[-1]]
    assert "succeeded" in run("jobs", mine[-1]["id"]).out
    ended = run("jobs", mine[-1]["id"], "--cancel")
    assert ended.status == 1
    assert "has ended already" in ended.err


def test_dead_letters_and_retry(run: Run, added: str) -> None:
    (letter,) = run("dead-letters", "--json").json
    assert letter["source"] == added
    assert letter["uri"].endswith("broken.pdf")
    assert letter["reason"]
    assert "broken.pdf" in run("dead-letters").out
    retried = run("dead-letters", letter["id"], "--retry")
    assert retried.status == 0, retried.err
    assert "1 failed" in retried.out


# ---------------------------------------------------------------- retrieve


def test_retrieve_for_machines(run: Run, added: str) -> None:
    body = run("retrieve", "how long is the notice period?", "--collection", "handbook", "--json").json
    RetrieveResponse.model_validate(body)
    assert "four weeks" in body["context"]
    assert body["dropped"] is not None


def test_retrieve_for_people(run: Run, added: str) -> None:
    ended = run("retrieve", "when is lunch", "--collection", "handbook")
    assert ended.status == 0
    assert "[1] Lunch [/b] here (v1," in ended.out
    assert "Lunch is at noon" in ended.out
    assert "cit_" in ended.out
    assert "tokens" in ended.out
    nothing = run("retrieve", "zebra chromodynamics", "--collection", "handbook")
    assert nothing.status == 0
    assert "Nothing here answers that." in nothing.out


def test_retrieve_with_every_option(run: Run, added: str) -> None:
    options = {
        "--collection": "handbook",
        "--top-k": "1",
        "--max-tokens": "60",
        "--tokenizer": "cl100k_base",
        "--mode": "lexical",
        "--as-of": "2100-01-01T00:00:00Z",
        "--filters": '{"op": "eq", "key": "media_type", "value": "text/markdown"}',
    }
    by_option = run("retrieve", "notice period", "--json", *(part for pair in options.items() for part in pair))
    variables = {"RAGSVC_" + name[2:].replace("-", "_").upper(): value for name, value in options.items()}
    by_variable = run("retrieve", "notice period", RAGSVC_JSON="1", **variables)
    for ended in (by_option, by_variable):
        assert ended.status == 0, ended.err
        body = ended.json
        assert len(body["results"]) == 1
        assert body["usage"]["tokenizer"] == "cl100k_base"
        assert body["usage"]["context_tokens"] <= 60
        assert body["results"][0]["scores"]["dense"] is None
        assert body["snapshot"]["as_of"] == "2100-01-01T00:00:00Z"
    assert run("retrieve", "notice", "--json", "--as-of", "2001-01-01").json["results"] == []


# ---------------------------------------------------------------- keys


def test_keys(run: Run, data: Path, tmp_path: Path) -> None:
    home = {"RAGSVC_DATA": str(tmp_path / "keys")}
    made = run(
        "keys", "create", "--scope", "retrieve", "--scope", "ingest", "--principal", "user:ann", "--name", "a [b] c",
        "--collection", "handbook", "--expires", "90d", **home,
    )  # fmt: skip
    assert made.status == 0, made.err
    secret = made.out.strip()
    assert secret.startswith("rk_")
    assert "not shown again" in made.err
    assert secret not in made.err
    (key,) = run("keys", "list", "--json", **home).json
    assert key["scopes"] == ["ingest", "retrieve"]
    assert (key["principals"], key["collections"]) == (["user:ann"], ["handbook"])
    assert key["name"] == "a [b] c"
    assert key["expires_at"] > key["created_at"]
    table = run("keys", "list", **home).out
    assert key["id"] in table
    assert "a [b] c" in table
    assert secret not in table
    assert secret not in json.dumps(key)
    assert run("keys", "revoke", key["id"], **home).status == 0
    assert run("keys", "list", "--json", **home).json[0]["revoked_at"] is not None
    catalog = Catalog(f"sqlite:///{tmp_path / 'keys' / 'catalog.db'}")
    acts = [act["action"] for act in catalog.audit.newest(10)]
    catalog.close()
    assert acts == ["key.revoke", "key.create"]


# ---------------------------------------------------------------- verify and doctor


def test_verify_says_sound_then_damaged_then_repaired(run: Run, tmp_path: Path, docs: Path) -> None:
    home = {"RAGSVC_DATA": str(tmp_path / "data")}
    assert run("add", str(docs), **home).status == 0
    sound = run("verify", **home)
    assert (sound.status, "sound" in sound.out) == (0, True), sound
    assert run("verify", "--json", **home).json == []
    files = [path for path in (tmp_path / "data" / "indexes").rglob("*") if path.is_file() and path.stat().st_size > 64]
    victim = max((path for path in files if "manifest" not in path.name), key=lambda path: path.stat().st_size)
    body = bytearray(victim.read_bytes())
    body[len(body) // 2] ^= 0x10
    victim.write_bytes(body)
    damaged = run("verify", "--json", **home)
    assert damaged.status == 1
    assert damaged.json
    assert "verify --repair" in damaged.err
    assert set(damaged.json[0]) == {"part", "what", "details", "hint"}
    repaired = run("verify", "--repair", "--json", **home)
    assert repaired.status == 0, repaired
    assert {row["what"] for row in repaired.json} <= {"repaired"}
    assert run("verify", **home).status == 0
    assert "four weeks" in run("retrieve", "notice period", "--json", **home).json["context"]


def test_doctor(run: Run, data: Path) -> None:
    well = run("doctor", "--json", RAGSVC_PORT="0")
    rows = {row["check"]: row for row in well.json}
    assert {row["state"] for row in rows.values()} == {"ok"}, rows
    assert well.status == 0
    ill = run("doctor", "--json", RAGSVC_PORT="0", RAGSVC_EMBEDDER="all-MiniLM-L6-v2", RAGSVC_TYPO="1")
    assert ill.status == 1
    wrong = {row["check"]: row["type"] for row in ill.json if row["state"] == "WRONG"}
    assert set(wrong) == {"model", "settings"}
    assert "ragsvc model install" in wrong["model"]
    assert "unset RAGSVC_TYPO" in wrong["settings"]
    assert "RAGSVC_TYPO" in run("doctor", RAGSVC_PORT="0", RAGSVC_TYPO="1").out


def test_no_variable_is_left_behind() -> None:
    assert not [name for name in os.environ if name.startswith("RAGSVC_")]
