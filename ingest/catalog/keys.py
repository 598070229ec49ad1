"""API keys, stored as hashes, and the audit record of administrative acts."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ingest.catalog import rows
from ingest.catalog.database import Database, from_us, to_us
from ingest.catalog.ids import random_id
from ingest.catalog.tables import audit, keys
from ingest.errors import NotFound
from ingest.model import Key

SCOPES = ("retrieve", "ingest", "admin")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()  # 256 random bits need no slow hash


class Keys:
    """Who may call."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(
        self,
        *,
        name: str,
        scopes: Iterable[str],
        principals: Iterable[str],
        now: datetime,
        collections: Iterable[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret `rk_...`, which is shown this once and kept only as a hash."""
        secret = "rk_" + secrets.token_urlsafe(32)
        key_id = random_id("key")
        with self._db.write() as conn:
            conn.execute(
                keys.insert().values(
                    id=key_id,
                    secret_sha256=_hash(secret),
                    name=name,
                    scopes=sorted(scopes),
                    principals=sorted(principals),
                    collections=None if collections is None else sorted(collections),
                    created_at=to_us(now),
                    expires_at=rows.optional_us(expires_at),
                )
            )
        return self.get(key_id), secret

    def get(self, key_id: str) -> Key:
        """Raises NotFound."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(keys).where(keys.c.id == key_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no key {key_id}.", hint="List them with `ragsvc keys list`.")
        return rows.key(row)

    def authenticate(self, secret: str, *, now: datetime) -> Key | None:
        """The key of this secret if it is in force. Looked up by its hash, so the time tells nothing of secrets."""
        with self._db.read() as conn:
            row = conn.execute(sa.select(keys).where(keys.c.secret_sha256 == _hash(secret))).one_or_none()
        if row is None or row.revoked_at is not None or (row.expires_at or to_us(now) + 1) <= to_us(now):
            return None
        return rows.key(row)

    def any(self) -> bool:
        """Whether a key was ever made: from then on every call needs one."""
        with self._db.read() as conn:
            return conn.execute(sa.select(keys.c.id).limit(1)).first() is not None

    def all(self) -> tuple[Key, ...]:
        """Every key, oldest first."""
        with self._db.read() as conn:
            return tuple(rows.key(row) for row in conn.execute(sa.select(keys).order_by(keys.c.created_at)))

    def revoke(self, key_id: str, *, now: datetime) -> Key:
        """The key stops working with the next call. Raises NotFound."""
        self.get(key_id)
        with self._db.write() as conn:
            conn.execute(
                keys.update().where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=to_us(now))
            )
        return self.get(key_id)


class Audit:
    """One record per administrative act: ids, never text."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record(
        self, action: str, subject: str, *, actor: str, now: datetime, detail: Mapping[str, Any] | None = None
    ) -> None:
        """Write it in the transaction of the act, so that neither exists without the other."""
        with self._db.write() as conn:
            conn.execute(
                audit.insert().values(
                    at=to_us(now), actor=actor, action=action, subject=subject, detail=dict(detail or {})
                )
            )

    def newest(self, limit: int) -> tuple[dict[str, Any], ...]:
        """The last acts, newest first."""
        with self._db.read() as conn:
            found = conn.execute(sa.select(audit).order_by(audit.c.id.desc()).limit(limit)).all()
        return tuple(
            {"at": from_us(r.at), "actor": r.actor, "action": r.action, "subject": r.subject, "detail": dict(r.detail)}
            for r in found
        )
