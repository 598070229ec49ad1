"""How the catalogue connects: a SQLite that cannot lose commits, one transaction at a time per thread.

SQLite 3.7.0 to 3.51.2 in WAL mode can lose committed writes when two connections write and checkpoint
at once (fixed in 3.51.3), and Python's own is often older: pysqlite3 carries a fixed one.

A commit whose sync failed is as in indexes/durable.py: this process writes nothing more. What SQLite wrote may then be
in the kernel's memory only and yet be read back, so a start first moves everything out of the log (`_settle`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pysqlite3
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from indexes import durable
from indexes.errors import DiskFull, StorageFailed, StorageHalted
from ingest.errors import CatalogUnsafe

FIRST_SAFE_SQLITE = (3, 51, 3)
_BUSY_TIMEOUT_MS = 30_000
_MIGRATIONS = Path(__file__).parent / "migrations"
_FULL, _NO_ROOM = "disk is full", "SQLITE_IOERR_SHMSIZE"
_STORAGE = (_FULL, "disk I/O", "readonly", "unable to open", "is locked", "malformed", "not a database")


def to_us(moment: datetime) -> int:
    """Microseconds since 1970; a moment without a time zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_us(us: int) -> datetime:
    """The moment, in UTC."""
    seconds, micros = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


def check_sqlite(version: tuple[int, ...]) -> None:
    """Refuse a SQLite that can lose commits. Raises CatalogUnsafe."""
    if (3, 7, 0) <= version < FIRST_SAFE_SQLITE:
        shown = ".".join(map(str, version))
        raise CatalogUnsafe(f"SQLite {shown} can lose committed writes in WAL mode; 3.51.3 or newer is needed.")


def _halt_if_unsynced(error: sa.exc.DatabaseError) -> None:
    """Write nothing more if a commit failed because of the disk itself, not for want of space."""
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    if name.startswith("SQLITE_IOERR") and name != _NO_ROOM:
        durable.halt(f"the catalogue could not be committed ({error.orig}, {name}).")


class Database:
    """Connections to the catalogue. `write()` nests: the inner one joins the outer transaction."""

    def __init__(self, url: str) -> None:
        self.url = sa.engine.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._place = Path(self.url.database or "")
        self._local = threading.local()
        self.engine = self._sqlite_engine() if self.is_sqlite else sa.create_engine(self.url)

    def _sqlite_engine(self) -> sa.Engine:
        check_sqlite(pysqlite3.sqlite_version_info)
        engine = sa.create_engine(
            self.url,
            module=pysqlite3,
            poolclass=sa.QueuePool,
            pool_size=8,
            max_overflow=56,
            connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
        )

        @sa.event.listens_for(engine, "connect")
        def _configure(dbapi: Any, _record: Any) -> None:
            dbapi.isolation_level = None  # we say BEGIN ourselves
            for pragma in (
                f"busy_timeout={_BUSY_TIMEOUT_MS}",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "secure_delete=ON",
                "cache_size=-32000",
                "mmap_size=268435456",
                "journal_size_limit=67108864",
            ):
                dbapi.execute(f"PRAGMA {pragma}").fetchall()

        return engine

    def migrate(self) -> None:
        """Bring the schema to this release's revision. Raises CatalogUnsafe if it is newer than this release."""
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        scripts = ScriptDirectory.from_config(config)
        self._settle()
        with self.read() as conn:
            if self._revision(conn) == scripts.get_current_head():
                return
        with self.write() as conn:
            at = self._revision(conn)
            if at is not None and at not in {script.revision for script in scripts.walk_revisions()}:
                raise CatalogUnsafe(
                    f"The catalogue was written by a newer release (schema {at}).",
                    hint="Install that release again, or restore a backup made by this one.",
                )
            config.attributes["connection"] = conn
            command.upgrade(config, "head")

    def _settle(self) -> None:
        """Let no commit rest on a log that may not be on the disk: copy it to the database, which is synced then.

        Else later commits would stand behind a gap that the next power cut makes, and be lost with it.
        """
        if self.is_sqlite:
            with self._storage(), self.engine.connect() as conn:
                try:
                    conn.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                except sa.exc.OperationalError as error:  # such as a read-only folder, where nothing is written either
                    _halt_if_unsynced(error)

    def _revision(self, conn: sa.Connection) -> str | None:
        if not sa.inspect(conn).has_table("alembic_version"):
            return None
        found: str | None = conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return found

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """What the disk or another process did to the file is StorageFailed; what we did to the SQL stays as it is."""
        try:
            yield
        except (sa.exc.DatabaseError, pysqlite3.DatabaseError) as error:
            text = str(getattr(error, "orig", error))
            if not any(words in text for words in _STORAGE):
                raise
            full = _FULL in text or getattr(getattr(error, "orig", error), "sqlite_errorname", "") == _NO_ROOM
            kind = StorageHalted if durable.halted() else DiskFull if full else StorageFailed
            raise kind(f"The catalogue could not be used: {text}.") from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view. Inside `write()` it is that transaction. Raises StorageFailed."""
        outer = getattr(self._local, "conn", None)
        if outer is not None:
            yield outer
            return
        with self._storage(), self.engine.connect() as conn:
            self._begin(conn, "BEGIN")
            try:
                yield conn
            finally:
                conn.rollback()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One durable transaction: committed when the block ends, undone when it raises.

        Raises StorageFailed when the disk refuses, and StorageHalted from a failed sync on.
        """
        outer = getattr(self._local, "conn", None)
        if outer is not None:
            yield outer
            return
        durable.must_be_sound()
        with self._storage(), self.engine.connect() as conn:
            try:
                with durable.marked("begin", self._place):
                    self._begin(conn, "BEGIN IMMEDIATE")
                self._local.conn = conn
                yield conn
                self._commit(conn)
            except BaseException:
                conn.rollback()
                raise
            finally:
                self._local.conn = None

    def _commit(self, conn: sa.Connection) -> None:
        durable.must_be_sound()  # another thread's sync may have failed meanwhile
        with durable.marked("commit", self._place):
            try:
                conn.commit()
            except sa.exc.DatabaseError as error:
                _halt_if_unsynced(error)
                raise

    def _begin(self, conn: sa.Connection, statement: str) -> None:
        conn.begin()
        if self.is_sqlite:
            conn.exec_driver_sql(statement)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()
