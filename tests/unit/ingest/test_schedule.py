"""The clock: which slots are due, and that each becomes one job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from hypothesis import given
from hypothesis import strategies as st

from ingest.catalog.jobs import PRIORITY_SCHEDULE
from ingest.errors import Conflict
from ingest.schedule import Schedule, next_run, slot_of, trigger_of
from tests.contracts.ingest_parts import START, Clock, Installation


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(tmp_path: Path, clock: Clock) -> Iterator[Installation]:
    installation = Installation(tmp_path, clock=clock)
    yield installation
    installation.close()


def test_triggers() -> None:
    interval = trigger_of({"interval": "90s"})
    assert isinstance(interval, IntervalTrigger)
    assert interval.interval == timedelta(seconds=90)
    assert trigger_of({"interval": "200ms"}).interval == timedelta(seconds=1)
    cron = trigger_of({"cron": "0 6 * * *", "timezone": "Europe/Berlin"})
    assert isinstance(cron, CronTrigger)
    assert cron.get_next_fire_time(None, START) == datetime(2026, 3, 2, 5, tzinfo=UTC)
    assert trigger_of({"cron": "30 12 * * *"}).get_next_fire_time(None, START) == START + timedelta(minutes=30)


@pytest.mark.parametrize(
    "schedule",
    [
        {}, {"interval": ""}, {"interval": "soon"}, {"interval": "0s"}, {"interval": "9" * 30}, {"cron": "0 6 * *"},
        {"cron": "61 * * * *"}, {"cron": "x"}, {"cron": ""}, {"cron": "0 6 * * *", "interval": "60s"},
        {"cron": "0 6 * * *", "timezone": "Nowhere/Town"}, {"cron": "0 6 * * *", "timezone": "Europe"},
        {"cron": "0 6 * * *", "timezone": "../../etc/passwd"}, {"cron": "0 6 * * *", "timezone": ""},
        {"cron": "0 6 * * *", "timezone": "a" * 300}, {"every": "60s"}, {"interval": "60s", "jitter": "5s"},
        {"timezone": "UTC"},
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_a_conflict(schedule: dict[str, str]) -> None:
    with pytest.raises(Conflict, match="not a schedule") as caught:
        trigger_of(schedule)
    assert "interval" in caught.value.hint


def test_a_source_is_due_one_interval_after_its_last_run(app: Installation) -> None:
    source = app.source(schedule={"interval": "1h"})
    assert next_run(source, START) == START + timedelta(hours=1)
    app.catalog.sources.ran(source.id, now=START + timedelta(minutes=10), complete=True, withheld=0, error=None)
    source = app.catalog.sources.get(source.id)
    assert next_run(source, START + timedelta(minutes=20)) == START + timedelta(minutes=70)
    late = START + timedelta(hours=9)
    assert next_run(source, late) == late  # overdue


def test_a_cron_source_that_missed_its_time_is_due_now(app: Installation) -> None:
    source = app.source(schedule={"cron": "0 6 * * *"})
    tomorrow = datetime(2026, 3, 2, 6, tzinfo=UTC)
    assert next_run(source, START) == tomorrow
    late = tomorrow + timedelta(hours=6)
    assert next_run(source, late) == late
    app.catalog.sources.ran(source.id, now=late, complete=True, withheld=0, error=None)
    assert next_run(app.catalog.sources.get(source.id), late) == tomorrow + timedelta(days=1)


def test_without_a_schedule_or_paused_nothing_is_due(app: Installation) -> None:
    source = app.source()
    assert next_run(source, START) is None
    app.catalog.sources.update(source.id, {"schedule": {"interval": "1s"}, "paused": True})
    assert next_run(app.catalog.sources.get(source.id), START) is None


@given(st.integers(0, 10**6), st.integers(1, 10**5))
def test_clocks_that_tick_in_the_same_slot_name_it_alike(seconds: int, every: int) -> None:
    schedule = {"interval": f"{every}s"}
    moment = datetime.fromtimestamp(seconds * every, UTC)
    inside = moment + timedelta(seconds=every) - timedelta(milliseconds=1)
    assert slot_of(schedule, moment) == slot_of(schedule, inside)
    assert slot_of(schedule, moment + timedelta(seconds=every)) != slot_of(schedule, moment)


def test_the_slots_of_two_schedules_differ() -> None:
    names = {slot_of({"interval": text}, START) for text in ("60s", "90s", "2m")}
    assert len(names) == 3
    assert slot_of({"interval": "60s"}, START) == slot_of({"interval": "1m"}, START)
    assert slot_of({"cron": "* * * * *"}, START) == slot_of({"cron": "* * * * *"}, START + timedelta(seconds=59))


def test_ticks_of_a_slot_are_one_job_however_many_clocks(app: Installation, clock: Clock) -> None:
    schedule = {"interval": "60s"}
    source = app.source(schedule=schedule)
    clocks = [Schedule(app.catalog, clock=clock) for _ in range(3)]
    for _ in range(2):
        for ticking in clocks:
            ticking.tick(source.id, schedule)
    (job,), _ = app.catalog.jobs.page(limit=10)
    assert (job.source_id, job.priority, job.payload) == (source.id, PRIORITY_SCHEDULE, {"scheduled": True})
    app.catalog.jobs.claim("w", now=clock())
    app.catalog.jobs.finish(job.id, "w", "succeeded", now=clock())
    clocks[1].tick(source.id, schedule)
    assert len(app.catalog.jobs.page(limit=10)[0]) == 1
    clock.go(seconds=60)
    for ticking in clocks:
        ticking.tick(source.id, schedule)
    assert len(app.catalog.jobs.page(limit=10)[0]) == 2


def test_slots_that_nobody_worked_on_come_to_one_job(app: Installation, clock: Clock) -> None:
    schedule = {"interval": "60s"}
    source = app.source(schedule=schedule)
    ticking = Schedule(app.catalog, clock=clock)
    for _ in range(10):
        ticking.tick(source.id, schedule)
        clock.go(seconds=60)
    assert len(app.catalog.jobs.page(limit=20)[0]) == 1


def test_a_tick_for_a_source_that_is_gone_does_nothing(app: Installation, clock: Clock) -> None:
    Schedule(app.catalog, clock=clock).tick("src_none", {"interval": "60s"})
    assert app.catalog.jobs.page(limit=10)[0] == ()


def timers(schedule: Schedule) -> dict[str, Any]:
    return {job.id: job for job in schedule._scheduler.get_jobs()}


def test_timers_follow_the_sources(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    app = Installation(tmp_path)
    request.addfinalizer(app.close)
    schedule = Schedule(app.catalog)
    one = app.source("file:///one", schedule={"interval": "1h"})
    two = app.source("file:///two", schedule={"cron": "0 6 * * *"})
    broken = app.source("file:///broken", schedule={"interval": "nonsense"})
    app.source("file:///none")
    schedule.start()
    schedule._scheduler.remove_job("reconcile")
    request.addfinalizer(schedule.stop)
    assert timers(schedule).keys() == {one.id, two.id}
    app.catalog.sources.update(one.id, {"schedule": {"interval": "2h"}})
    app.catalog.sources.update(two.id, {"paused": True})
    app.catalog.sources.update(broken.id, {"schedule": {"interval": "5s"}})
    schedule.reconcile()
    assert timers(schedule).keys() == {one.id, broken.id}
    assert timers(schedule)[one.id].trigger.interval == timedelta(hours=2)
    app.catalog.sources.update(two.id, {"paused": False})
    app.catalog.sources.delete(one.id)
    schedule.reconcile()
    schedule.reconcile()
    assert timers(schedule).keys() == {two.id, broken.id}


def test_a24_after_downtime_one_sync_is_due_at_once(tmp_path: Path) -> None:
    app = Installation(tmp_path)
    now = datetime.now(UTC)
    late = app.source("file:///late", schedule={"interval": "24h"})
    fresh = app.source("file:///fresh", schedule={"interval": "24h"})
    app.catalog.sources.ran(late.id, now=now - timedelta(hours=30), complete=True, withheld=0, error=None)
    app.catalog.sources.ran(fresh.id, now=now - timedelta(hours=1), complete=True, withheld=0, error=None)
    schedule = Schedule(app.catalog)
    schedule.start()
    try:
        deadline = time.monotonic() + 10
        while not app.catalog.jobs.page(limit=10)[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        (job,), _ = app.catalog.jobs.page(limit=10)
        assert job.source_id == late.id
    finally:
        schedule.stop()
        schedule.stop()
        app.close()


def test_a_running_clock_ticks(tmp_path: Path) -> None:
    app = Installation(tmp_path)
    source = app.source(schedule={"interval": "1s"})
    schedule = Schedule(app.catalog)
    schedule.start()
    try:
        deadline = time.monotonic() + 10
        while not app.catalog.jobs.page(limit=10)[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [job.source_id for job in app.catalog.jobs.page(limit=10)[0]] == [source.id]
    finally:
        schedule.stop()
        app.close()
