"""The clock: APScheduler puts due syncs in the job table and does nothing else. Its only importer.

Each slot of a schedule is unique in the table, so a slot runs once however many clocks tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from ingest.catalog.catalog import Catalog
from ingest.catalog.jobs import PRIORITY_SCHEDULE
from ingest.duration import seconds_of
from ingest.errors import Conflict, NotFound
from ingest.model import Source
from ingest.pipeline import now_utc

log = logging.getLogger("ragsvc.schedule")
_RECONCILE_S = 2
_MISFIRE_GRACE_S = 24 * 3600


def trigger_of(schedule: Mapping[str, str]) -> CronTrigger | IntervalTrigger:
    """A trigger from `{"interval": "60s"}` or `{"cron": "0 6 * * *", "timezone": "..."}`. Raises Conflict."""
    hint = 'Give {"interval": "60s"} or {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}.'
    unknown = schedule.keys() - {"interval", "cron", "timezone"}
    if unknown or ("interval" in schedule) == ("cron" in schedule):
        raise Conflict(f"{dict(schedule)} is not a schedule.", hint=hint)
    try:
        if "interval" in schedule:
            return IntervalTrigger(seconds=max(1, round(seconds_of(schedule["interval"]))), timezone=UTC)
        zone = ZoneInfo(schedule.get("timezone", "UTC"))
        return CronTrigger.from_crontab(schedule["cron"], timezone=zone)
    except (ValueError, OverflowError, OSError, ZoneInfoNotFoundError) as error:  # OSError: ZoneInfo("Europe")
        raise Conflict(f"{dict(schedule)} is not a schedule: {error}.", hint=hint) from error


def next_run(source: Source, now: datetime) -> datetime | None:
    """When a source is due next, `now` if it is overdue; None without a schedule or while paused."""
    if source.schedule is None or source.paused:
        return None
    trigger = trigger_of(source.schedule)
    last = source.last_run_at or source.created_at
    if isinstance(trigger, IntervalTrigger):
        due: datetime = last + trigger.interval
        return due if due > now else now
    found: datetime | None = trigger.get_next_fire_time(None, last + timedelta(microseconds=1))
    return found if found is None or found > now else now


def slot_of(schedule: Mapping[str, str], now: datetime) -> str:
    """The name of the slot that `now` lies in: equal for every clock that ticks in it."""
    every = seconds_of(schedule["interval"]) if "interval" in schedule else 60
    return f"{every:g}s-{int(now.timestamp() // every)}"


class Schedule:
    """Keeps one timer per scheduled source, following the catalogue."""

    def __init__(self, catalog: Catalog, *, clock: Callable[[], datetime] = now_utc) -> None:
        self._catalog = catalog
        self._now = clock
        self._known: dict[str, Mapping[str, str]] = {}
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(4)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _MISFIRE_GRACE_S},
        )

    def start(self) -> None:
        """Begin to tick."""
        self.reconcile()
        self._scheduler.add_job(self.reconcile, IntervalTrigger(seconds=_RECONCILE_S, timezone=UTC), id="reconcile")
        self._scheduler.start()

    def stop(self) -> None:
        """Tick no more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def reconcile(self) -> None:
        """Make the timers match the sources: new, changed, paused and deleted ones."""
        wanted = {
            source.id: source
            for source in self._catalog.sources.all()
            if source.schedule is not None and not source.paused
        }
        for source_id in self._known.keys() - wanted.keys():
            self._scheduler.remove_job(source_id)
            del self._known[source_id]
        for source_id, source in wanted.items():
            schedule = source.schedule or {}
            if self._known.get(source_id) == schedule:
                continue
            try:
                trigger: Any = trigger_of(schedule)
                due = next_run(source, self._now())  # from the last run on, not from this process's start
            except Conflict as error:
                log.warning("source %s: %s", source_id, error.message)
                continue
            arguments = [source_id, dict(schedule)]
            self._scheduler.add_job(
                self.tick, trigger, args=arguments, id=source_id, replace_existing=True, next_run_time=due
            )
            self._known[source_id] = schedule

    def tick(self, source_id: str, schedule: Mapping[str, str]) -> None:
        """Queue the sync of the slot that is now."""
        now = self._now()
        try:
            self._catalog.sources.get(source_id)
        except NotFound:
            return
        self._catalog.jobs.enqueue(
            "sync",
            now=now,
            source_id=source_id,
            payload={"scheduled": True},
            priority=PRIORITY_SCHEDULE,
            slot=slot_of(schedule, now),
        )
