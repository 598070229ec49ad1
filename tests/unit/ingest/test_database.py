"""The catalogue's connection: a safe SQLite, durable, one transaction at a time, errors with names."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pysqlite3
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from indexes import durable
from indexes.errors import DiskFull, StorageFailed, StorageHalted
from ingest.catalog.catalog import Catalog
from ingest.catalog.database import Database, check_sqlite, from_us, to_us
from ingest.catalog.tables import audit, metadata
from ingest.errors import CatalogUnsafe
from tests.contracts.ingest_parts import START, Installation, database_url, make_draft, undone


@pytest.fixture
def db(tmp_path: Path):
    database = Database(database_url(tmp_path))
    database.migrate()
    yield database
    database.close()


def act(conn: sa.Connection, name: str) -> None:
    conn.execute(audit.insert().values(at=0, actor="a", action=name, subject="s", detail={}))


def act_often(conn: sa.Connection) -> None:
    for number in range(2000):
        act(conn, f"{number}" * 8)


def acts(database: Database) -> list[str]:
    with database.read() as conn:
        return list(conn.execute(sa.select(audit.c.action).order_by(audit.c.id)).scalars())


@pytest.mark.parametrize("version", [(3, 7, 0), (3, 7, 17), (3, 40, 1), (3, 51, 0), (3, 51, 2), (3, 50, 99)])
def test_a15_a_sqlite_that_loses_commits_is_refused(version: tuple[int, ...]) -> None:
    with pytest.raises(CatalogUnsafe, match=r"\.".join(map(str, version))):
        check_sqlite(version)


@pytest.mark.parametrize("version", [(3, 51, 3), (3, 52, 0), (3, 53, 4), (4, 0, 0), (3, 6, 23)])
def test_a15_a_safe_sqlite_is_taken(version: tuple[int, ...]) -> None:
    check_sqlite(version)


def test_a15_the_sqlite_in_use_is_checked_when_a_database_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pysqlite3, "sqlite_version_info", (3, 46, 1))
    with pytest.raises(CatalogUnsafe, match=r"3\.46\.1"):
        Catalog(database_url(tmp_path))
    assert not (tmp_path / "catalog.db").exists()


def test_a15_the_installed_sqlite_is_safe(tmp_path: Path) -> None:
    catalog = Catalog(database_url(tmp_path))
    version = catalog.sqlite_version()
    catalog.close()
    assert version is not None
    assert tuple(map(int, version.split("."))) >= (3, 51, 3)


def test_every_connection_is_durable(db: Database) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 30_000}
    for _ in range(2):
        with db.engine.connect() as first, db.engine.connect() as second:
            for conn in (first, second):
                found = {name: conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
                assert found == expected


def test_an_inner_write_joins_the_outer_one(db: Database) -> None:
    with undone(db) as outer:
        act(outer, "outer")
        with db.write() as inner:
            assert inner is outer
            act(inner, "inner")
        with db.read() as reader:
            assert reader is outer  # it sees what is not committed yet
    assert acts(db) == []
    with db.write() as outer:
        act(outer, "outer")
        with db.write() as inner:
            act(inner, "inner")
    assert acts(db) == ["outer", "inner"]


def test_other_threads_do_not_join_and_do_not_see(db: Database) -> None:
    seen: list[list[str]] = []
    with db.write() as conn:
        act(conn, "mine")
        thread = threading.Thread(target=lambda: seen.append(acts(db)))
        thread.start()
        thread.join()
    assert seen == [[]]


def test_two_writers_wait_for_each_other(db: Database) -> None:
    def work(name: str) -> None:
        for _ in range(20):
            with db.write() as conn:
                count = conn.execute(sa.select(sa.func.count()).select_from(audit)).scalar_one()
                act(conn, f"{count}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acts(db) == [str(number) for number in range(60)]  # no write was based on a stale read


def test_a_read_is_one_view(db: Database) -> None:
    with db.read() as conn:
        count = sa.select(sa.func.count()).select_from(audit)
        assert conn.execute(count).scalar() == 0
        thread = threading.Thread(target=lambda: _write_one(db))
        thread.start()
        thread.join()
        assert conn.execute(count).scalar() == 0
    assert acts(db) == ["other"]


def _write_one(db: Database) -> None:
    with db.write() as conn:
        act(conn, "other")


def test_the_migrations_make_exactly_the_tables(db: Database) -> None:
    with db.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        names = set(sa.inspect(conn).get_table_names())
    assert names == set(metadata.tables) | {"alembic_version"}


def test_a_partial_unique_index_holds_live_places(db: Database) -> None:
    with db.read() as conn:
        found = conn.execute(sa.text("SELECT sql FROM sqlite_master WHERE name='uq_documents_live_uri'")).scalar()
    assert "UNIQUE" in found
    assert "deleted_at IS NULL" in found


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    url = database_url(tmp_path)
    first = Catalog(url)
    first.audit.record("a", "s", actor="me", now=START)
    first.close()
    second = Catalog(url)
    assert [entry["action"] for entry in second.audit.newest(5)] == ["a"]
    assert second.integrity() == ()
    second.close()


def test_closings_from_before_they_were_kept_are_the_newest_of_each_version(tmp_path: Path) -> None:
    app = Installation(tmp_path)
    source = app.source()
    for text in ("One.", "Two."):
        app.record(source, make_draft("a", text))
    wanted = app.catalog.changes.version_states([v.id for v in app.versions(app.document(source, "a"))])
    assert [len(state.closings) for state in wanted.values()] == [1, 0]
    app.close()
    database = Database(database_url(tmp_path))
    with database.write() as conn:
        conn.execute(sa.text("DROP TABLE closings"))
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))
    database.close()
    again = Installation(tmp_path)
    assert again.catalog.changes.version_states(list(wanted)) == wanted
    again.close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    url = database_url(tmp_path)
    Catalog(url).close()
    database = Database(url)
    with database.write() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(CatalogUnsafe, match="9999"):
        Catalog(url)
    plain = sqlite3.connect(tmp_path / "catalog.db")
    assert plain.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    plain.close()


def test_a_full_disk_is_storage_failed_and_undoes_the_write(db: Database) -> None:
    with db.engine.connect() as conn:  # the only one in the pool
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(DiskFull, match="full") as caught, db.write() as outer:
        act_often(outer)
    assert caught.value.retryable
    assert acts(db) == []
    with db.engine.connect() as conn:
        conn.exec_driver_sql("PRAGMA max_page_count=1073741823")
    _write_one(db)  # goes on as soon as there is room
    assert acts(db) == ["other"]


def test_a_read_only_database_is_storage_failed(db: Database) -> None:
    with db.engine.connect() as conn:
        conn.exec_driver_sql("PRAGMA query_only=1")
    with pytest.raises(StorageFailed, match="readonly"):
        _write_one(db)
    assert acts(db) == []


def test_a_locked_database_is_storage_failed(db: Database, tmp_path: Path) -> None:
    other = pysqlite3.connect(str(tmp_path / "catalog.db"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with db.engine.connect() as conn:
        conn.exec_driver_sql("PRAGMA busy_timeout=20")
    with pytest.raises(StorageFailed, match="locked"):
        _write_one(db)
    other.execute("COMMIT")
    other.close()
    _write_one(db)


def test_a_damaged_file_is_storage_failed_when_read(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"this is no database, whatever its name says" * 200)
    with pytest.raises(StorageFailed, match="not a database"):
        Catalog(database_url(tmp_path))


def test_a_folder_that_is_not_there_is_storage_failed(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="unable to open"):
        Catalog(database_url(tmp_path / "missing"))


def test_a_mistake_in_the_sql_stays_what_it_is(db: Database) -> None:
    with pytest.raises(sa.exc.OperationalError, match="no such table"), db.write() as conn:
        conn.execute(sa.text("SELECT * FROM no_such_place"))


@pytest.fixture
def no_lasting_halt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_halted", None)


def _fail_commits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(self: sa.Connection) -> None:
        failed = pysqlite3.OperationalError("disk I/O error")
        failed.sqlite_errorname = name
        raise sa.exc.OperationalError("COMMIT", None, failed)

    monkeypatch.setattr(sa.Connection, "commit", commit)


@pytest.mark.usefixtures("no_lasting_halt")
def test_a_commit_that_was_not_synced_is_the_last(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_one(db)
    with monkeypatch.context() as patch:
        _fail_commits("SQLITE_IOERR_FSYNC", patch)
        with pytest.raises(StorageHalted) as caught:
            _write_one(db)
    assert "restart" in caught.value.hint
    with pytest.raises(StorageHalted):
        _write_one(db)
    with pytest.raises(StorageHalted):
        durable.write_aside(Path(str(db.url.database)).with_name("x"), b"")
    assert acts(db) == ["other"], "reading goes on"


@pytest.mark.usefixtures("no_lasting_halt")
def test_a_commit_without_room_for_its_shared_memory_is_a_full_disk(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _fail_commits("SQLITE_IOERR_SHMSIZE", patch)
        with pytest.raises(DiskFull):
            _write_one(db)
    _write_one(db)
    assert acts(db) == ["other"]


def test_a_sync_that_failed_elsewhere_stops_a_commit_under_way(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def late() -> None:
        with db.write() as conn:
            act(conn, "late")
            monkeypatch.setattr(durable, "_halted", "x could not be synced.")

    with pytest.raises(StorageHalted):
        late()
    monkeypatch.undo()
    assert acts(db) == []


def test_a_start_leaves_nothing_in_the_log(tmp_path: Path) -> None:
    """What a failed sync left in memory only must not stand before later commits."""
    url = database_url(tmp_path)
    first = Catalog(url)
    first.audit.record("a", "s", actor="me", now=START)
    shutil.copytree(tmp_path, tmp_path / "crashed")
    first.close()
    log = tmp_path / "crashed" / "catalog.db-wal"
    assert log.stat().st_size > 0
    second = Catalog(database_url(tmp_path / "crashed"))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "crashed" / "catalog.db", alone)  # without the log
    second.close()
    third = Catalog(database_url(alone))
    assert [entry["action"] for entry in third.audit.newest(5)] == ["a"]
    third.close()


LIMITED = """
import resource, signal, sys
from indexes.errors import StorageFailed
from ingest.catalog.catalog import Catalog
from datetime import datetime, UTC
catalog = Catalog(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
written = 0
try:
    for number in range(100_000):
        catalog.audit.record(f"act {number}", "s" * 2000, actor="me", now=datetime.now(UTC))
        written = number + 1
except StorageFailed as error:
    print(written, error.message)
"""


def test_a_file_that_cannot_grow_loses_nothing_acknowledged(tmp_path: Path) -> None:
    url = database_url(tmp_path)
    done = subprocess.run([sys.executable, "-c", LIMITED, url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    written = int(done.stdout.split()[0])
    assert written > 0
    catalog = Catalog(url)
    assert len(catalog.audit.newest(100_000)) == written
    assert catalog.integrity() == ()
    catalog.close()


def test_times_survive_the_way_there_and_back() -> None:
    for moment in (
        START,
        START.replace(microsecond=999_999),
        from_us(0),
        from_us(-1),
        from_us(253_402_300_799_999_999),
    ):
        assert from_us(to_us(moment)) == moment
    assert to_us(START.replace(tzinfo=None)) == to_us(START)
    assert abs(to_us(from_us(time.time_ns() // 1000)) - time.time_ns() // 1000) < 10_000_000
