"""How fast is a retrieve, and where does its time go? `python bench/retrieve.py [--passages N] [--dataset FOLDER]`

Method: N passages are ingested with the real pipeline; then different questions are asked one after the other, first
in this process (with the parts that the response names: pin, embed, search, assemble), then over HTTP on the loopback
from a real `ragsvc serve`. No question repeats, so no cache helps. Times on a shared machine are noisy: compare the
shares.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import httpx
import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # a script's own folder would hide the package `ingest`

from bench import corpus
from bench.ingest import CHARACTERS_PER_PASSAGE, sync
from indexes.model import Allowed
from ingest.pipeline import now_utc
from ragsvc.answer import Question
from ragsvc.bootstrap import Service, build
from ragsvc.settings import load
from ragsvc.sourcing import NewSource, add_source, place_uri


def percentiles(values: list[float]) -> str:
    """p50 and p99 of milliseconds."""
    return f"p50 {np.percentile(values, 50):7.2f} ms   p99 {np.percentile(values, 99):7.2f} ms"


def ingest(service: Service, files: Path, passages: int, dataset: Path | None) -> int:
    """Fill the index; returns the number of passages."""
    sample = corpus.documents(200, dataset)
    each = max(1.0, sum(len(text) for _, text in sample) / len(sample) / CHARACTERS_PER_PASSAGE)
    corpus.write_folder(files, corpus.documents(round(passages / each), dataset))
    source, job = add_source(
        service, NewSource("bench", "files", place_uri(str(files)), options={"settle_s": 0}), actor="bench"
    )
    service.catalog.jobs.cancel(job.id, now=now_utc())
    return sync(service, source.id)[0].chunks


def inside(service: Service, questions: list[str], mode: str) -> dict[str, list[float]]:
    """Milliseconds by part."""
    parts: dict[str, list[float]] = {}
    for text in questions:
        question = Question(text, Allowed.everything(), ("bench",), mode=mode)  # type: ignore[arg-type]
        for part, took in service.retriever.retrieve(question).timings_ms.items():
            parts.setdefault(part, []).append(took)
    return parts


def over_http(data: Path, questions: list[str]) -> list[float]:
    """Milliseconds of whole calls to a server process."""
    command = [sys.executable, "-c", "from ragsvc.cli import main; main()", "serve", "--port", "0"]
    server = subprocess.Popen(command, env={**os.environ, "RAGSVC_DATA": str(data)}, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        took = []
        with httpx.Client(base_url=found[0], timeout=60) as client:
            client.post("/v1/retrieve", json={"query": "warm the model and the caches"}).raise_for_status()
            for text in questions:
                began = perf_counter()
                client.post("/v1/retrieve", json={"query": text}).raise_for_status()
                took.append((perf_counter() - began) * 1000)
        return took
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    """Ingest, then ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--models", type=Path, default=Path("ragsvc-data/models"))
    parser.add_argument("--data", type=Path, help="keep the ingested passages here, and use them if they are")
    parser.add_argument("--embedder", default="all-MiniLM-L6-v2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "data"
        data.mkdir(parents=True, exist_ok=True)
        if not (data / "models").exists():
            (data / "models").symlink_to(args.models.resolve())
        asked = corpus.questions(args.questions * 4, args.dataset)
        batches = [asked[n::4] for n in range(4)]
        with build(load(data=data, embedder=args.embedder), writable=True) as service:
            if not service.catalog.collections.all():
                ingest(service, Path(folder) / "files", args.passages, args.dataset)
            service.follower.publish()
            count = service.follower.pin(service.catalog.collections.get("bench").generation_id).snapshot.chunks
            print(f"{count} passages, {args.embedder}, {args.questions} questions a mode")
            inside(service, ["warm the model and the caches"], "hybrid")
            for mode, batch in zip(("hybrid", "dense", "lexical"), batches, strict=False):
                print(f"\n{mode}, inside the process")
                for part, took in inside(service, batch, mode).items():
                    print(f"  {part:9}{percentiles(took)}")
        print(f"\nhybrid, over HTTP\n  total    {percentiles(over_http(data, batches[3]))}")


if __name__ == "__main__":
    main()
