"""`ragsvc reindex` and `ragsvc generations`: plan, progress, refusal, rollback; alone or beside a running service."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ragsvc import cli, cli_reindex, cli_shared, cli_sources
from tests.contracts.installation import HASH, workshop

Run = Callable[..., tuple[int, str, str]]
TOPICS = ("notice", "holiday", "expense", "laptop", "parking", "canteen", "badge", "printer", "travel", "pension")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-reindex")
    with workshop(folder / "data") as shop:
        for topic in TOPICS:
            body = " ".join(f"The {topic} rule number {n} is written down here for everyone." for n in range(8))
            shop.push(f"{topic}.md", f"# {topic}\n\n{body}")
    return folder / "data"


@pytest.fixture
def run(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit status, standard output, standard error) of a command in this process."""
    monkeypatch.setenv("RAGSVC_DATA", str(data))
    monkeypatch.setattr(cli_shared, "configure_logging", lambda _level: None)
    monkeypatch.setattr("ingest.worker._POLL_S", 0.02)
    screen = Console(width=300, force_terminal=False)
    for module in (cli, cli_reindex, cli_sources, cli_shared):
        monkeypatch.setattr(module, "console", screen)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ragsvc", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def listed(run: Run) -> dict[str, dict[str, Any]]:
    status, out, _ = run("generations", "list", "--collection", "handbook", "--json")
    assert status == 0
    return {one["state"]: one for one in json.loads(out)}


def test_a_plan_is_said_and_nothing_is_done(run: Run) -> None:
    status, out, _ = run("reindex", "handbook", "--embedder", "hash:64", "--plan")
    assert status == 0
    assert "10 versions" in out
    assert "embedder hash:64" in out
    status, out, _ = run("reindex", "handbook", "--chunker", "structure-300-1", "--plan", "--json")
    assert status == 0
    plan = json.loads(out)
    assert (plan["versions"], plan["to_embed"], plan["chunker"]) == (10, 0, "structure-300-1")
    assert list(listed(run)) == ["serving"]


def test_reindex_and_back(run: Run) -> None:
    before = listed(run)["serving"]["id"]
    status, out, err = run("reindex", "handbook", "--chunker", "structure-300-1")
    assert status == 0, err
    assert "sampled questions" in out
    assert "serves" in out
    now = listed(run)
    assert now["standby"]["id"] == before
    assert now["serving"]["chunker"] == "structure-300-1"
    status, out, _ = run("generations", "activate", before)
    assert status == 0
    assert listed(run)["serving"]["id"] == before
    status, out, _ = run("generations", "list")
    assert status == 0
    assert before in out
    status, out, _ = run("generations", "activate", before, "--json")
    assert json.loads(out) == {"id": before, "state": "serving"}


def test_a_folder_of_questions_decides(run: Run, tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    queries = [{"_id": f"q-{topic}", "text": f"which {topic} rule"} for topic in TOPICS]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q-{topic}\t{topic}\t1" for topic in TOPICS)]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    before = listed(run)["serving"]["id"]
    status, out, err = run("reindex", "handbook", "--embedder", "hash:1", "--evaluation", str(tmp_path), "--json")
    assert status == 1
    assert json.loads(out)["error"]["type"] == "ReindexRefused"
    assert "--force" in err
    shown = listed(run)
    assert shown["serving"]["id"] == before
    refused = next(one for one in shown.values() if one["embedder"] == "hash:1")
    assert refused["report"]["evaluation"]["source"] == "stored"
    assert refused["report"]["evaluation"]["queries"] == len(TOPICS)
    status, out, _ = run("reindex", "handbook", "--embedder", "hash:1", "--force")
    assert status == 0
    assert listed(run)["serving"]["embedder"] == "hash:1"
    assert run("reindex", "handbook", "--embedder", HASH, "--tolerance", "0.5")[0] == 0


def test_wrong_wishes(run: Run, tmp_path: Path) -> None:
    for arguments, said in (
        (("handbook",), "already"),
        (("handbook", "--embedder", "psychic"), "psychic"),
        (("handbook", "--chunker", "structure-7-1"), "structure-400-1"),
        (("nothing", "--chunker", "structure-300-1"), "nothing"),
        (("handbook", "--analyzer", "plain-1", "--evaluation", str(tmp_path)), "queries.jsonl"),
    ):
        status, _, err = run("reindex", *arguments)
        assert status == 1
        assert said in err
    assert run("generations", "activate", "gen_none")[0] == 1


def test_beside_a_running_service_the_service_does_the_work(run: Run, data: Path) -> None:
    from ragsvc.bootstrap import Backstage, build
    from tests.contracts.installation import settings_in

    with build(settings_in(data), writable=True) as service:
        backstage = Backstage(service)
        backstage.start()
        try:
            status, out, err = run("reindex", "handbook", "--chunker", "structure-200-1", "--tolerance", "0.5")
        finally:
            backstage.stop()
        assert status == 0, err
        assert "serves" in out
        served = service.catalog.collections.get("handbook").generation_id
        assert service.catalog.collections.generation(served).chunker == "structure-200-1"
