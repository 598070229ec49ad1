"""What collection do the rows make, and which of them may a query see? Versions, documents, readers, filters, times.

Ten rows in a row are a version, and a document has one, but every tenth document has two: rows 10 v to 10 v + 9 with
v % 10 = 8 were superseded by those with v % 10 = 9, so a tenth of all rows is of the past. Each document has metadata
of which one value selects a tenth, another a hundredth of all, and may be read by everybody (6 of 10), or by one of two
teams. Ids have the length of the catalogue's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.vectors import Queries, Rows
from indexes.model import FOREVER, Allowed, Chunk, Close, Describe, Filter, Generation, Matrix, Op, Put, Timestamp

PER_VERSION: Final = 10
BATCH_VERSIONS: Final = 200
BEGAN: Final[Timestamp] = 1_700_000_000_000_000
CHANGED: Final = BEGAN + 1_000_000
NOW: Final = CHANGED + 1_000_000
TENTH, HUNDREDTH = "tenth", "hundredth"
GENERATION: Final = Generation("gen_bench", "bench", "bench", 384, "bench", "bench")
STORED: Final = "stored"
EXACT: Final = 100
"""So many of the best are worked out exactly."""
_SCRAMBLE: Final = 0x9E3779B97F4A7C15F39CC061  # odd, so that it has an inverse modulo 2**96
_CLEAR: Final = pow(_SCRAMBLE, -1, 2**96)
_BLOCK: Final = 25_000
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Condition:
    """What is asked for beside vector and terms."""

    name: str
    allowed: Allowed = Allowed.everything()  # noqa: RUF009 - frozen
    filter: Filter | None = None
    at: Timestamp = NOW
    at_seq: int | None = None


NONE: Final = Condition("none")


def conditions(rows: int) -> tuple[Condition, ...]:
    """Those that are measured; the first lets everything in force through."""
    return (
        NONE,
        Condition("filter 10 %", filter=Filter("eq", TENTH, 3)),
        Condition("filter 1 %", filter=Filter("eq", HUNDREDTH, 7)),
        Condition("reader of 80 %", allowed=Allowed.of("team-a")),
        Condition("as_of", at=CHANGED - 1),
        Condition("at_seq", at_seq=rows // PER_VERSION // 2),
    )


def chunk_id(row: int) -> str:
    """An id of the usual length that says nothing of its neighbours'."""
    return f"chk_{row * _SCRAMBLE % 2**96:024x}"


def row_of(chunk: str) -> int:
    """The row with this chunk id."""
    return int(chunk.removeprefix("chk_"), 16) * _CLEAR % 2**96


def _name(kind: str, number: int) -> str:
    return f"{kind}_{(number + 1) * _SCRAMBLE % 2**96:024x}"


@dataclass(frozen=True)
class _Documents:
    """By version number: what its document's metadata and readers are."""

    tenth: NDArray[np.int64]
    hundredth: NDArray[np.int64]
    team: NDArray[np.int64]

    @classmethod
    def of(cls, versions: int) -> _Documents:
        rng = np.random.default_rng(11)
        parts = [rng.integers(0, values, versions) for values in (10, 100, 10)]
        numbers = np.arange(versions)
        document = np.where(numbers % 10 == 9, numbers - 1, numbers)
        return cls(*(part[document] for part in parts))


_TEAMS: Final = (*("public",) * 6, *("team-a",) * 2, *("team-b",) * 2)


def batches(rows: Rows) -> Iterator[tuple[list[Op], int]]:
    """All changes in their order, a batch of 200 versions (2,000 rows) at a time, with its sequence number."""
    versions = len(rows) // PER_VERSION
    documents = _Documents.of(versions)
    for first in range(0, versions, BATCH_VERSIONS):
        last = min(versions, first + BATCH_VERSIONS)
        terms = rows.terms(first * PER_VERSION, last * PER_VERSION)
        vectors = np.array(rows.vectors[first * PER_VERSION : last * PER_VERSION])
        ops: list[Op] = []
        for version in range(first, last):
            at = (version - first) * PER_VERSION
            span = slice(at, at + PER_VERSION)
            ops += _changes(version, documents, terms[span], vectors[span])
        yield ops, last


def _changes(version: int, documents: _Documents, terms: list[tuple[str, ...]], vectors: Matrix) -> Iterator[Op]:
    newer = version % 10 == 9
    document, name = _name("doc", version - newer), _name("ver", version)
    metadata = {TENTH: int(documents.tenth[version]), HUNDREDTH: int(documents.hundredth[version])}
    yield Describe(document, frozenset({_TEAMS[documents.team[version]]}), metadata)
    chunks = tuple(Chunk(chunk_id(version * PER_VERSION + n), name, n, own, vectors[n]) for n, own in enumerate(terms))
    if newer:
        yield Close(_name("ver", version - 1), CHANGED, version + 1)
    yield Put(document, name, CHANGED if newer else BEGAN, FOREVER, version + 1, FOREVER, chunks)


def visible(rows: int, condition: Condition) -> Mask:
    """Which rows a query under a condition may find, worked out without the engine."""
    version = np.arange(rows) // PER_VERSION
    kind = version % 10
    documents = _Documents.of(rows // PER_VERSION)
    closed_at = np.where((kind == 8) & (version + 1 < rows // PER_VERSION), CHANGED, FOREVER)
    mask = np.ones(rows, np.bool_)
    if condition.at_seq is not None:
        mask &= version + 1 <= condition.at_seq
        closed_at = np.where(version + 2 <= condition.at_seq, closed_at, FOREVER)
    mask &= (np.where(kind == 9, CHANGED, BEGAN) <= condition.at) & (condition.at < closed_at)
    if condition.filter is not None:
        values = documents.tenth if condition.filter.key == TENTH else documents.hundredth
        mask &= values[version] == condition.filter.value
    if condition.allowed.principals is not None:
        mask &= np.isin(documents.team[version], [n for n, t in enumerate(_TEAMS) if t != "team-b"])
    return mask


def exact(rows: Rows, queries: Queries, asked: int) -> dict[str, tuple[NDArray[np.int64], Matrix]]:
    """The best 100 rows of the first `asked` queries and their scores, by condition: numpy, block by block.

    `stored` is what an index of all rows would say.
    """
    masks = {condition.name: visible(len(rows), condition) for condition in conditions(len(rows))}
    masks[STORED] = np.ones(len(rows), np.bool_)
    best = {name: (np.zeros((asked, 0), np.int64), np.zeros((asked, 0), np.float32)) for name in masks}
    for start in range(0, len(rows), _BLOCK):
        scores = queries.vectors[:asked] @ np.asarray(rows.vectors[start : start + _BLOCK]).T
        for name, mask in masks.items():
            chosen = np.flatnonzero(mask[start : start + _BLOCK])
            numbers, known = best[name]
            numbers = np.concatenate([numbers, np.broadcast_to(chosen + start, (asked, len(chosen)))], axis=1)
            known = np.concatenate([known, scores[:, chosen]], axis=1)
            order = _best(known)
            best[name] = np.take_along_axis(numbers, order, 1), np.take_along_axis(known, order, 1)
    return best


def _best(scores: Matrix) -> NDArray[np.int64]:
    size = min(EXACT, scores.shape[1])
    some = np.argpartition(-scores, size - 1, axis=1)[:, :size]
    return np.take_along_axis(some, np.argsort(-np.take_along_axis(scores, some, 1), axis=1), 1)
