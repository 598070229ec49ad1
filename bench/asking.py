"""How do the engine and the bare pair answer? One fresh child process: restart, memory, latency, recall, visibility.

Both sides are asked the same query in turn, now one first, now the other, so what else the machine does hits both.
Answers under a filter are timed when the allowed rows are known (the same caller asks again), and the first alone.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.bare import Bare
from bench.building import memory
from bench.collection import GENERATION, NONE, NOW, Condition, chunk_id, row_of
from bench.vectors import Queries, Rows
from indexes.embedded import EmbeddedEngine
from indexes.model import FOREVER, Allowed, Chunk, Describe, Hit, Matrix, Put, Query
from indexes.protocols import Searcher

LIMITS: Final = (10, 100)
CLIENTS: Final = 8
WARM: Final = 30
TIMED: Final = 100
"""Queries that are timed under each condition."""
TIE: Final = 1e-6
Ask = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """A searcher and the queries it is asked."""

    searcher: Searcher
    queries: Queries

    def __len__(self) -> int:
        return len(self.queries.terms)

    def query(self, number: int, leg: str, limit: int, condition: Condition) -> Query:
        """One of the queries for one leg, or `hybrid`."""
        number %= len(self)
        return Query(
            allowed=condition.allowed,
            at=condition.at,
            limit=limit,
            vector=None if leg == "lexical" else self.queries.vectors[number],
            terms=() if leg == "dense" else self.queries.terms[number],
            filter=condition.filter,
            at_seq=condition.at_seq,
        )

    def ask(self, leg: str, limit: int, condition: Condition) -> Ask:
        """Asks query `n` when called with it."""
        return lambda n: self.searcher.search(self.query(n, leg, limit, condition))


def restart(folder: Path, queries: Queries) -> tuple[EmbeddedEngine, dict[str, Any]]:
    """Open a stored generation as a reader and answer once; every byte is hashed on the way."""
    gc.collect()
    before, began = memory(), perf_counter()
    engine = EmbeddedEngine(folder)
    engine.open(GENERATION, writable=False)
    opened = perf_counter()
    loaded = memory()
    asked = Asked(engine.pin(GENERATION.id), queries)
    asked.ask("hybrid", 10, NONE)(0)
    answered = perf_counter()
    for number in range(WARM):
        for leg in ("dense", "lexical", "hybrid"):
            asked.ask(leg, 100, NONE)(number)
    after = memory()
    return engine, {
        "open_s": opened - began,
        "first_answer_s": answered - began,
        "anonymous_loaded": loaded["anonymous"] - before["anonymous"],
        "anonymous_asked": after["anonymous"] - before["anonymous"],
        "mapped": after["mapped"] - before["mapped"],
    }


def in_turn(ours: Ask, bare: Ask, count: int, rounds: int = 1) -> dict[str, Any]:
    """Milliseconds of both, asked in turn; `overhead` is ours over bare less one, by the p50 of all.

    `overhead_cpu` is the same of this thread's CPU time, the least of the rounds for each query: what others do to a
    busy machine hardly shows in it.
    """
    wall, cpu = np.empty((2, rounds, count)), np.empty((2, rounds, count))
    for turn in range(rounds):
        for number in range(count):
            for side, ask in sorted(enumerate((ours, bare)), reverse=bool((turn + number) % 2)):
                began, began_cpu = perf_counter(), thread_time()
                ask(number)
                wall[side, turn, number] = (perf_counter() - began) * 1000
                cpu[side, turn, number] = (thread_time() - began_cpu) * 1000
    mine, theirs = (percentiles(part.ravel()) for part in wall)
    least = np.median(cpu.min(axis=1), axis=1)
    return {
        "ours": mine,
        "bare": theirs,
        "overhead": mine["p50"] / theirs["p50"] - 1,
        "cpu_ms": least.tolist(),
        "overhead_cpu": float(least[0] / least[1]) - 1,
    }


def percentiles(milliseconds: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """p50 and p99."""
    return {f"p{part}": float(np.percentile(milliseconds, part)) for part in (50, 99)}


def many_clients(ask: Ask, count: int) -> dict[str, float]:
    """Milliseconds, and queries per second of eight threads that share `count` queries."""
    took: list[list[float]] = [[] for _ in range(CLIENTS)]
    start = threading.Barrier(CLIENTS + 1)

    def client(number: int) -> None:
        start.wait()
        for query in range(number, count, CLIENTS):
            began = perf_counter()
            ask(query)
            took[number].append((perf_counter() - began) * 1000)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    start.wait()
    began = perf_counter()
    for thread in threads:
        thread.join()
    seconds = perf_counter() - began
    return {**percentiles([one for part in took for one in part]), "qps": count / seconds}


def latency(asked: Asked, bare: Bare, rounds: int) -> dict[str, Any]:
    """One client and eight, by leg and limit."""
    queries = asked.queries
    found: dict[str, Any] = {}
    for limit in LIMITS:
        for leg, their in _bare_legs(bare, queries, limit).items():
            ours = asked.ask(leg, limit, NONE)
            for number in range(WARM):
                ours(number), their(number)
            one = in_turn(ours, their, len(asked), rounds)
            eight = {"ours": many_clients(ours, len(asked)), "bare": many_clients(their, len(asked))}
            found[f"{leg} {limit}"] = {"one": one, "eight": eight}
    return found


def _bare_legs(bare: Bare, queries: Queries, limit: int) -> dict[str, Ask]:
    count = len(queries.terms)
    return {
        "dense": lambda n: bare.dense(queries.vectors[n % count], limit),
        "lexical": lambda n: bare.lexical(queries.terms[n % count], limit),
        "hybrid": lambda n: bare.both(queries.vectors[n % count], queries.terms[n % count], limit),
    }


def recall(found: Sequence[Sequence[int]], best: Matrix, vectors: Matrix, queries: Matrix, limit: int = 10) -> float:
    """The mean share of the exact best `limit` that was found; a row that ties with the last of them counts."""
    shares = []
    for number, rows in enumerate(found):
        wanted = min(limit, best.shape[1])
        scores = np.asarray(vectors[list(rows)[:limit]]) @ queries[number] if rows else np.zeros(0)
        shares.append(min(wanted, int((scores >= best[number, wanted - 1] - TIE).sum())) / wanted)
    return float(np.mean(shares))


def under(asked: Asked, condition: Condition, best: Matrix, rows: Rows) -> dict[str, Any]:
    """Recall and fullness of the dense leg under one condition, and milliseconds of the three beside those without."""
    checked = len(best)
    search = asked.searcher.search
    began = perf_counter()
    search(asked.query(0, "hybrid", 10, condition))
    first = (perf_counter() - began) * 1000
    hits = [search(asked.query(number, "dense", 10, condition)) for number in range(checked)]
    found = [ranked(one) for one in hits]
    legs = {}
    for leg in ("dense", "lexical", "hybrid"):
        both = in_turn(asked.ask(leg, 10, condition), asked.ask(leg, 10, NONE), min(TIMED, len(asked)))
        legs[leg] = {**both["ours"], "ratio": both["overhead"] + 1}
    return {
        "recall_at_10": recall(found, best, rows.vectors, asked.queries.vectors),
        "full": all(len(one) == min(10, best.shape[1]) for one in found),
        "first_ms": first,
        **legs,
    }


def ranked(hits: Sequence[Hit]) -> list[int]:
    """Rows that the dense leg ranked, best first."""
    order = sorted((hit.dense.rank, row_of(hit.chunk_id)) for hit in hits if hit.dense and hit.dense.rank)
    return [row for _, row in order]


def until_visible(engine: EmbeddedEngine, rows: Rows, times: int = 30) -> dict[str, Any]:
    """Milliseconds of `apply` with a document of ten chunks, and from its return to the first answer that shows it."""
    writer = engine.open(GENERATION, writable=False)
    applied, shown = [], []
    rng = np.random.default_rng(13)
    for number in range(times):
        vectors = rng.standard_normal((10, rows.vectors.shape[1])).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        terms, seq = rows.terms(number * 10, number * 10 + 10), writer.seq + 1
        name = f"new_{number}"
        chunks = tuple(Chunk(chunk_id(10**9 + number * 10 + n), name, n, terms[n], vectors[n]) for n in range(10))
        began = perf_counter()
        put = Put(name, name, 0, FOREVER, seq, FOREVER, chunks)
        writer.apply([Describe(name, frozenset({"public"}), {}), put], seq=seq)
        acknowledged = perf_counter()
        query = Query(Allowed.of("team-a"), NOW, 1, vector=vectors[0])
        while not any(hit.version_id == name for hit in engine.pin(GENERATION.id).search(query)):
            pass
        shown.append((perf_counter() - acknowledged) * 1000)
        applied.append((acknowledged - began) * 1000)
    return {"apply_ms": percentiles(applied), "visible_ms": percentiles(shown)}
