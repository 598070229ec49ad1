"""What does it cost to fill the engine? One child process: apply in batches, publish, merge until nothing needs it."""

from __future__ import annotations

import shutil
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.collection import GENERATION, batches
from bench.vectors import Rows
from indexes.embedded import EmbeddedEngine

WATCH_S = 0.05


def memory() -> dict[str, int]:
    """Bytes of this process: anonymous, mapped from files, and the most that was resident."""
    names = {"RssAnon": "anonymous", "RssFile": "mapped", "VmHWM": "peak"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[key[:-1]]: int(value[0]) * 1024 for key, *value in lines if key[:-1] in names}


class AnonymousPeak:
    """The most anonymous memory while it is open, by looking twenty times a second."""

    def __enter__(self) -> AnonymousPeak:
        self.before = self.most = memory()["anonymous"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            self.most = max(self.most, memory()["anonymous"])


def build(folder: Path, rows: Rows, *, publish_rows: int) -> dict[str, Any]:
    """Fill an empty engine, publishing whenever `publish_rows` wait. Seconds by verb, memory, disk, parts."""
    shutil.rmtree(folder, ignore_errors=True)
    engine = EmbeddedEngine(folder)
    took = {"apply_s": 0.0, "publish_s": 0.0, "merge_s": 0.0}
    merges = waiting = published = 0
    with AnonymousPeak() as peak:
        writer = engine.open(GENERATION, writable=True)
        for ops, seq in batches(rows):
            began = perf_counter()
            writer.apply(ops, seq=seq)
            took["apply_s"] += perf_counter() - began
            waiting = min(len(rows), seq * 10) - published
            if waiting < publish_rows and seq * 10 < len(rows):
                continue
            published += waiting
            began = perf_counter()
            writer.publish()
            took["publish_s"] += perf_counter() - began
            began = perf_counter()
            while writer.merge():
                merges += 1
            took["merge_s"] += perf_counter() - began
            print(f"  {published:,} rows after {sum(took.values()):.0f} s", file=sys.stderr, flush=True)
    searcher = engine.pin(GENERATION.id)
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    report = {
        **took,
        "seconds": sum(took.values()),
        "batch_rows": 2_000,
        "publish_rows": publish_rows,
        "merges": merges,
        "peak": memory()["peak"],
        "anonymous_peak": peak.most,
        "anonymous_before": peak.before,
        "bytes": sum(sizes.values()),
        "segments": searcher.snapshot.segments,
        "chunks": searcher.snapshot.chunks,
        "parts": [asdict(part) for part in searcher.describe()],
    }
    engine.close()
    return report
