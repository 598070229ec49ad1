"""ACCEPTANCE 61: one damaged collection. The others answer and take documents; /readyz says which, and what to type."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from indexes import durable
from indexes.errors import EmbedderError, GenerationUnknown, StorageFailed
from indexes.model import Mode
from ragsvc.app import make_app
from ragsvc.bootstrap import build
from tests.contracts.installation import Clock, Workshop, settings_in, workshop

BASE = "http://127.0.0.1"
NAMES = ("apples", "broken", "cherries")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three collections, published."""
    folder = tmp_path_factory.mktemp("sound")
    with workshop(folder) as shop:
        for name in NAMES:
            for number in range(12):
                shop.push(f"{number}.md", f"# {name} {number}\n\nThe {name} rule {number} is blue.", collection=name)
            shop.service.follower.publish()
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve chunks are too many to index within a question; nothing is mended by itself."""
    monkeypatch.setattr("ingest.followed.AT_ONCE_CHUNKS", 5)
    monkeypatch.setattr("ingest.followed.Followed.see_to", lambda self: None)


def generation_of(folder: Path, name: str = "broken") -> str:
    with build(settings_in(folder), writable=False) as service:
        return service.catalog.collections.get(name).generation_id


def bad_snapshot(index: Path) -> None:
    for path in (index / "snapshots").glob("*.json"):
        path.write_text(path.read_text().replace('"seq": ', '"seq": 1', 1))


def missing_segment(index: Path) -> None:
    for path in (index / "segments").iterdir():
        shutil.rmtree(path)


def a_file_instead(index: Path) -> None:
    shutil.rmtree(index)
    index.write_text("not a folder")


def a_file_inside(index: Path) -> None:
    shutil.rmtree(index / "segments")
    (index / "segments").write_text("not a folder")


def everything_lost(index: Path) -> None:
    shutil.rmtree(index)


DAMAGES = (bad_snapshot, missing_segment, a_file_instead, a_file_inside, everything_lost)


def asked(shop: Workshop, *collections: str, mode: Mode = "hybrid") -> tuple[set[str], tuple[str, ...]]:
    """The collections whose rules are found when asked for, and the warnings."""
    shop.clock.on(days=900)
    found, warnings = set(), set()
    for name in NAMES:
        answer = shop.ask(f"The {name} rule 7 is blue.", collections=collections, mode=mode)
        found |= {name for result in answer.results if result.collection == name}
        warnings.add(answer.warnings)
    (every,) = warnings
    return found, every


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("writable", [True, False])
def test_a61_the_others_answer_and_take_documents(folder: Path, damage: Callable[[Path], None], writable: bool) -> None:
    generation_id = generation_of(folder)
    damage(folder / "indexes" / generation_id)
    with build(settings_in(folder), writable=writable) as service:
        shop = Workshop(service, Clock())
        for name in ("apples", "cherries"):
            assert asked(shop, name) == ({name}, ())
        found, warnings = asked(shop, "broken")
        assert found == {"broken"}, "its vectors are in the catalogue"
        assert len(warnings) == 1
        assert "'broken'" in warnings[0]
        assert "exact search over the catalogue's vectors" in warnings[0]
        assert "ragsvc verify --repair" in warnings[0]
        assert asked(shop, "broken", mode="lexical")[0] == {"broken"}
        for mode in ("hybrid", "dense", "lexical"):
            assert asked(shop, *NAMES, mode=mode) == (set(NAMES), warnings)
        with TestClient(make_app(service), base_url=BASE) as client:
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            (problem,) = ready.json()["problems"]
            assert problem["part"] == generation_id
            assert "ragsvc verify --repair" in problem["hint"]
        if writable:
            for name in NAMES:
                shop.push("new.md", f"# New\n\nThe giraffes of {name} are green.", collection=name)
                answer = shop.ask(f"The giraffes of {name} are green.", collections=[name])
                assert answer.results[0].document.uri == "new.md"
            service.follower.maintain()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a61_a_repair_mends_it_and_leaves_the_others_alone(folder: Path, damage: Callable[[Path], None]) -> None:
    generation_id = generation_of(folder)
    damage(folder / "indexes" / generation_id)
    before = {path: path.stat().st_mtime_ns for path in (folder / "indexes").rglob("segments/*")}
    with workshop(folder) as shop:
        repaired = {}
        for generation in shop.service.catalog.collections.generations():
            problems, repaired[generation.id] = shop.service.follower.verify(generation, repair=True)
            assert problems == ()
        assert [name for name, done in repaired.items() if done] == [generation_id]
        assert asked(shop, *NAMES)[1] == ()
    kept = [path for path in before if generation_id not in path.parts]
    assert kept
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)


def test_a61_upkeep_of_one_does_not_stop_that_of_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses whatever is written to the first of all that are looked after; the last cannot be opened."""
    refused = generation_of(folder, "apples")
    a_file_instead(folder / "indexes" / generation_of(folder, "broken"))

    def refuse(step: str, path: Path) -> None:
        if refused in path.parts and step == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with workshop(folder) as shop:
        follower = shop.service.follower
        assert follower.pin(refused).snapshot.segments > 0
        for name in NAMES:
            shop.push("new.md", "# New\n\nA giraffe.", collection=name)
        cherries = generation_of(folder, "cherries")
        before = follower.pin(cherries).snapshot.segments
        with monkeypatch.context() as patch:
            patch.setattr(durable, "reached", refuse)
            with pytest.raises(StorageFailed, match="No space"):
                follower.publish()
        assert follower.pin(cherries).snapshot.segments == before + 1


def test_a61_a_broken_row_in_the_catalogue_is_named(folder: Path) -> None:
    """Not even its vectors can be used: that is an error, but of this collection only."""
    with build(settings_in(folder), writable=True) as service:
        with service.catalog._db.write() as conn:
            conn.exec_driver_sql("UPDATE collections SET generation_id = 'gen_gone' WHERE name = 'broken'")
        shop = Workshop(service, Clock())
        assert asked(shop, "apples", "cherries") == ({"apples", "cherries"}, ())
        with pytest.raises(GenerationUnknown, match="'broken'") as raised:
            asked(shop, *NAMES)
        assert "backup" in raised.value.hint
        service.follower.maintain()
        with TestClient(make_app(service), base_url=BASE) as client:
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert ready.json()["problems"][0]["part"] == "gen_gone"


def test_a61_a_missing_model_concerns_its_own_collection(folder: Path) -> None:
    with build(settings_in(folder), writable=True) as service:
        with service.catalog._db.write() as conn:
            conn.exec_driver_sql(
                "UPDATE generations SET embedder = 'all-MiniLM-L6-v2' WHERE id = "
                "(SELECT generation_id FROM collections WHERE name = 'broken')"
            )
        shop = Workshop(service, Clock())
        assert asked(shop, "apples") == ({"apples"}, ())
        with pytest.raises(EmbedderError, match="'broken'") as raised:
            asked(shop, *NAMES)
        assert "ragsvc model install" in raised.value.hint
        with TestClient(make_app(service), base_url=BASE) as client:
            assert client.get("/readyz").json()["status"] == "degraded"


def test_a61_when_nothing_can_answer_it_is_not_ready(folder: Path) -> None:
    with build(settings_in(folder), writable=True) as service:
        with service.catalog._db.write() as conn:
            conn.exec_driver_sql("UPDATE collections SET generation_id = 'gen_gone' || name")
        with TestClient(make_app(service), base_url=BASE) as client:
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
            assert len(ready.json()["problems"]) == 3
