"""The worker: every job ends in a state, one failure never stops the next job, a dead worker's job goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from indexes.errors import DiskFull, StorageFailed, StorageHalted
from ingest.catalog.catalog import Catalog
from ingest.catalog.jobs import LEASE, MAX_ATTEMPTS
from ingest.errors import Conflict, SourceUnreachable
from ingest.model import Job
from ingest.run import Run
from ingest.worker import Worker
from tests.contracts.ingest_parts import START, Clock, open_catalog

Handler = Callable[[Job, Run], None]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    found = open_catalog(tmp_path)
    yield found
    found.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def quick_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.worker._BEAT_S", 0.02)
    monkeypatch.setattr("ingest.worker._POLL_S", 0.02)


def sync(catalog: Catalog, source_id: str = "src_a", **fields: object) -> Job:
    return catalog.jobs.enqueue("sync", source_id=source_id, **{"now": START, **fields})  # type: ignore[arg-type]


def until(ready: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def until_stopped(run: Run) -> None:
    """What a pipeline does between two documents."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        run.check()
        time.sleep(0.005)
    raise AssertionError("it was never told to stop")


def counting(job: Job, run: Run) -> None:
    run.begin("embed", 2)
    run.counts["new"] = 2
    run.done = 2


def test_a_job_that_works_succeeds_with_its_counts(catalog: Catalog, clock: Clock) -> None:
    worker = Worker(catalog, {"sync": counting}, clock=clock)
    assert worker.work_once() is False
    job = sync(catalog)
    assert worker.work_once() is True
    found = catalog.jobs.get(job.id)
    assert (found.state, found.counts["new"], found.error, found.attempts) == ("succeeded", 2, None, 1)
    assert found.finished_at == START
    assert worker.work_once() is False


def failing(error: Exception) -> Handler:
    def handler(job: Job, run: Run) -> None:
        run.counts["failed"] += 1
        raise error

    return handler


def test_a_failure_says_what_and_what_to_do(catalog: Catalog, clock: Clock) -> None:
    job = sync(catalog)
    Worker(catalog, {"sync": failing(Conflict("No such kind.", hint="Kinds: files."))}, clock=clock).work_once()
    found = catalog.jobs.get(job.id)
    assert (found.state, found.counts["failed"]) == ("failed", 1)
    assert found.error == {"type": "Conflict", "title": "No such kind.", "hint": "Kinds: files."}


def test_what_may_pass_is_tried_again_with_growing_delays(catalog: Catalog, clock: Clock) -> None:
    worker = Worker(catalog, {"sync": failing(SourceUnreachable("gone"))}, clock=clock)
    job = sync(catalog)
    waits = []
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert worker.work_once() is True
        found = catalog.jobs.get(job.id)
        assert found.attempts == attempt
        if attempt == MAX_ATTEMPTS:
            break
        assert found.state == "queued"
        began = clock.now
        while catalog.jobs.claim("probe", now=clock.now) is None:
            clock.go(milliseconds=100)
        catalog.jobs.release(job.id, "probe", now=clock.now)
        waits.append((clock.now - began).total_seconds())
    assert found.state == "failed"
    assert found.error is not None
    assert found.error["type"] == "SourceUnreachable"
    for wait, (least, most) in zip(waits, [(1, 3), (2, 6), (4, 12), (8, 24)], strict=True):
        assert least <= wait <= most + 0.1


def test_a_scheduled_sync_is_not_tried_again_by_itself(catalog: Catalog, clock: Clock) -> None:
    job = sync(catalog, payload={"scheduled": True})  # the next slot is its next try
    Worker(catalog, {"sync": failing(SourceUnreachable("gone"))}, clock=clock).work_once()
    assert catalog.jobs.get(job.id).state == "failed"


def test_an_unexpected_fault_fails_the_job_and_not_the_worker(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: Job, run: Run) -> None:
        if job.payload.get("bad"):
            raise ZeroDivisionError("secret text of a document")

    worker = Worker(catalog, {"sync": handler}, threads=1)
    bad = sync(catalog, "src_a", payload={"bad": True})
    good = sync(catalog, "src_b")
    unknown = catalog.jobs.enqueue("verify", now=START)
    worker.start()
    try:
        until(lambda: all(catalog.jobs.get(j.id).finished_at for j in (bad, good, unknown)))
    finally:
        worker.stop()
    assert [catalog.jobs.get(j.id).state for j in (bad, good, unknown)] == ["failed", "succeeded", "failed"]
    error = catalog.jobs.get(bad.id).error
    assert error is not None
    assert error["type"] == "ZeroDivisionError"
    assert "secret text" not in str(error)
    assert "job " + bad.id in caplog.text


def test_a_fault_of_the_job_table_does_not_end_the_worker(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failed = catalog.jobs.claim, threading.Event()

    def claim(owner: str, *, now: object) -> Job | None:
        if not failed.is_set():
            failed.set()
            raise StorageFailed("disk full")
        return real(owner, now=now)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog.jobs, "claim", claim)
    job = sync(catalog)
    worker = Worker(catalog, {"sync": counting}, threads=1)
    worker.start()
    try:
        until(lambda: catalog.jobs.get(job.id).state == "succeeded")
    finally:
        worker.stop()
    assert "tries again" in caplog.text


def test_a_job_waits_for_a_full_disk_and_is_not_counted_as_tried(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses the job's work, and then even to put the job back; a schedule's job waits as any other."""
    monkeypatch.setattr("ingest.worker._FIRST_RETRY_S", 0.01)
    real, refused = catalog.jobs.release, list(range(3))
    full = list(range(MAX_ATTEMPTS + 2))

    def release(*args: object, **more: object) -> None:
        if refused:
            refused.pop()
            raise DiskFull
        real(*args, **more)  # type: ignore[arg-type]

    def handler(job: Job, run: Run) -> None:
        if full:
            full.pop()
            raise DiskFull
        counting(job, run)

    monkeypatch.setattr(catalog.jobs, "release", release)
    job = sync(catalog, payload={"scheduled": True})
    worker = Worker(catalog, {"sync": handler}, threads=1)
    worker.start()
    try:
        until(lambda: catalog.jobs.get(job.id).state not in ("queued", "running"))
    finally:
        worker.stop()
    found = catalog.jobs.get(job.id)
    assert (found.state, found.attempts, refused, full) == ("succeeded", 1, [], [])


def test_a_job_of_a_halted_process_is_left_to_the_next(catalog: Catalog, clock: Clock) -> None:
    job = sync(catalog)
    with pytest.raises(StorageHalted):
        Worker(catalog, {"sync": failing(StorageHalted())}, clock=clock).work_once()
    assert catalog.jobs.get(job.id).state == "running"
    clock.now += LEASE
    assert Worker(catalog, {"sync": counting}, clock=clock).work_once()
    assert catalog.jobs.get(job.id).state == "succeeded"


def test_a_cancelled_job_stops_at_its_next_document(catalog: Catalog) -> None:
    began = threading.Event()

    def handler(job: Job, run: Run) -> None:
        run.counts["new"] = 7
        began.set()
        until_stopped(run)

    worker = Worker(catalog, {"sync": handler}, threads=1)
    job = sync(catalog)
    worker.start()
    try:
        assert began.wait(10)
        catalog.jobs.cancel(job.id, now=START)
        until(lambda: catalog.jobs.get(job.id).state == "cancelled")
    finally:
        worker.stop()
    assert catalog.jobs.get(job.id).counts["new"] == 7


def test_a_stopping_worker_gives_its_job_back_unharmed(catalog: Catalog) -> None:
    began = threading.Event()

    def handler(job: Job, run: Run) -> None:
        began.set()
        until_stopped(run)

    worker = Worker(catalog, {"sync": handler}, threads=1)
    job = sync(catalog)
    worker.start()
    assert began.wait(10)
    started = time.monotonic()
    worker.stop()
    assert time.monotonic() - started < 5
    found = catalog.jobs.get(job.id)
    assert (found.state, found.attempts) == ("queued", 0)
    Worker(catalog, {"sync": counting}).work_once()
    assert catalog.jobs.get(job.id).state == "succeeded"


def test_progress_shows_while_it_runs(catalog: Catalog) -> None:
    go_on = threading.Event()

    def handler(job: Job, run: Run) -> None:
        run.begin("embed", 10)
        run.done, run.chunks = 4, 9
        assert go_on.wait(10)

    worker = Worker(catalog, {"sync": handler}, threads=1)
    job = sync(catalog)
    worker.start()
    try:
        until(lambda: catalog.jobs.get(job.id).progress.get("done") == 4)
        progress = catalog.jobs.get(job.id).progress
        assert (progress["stage"], progress["total"], progress["chunks"]) == ("embed", 10, 9)
        assert progress["eta_s"] is not None
    finally:
        go_on.set()
        worker.stop()


def test_a_dead_workers_job_goes_on_elsewhere(catalog: Catalog, clock: Clock) -> None:
    job = sync(catalog)
    assert catalog.jobs.claim("a process that was killed", now=clock()) is not None
    worker = Worker(catalog, {"sync": counting}, clock=clock)
    assert worker.work_once() is False
    clock.go(seconds=LEASE.total_seconds())
    assert worker.work_once() is True
    found = catalog.jobs.get(job.id)
    assert (found.state, found.attempts) == ("succeeded", 2)


def test_a_long_job_keeps_its_lease(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.catalog.jobs.LEASE", timedelta(seconds=0.3))
    done = threading.Event()

    def handler(job: Job, run: Run) -> None:
        assert done.wait(10)

    first = Worker(catalog, {"sync": handler}, threads=1)
    second = Worker(catalog, {"sync": failing(ZeroDivisionError("two workers had it"))}, threads=1)
    job = sync(catalog)
    first.start()
    until(lambda: catalog.jobs.get(job.id).state == "running")
    second.start()
    time.sleep(0.9)  # three leases
    done.set()
    try:
        until(lambda: catalog.jobs.get(job.id).state == "succeeded")
    finally:
        first.stop()
        second.stop()
    assert catalog.jobs.get(job.id).attempts == 1


def test_a_worker_that_lost_its_lease_stops_and_changes_nothing(catalog: Catalog, clock: Clock) -> None:
    stopped = threading.Event()

    def handler(job: Job, run: Run) -> None:
        clock.go(seconds=LEASE.total_seconds() + 1)  # it was suspended that long
        assert catalog.jobs.claim("other", now=clock()) is not None
        try:
            until_stopped(run)
        finally:
            stopped.set()

    job = sync(catalog)
    Worker(catalog, {"sync": handler}, clock=clock).work_once()
    assert stopped.is_set()
    found = catalog.jobs.get(job.id)
    assert (found.state, found.attempts) == ("running", 2)  # the other one's
    catalog.jobs.finish(job.id, "other", "succeeded", now=clock())


def test_what_is_not_settled_is_looked_at_again(catalog: Catalog, clock: Clock) -> None:
    def handler(job: Job, run: Run) -> None:
        run.again(5)
        run.again(1)
        run.again(60)

    first = sync(catalog)
    worker = Worker(catalog, {"sync": handler, "push": handler}, clock=clock)
    worker.work_once()
    jobs, _ = catalog.jobs.page(limit=10, state="queued")
    (again,) = jobs
    assert (again.source_id, again.payload) == (first.source_id, {"scheduled": True})
    assert catalog.jobs.claim("w", now=START + timedelta(seconds=0.9)) is None
    assert catalog.jobs.claim("w", now=START + timedelta(seconds=1)) is not None
    catalog.jobs.finish(again.id, "w", "succeeded", now=START)
    catalog.jobs.enqueue("push", now=START, source_id="src_p")
    worker.work_once()
    assert catalog.jobs.page(limit=10, state="queued")[0] == ()


def test_workers_share_the_work(catalog: Catalog) -> None:
    ran: list[str] = []

    def handler(job: Job, run: Run) -> None:
        ran.append(str(job.source_id))
        time.sleep(0.005)

    with catalog.write():
        for number in range(40):
            sync(catalog, f"src_{number}")
    workers = [Worker(catalog, {"sync": handler}, threads=2) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        until(lambda: len(catalog.jobs.page(limit=50, state="succeeded")[0]) == 40, 20)
    finally:
        for worker in workers:
            worker.stop()
    assert sorted(ran) == sorted(f"src_{number}" for number in range(40))  # each once


def test_a_cancelled_job_is_not_tried_again(catalog: Catalog, clock: Clock) -> None:
    def handler(job: Job, run: Run) -> None:
        catalog.jobs.cancel(job.id, now=START)
        raise SourceUnreachable("gone")

    job = sync(catalog)
    Worker(catalog, {"sync": handler}, clock=clock).work_once()
    assert catalog.jobs.get(job.id).state == "cancelled"
