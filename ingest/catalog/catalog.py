"""The catalogue by its nouns. Methods of several nouns in one `with catalog.write():` are one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from ingest.catalog.changes import Changes
from ingest.catalog.collections import Collections
from ingest.catalog.copying import Copying
from ingest.catalog.database import Database
from ingest.catalog.dead_letters import DeadLetters
from ingest.catalog.documents import Documents
from ingest.catalog.evaluations import Evaluations
from ingest.catalog.generations import Generations
from ingest.catalog.jobs import Jobs
from ingest.catalog.keys import Audit, Keys
from ingest.catalog.recording import Recording
from ingest.catalog.sources import Sources


class Catalog:
    """Opened on a database URL; the schema is brought up to date at once."""

    def __init__(self, url: str) -> None:
        self._db = Database(url)
        self._db.migrate()
        self.collections = Collections(self._db)
        self.generations = Generations(self._db)
        self.evaluations = Evaluations(self._db)
        self.sources = Sources(self._db)
        self.documents = Documents(self._db)
        self.recording = Recording(self._db)
        self.changes = Changes(self._db)
        self.jobs = Jobs(self._db)
        self.dead_letters = DeadLetters(self._db)
        self.keys = Keys(self._db)
        self.audit = Audit(self._db)
        self.copying = Copying(self._db)

    @contextmanager
    def write(self) -> Iterator[None]:
        """One durable transaction around several calls."""
        with self._db.write():
            yield

    def integrity(self) -> tuple[str, ...]:
        """What SQLite's own check finds wrong; empty when sound."""
        if not self._db.is_sqlite:
            return ()
        with self._db.read() as conn:
            found = tuple(str(row[0]) for row in conn.execute(sa.text("PRAGMA integrity_check")))
        return () if found == ("ok",) else found

    def sqlite_version(self) -> str | None:
        """The version of the SQLite in use; None on another database."""
        if not self._db.is_sqlite:
            return None
        with self._db.read() as conn:
            return str(conn.execute(sa.text("SELECT sqlite_version()")).scalar())

    def close(self) -> None:
        """Give all connections back."""
        self._db.close()
