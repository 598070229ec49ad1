"""How fast is ingestion, end to end? `python bench/ingest.py [--passages N] [--dataset FOLDER] [--models FOLDER]`

Method: N passages' worth of Markdown files in a folder go through the real job (list, fetch, jail, chunk, embed,
record) and are followed into the index, once with the model and once with a free embedder, so that the pipeline
itself is seen; then the same folder is synced again unchanged, and with 1 % of the files edited. CPU seconds are
those of this process and its children, the jail's included. The limit is what the model's multiplications alone would
cost: fp32 GEMM speed measured in the same run, in multiply-adds per CPU-second, over those that the model needs for
the tokens it read. Times on a shared machine are noisy: compare the ratios.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads that wait for each other would make the limit too low
import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # a script's own folder would hide the package `ingest`

from bench import corpus
from ingest.pipeline import now_utc
from ingest.run import Run
from ragsvc.bootstrap import build
from ragsvc.settings import load
from ragsvc.sourcing import NewSource, add_source, place_uri

HIDDEN, LAYERS = 384, 6  # all-MiniLM-L6-v2
CHARACTERS_PER_PASSAGE = 600


def cpu_s() -> float:
    """CPU seconds of this process and its children so far, those that still live (the jail's zygotes) included."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            ticks += sum(map(int, Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[11:15]))
    alive = ticks / os.sysconf("SC_CLK_TCK")
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime + alive


def gemm_per_cpu_s() -> float:
    """fp32 multiply-adds per CPU-second at the shapes of the model's feed-forward layer."""
    a = np.random.default_rng(1).standard_normal((2048, HIDDEN), dtype=np.float32)
    b = np.random.default_rng(2).standard_normal((HIDDEN, 4 * HIDDEN), dtype=np.float32)
    a @ b
    began = cpu_s()
    rounds = 60
    for _ in range(rounds):
        a @ b
    return rounds * a.shape[0] * b.size / (cpu_s() - began)


def multiply_adds(tokens: int, sentences: int) -> float:
    """What MiniLM needs: 12 h^2 a token and layer, and the attention's 2 n h a token and layer."""
    length = tokens / max(sentences, 1)
    return tokens * LAYERS * (12 * HIDDEN**2 + 2 * length * HIDDEN)


def sync(service: Any, source_id: str) -> tuple[Run, float, float]:
    """One sync job run in this thread: its progress, wall and CPU seconds, following into the index included."""
    began, began_cpu = perf_counter(), cpu_s()
    service.catalog.jobs.enqueue("sync", now=now_utc(), source_id=source_id)
    job = service.catalog.jobs.claim("bench", now=now_utc())
    run = Run()
    service.ingestion.handlers()["sync"](job, run)
    service.catalog.jobs.finish(job.id, "bench", "succeeded", now=now_utc(), counts=run.counts)
    service.follower.publish()
    return run, perf_counter() - began, cpu_s() - began_cpu


def measure(embedder: str, passages: int, dataset: Path | None, models: Path | None) -> tuple[float, float]:
    """Print one embedder's figures; returns its wall and CPU seconds of the first sync."""
    with tempfile.TemporaryDirectory() as folder:
        data, files = Path(folder) / "data", Path(folder) / "files"
        if models is not None:
            data.mkdir()
            (data / "models").symlink_to(models.resolve())
        sample = corpus.documents(200, dataset)
        each = max(1.0, sum(len(text) for _, text in sample) / len(sample) / CHARACTERS_PER_PASSAGE)
        corpus.write_folder(files, corpus.documents(round(passages / each), dataset))
        with build(load(data=data, embedder=embedder), writable=True) as service:
            service.embedder_of(embedder).encode_query("warm")
            options = {"settle_s": 0}
            new = NewSource("bench", "files", place_uri(str(files)), options=options)
            source, job = add_source(service, new, actor="bench")
            service.catalog.jobs.cancel(job.id, now=now_utc())
            run, wall, cpu = sync(service, source.id)
            count = run.counts["new"]
            print(f"\n{embedder}: {count} files, {run.chunks} passages, {run.embedded} sentences, {run.tokens} tokens")
            print(
                f"  first sync   {wall:8.1f} s wall {cpu:8.1f} s CPU   {run.chunks / cpu:8.1f} passages per CPU-second"
            )
            if run.tokens and embedder.startswith("all-"):
                limit = gemm_per_cpu_s() / (multiply_adds(run.tokens, run.embedded) / run.chunks)
                ratio = run.chunks / cpu / limit
                print(f"  GEMM limit   {limit:8.1f} passages per CPU-second; reached {ratio:.2f} of it")
            again, wall_again, _ = sync(service, source.id)
            unchanged = again.counts["unchanged"]
            print(f"  second sync  {wall_again:8.1f} s wall, {again.embedded} embedded, {unchanged} unchanged")
            edited = sorted(files.iterdir())[::100]
            for number, path in enumerate(edited):
                path.write_text(
                    path.read_text(encoding="utf-8") + f"\nSentence number {number} was added here today.\n"
                )
            edit, wall_edit, _ = sync(service, source.id)
            share = edit.embedded / max(run.embedded, 1)
            print(f"  1 % edited   {wall_edit:8.1f} s wall, {edit.embedded} embedded ({share:.2%} of all sentences)")
    return wall, cpu


def main() -> None:
    """Measure both embedders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--models", type=Path, default=Path("ragsvc-data/models"))
    args = parser.parse_args()
    model = measure("all-MiniLM-L6-v2", args.passages, args.dataset, args.models)
    free = measure("hash:384", args.passages, args.dataset, None)
    print(f"\nthe pipeline without the model costs {free[1] / model[1]:.2f} of the CPU time with it")


if __name__ == "__main__":
    main()
