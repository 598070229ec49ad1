"""Backup and restore: one state, nothing torn, nothing half made, nothing overwritten, no damage let through."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from indexes import durable
from indexes.audit import check_generation
from indexes.capture import capture
from indexes.errors import StorageFailed, WriterBusy
from indexes.snapshot import SNAPSHOTS
from ingest.backup import Backup, back_up, read_manifest, restore
from ingest.catalog.catalog import Catalog
from ingest.catalog.copying import Copying, check_file
from ingest.catalog.database import Database
from ingest.errors import BackupDamaged, CatalogUnsafe, Conflict, NotFound
from ingest.model import Push
from ragsvc import cli_backup, cli_shared
from ragsvc.bootstrap import WriterLock, build
from tests.contracts.installation import HASH, Workshop, ragsvc, settings_in, workshop

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path / "data") as made:
        for number in range(6):
            made.push(f"{number}.md", f"# Note {number}\n\nThe {number}th word is zulu{number}.")
        made.service.follower.publish()
        yield made


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that tests copy."""
    folder = tmp_path_factory.mktemp("once")
    with workshop(folder / "data") as made:
        made.push("a.md", "# A\n\nPapa.")
        wait_to_be_ingested(made, "b.md", "Oscar.")
        made.service.follower.publish()
        save(made, folder / "saved")
    return folder / "saved"


@pytest.fixture
def saved(once: Path, tmp_path: Path) -> Path:
    """A backup that a test may spoil."""
    return shutil.copytree(once, tmp_path / "saved")


def save(shop: Workshop, dest: Path) -> Backup:
    return back_up(shop.service.catalog, shop.service.settings.data, dest, release="0.0", now=NOW)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is called in this process sets no logging up for all tests."""
    monkeypatch.setattr(cli_shared, "configure_logging", lambda _level: None)


def rewritten(source: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A manifest that says something else, with a checksum that fits."""
    stored = json.loads((source / "backup.json").read_bytes())
    change(stored["body"])
    stored["sha256"] = hashlib.sha256(json.dumps(stored["body"], sort_keys=True).encode()).hexdigest()
    (source / "backup.json").write_text(json.dumps(stored))


def sound(data: Path) -> None:
    with build(settings_in(data), writable=False) as service:
        assert service.catalog.integrity() == ()
        for generation in service.catalog.collections.generations():
            assert service.follower.check(generation) == ()


def test_what_is_restored_elsewhere_is_the_same_installation(shop: Workshop, tmp_path: Path) -> None:
    shop.push("0.md", "# Note 0\n\nNow it is yankee.")
    made = save(shop, tmp_path / "saved")
    assert made.left_out == ()
    assert made.seq == shop.service.catalog.changes.last_seq()
    assert made.size == sum(len(body) for name, body in contents(tmp_path / "saved").items() if name != "backup.json")
    assert read_manifest(tmp_path / "saved") == made
    answer = shop.ask("zulu3")
    shop.push("0.md", "# Note 0\n\nWritten after the backup: xray.")
    assert restore(tmp_path / "saved", tmp_path / "other") == made
    sound(tmp_path / "other")
    with workshop(tmp_path / "other") as there:
        there.clock.now = shop.clock.now
        assert there.service.catalog.changes.last_seq() == made.seq
        again = there.ask("zulu3")
        assert [(r.id, r.passage.text, r.fused) for r in again.results] == [
            (r.id, r.passage.text, r.fused) for r in answer.results
        ]
        assert "yankee" in there.ask("yankee").context
        assert "xray" not in there.ask("xray").context
        there.push("0.md", "# Note 0\n\nIt goes on: whiskey.")
        assert "whiskey" in there.ask("whiskey").context
    assert not list((tmp_path / "other").glob(".*"))
    assert not list((tmp_path / "data").glob(".*"))


def test_what_was_not_published_comes_from_the_log(shop: Workshop, tmp_path: Path) -> None:
    shop.push("late.md", "# Late\n\nNot in any segment: victor.")
    save(shop, tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "other")
    sound(tmp_path / "other")
    with workshop(tmp_path / "other") as there:
        there.clock.now = shop.clock.now
        assert "victor" in there.ask("victor").context


def test_indexes_are_never_newer_than_the_catalogue(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes that come between the two copies are in the catalogue, and reach the indexes by the log."""
    original = Copying.view

    def late(self: Copying, meanwhile: Any) -> Any:
        shop.push("between.md", "# Between\n\nBetween the copies: uniform.")
        shop.service.follower.publish()
        return original(self, meanwhile)

    monkeypatch.setattr(Copying, "view", late)
    made = save(shop, tmp_path / "saved")
    (state,) = (tmp_path / "saved" / "indexes").glob(f"*/{SNAPSHOTS}/*.json")
    assert int(state.stem) < made.seq
    restore(tmp_path / "saved", tmp_path / "other")
    sound(tmp_path / "other")
    with workshop(tmp_path / "other") as there:
        there.clock.now = shop.clock.now
        assert "uniform" in there.ask("uniform").context


def wait_to_be_ingested(shop: Workshop, uri: str, text: str) -> Push:
    catalog = shop.service.catalog
    source = catalog.sources.push_source(shop.service.ensure_collection("handbook").id, now=NOW)
    push = Push(
        source_id=source.id,
        uri=uri,
        blob_sha256=shop.service.blobs.put(text.encode()),
        media_type="text/markdown",
        title=None,
        valid_from=None,
        access=None,
        metadata={},
        pushed_at=NOW,
    )
    with catalog.write():
        catalog.sources.put_push(push)
        catalog.jobs.enqueue("push", now=NOW, source_id=source.id, payload={"uri": uri})
    return push


def test_a_waiting_push_has_its_bytes_in_the_backup(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is ingested, and its blob deleted, before the bulk is copied."""
    push = wait_to_be_ingested(shop, "waiting.md", "# Waiting\n\nStill to come: tango.")
    shop.service.blobs.put(b"nobody waits for these bytes")

    def ingested(path: Path) -> None:  # the first step after the lock was given back
        shop.service.catalog.sources.done_push(push)
        shop.service.blobs.delete(push.blob_sha256)
        check_file(path)

    monkeypatch.setattr("ingest.backup.check_file", ingested)
    made = save(shop, tmp_path / "saved")
    assert [name for name in made.files if name.startswith("blobs/")] == [
        f"blobs/{push.blob_sha256[:2]}/{push.blob_sha256}"
    ]
    restore(tmp_path / "saved", tmp_path / "other")
    with build(settings_in(tmp_path / "other"), writable=True) as there:
        assert there.ingestion is not None
        job = next(job for job in there.catalog.jobs.page(limit=9)[0] if job.payload.get("uri") == "waiting.md")
        assert job.state == "queued"
        assert there.blobs.get(push.blob_sha256).endswith(b"tango.")


def test_writers_wait_only_for_the_moment_of_the_view(shop: Workshop, tmp_path: Path) -> None:
    """Inside `meanwhile` nobody commits; while the bulk is copied everybody does, and the copy does not show it."""
    catalog, committed = shop.service.catalog, threading.Event()

    def push() -> None:
        shop.push("meanwhile.md", "# Meanwhile\n\nSierra.")
        committed.set()

    writer = threading.Thread(target=push)

    def hold(_view: Any) -> None:
        writer.start()
        assert not committed.wait(0.3)

    with catalog.copying.view(hold) as view:
        assert committed.wait(10)
        assert catalog.changes.last_seq() > view.seq
        view.copy_to(tmp_path / "copy.db")
    writer.join()
    check_file(tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db-*"))
    copy = Catalog(f"sqlite:///{tmp_path / 'copy.db'}")
    assert copy.changes.last_seq() == view.seq
    copy.close()


def test_a_state_that_is_swept_while_it_is_linked_is_tried_again(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (generation,) = (p for p in (tmp_path / "data" / "indexes").iterdir() if p.is_dir())
    swept = [0]
    original = os.link

    def racing(source: Path, target: Path) -> None:
        if swept[0] < 2 and "segments" in str(source):
            swept[0] += 1
            for _ in range(3):  # the state that is being linked is neither the newest nor kept any more
                shop.push("racing.md", f"# Racing\n\nRound {swept[0]} {os.urandom(3).hex()}.")
                shop.service.follower.publish()
        original(source, target)

    monkeypatch.setattr(os, "link", racing)
    seq = capture(generation, tmp_path / "aside")
    assert swept == [2]
    assert seq == shop.service.catalog.changes.last_seq()
    assert check_generation(tmp_path / "aside") == ()


def test_without_hard_links_it_copies(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_source: Path, _target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    push = wait_to_be_ingested(shop, "waiting.md", "Romeo.")
    made = save(shop, tmp_path / "saved")
    assert made.left_out == ()
    assert any(push.blob_sha256 in name for name in made.files)
    restore(tmp_path / "saved", tmp_path / "other")
    sound(tmp_path / "other")


def test_a_backup_shares_no_bytes_with_what_it_saves(shop: Workshop, tmp_path: Path) -> None:
    save(shop, tmp_path / "saved")
    live = {(path.stat().st_dev, path.stat().st_ino) for path in (tmp_path / "data").rglob("*") if path.is_file()}
    saved = {(path.stat().st_dev, path.stat().st_ino) for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert not live & saved
    assert (tmp_path / "saved").stat().st_mode & 0o077 == 0


def test_a_damaged_index_is_left_out_and_rebuilt(shop: Workshop, tmp_path: Path) -> None:
    segments = [p for p in (tmp_path / "data" / "indexes").rglob("segments/*/*") if p.is_file()]
    victim = max(segments, key=lambda path: path.stat().st_size)
    body = bytearray(victim.read_bytes())
    body[len(body) // 2] ^= 1
    victim.write_bytes(body)
    made = save(shop, tmp_path / "saved")
    assert made.left_out == tuple(g.id for g in shop.service.catalog.collections.generations())
    assert set(made.files) == {"catalog.db"}
    assert not list((tmp_path / "saved" / "indexes").glob("*"))
    restore(tmp_path / "saved", tmp_path / "other")
    sound(tmp_path / "other")


def test_a_damaged_catalogue_is_not_called_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    Catalog(f"sqlite:///{path}").close()
    body = bytearray(path.read_bytes())
    body[4096 : 4096 + 200] = b"\xff" * 200
    path.write_bytes(body)
    with pytest.raises(StorageFailed, match="damaged"):
        check_file(path)
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(StorageFailed, match="damaged"):
        check_file(path)


def test_a_failure_leaves_nothing_behind(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(tmp_path / "data" / "indexes")

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write", full)
        with pytest.raises(StorageFailed, match="No space left"):
            save(shop, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert not list((tmp_path / "data").glob(".*"))
    assert contents(tmp_path / "data" / "indexes") == before
    (tmp_path / "data" / ".aside-backup-dead").mkdir()  # what a killed one leaves
    save(shop, tmp_path / "saved")
    assert not list((tmp_path / "data").glob(".*"))


def test_what_is_there_is_never_written_over(shop: Workshop, tmp_path: Path) -> None:
    save(shop, tmp_path / "saved")
    before = contents(tmp_path)
    with pytest.raises(Conflict, match="is there already"):
        save(shop, tmp_path / "saved")
    with pytest.raises(Conflict, match="no folder"):
        save(shop, tmp_path / "unmounted" / "saved")
    with pytest.raises(Conflict, match="installation"):
        restore(tmp_path / "saved", tmp_path / "data")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "catalog.db-wal").write_bytes(b"a log that would be played into the restored catalogue")
    with pytest.raises(Conflict, match="db-wal"):
        restore(tmp_path / "saved", tmp_path / "half")
    shutil.rmtree(tmp_path / "half")
    holder = durable.lock(tmp_path / "data" / "backup.lock")
    with pytest.raises(Conflict, match="Another backup"):
        save(shop, tmp_path / "second")
    os.close(holder)
    assert contents(tmp_path) == before


def test_a_model_may_be_there_before_the_restore(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "models").mkdir(parents=True)
    (tmp_path / "other" / "models" / "weights").write_bytes(b"1")
    restore(saved, tmp_path / "other")
    assert (tmp_path / "other" / "models" / "weights").read_bytes() == b"1"
    sound(tmp_path / "other")


@pytest.mark.parametrize("spoil", ["flip", "cut", "missing", "folder"])
def test_every_damaged_file_is_found_before_anything_is_current(saved: Path, tmp_path: Path, spoil: str) -> None:
    names = [name for name, stamp in read_manifest(saved).files.items() if stamp.size]
    assert {name.split("/")[0] for name in names} == {"catalog.db", "blobs", "indexes"}
    for number, name in enumerate(names):
        copy = shutil.copytree(saved, tmp_path / f"copy{number}")
        victim = copy / name
        body = bytearray(victim.read_bytes())
        victim.unlink()
        if spoil == "flip":
            body[len(body) // 2] ^= 4
            victim.write_bytes(body)
        elif spoil == "cut":
            victim.write_bytes(body[:-1])
        elif spoil == "folder":
            victim.mkdir()
        data = tmp_path / f"data{number}"
        with pytest.raises(BackupDamaged, match=Path(name).name):
            restore(copy, data)
        assert list(data.iterdir()) == []


def test_a_manifest_is_believed_only_whole(saved: Path, tmp_path: Path) -> None:
    manifest = saved / "backup.json"
    good = manifest.read_bytes()
    for bad in (good[:-40], good.replace(b'"seq": ', b'"seq": 9'), b"", b"[]", b"{}", b"\xff\xfe"):
        manifest.write_bytes(bad)
        with pytest.raises(BackupDamaged):
            restore(saved, tmp_path / "other")
    manifest.unlink()
    with pytest.raises(BackupDamaged, match="no backup in"):
        restore(saved, tmp_path / "other")
    for name in ("../evil", "/etc/passwd", "blobs/../../evil", "models/evil", "indexes/\0", "", "blobs"):
        manifest.write_bytes(good)
        rewritten(saved, lambda body, name=name: body["files"].update({name: {"size": 1, "sha256": "0"}}))  # type: ignore[misc]
        with pytest.raises(BackupDamaged):
            restore(saved, tmp_path / "other")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize(("member", "value"), [("schema", "9999"), ("format", 2)])
def test_a_newer_release_is_refused(saved: Path, tmp_path: Path, member: str, value: object) -> None:
    rewritten(saved, lambda body: body.update({member: value}))
    with pytest.raises(CatalogUnsafe, match="newer release"):
        restore(saved, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_interrupted_restore_is_begun_again(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each rename: what is there is no installation, until the catalogue's makes it one."""
    original = durable.publish

    class Killed(BaseException):
        pass

    for stop_at in ("indexes", "catalog.db"):
        data = tmp_path / f"data-{stop_at}"

        def publish(aside: Path, final: Path, stop_at: str = stop_at) -> None:
            if final.name == stop_at:
                raise Killed
            original(aside, final)

        with monkeypatch.context() as patch:
            patch.setattr(durable, "publish", publish)
            patch.setattr(durable, "delete", lambda _path: None)  # a kill cleans nothing up
            with pytest.raises(Killed):
                restore(saved, data)
        assert not (data / "catalog.db").exists()
        restore(saved, data)
        sound(data)
        assert not list(data.glob(".*"))


def test_a_catalogue_on_postgresql_says_what_to_do(tmp_path: Path) -> None:
    database = Database("sqlite://")
    database.is_sqlite = False
    with pytest.raises(Conflict, match="not in SQLite") as refused, Copying(database).view(lambda _view: None):
        pass
    assert "pg_dump" in refused.value.hint
    database.close()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, saved, other = tmp_path / "data", tmp_path / "saved", tmp_path / "other"
    with workshop(data) as shop:
        shop.push("a.md", "# A\n\nQuebec.")
        done = ragsvc(data, "backup", str(saved), "--json", RAGSVC_EMBEDDER=HASH)
        assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert (body["path"], body["left_out"], body["files"]) == (str(saved), [], 1)
    assert body["bytes"] == sum(stamp.size for stamp in read_manifest(saved).files.values())
    done = ragsvc(other, "restore", str(saved))
    assert done.returncode == 0, done.stderr
    assert f"up to change {body['seq']}" in done.stdout
    sound(other)

    monkeypatch.setenv("RAGSVC_DATA", str(other))
    with pytest.raises(Conflict, match="installation"):
        cli_backup.restore(saved)
    monkeypatch.setenv("RAGSVC_DATA", str(tmp_path / "none"))
    with pytest.raises(NotFound, match="no installation"):
        cli_backup.backup(tmp_path / "nothing")
    with pytest.raises(BackupDamaged, match="no backup"):
        cli_backup.restore(data)
    monkeypatch.setenv("RAGSVC_DATABASE", "sqlite:///elsewhere.db")
    with pytest.raises(Conflict, match="RAGSVC_DATABASE"):
        cli_backup.restore(saved)
    assert not (tmp_path / "none").exists()


def test_a_restore_waits_for_no_writer(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a service has just begun on the empty folder, it is refused."""
    monkeypatch.setenv("RAGSVC_DATA", str(tmp_path))
    lock = WriterLock(settings_in(tmp_path))
    with pytest.raises(WriterBusy):
        cli_backup.restore(once)
    lock.release()
    cli_backup.restore(once)
    sound(tmp_path)


def test_size_is_of_all_files() -> None:
    made = Backup("2026", "0", "1", 1, {"catalog.db": durable.Stamp(3, "0"), "blobs/a": durable.Stamp(4, "0")}, ())
    assert made.size == 7
    assert replace(made, files={}).size == 0
