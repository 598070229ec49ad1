"""How is a copy of the catalogue made while others write? From one view, taken in a moment without commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pysqlite3
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from indexes.errors import StorageFailed
from ingest.catalog.database import Database
from ingest.catalog.tables import changes, generations, pushes
from ingest.errors import CatalogUnsafe, Conflict

_MIGRATIONS = Path(__file__).parent / "migrations"
_PAGES = 4096


@dataclass(frozen=True, slots=True)
class CatalogView:
    """The catalogue at `seq`, its newest change; `blobs` are those of waiting pushes, `revision` is of its schema."""

    seq: int
    blobs: frozenset[str]
    generations: frozenset[str]
    revision: str
    _conn: sa.Connection

    def copy_to(self, path: Path) -> None:
        """Write what this view holds as a SQLite file, while others go on writing. Raises StorageFailed."""
        source: Any = self._conn.connection.driver_connection
        target = pysqlite3.connect(str(path))
        try:
            source.backup(target, pages=_PAGES)  # of the transaction that is open already, so of one state
        finally:
            target.close()


class Copying:
    """Copies of the whole catalogue."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @contextmanager
    def view(self, meanwhile: Callable[[CatalogView], None]) -> Iterator[CatalogView]:
        """The catalogue as it is now, for as long as the block lasts. `meanwhile` runs before anybody can change it.

        Writers wait for that call, and for nothing else. Raises Conflict on PostgreSQL, StorageFailed.
        """
        if not self._db.is_sqlite:
            raise Conflict(
                "This catalogue is not in SQLite.",
                hint="Use pg_dump, and copy the folder blobs; the indexes are rebuilt from the catalogue.",
            )
        with self._db.read() as conn:
            with self._db.write():
                found = _look(conn)  # its first statement: from here on it sees this state
                meanwhile(found)
            yield found


def _look(conn: sa.Connection) -> CatalogView:
    return CatalogView(
        seq=conn.execute(sa.select(sa.func.max(changes.c.seq))).scalar() or 0,
        blobs=frozenset(conn.execute(sa.select(pushes.c.blob_sha256)).scalars()),
        generations=frozenset(conn.execute(sa.select(generations.c.id)).scalars()),
        revision=str(conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()),
        _conn=conn,
    )


def check_revision(revision: str) -> None:
    """Raises CatalogUnsafe for a schema that this release does not know."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    if revision not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        raise CatalogUnsafe(
            f"The catalogue was written by a newer release (schema {revision}).",
            hint="Install that release, or restore a backup made by this one.",
        )


def check_file(path: Path) -> None:
    """Read a SQLite file that nobody writes through to its end. Raises StorageFailed when it is damaged."""
    conn = pysqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        found = str(conn.execute("PRAGMA quick_check(1)").fetchone()[0])
    except pysqlite3.DatabaseError as error:
        found = str(error)
    finally:
        conn.close()
    if found != "ok":
        raise StorageFailed(
            f"The catalogue is damaged: {found}.", hint="Keep the older backups, and restore the newest sound one."
        )
