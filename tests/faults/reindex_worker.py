"""What the killed processes of test_a30_reindex.py do. No test itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indexes.analyze import detect_language
from ingest import reindex
from ingest.model import Build
from ingest.reindex import Reindexing
from ingest.run import Run
from ragsvc.bootstrap import build
from tests.contracts.installation import settings_in

detect_language("Loaded once, before the first fork: each killed process would load it again.")


def main(*, folder: str, job: str) -> None:
    """Work on a reindex as a worker does that leased it; print `batch` after each commit, at last what was embedded."""
    reindex._ENTRIES = 4
    fill = Reindexing._fill_part

    def telling(self: Reindexing, *arguments: Any) -> Build:
        after = fill(self, *arguments)
        print("batch", flush=True)
        return after

    Reindexing._fill_part = telling  # type: ignore[assignment,method-assign]
    with build(settings_in(Path(folder)), writable=True) as service:
        run = Run()
        service.reindexing.reindex(service.catalog.jobs.get(job), run)
        print("done", run.embedded, run.chunks, flush=True)
