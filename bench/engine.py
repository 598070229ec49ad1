"""How good is the engine beside bare FAISS and tantivy? `python bench/engine.py [--rows N ...] [--folder F] [--json F]`

Method: for each size the vectors and terms of bench/vectors.py, as the collection of bench/collection.py, are put into
an EmbeddedEngine through `apply` (batches of 2,000 chunks), `publish` and `merge`; the exact answers are worked out
with numpy. Beside it the bare pair of bench/bare.py is made over the same rows. Building, making the bare pair and
asking have a process each, so that memory is theirs alone. Asking (bench/asking.py) opens what is stored, then asks
both sides the same queries in turn, each on one thread. All figures are of one run on one machine; times on a shared
machine are noisy: compare the ratios. What is made stays in the folder (6 GB for 1,000,000 chunks); `--keep` uses an
engine and a pair that were built before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # a script's own folder would hide the package `ingest`

from bench import asking, bare, building, collection, corpus, report, vectors
from indexes.embedder import open_embedder
from indexes.model import DenseReport

CHECKED: Final = 200
"""Queries whose recall is measured."""
FOLLOWED: Final = 300
"""Documents of the small collection that is followed from the catalogue."""
ENGINE, BARE, BUILT, PAIR, EXACT_FILE = "engine", "bare", "built.json", "pair.json", "exact.npz"


def main() -> None:
    """Measure each size in children, then print the tables and the goals."""
    args = _arguments()
    if args.step is not None:
        print(json.dumps(_STEPS[args.step](args)))
        return
    results = []
    for rows in args.rows:
        if rows % (10 * collection.PER_VERSION):
            sys.exit(f"--rows must be a multiple of {10 * collection.PER_VERSION}, not {rows}.")
        results.append(_measure(args, rows))
        print(report.table(results[-1]), flush=True)
    following = _child(args, "follow", min(args.rows))
    print(report.following(following))
    print(report.goals(results))
    if args.json is not None:
        args.json.write_text(json.dumps({"sizes": results, "following": following}, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2, help="how often each query is asked")
    parser.add_argument("--publish-rows", type=int, default=10_000, help="publish when so many rows wait")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/ragsvc-bench"))
    parser.add_argument("--datasets", type=Path, default=corpus.DATASETS)
    parser.add_argument("--models", type=Path, default=Path("ragsvc-data/models"))
    parser.add_argument("--embedder", default=vectors.MODEL)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="use an engine and a bare pair that were built before")
    parser.add_argument("--step", choices=sorted(_STEPS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(args: argparse.Namespace, rows: int) -> dict[str, Any]:
    place = args.folder / f"{rows}"
    made = _child(args, "make", rows)
    built, pair = place / BUILT, place / PAIR
    if not (args.keep and built.exists()):
        built.write_text(json.dumps(_child(args, "build", rows)))
        pair.unlink(missing_ok=True)
    if not (args.keep and pair.exists()):
        pair.write_text(json.dumps(_child(args, "pair", rows)))
    asked = _child(args, "ask", rows)
    return {
        "rows": rows,
        "made": made,
        "built": json.loads(built.read_text()),
        "pair": json.loads(pair.read_text()),
        **asked,
    }


def _child(args: argparse.Namespace, step: str, rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", step, "--rows", f"{rows}", "--folder", str(args.folder)]
    for name in ("queries", "rounds", "publish_rows", "datasets", "models", "embedder"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    print(f"{step} {rows}", file=sys.stderr, flush=True)
    # One query, one thread, on both sides: threads of FAISS or BLAS that wait for each other cost more than they help.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if step == "ask" else {}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, **alone})
    return dict(json.loads(done.stdout))


# ---------------------------------------------------------------- the steps, each in its own process


def _make(args: argparse.Namespace) -> dict[str, Any]:
    """Rows, queries and their exact answers."""
    embedder = open_embedder(args.embedder, models_dir=args.models)
    place = vectors.make(args.folder, args.rows[0], args.queries, datasets=args.datasets, embedder=embedder)
    stored = place / EXACT_FILE
    if not stored.exists() or stored.stat().st_mtime < (place / "made.json").stat().st_mtime:
        best = collection.exact(vectors.load_rows(place), vectors.load_queries(place), min(CHECKED, args.queries))
        arrays: dict[str, Any] = {
            f"{name}|{part}": one for name, both in best.items() for part, one in zip("rs", both, strict=True)
        }
        np.savez(stored, allow_pickle=False, **arrays)
    made = vectors.facts(place)
    with np.load(stored, allow_pickle=False) as exact:
        passage = vectors.load_rows(place).passage[exact["none|r"][:, :10]]
    made["distinct"] = float(np.mean([len(set(row)) for row in passage.tolist()]))
    return made


def _build(args: argparse.Namespace) -> dict[str, Any]:
    place = args.folder / f"{args.rows[0]}"
    return building.build(place / ENGINE, vectors.load_rows(place), publish_rows=args.publish_rows)


def _pair(args: argparse.Namespace) -> dict[str, Any]:
    place = args.folder / f"{args.rows[0]}"
    parts = json.loads((place / BUILT).read_text())["parts"]
    largest = DenseReport(**max(parts, key=lambda part: int(part["rows"]))["dense"])
    made = bare.build(place / BARE, vectors.load_rows(place), largest)
    return {**made, "like": asdict(largest), "peak": building.memory()["peak"]}


def _ask(args: argparse.Namespace) -> dict[str, Any]:
    place = args.folder / f"{args.rows[0]}"
    queries = vectors.load_queries(place)
    engine, restarted = asking.restart(place / ENGINE, queries)
    rows = vectors.load_rows(place)
    pair = bare.Bare(place / BARE, rows)
    searcher = engine.pin(collection.GENERATION.id)
    asked = asking.Asked(searcher, queries)
    with np.load(place / EXACT_FILE, allow_pickle=False) as stored:
        best = {name: stored[name] for name in stored.files if name.endswith("|s")}
    theirs = [pair.dense(vector, 10).tolist() for vector in queries.vectors[: len(best["none|s"])]]
    found = {
        "restart": restarted,
        "pair_kind": pair.describe(),
        "pair_recall_at_10": asking.recall(theirs, best[f"{collection.STORED}|s"], rows.vectors, queries.vectors),
        "latency": asking.latency(asked, pair, args.rounds),
        "under": {
            one.name: asking.under(asked, one, best[f"{one.name}|s"], rows) for one in collection.conditions(len(rows))
        },
        "visible": asking.until_visible(engine, rows),
        "snapshot": asdict(searcher.snapshot),
    }
    engine.close()
    return found


def _follow(args: argparse.Namespace) -> dict[str, Any]:
    from bench import following  # the whole service: only where it is measured

    return following.until_found(min(FOLLOWED, args.rows[0] // 10))


_STEPS: Final = {"make": _make, "build": _build, "pair": _pair, "ask": _ask, "follow": _follow}


if __name__ == "__main__":
    main()
