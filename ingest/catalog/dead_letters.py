"""Documents that could not be ingested, and why: kept until they succeed, change or are retried."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import sqlalchemy as sa

from indexes.errors import RagsvcError
from indexes.model import FOREVER
from ingest.catalog import rows
from ingest.catalog.database import Database, to_us
from ingest.catalog.ids import content_id
from ingest.catalog.tables import dead_letters
from ingest.errors import NotFound, ParserKilled
from ingest.model import DeadLetter

MAX_TRIES = 3
_FIRST_DELAY = timedelta(seconds=5)


class DeadLetters:
    """One per (source, place)."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, source_id: str, uri: str, *, fingerprint: str, error: RagsvcError, now: datetime) -> DeadLetter:
        """Note a failure. A passing fault is tried again with growing delays and jitter, 3 times in all."""
        at = to_us(now)
        letter_id = content_id("dl", source_id, uri)
        with self._db.write() as conn:
            known = conn.execute(sa.select(dead_letters).where(dead_letters.c.id == letter_id)).one_or_none()
            same = known is not None and known.fingerprint == fingerprint
            attempts = (known.attempts if same and known is not None else 0) + 1
            transient = error.retryable or isinstance(error, ParserKilled)
            values = {
                "reason": error.message,
                "hint": error.hint,
                "error_type": type(error).__name__,
                "fingerprint": fingerprint,
                "attempts": attempts,
                "retry_at": at + self._delay_us(attempts) if transient and attempts < MAX_TRIES else FOREVER,
                "first_at": known.first_at if same and known is not None else at,
                "last_at": at,
            }
            if known is None:
                conn.execute(dead_letters.insert().values(id=letter_id, source_id=source_id, uri=uri, **values))
            else:
                conn.execute(dead_letters.update().where(dead_letters.c.id == letter_id).values(**values))
        return self.get(letter_id)

    def _delay_us(self, attempts: int) -> int:
        factor = 4 ** (attempts - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
        return int(_FIRST_DELAY.total_seconds() * factor * 1_000_000)

    def get(self, letter_id: str) -> DeadLetter:
        """Raises NotFound."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(dead_letters).where(dead_letters.c.id == letter_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no dead letter {letter_id}.", hint="List them with GET /v1/dead-letters.")
        return rows.dead_letter(row)

    def of_source(self, source_id: str) -> dict[str, DeadLetter]:
        """uri -> dead letter."""
        query = sa.select(dead_letters).where(dead_letters.c.source_id == source_id)
        with self._db.read() as conn:
            return {row.uri: rows.dead_letter(row) for row in conn.execute(query)}

    def page(
        self, *, limit: int, after: str = "", source_id: str | None = None
    ) -> tuple[tuple[DeadLetter, ...], str | None]:
        """Up to `limit` after the id `after`, and the id to go on from."""
        query = sa.select(dead_letters).where(dead_letters.c.id > after).order_by(dead_letters.c.id).limit(limit + 1)
        if source_id is not None:
            query = query.where(dead_letters.c.source_id == source_id)
        with self._db.read() as conn:
            found = conn.execute(query).all()
        more = found[limit - 1].id if len(found) > limit else None
        return tuple(rows.dead_letter(row) for row in found[:limit]), more

    def retry(self, letter_id: str, *, now: datetime) -> DeadLetter:
        """Let the next sync try it again, from a first attempt. Raises NotFound."""
        self.get(letter_id)
        with self._db.write() as conn:
            conn.execute(
                dead_letters.update().where(dead_letters.c.id == letter_id).values(attempts=0, retry_at=to_us(now))
            )
        return self.get(letter_id)

    def clear(self, source_id: str, uri: str) -> None:
        """The document was ingested, or is gone."""
        with self._db.write() as conn:
            conn.execute(dead_letters.delete().where(dead_letters.c.source_id == source_id, dead_letters.c.uri == uri))
