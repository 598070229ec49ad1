"""Durable jobs: one stands for many wishes, one worker has it at a time, a dead worker's job goes on elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.catalog.catalog import Catalog
from ingest.catalog.jobs import (
    LEASE,
    MAX_ATTEMPTS,
    PRIORITY_EVENT,
    PRIORITY_SCHEDULE,
    PRIORITY_USER,
    Jobs,
)
from ingest.errors import Conflict, LeaseLost, NotFound
from ingest.model import Job
from tests.contracts.ingest_parts import START, database_url, open_catalog, undone

SECOND = timedelta(seconds=1)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    found = open_catalog(tmp_path)
    yield found
    found.close()


@pytest.fixture
def jobs(catalog: Catalog) -> Jobs:
    return catalog.jobs


def sync(jobs: Jobs, source_id: str = "src_a", **fields: Any) -> Job:
    return jobs.enqueue("sync", source_id=source_id, **{"now": START, **fields})


def claim(jobs: Jobs, owner: str = "w1", now: Any = START) -> Job:
    job = jobs.claim(owner, now=now)
    assert job is not None
    return job


# ---------------------------------------------------------------- queueing


def test_a_new_job_waits(jobs: Jobs) -> None:
    job = sync(jobs, payload={"approve_deletions": 3})
    assert (job.kind, job.state, job.source_id, job.attempts) == ("sync", "queued", "src_a", 0)
    assert job.payload == {"approve_deletions": 3}
    assert (job.created_at, job.started_at, job.finished_at) == (START, None, None)
    assert job.progress["stage"] == "queued"
    assert jobs.get(job.id) == job
    with pytest.raises(NotFound):
        jobs.get("job_none")


def test_syncs_of_a_source_that_wait_are_one(jobs: Jobs) -> None:
    first = sync(jobs, priority=PRIORITY_SCHEDULE, not_before=START + 60 * SECOND, payload={"scheduled": True})
    second = sync(jobs, priority=PRIORITY_EVENT, not_before=START + SECOND, payload={"scheduled": True})
    assert second.id == first.id
    assert second.priority == PRIORITY_EVENT
    assert second.payload == {"scheduled": True}
    third = sync(jobs, payload={"approve_deletions": 20})
    assert third.id == first.id
    assert third.priority == PRIORITY_USER
    assert third.payload == {"scheduled": False, "approve_deletions": 20}
    later = sync(jobs, priority=PRIORITY_SCHEDULE, not_before=START + 90 * SECOND, payload={"scheduled": True})
    assert later.id == first.id
    assert later.priority == PRIORITY_USER
    assert later.payload == {"scheduled": False, "approve_deletions": 20}  # nobody's wish is lost
    assert claim(jobs).id == first.id  # as soon as the most urgent wanted
    assert jobs.claim("w1", now=START + LEASE - SECOND) is None


def test_a_sync_that_runs_does_not_stand_for_a_later_wish(jobs: Jobs) -> None:
    first = sync(jobs)
    claim(jobs)
    second = sync(jobs)
    assert second.id != first.id
    assert sync(jobs).id == second.id


def test_syncs_of_other_sources_and_pushes_are_their_own_jobs(jobs: Jobs) -> None:
    ids = {sync(jobs).id, sync(jobs, "src_b").id}
    ids |= {jobs.enqueue("push", now=START, source_id="src_p", payload={"uri": uri}).id for uri in "aab"}
    ids |= {jobs.enqueue("verify", now=START).id for _ in range(2)}
    assert len(ids) == 7


def test_the_same_idempotency_key_gives_the_same_job_for_ever(jobs: Jobs) -> None:
    first = sync(jobs, idempotency_key="k", payload={"approve_deletions": 5})
    for _ in range(3):
        assert sync(jobs, idempotency_key="k", payload={"approve_deletions": 5}).id == first.id
    claim(jobs)
    assert sync(jobs, idempotency_key="k", payload={"approve_deletions": 5}).state == "running"
    jobs.finish(first.id, "w1", "succeeded", now=START)
    assert sync(jobs, idempotency_key="k", payload={"approve_deletions": 5}).state == "succeeded"


def test_an_empty_request_with_a_key_can_be_repeated_though_others_joined(jobs: Jobs) -> None:
    first = sync(jobs, idempotency_key="k")
    joined = sync(jobs, payload={"scheduled": True})
    assert joined.id == first.id
    for _ in range(3):
        assert sync(jobs, idempotency_key="k").id == first.id


@pytest.mark.parametrize(
    ("kind", "source_id", "payload"),
    [("sync", "src_a", {"approve_deletions": 6}), ("sync", "src_b", {}), ("verify", "src_a", {})],
)
def test_a_key_for_another_request_is_a_conflict(
    jobs: Jobs, kind: Any, source_id: str, payload: dict[str, Any]
) -> None:
    jobs.enqueue("sync", now=START, source_id="src_a", idempotency_key="k")
    with pytest.raises(Conflict, match="'k'"):
        jobs.enqueue(kind, now=START, source_id=source_id, payload=payload, idempotency_key="k")
    assert len(jobs.page(limit=10)[0]) == 1


def test_a_slot_runs_once(jobs: Jobs) -> None:
    first = sync(jobs, slot="60s-1")
    assert sync(jobs, slot="60s-1").id == first.id
    claim(jobs)
    assert sync(jobs, slot="60s-1").id == first.id
    jobs.finish(first.id, "w1", "succeeded", now=START)
    assert sync(jobs, slot="60s-1").id == first.id
    assert jobs.claim("w1", now=START) is None
    assert sync(jobs, slot="60s-2").id != first.id
    assert sync(jobs, "src_b", slot="60s-1").id != first.id


def test_a_slot_that_joins_a_waiting_sync_has_run_with_it(jobs: Jobs) -> None:
    waiting = sync(jobs)
    assert sync(jobs, slot="60s-7").id == waiting.id
    claim(jobs)
    jobs.finish(waiting.id, "w1", "succeeded", now=START)
    assert sync(jobs, slot="60s-7").id == waiting.id


def test_a_job_and_its_cause_are_one_transaction(catalog: Catalog) -> None:
    with undone(catalog):
        sync(catalog.jobs)
    assert catalog.jobs.page(limit=10) == ((), None)


# ---------------------------------------------------------------- claiming


def test_the_most_urgent_first_then_the_oldest(jobs: Jobs) -> None:
    order = [
        ("src_s", PRIORITY_SCHEDULE, 0),
        ("src_u2", PRIORITY_USER, 2),
        ("src_e", PRIORITY_EVENT, 1),
        ("src_u1", PRIORITY_USER, 1),
    ]
    for source_id, priority, seconds in order:
        sync(jobs, source_id, priority=priority, now=START + seconds * SECOND)
    now = START + 10 * SECOND
    assert [claim(jobs, now=now).source_id for _ in order] == ["src_u1", "src_u2", "src_e", "src_s"]


def test_a_job_is_not_claimed_before_its_time(jobs: Jobs) -> None:
    job = sync(jobs, not_before=START + 10 * SECOND)
    assert jobs.claim("w1", now=START + 9 * SECOND) is None
    assert claim(jobs, now=START + 10 * SECOND).id == job.id


def test_one_job_of_a_source_runs_at_a_time(jobs: Jobs) -> None:
    first = jobs.enqueue("push", now=START, source_id="src_p", payload={"uri": "a"})
    second = jobs.enqueue("push", now=START + SECOND, source_id="src_p", payload={"uri": "b"})
    other = jobs.enqueue("push", now=START + 2 * SECOND, source_id="src_q", payload={"uri": "c"})
    now = START + 5 * SECOND
    assert [claim(jobs, "w1", now).id, claim(jobs, "w2", now).id] == [first.id, other.id]
    assert jobs.claim("w3", now=now) is None
    jobs.finish(first.id, "w1", "failed", now=now)
    assert claim(jobs, "w3", now).id == second.id


def test_jobs_without_a_source_run_side_by_side(jobs: Jobs) -> None:
    ids = {jobs.enqueue("verify", now=START).id for _ in range(3)}
    assert {claim(jobs, f"w{n}").id for n in range(3)} == ids


def test_a_claimed_job_shows_it(jobs: Jobs) -> None:
    sync(jobs)
    job = claim(jobs, now=START + SECOND)
    assert (job.state, job.attempts, job.started_at) == ("running", 1, START + SECOND)


# ---------------------------------------------------------------- leases


def test_a_job_whose_worker_died_is_leased_again(jobs: Jobs) -> None:
    job = sync(jobs)
    claim(jobs, "dead")
    assert jobs.claim("w2", now=START + LEASE - SECOND) is None
    again = claim(jobs, "w2", START + LEASE)
    assert (again.id, again.attempts, again.started_at) == (job.id, 2, START)
    for act in (
        lambda: jobs.heartbeat(job.id, "dead", now=START + LEASE),
        lambda: jobs.finish(job.id, "dead", "succeeded", now=START + LEASE),
    ):
        with pytest.raises(LeaseLost):
            act()
    jobs.release(job.id, "dead", now=START + LEASE)  # means nothing any more
    assert jobs.get(job.id).state == "running"
    jobs.finish(job.id, "w2", "succeeded", now=START + LEASE)
    assert jobs.get(job.id).state == "succeeded"


def test_a_dead_workers_job_does_not_block_its_source(jobs: Jobs) -> None:
    sync(jobs)
    claim(jobs, "dead")
    second = sync(jobs, now=START + SECOND)
    assert jobs.claim("w2", now=START + 2 * SECOND) is None
    later = START + LEASE + SECOND
    claimed = {claim(jobs, "w2", later).id}
    assert jobs.claim("w3", now=later) is None  # still one at a time
    jobs.finish(claimed.copy().pop(), "w2", "succeeded", now=later)
    claimed.add(claim(jobs, "w2", later).id)
    assert second.id in claimed
    assert len(claimed) == 2


def test_a_heartbeat_prolongs_the_lease_and_shows_progress(jobs: Jobs) -> None:
    job = sync(jobs)
    claim(jobs)
    stopping = jobs.heartbeat(
        job.id, "w1", now=START + LEASE - SECOND, progress={"stage": "embed", "done": 3}, counts={"new": 2}
    )
    assert stopping is False
    assert jobs.claim("w2", now=START + LEASE + SECOND) is None
    found = jobs.get(job.id)
    assert (found.progress, found.counts) == ({"stage": "embed", "done": 3}, {"new": 2})
    assert claim(jobs, "w2", START + 2 * LEASE).id == job.id


def test_a_job_that_kills_its_worker_each_time_ends_as_failed(jobs: Jobs) -> None:
    job = sync(jobs)
    now = START
    for attempt in range(MAX_ATTEMPTS):
        assert claim(jobs, f"w{attempt}", now).id == job.id
        now += LEASE
    assert jobs.claim("last", now=now) is None
    found = jobs.get(job.id)
    assert found.state == "failed"
    assert found.error is not None
    assert "too often" in found.error["title"]
    assert jobs.claim("last", now=now + LEASE) is None


# ---------------------------------------------------------------- ending


def test_a_finished_job_says_how(jobs: Jobs) -> None:
    job = sync(jobs)
    claim(jobs)
    error = {"type": "SourceUnreachable", "title": "gone", "hint": "look"}
    jobs.finish(job.id, "w1", "failed", now=START + SECOND, counts={"failed": 1}, error=error)
    found = jobs.get(job.id)
    assert (found.state, found.finished_at, found.counts, found.error) == (
        "failed",
        START + SECOND,
        {"failed": 1},
        error,
    )
    with pytest.raises(LeaseLost):
        jobs.heartbeat(job.id, "w1", now=START)


def test_a_stopping_worker_gives_its_job_back(jobs: Jobs) -> None:
    job = sync(jobs)
    claim(jobs)
    jobs.release(job.id, "w1", now=START + SECOND)
    found = jobs.get(job.id)
    assert (found.state, found.attempts) == ("queued", 0)  # stopping is no failure
    assert claim(jobs, "w2", START + SECOND).id == job.id


def test_a_job_that_is_tried_again_waits(jobs: Jobs) -> None:
    job = sync(jobs)
    claim(jobs)
    jobs.release(job.id, "w1", now=START, delay=10 * SECOND)
    assert jobs.get(job.id).attempts == 1
    assert jobs.claim("w1", now=START + 9 * SECOND) is None
    assert claim(jobs, now=START + 10 * SECOND).attempts == 2


def test_a_queued_job_is_cancelled_at_once(jobs: Jobs) -> None:
    job = sync(jobs)
    found = jobs.cancel(job.id, now=START + SECOND)
    assert (found.state, found.finished_at) == ("cancelled", START + SECOND)
    assert jobs.claim("w1", now=START + SECOND) is None
    with pytest.raises(Conflict, match="ended"):
        jobs.cancel(job.id, now=START)
    with pytest.raises(NotFound):
        jobs.cancel("job_none", now=START)


def test_a_running_job_is_asked_to_stop(jobs: Jobs) -> None:
    job = sync(jobs)
    claim(jobs)
    found = jobs.cancel(job.id, now=START)
    assert (found.state, found.cancel_requested) == ("running", True)
    assert jobs.heartbeat(job.id, "w1", now=START) is True
    jobs.finish(job.id, "w1", "cancelled", now=START)
    assert jobs.get(job.id).state == "cancelled"


def test_pages_go_from_new_to_old(jobs: Jobs) -> None:
    ids = [sync(jobs, f"src_{n}", now=START + n * SECOND).id for n in range(7)]
    found: list[str] = []
    before: int | None = None
    while True:
        page, before = jobs.page(limit=3, before=before)
        found += [job.id for job in page]
        if before is None:
            break
    assert found == ids[::-1]
    assert [job.source_id for job in jobs.page(limit=9, source_id="src_3")[0]] == ["src_3"]
    claim(jobs, now=START + 10 * SECOND)
    assert [job.id for job in jobs.page(limit=9, state="running")[0]] == [ids[0]]


# ---------------------------------------------------------------- real processes

CLAIMER = """
import sys, time
from datetime import datetime, UTC
from ingest.catalog.catalog import Catalog
catalog = Catalog(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
idle = 0
while idle < 5:
    job = catalog.jobs.claim(sys.argv[2], now=datetime.now(UTC))
    if job is None:
        idle += 1
        time.sleep(0.02)
        continue
    idle = 0
    print(job.id, flush=True)
    if job.source_id.endswith("7"):
        catalog.jobs.finish(job.id, sys.argv[2], "succeeded", now=datetime.now(UTC))
"""


@pytest.mark.slow
def test_processes_that_claim_at_once_never_get_the_same_job(catalog: Catalog, tmp_path: Path) -> None:
    with catalog.write():
        ids = {sync(catalog.jobs, f"src_{number}").id for number in range(80)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, database_url(tmp_path), f"w{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    claimed = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert Counter(job_id for names in claimed for job_id in names) == Counter(ids)
    assert all(claimed), "only one process worked: nothing was tested"


ENQUEUER = """
import sys
from datetime import datetime, UTC
from ingest.catalog.catalog import Catalog
catalog = Catalog(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for slot in range(40):
    catalog.jobs.enqueue("sync", now=datetime.now(UTC), source_id=f"src_{slot % 4}", slot=f"60s-{slot}", priority=50)
"""


@pytest.mark.slow
def test_two_clocks_make_no_slot_run_twice(catalog: Catalog, tmp_path: Path) -> None:
    clocks = [
        subprocess.Popen(
            [sys.executable, "-c", ENQUEUER, database_url(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for clock in clocks:
        assert clock.stdout is not None
        assert clock.stdout.readline() == b"ready\n"
    for clock in clocks:
        clock.communicate(b"go\n", timeout=60)
    assert [clock.returncode for clock in clocks] == [0, 0]
    assert len(catalog.jobs.page(limit=100)[0]) == 4  # what waits is one sync of each source
