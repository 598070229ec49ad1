"""How long from the catalogue's commit to an answer that shows it? A small collection through the real pipeline.

A folder of notes is ingested with the free embedder; then one file at a time is edited and synced. The job has
returned when the catalogue has committed; from there it is timed to the end of the first search that finds the edit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import corpus
from bench.asking import percentiles
from indexes.analyze import Analyzer
from indexes.model import Allowed, Query
from ingest.catalog.database import to_us
from ingest.pipeline import now_utc
from ingest.run import Run
from ragsvc.bootstrap import Service, build
from ragsvc.settings import load
from ragsvc.sourcing import NewSource, add_source, place_uri


def until_found(documents: int, edits: int = 15) -> dict[str, Any]:
    """Milliseconds from the commit to the first answer with the edit: follow the log, pin, search."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        corpus.write_folder(files, corpus.documents(documents, None))
        with build(load(data=Path(folder) / "data", embedder="hash:384"), writable=True) as service:
            new = NewSource("bench", "files", place_uri(str(files)), options={"settle_s": 0})
            source, job = add_source(service, new, actor="bench")
            service.catalog.jobs.cancel(job.id, now=now_utc())
            sync(service, source.id)
            generation = service.catalog.collections.get("bench").generation_id
            service.follower.publish()
            took = []
            for number, path in enumerate(sorted(files.iterdir())[:edits]):
                word = f"edited{number}"
                path.write_text(path.read_text(encoding="utf-8") + f"\nThis is {word} now.\n", encoding="utf-8")
                sync(service, source.id)
                began = perf_counter()
                query = Query(Allowed.everything(), to_us(now_utc()), 1, terms=tuple(Analyzer().terms(word)))
                while not service.follower.pin(generation).search(query):
                    pass
                took.append((perf_counter() - began) * 1000)
            return {"documents": documents, "found_ms": percentiles(took)}


def sync(service: Service, source_id: str) -> None:
    """One sync job in this thread. What it found is committed when it returns, and not followed yet."""
    service.catalog.jobs.enqueue("sync", now=now_utc(), source_id=source_id)
    job = service.catalog.jobs.claim("bench", now=now_utc())
    assert job is not None
    assert service.ingestion is not None
    run = Run()
    service.ingestion.handlers()["sync"](job, run)
    service.catalog.jobs.finish(job.id, "bench", "succeeded", now=now_utc(), counts=run.counts)
