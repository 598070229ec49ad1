"""Durable jobs: queued in the same transaction as their cause, leased with a heartbeat, never lost.

A job whose worker died is leased again when its lease ends; what it had recorded stays recorded, so it
goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ingest.catalog import rows
from ingest.catalog.database import Database, to_us
from ingest.catalog.ids import random_id
from ingest.catalog.tables import jobs
from ingest.errors import Conflict, LeaseLost, NotFound
from ingest.model import Job, JobKind, JobState

LEASE = timedelta(seconds=30)
MAX_ATTEMPTS = 5
PRIORITY_USER = 10
PRIORITY_EVENT = 20
PRIORITY_SCHEDULE = 50
_ENDED = ("succeeded", "failed", "cancelled")


class Jobs:
    """The job table."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def enqueue(
        self,
        kind: JobKind,
        *,
        now: datetime,
        source_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        priority: int = PRIORITY_USER,
        slot: str | None = None,
        idempotency_key: str | None = None,
        not_before: datetime | None = None,
    ) -> Job:
        """Queue a job, or return the one that stands for it already.

        The same idempotency key, the same (source, slot), or a sync of a source that waits already
        give the job that is there. Raises Conflict if the key was used for something else.
        """
        with self._db.write() as conn:
            known = self._standing(conn, kind, source_id, dict(payload or {}), slot, idempotency_key)
            if known is not None:
                if idempotency_key is None:
                    self._join(conn, known, dict(payload or {}), to_us(not_before or now), priority, slot)
                return self._get(conn, known)
            job_id = random_id("job")
            conn.execute(
                jobs.insert().values(
                    id=job_id,
                    kind=kind,
                    state="queued",
                    source_id=source_id,
                    payload=dict(payload or {}),
                    priority=priority,
                    slot=slot,
                    idempotency_key=idempotency_key,
                    not_before=to_us(not_before or now),
                    progress={"stage": "queued", "done": 0, "total": None, "eta_s": None},
                    counts={},
                    created_at=to_us(now),
                )
            )
            return self._get(conn, job_id)

    def _join(
        self, conn: sa.Connection, job_id: str, payload: dict[str, Any], due: int, priority: int, slot: str | None
    ) -> None:
        """A queued job takes over the wishes of the one that it stands for: the sooner, the more urgent."""
        row = conn.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()
        if row.state != "queued":
            return
        scheduled = row.payload.get("scheduled", False) and payload.get("scheduled", False)
        merged = {**row.payload, **payload, "scheduled": scheduled}
        conn.execute(
            jobs.update()
            .where(jobs.c.id == job_id)
            .values(
                payload=merged,
                not_before=min(row.not_before, due),
                priority=min(row.priority, priority),
                slot=slot or row.slot,
            )
        )

    def _standing(
        self,
        conn: sa.Connection,
        kind: str,
        source_id: str | None,
        payload: dict[str, Any],
        slot: str | None,
        key: str | None,
    ) -> str | None:
        if key is not None:
            row = conn.execute(sa.select(jobs).where(jobs.c.idempotency_key == key)).one_or_none()
            # Other wishes may have joined the job meanwhile, so it may hold more than was asked for.
            same = row is not None and (row.kind, row.source_id) == (kind, source_id)
            if row is not None and not (same and {**row.payload, **payload} == row.payload):
                raise Conflict(
                    f"Idempotency-Key {key!r} was used for another request.", hint="Use a new key for a new request."
                )
            return None if row is None else str(row.id)
        if slot is not None:
            query = sa.select(jobs.c.id).where(jobs.c.source_id == source_id, jobs.c.slot == slot)
            found = conn.execute(query).scalar()
            if found is not None:
                return str(found)
        if kind == "sync":
            query = sa.select(jobs.c.id).where(
                jobs.c.source_id == source_id, jobs.c.kind == kind, jobs.c.state == "queued"
            )
            found = conn.execute(query).scalar()
            return None if found is None else str(found)
        return None

    def claim(self, owner: str, *, now: datetime) -> Job | None:
        """Lease the most urgent job that is due; at most one job of a source runs at a time."""
        at = to_us(now)
        other = jobs.alias()
        busy = sa.exists().where(
            other.c.source_id == jobs.c.source_id, other.c.state == "running", other.c.lease_until > at
        )
        ready = sa.or_(
            sa.and_(jobs.c.state == "queued", jobs.c.not_before <= at),
            sa.and_(jobs.c.state == "running", jobs.c.lease_until <= at),
        )
        query = (
            sa.select(jobs)
            .where(ready, ~busy)
            .order_by(jobs.c.priority, jobs.c.not_before, jobs.c.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if not self._any_ready(ready):
            return None
        with self._db.write() as conn:
            row = conn.execute(query).one_or_none()
            if row is None:
                return None
            if row.attempts >= MAX_ATTEMPTS:
                error = {"title": "The job stopped its worker too often.", "hint": "See the log of the worker."}
                self._end(conn, row.id, "failed", at, error)
                return None
            conn.execute(
                jobs.update()
                .where(jobs.c.id == row.id)
                .values(
                    state="running",
                    lease_owner=owner,
                    lease_until=to_us(now + LEASE),
                    attempts=row.attempts + 1,
                    started_at=row.started_at or at,
                )
            )
            return self._get(conn, row.id)

    def _any_ready(self, ready: sa.ColumnElement[bool]) -> bool:
        with self._db.read() as conn:  # a look without the write lock: most looks find nothing
            return conn.execute(sa.select(jobs.c.id).where(ready).limit(1)).first() is not None

    def heartbeat(
        self,
        job_id: str,
        owner: str,
        *,
        now: datetime,
        progress: Mapping[str, Any] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> bool:
        """Prolong the lease and note progress; True if the job was asked to stop. Raises LeaseLost."""
        values: dict[str, Any] = {"lease_until": to_us(now + LEASE)}
        if progress is not None:
            values["progress"] = dict(progress)
        if counts is not None:
            values["counts"] = dict(counts)
        with self._db.write() as conn:
            row = conn.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.lease_owner == owner, jobs.c.state == "running")
                .values(**values)
                .returning(jobs.c.cancel_requested)
            ).one_or_none()
        if row is None:
            raise LeaseLost(f"Job {job_id} is not leased to this worker any more.")
        return bool(row.cancel_requested)

    def finish(
        self,
        job_id: str,
        owner: str,
        state: JobState,
        *,
        now: datetime,
        counts: Mapping[str, int] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """End a leased job. Raises LeaseLost."""
        with self._db.write() as conn:
            held = sa.select(jobs.c.id).where(
                jobs.c.id == job_id, jobs.c.lease_owner == owner, jobs.c.state == "running"
            )
            if conn.execute(held).first() is None:
                raise LeaseLost(f"Job {job_id} is not leased to this worker any more.")
            if counts is not None:
                conn.execute(jobs.update().where(jobs.c.id == job_id).values(counts=dict(counts)))
            self._end(conn, job_id, state, to_us(now), error)

    def release(self, job_id: str, owner: str, *, now: datetime, delay: timedelta = timedelta(0)) -> None:
        """Give a job back to the queue: the worker stops, or the job shall be tried again later."""
        held = (jobs.c.id == job_id, jobs.c.lease_owner == owner, jobs.c.state == "running")
        values: dict[str, Any] = {"state": "queued", "lease_owner": None, "not_before": to_us(now + delay)}
        if not delay:
            values["attempts"] = jobs.c.attempts - 1
        with self._db.write() as conn:
            conn.execute(jobs.update().where(*held).values(**values))

    def _end(self, conn: sa.Connection, job_id: str, state: str, at: int, error: Mapping[str, Any] | None) -> None:
        values = {"state": state, "finished_at": at, "lease_owner": None, "lease_until": None, "error": error}
        conn.execute(jobs.update().where(jobs.c.id == job_id).values(**values))

    def cancel(self, job_id: str, *, now: datetime) -> Job:
        """Stop a queued job at once, a running one at its next document. Raises NotFound, Conflict."""
        with self._db.write() as conn:
            found = self._get(conn, job_id)
            if found.state in _ENDED:
                raise Conflict(f"Job {job_id} has ended already ({found.state}).", hint="Start a new one.")
            if found.state == "queued":
                self._end(conn, job_id, "cancelled", to_us(now), None)
            conn.execute(jobs.update().where(jobs.c.id == job_id).values(cancel_requested=True))
            return self._get(conn, job_id)

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        with self._db.read() as conn:
            return self._get(conn, job_id)

    def _get(self, conn: sa.Connection, job_id: str) -> Job:
        row = conn.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no job {job_id}.", hint="List them with GET /v1/jobs.")
        return rows.job(row)

    def page(
        self, *, limit: int, before: int | None = None, state: str | None = None, source_id: str | None = None
    ) -> tuple[tuple[Job, ...], int | None]:
        """The newest jobs, and where to go on (created_at in microseconds; None at the end)."""
        query = sa.select(jobs).order_by(jobs.c.created_at.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(jobs.c.created_at < before)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if source_id is not None:
            query = query.where(jobs.c.source_id == source_id)
        with self._db.read() as conn:
            found = conn.execute(query).all()
        more = found[limit - 1].created_at if len(found) > limit else None
        return tuple(rows.job(row) for row in found[:limit]), more
