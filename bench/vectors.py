"""Which vectors and terms is the engine measured with? `python bench/vectors.py --rows 1000000 --folder F` makes them.

Real: every distinct passage of the English data sets (up to 700 characters, about 21,000 of them) with the vector that
the packaged model gives it and the terms of the analyzer. 500 passages are held out for queries, the others are rows.

Repeated: when those are used up, a row is made of a passage p and one of its 32 nearest q:
    vector = unit(w p + (1 - w) q + SPREAD noise),    w uniform in [.2, .8]
where the noise is Gaussian and two of it differ by as much, and in the same directions, as two near passages do. So
rows fill the space between and around real passages, and neighbours are not trivially the copies (the report says how
many passages the exact best ten of a query are made of). Terms: those of p, 30 % of them exchanged with terms of q, a
quarter of q's added, and two rare words (the higher the row's number, the more there are), so that the vocabulary
grows as in real text.

Queries: half are questions that people asked of these sets, half held-out passages with SPREAD / 2 noise and eight of
their terms in a row. All of it is seeded, made in blocks, and mapped into memory where it is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # a script's own folder would hide the package `ingest`

from bench import corpus
from indexes.analyze import Analyzer
from indexes.embedder import open_embedder
from indexes.model import Matrix
from indexes.protocols import Embedder

VERSION: Final = 1
"""Counts changes of what is made."""
MODEL: Final = "all-MiniLM-L6-v2"
HELD_OUT: Final = 500
NEAR: Final = 32
SPREAD: Final = 0.5
EXCHANGED: Final = 0.3
RARE: Final = 2
BLOCK: Final = 50_000
QUERY_TERMS: Final = 8
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """Vectors of shape (queries, dimensions), and the terms of each."""

    vectors: Matrix
    terms: list[tuple[str, ...]]


@dataclass(frozen=True)
class Rows:
    """What is indexed: row `r` has `vectors[r]` and the terms `vocabulary[ids[offsets[r]:offsets[r + 1]]]`.

    `passage` says which real one a row is, or is made of.
    """

    vectors: Matrix
    ids: NDArray[np.uint32]
    offsets: Ids
    passage: NDArray[np.int32]
    vocabulary: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.passage)

    def terms(self, start: int, end: int) -> list[tuple[str, ...]]:
        """The terms of a range of rows."""
        offsets = self.offsets[start : end + 1]
        words = self.vocabulary[self.ids[offsets[0] : offsets[-1]]].tolist()
        ends = (offsets - offsets[0]).tolist()
        return [tuple(words[a:b]) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class _Base:
    """Real passages: vectors, terms as numbers, the nearest others of each, and a square root of the noise."""

    vectors: Matrix
    ids: Ids
    offsets: Ids
    vocabulary: list[str]
    near: NDArray[np.int32]
    noise: Matrix

    def noisy(self, rng: np.random.Generator, rows: int) -> Matrix:
        """Noise, of which two differ as near passages do."""
        return rng.standard_normal((rows, len(self.noise)), dtype=np.float32) @ self.noise


def encoded(texts: Sequence[str], folder: Path, embedder: Embedder) -> Matrix:
    """The texts' vectors, from the folder when they were encoded before; some minutes for 23,000 on two cores."""
    sha256 = hashlib.sha256(json.dumps([embedder.id, texts]).encode()).hexdigest()
    stored, made = folder / "encoded.npy", folder / "encoded.json"
    if made.exists() and json.loads(made.read_text())["sha256"] == sha256:
        known: Matrix = np.load(stored, allow_pickle=False)
        return known
    vectors = np.empty((len(texts), embedder.dimensions), np.float32)
    for start in range(0, len(texts), 2_000):
        print(f"encoding {start} of {len(texts)} texts", file=sys.stderr, flush=True)
        vectors[start : start + 2_000] = embedder.encode(texts[start : start + 2_000])
    np.save(stored, vectors)
    made.write_text(json.dumps({"sha256": sha256, "embedder": embedder.id, "texts": len(texts)}))
    return vectors


def make(folder: Path, rows: int, queries: int, *, datasets: Path, embedder: Embedder) -> Path:
    """Make what is not made yet; returns the folder of this many rows."""
    place = folder / f"{rows}"
    wanted = {"version": VERSION, "rows": rows, "queries": queries, "embedder": embedder.id}
    wanted["datasets"] = str(datasets.resolve())
    made = place / "made.json"
    if made.exists() and {key: json.loads(made.read_text()).get(key) for key in wanted} == wanted:
        return place
    began = perf_counter()
    place.mkdir(parents=True, exist_ok=True)
    made.unlink(missing_ok=True)
    passages, questions = corpus.distinct_passages(datasets), corpus.distinct_questions(datasets)
    vectors = encoded([*passages, *questions], folder, embedder)
    rng = np.random.default_rng(1)
    order, asking = rng.permutation(len(passages)), rng.permutation(len(questions))
    held, kept = np.split(order, [min(HELD_OUT, len(order) // 10)])
    base = _base([passages[n] for n in kept], vectors[kept])
    known = _write_rows(place, base, rows)
    asked = _queries(
        base,
        [passages[n] for n in held],
        [questions[n] for n in asking],
        vectors[held],
        vectors[len(passages) :][asking],
        queries,
    )
    np.save(place / "queries.npy", asked.vectors)
    (place / "queries.json").write_text(json.dumps(asked.terms))
    more = {"passages": len(base.vectors), "seconds": round(perf_counter() - began, 1)}
    made.write_text(json.dumps({**wanted, **more, **known}, indent=1))
    return place


def load_rows(place: Path) -> Rows:
    """What `make` stored; the large arrays are mapped."""
    names = ("vectors", "ids", "offsets", "passage")
    vectors, ids, offsets, passage = (np.load(place / f"{name}.npy", "r", allow_pickle=False) for name in names)
    return Rows(vectors, ids, offsets, passage, np.array(json.loads((place / "vocabulary.json").read_text()), object))


def load_queries(place: Path) -> Queries:
    """The queries that `make` stored."""
    terms = [tuple(one) for one in json.loads((place / "queries.json").read_text())]
    return Queries(np.load(place / "queries.npy", allow_pickle=False), terms)


def facts(place: Path) -> dict[str, Any]:
    """What was made, for the report."""
    return dict(json.loads((place / "made.json").read_text()))


def _base(passages: list[str], vectors: Matrix) -> _Base:
    analyzer, known = Analyzer(), dict[str, int]()
    numbers = [[known.setdefault(t, len(known)) for t in analyzer.terms(text, lang="en")] for text in passages]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in numbers])])
    near = np.empty((len(vectors), min(NEAR, len(vectors) - 1)), np.int32)
    for start in range(0, len(vectors), 2_000):
        scores = vectors[start : start + 2_000] @ vectors.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        near[start : start + 2_000] = np.argpartition(-scores, near.shape[1] - 1)[:, : near.shape[1]]
    rng = np.random.default_rng(3)
    differences = (vectors - vectors[near[np.arange(len(near)), rng.integers(0, near.shape[1], len(near))]]) / 2**0.5
    covariance = differences.T @ differences / len(differences)
    values, directions = np.linalg.eigh(covariance)
    root = (directions * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)
    return _Base(
        vectors, np.concatenate([np.array(row, np.int64) for row in numbers]), offsets, list(known), near, root
    )


def _write_rows(place: Path, base: _Base, rows: int) -> dict[str, int]:
    vectors = open_memmap(place / "vectors.npy", "w+", np.float32, (rows, base.vectors.shape[1]))
    sizes, passages, total = [np.zeros(1, np.int64)], [], 0
    flat = place / "ids.raw"
    with flat.open("wb") as file:
        for start in range(0, rows, BLOCK):
            numbers = np.arange(start, min(rows, start + BLOCK))
            rng = np.random.default_rng([7, start])
            passage = numbers % len(base.vectors)
            other = base.near[passage, rng.integers(0, base.near.shape[1], len(passage))].astype(np.int64)
            new = numbers >= len(base.vectors)
            vectors[start : start + len(numbers)] = _vectors(base, rng, passage, other, new)
            ids, lengths = _terms(base, rng, numbers, passage, other, new)
            file.write(ids.astype(np.uint32).data)
            sizes.append(lengths)
            passages.append(passage.astype(np.int32))
            total += len(ids)
    vectors.flush()
    ids = open_memmap(place / "ids.npy", "w+", np.uint32, (total,))
    ids[:] = np.memmap(flat, np.uint32, "r")
    flat.unlink()
    used = np.zeros(len(base.vocabulary) + rows, np.bool_)
    used[ids] = True
    rare = int(np.flatnonzero(used)[-1]) + 1 - len(base.vocabulary)
    (place / "vocabulary.json").write_text(json.dumps([*base.vocabulary, *(f"rare{n}" for n in range(max(rare, 0)))]))
    np.save(place / "offsets.npy", np.cumsum(np.concatenate(sizes)))
    np.save(place / "passage.npy", np.concatenate(passages))
    return {"terms": total, "vocabulary": int(np.count_nonzero(used))}


def _vectors(base: _Base, rng: np.random.Generator, passage: Ids, other: Ids, new: NDArray[np.bool_]) -> Matrix:
    share = rng.uniform(0.2, 0.8, (len(passage), 1)).astype(np.float32)
    mixed = share * base.vectors[passage] + (1 - share) * base.vectors[other]
    mixed += np.float32(SPREAD) * base.noisy(rng, len(passage))
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return np.where(new[:, np.newaxis], mixed, base.vectors[passage])


def _terms(
    base: _Base, rng: np.random.Generator, numbers: Ids, passage: Ids, other: Ids, new: NDArray[np.bool_]
) -> tuple[Ids, Ids]:
    """The terms of rows one after the other, and how many each row has."""
    sizes = np.diff(base.offsets)
    own, theirs = sizes[passage], sizes[other]
    lengths = np.where(new, own + theirs // 4 + RARE, own)
    row = np.repeat(np.arange(len(numbers)), lengths)
    at = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    mine = base.ids[np.minimum(base.offsets[passage][row] + at, len(base.ids) - 1)]
    drawn = base.offsets[other][row] + (rng.random(len(row)) * theirs[row]).astype(np.int64)
    exchanged = new[row] & ((rng.random(len(row)) < EXCHANGED) | (at >= own[row]))
    ids = np.where(exchanged, base.ids[np.minimum(drawn, len(base.ids) - 1)], mine)
    is_rare = new[row] & (at >= lengths[row] - RARE)
    rare = len(base.vocabulary) + (rng.random(len(row)) ** 2 * 0.6 * numbers[row]).astype(np.int64)
    return np.where(is_rare, rare, ids), lengths


def _queries(
    base: _Base, held: list[str], questions: list[str], held_vectors: Matrix, asked: Matrix, count: int
) -> Queries:
    analyzer, rng = Analyzer(), np.random.default_rng(5)
    half = min(count // 2, len(questions))
    chosen = rng.integers(0, len(held), count - half)
    near = held_vectors[chosen] + np.float32(SPREAD / 2) * base.noisy(rng, len(chosen))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    terms = [tuple(analyzer.query_terms(text, langs=["en"])) for text in questions[:half]]
    for number in chosen.tolist():
        words = analyzer.terms(held[number], lang="en")
        start = int(rng.integers(0, max(1, len(words) - QUERY_TERMS)))
        terms.append(tuple(dict.fromkeys(words[start : start + QUERY_TERMS])))
    order = rng.permutation(count)
    vectors = np.concatenate([asked[:half], near])
    return Queries(np.ascontiguousarray(vectors[order]), [terms[number] for number in order.tolist()])


def main() -> None:
    """Make the rows of one or more sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/ragsvc-bench"))
    parser.add_argument("--datasets", type=Path, default=corpus.DATASETS)
    parser.add_argument("--models", type=Path, default=Path("ragsvc-data/models"))
    parser.add_argument("--embedder", default=MODEL)
    args = parser.parse_args()
    embedder = open_embedder(args.embedder, models_dir=args.models)
    for rows in args.rows:
        print(facts(make(args.folder, rows, args.queries, datasets=args.datasets, embedder=embedder)))


if __name__ == "__main__":
    main()
