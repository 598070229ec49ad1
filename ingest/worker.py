"""The worker: claims due jobs, runs them under a heartbeat, and never lets one failure stop the next job."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from indexes.errors import RagsvcError, StorageFailed
from ingest.catalog.catalog import Catalog
from ingest.catalog.ids import random_id
from ingest.catalog.jobs import MAX_ATTEMPTS, PRIORITY_EVENT
from ingest.errors import LeaseLost
from ingest.model import Job
from ingest.pipeline import now_utc
from ingest.run import Cancelled, Run

log = logging.getLogger("ragsvc.worker")
Handler = Callable[[Job, Run], None]
_POLL_S = 0.2
_BEAT_S = 1.0
_FIRST_RETRY_S = 2.0


class Worker:
    """`threads` loops over the job table. `handlers` does the work of each kind of job."""

    def __init__(
        self,
        catalog: Catalog,
        handlers: Mapping[str, Handler],
        *,
        threads: int = 2,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self._catalog = catalog
        self._handlers = handlers
        self._now = clock
        self._stop = threading.Event()
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{random_id('w')[-6:]}"
        self._threads = [
            threading.Thread(target=self._loop, name=f"worker-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Begin to claim jobs."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout_s: float = 8.0) -> None:
        """Claim nothing more; running jobs stop at their next document and go back to the queue."""
        self._stop.set()
        deadline = monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(deadline - monotonic(), 0))

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                worked = self.work_once()
            except StorageFailed as error:
                log.warning("the worker cannot use the job table and tries again: %s", error.message)
                worked = self._stop.wait(_FIRST_RETRY_S)
            except Exception:
                log.exception("the worker could not claim or end a job; it tries again")
                worked = False
            if not worked:
                self._stop.wait(_POLL_S)

    def work_once(self) -> bool:
        """Run one due job, if there is one."""
        job = self._catalog.jobs.claim(self.owner, now=self._now())
        if job is None:
            return False
        run = Run()
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(job, run, ended), name=f"beat-{job.id}", daemon=True)
        beat.start()
        try:
            self._run(job, run)
        finally:
            ended.set()
            beat.join()
        return True

    def _beat(self, job: Job, run: Run, ended: threading.Event) -> None:
        """Prolong the lease, show progress, carry the wish to stop. Losing the lease stops the run."""
        while not ended.wait(_BEAT_S):
            try:
                cancelled = self._catalog.jobs.heartbeat(
                    job.id, self.owner, now=self._now(), progress=run.progress(), counts=run.counts
                )
            except LeaseLost:
                run.stopping = True
                return
            except RagsvcError as error:
                log.warning("heartbeat of %s failed: %s", job.id, error.message)
                continue
            run.stopping = run.stopping or cancelled or self._stop.is_set()

    def _run(self, job: Job, run: Run) -> None:
        jobs = self._catalog.jobs
        try:
            try:
                self._handlers[job.kind](job, run)
            except Cancelled:
                self._stopped(job, run)
            except RagsvcError as error:
                self._failed(job, run, error)
            except Exception as error:
                log.exception("job %s failed", job.id)
                jobs.finish(job.id, self.owner, "failed", now=self._now(), counts=run.counts, error=_problem(error))
            else:
                with self._catalog.write():
                    # what a job shorter than a heartbeat did is shown too
                    jobs.heartbeat(job.id, self.owner, now=self._now(), progress=run.progress())
                    jobs.finish(job.id, self.owner, "succeeded", now=self._now(), counts=run.counts)
                    self._again(job, run)
        except LeaseLost:
            log.warning("job %s was taken over by another worker", job.id)

    def _again(self, job: Job, run: Run) -> None:
        """Something was still being written or failed in passing: look again when that may be over."""
        if run.again_in_s is not None and job.source_id is not None and job.kind == "sync":
            now = self._now()
            self._catalog.jobs.enqueue(
                "sync",
                now=now,
                source_id=job.source_id,
                payload={"scheduled": True},
                priority=PRIORITY_EVENT,
                not_before=now + timedelta(seconds=max(run.again_in_s, 0.2)),
            )

    def _stopped(self, job: Job, run: Run) -> None:
        if self._catalog.jobs.get(job.id).cancel_requested:
            self._catalog.jobs.finish(job.id, self.owner, "cancelled", now=self._now(), counts=run.counts)
        else:  # this worker stops, not the job
            self._catalog.jobs.release(job.id, self.owner, now=self._now())

    def _failed(self, job: Job, run: Run, error: RagsvcError) -> None:
        """Try again later what may pass by itself, with growing delays and jitter."""
        log.warning("job %s: %s", job.id, error.message)
        if isinstance(error, StorageFailed):
            self._wait_for_disk(job, error)
            return
        scheduled = job.payload.get("scheduled") is True
        if error.retryable and not scheduled and job.attempts < MAX_ATTEMPTS:
            if self._catalog.jobs.get(job.id).cancel_requested:
                self._stopped(job, run)
                return
            delay = _FIRST_RETRY_S * 2 ** (job.attempts - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
            self._catalog.jobs.release(job.id, self.owner, now=self._now(), delay=timedelta(seconds=delay))
            return
        self._catalog.jobs.finish(
            job.id, self.owner, "failed", now=self._now(), counts=run.counts, error=_problem(error)
        )

    def _wait_for_disk(self, job: Job, error: StorageFailed) -> None:
        """Put the job back as if it had not been tried: the disk is to blame. A full one refuses even that, so wait.

        A halted one will not take it back: then the job goes to the next process when its lease ends.
        """
        while error.retryable and not self._stop.wait(_FIRST_RETRY_S):
            try:
                self._catalog.jobs.release(job.id, self.owner, now=self._now())
            except StorageFailed as again:
                error = again
            else:
                return
        raise error


def _problem(error: Exception) -> dict[str, Any]:
    """What a job shows of its failure."""
    if isinstance(error, RagsvcError):
        return {"type": type(error).__name__, "title": error.message, "hint": error.hint}
    return {
        "type": type(error).__name__,
        "title": "An unexpected fault of the service.",
        "hint": "See the worker's log; report it with the job's id.",
    }
