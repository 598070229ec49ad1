"""What an engine must answer, worked out the slow and obvious way: dictionaries, loops, no faiss, no tantivy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexes.model import (
    FOREVER,
    Allowed,
    Chunk,
    Close,
    Closing,
    Describe,
    Drop,
    Filter,
    Generation,
    Hit,
    LegScore,
    MetadataValue,
    Op,
    Put,
    Query,
    Scalar,
    Vector,
)

DIMENSIONS = 8
GENERATION = Generation("gen_test", "col_test", "embedder", DIMENSIONS, "chunker", "analyzer")
TOLERANCE = 1e-5


def unit(seed: int, dimensions: int = DIMENSIONS) -> Vector:
    """A vector of unit length that depends on the seed only."""
    vector = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return vector / np.linalg.norm(vector)


def chunk(version_id: str, ordinal: int, text: str, vector: Vector | None = None) -> Chunk:
    """A chunk whose terms are the words of `text`."""
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(f"{version_id}/{ordinal}/{text}"))
    vector = unit(seed) if vector is None else vector
    return Chunk(f"{version_id}.{ordinal}", version_id, ordinal, tuple(text.split()), vector)


def put(
    version_id: str,
    *texts: str,
    document: str | None = None,
    start: int = 0,
    end: int = FOREVER,
    seq: int = 1,
    closed: int = FOREVER,
) -> Put:
    """A version with one chunk per text. Its document is what stands before the first `@` of the version's id."""
    document_id = document or version_id.split("@")[0]
    chunks = tuple(chunk(version_id, ordinal, text) for ordinal, text in enumerate(texts))
    return Put(document_id, version_id, start, end, seq, closed, chunks)


def public(document_id: str, **metadata: MetadataValue) -> Describe:
    """A document that anyone may read."""
    return Describe(document_id, frozenset({"public"}), metadata)


def ask(
    terms: str = "",
    vector: Vector | None = None,
    *,
    at: int = 100,
    limit: int = 10,
    allowed: Allowed | None = None,
    where: Filter | None = None,
    at_seq: int | None = None,
) -> Query:
    """A query, by the service itself unless said otherwise."""
    return Query(allowed or Allowed.everything(), at, limit, vector, tuple(terms.split()), where, at_seq)


@dataclass(frozen=True)
class Expected:
    """The full ranking of each leg: (chunk id, score), best first; None where the leg was not asked."""

    dense: list[tuple[str, float]] | None
    lexical: list[tuple[str, float]] | None
    dense_of: Mapping[str, float]
    lexical_of: Mapping[str, float]


class Oracle:
    """Holds what was applied, and answers by looking at all of it."""

    def __init__(self) -> None:
        self.versions: dict[str, Put] = {}
        self.documents: dict[str, tuple[frozenset[str], Mapping[str, MetadataValue]]] = {}

    def apply(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if isinstance(op, Put):
                self.versions[op.version_id] = op
            elif isinstance(op, Close):
                if op.version_id in self.versions:
                    old = self.versions[op.version_id]
                    self.versions[op.version_id] = closed(old, Closing(op.closed_seq, op.valid_to))
            elif isinstance(op, Describe):
                self.documents[op.document_id] = (op.access, op.metadata)
            else:
                self._drop(op)

    def copy(self) -> Oracle:
        """Another one that knows the same now."""
        other = Oracle()
        other.versions, other.documents = dict(self.versions), dict(self.documents)
        return other

    def _drop(self, op: Drop) -> None:
        gone = self.versions.pop(op.version_id, None)
        if gone is not None and all(v.document_id != gone.document_id for v in self.versions.values()):
            self.documents.pop(gone.document_id, None)

    def chunks(self) -> dict[str, str]:
        """Chunk id -> version id of everything held."""
        return {c.id: v.version_id for v in self.versions.values() for c in v.chunks}

    def visible(self, query: Query) -> list[Chunk]:
        found: list[Chunk] = []
        for version in self.versions.values():
            access, metadata = self.documents.get(version.document_id, (frozenset(), {}))
            if query.at_seq is not None and version.recorded_seq > query.at_seq:
                continue
            until = end_of(version, query.at_seq)
            readable = query.allowed.principals is None or bool(query.allowed.principals & access)
            in_force = version.valid_from <= query.at < until
            if readable and in_force and (query.filter is None or holds(query.filter, metadata)):
                found.extend(version.chunks)
        return found

    def answer(self, query: Query) -> Expected:
        rows = self.visible(query)
        lexical_of = self.bm25(query.terms, query.at_seq)
        dense_of = {}
        if query.vector is not None:
            wanted = query.vector.astype(np.float64)
            dense_of = {
                c.id: float(c.vector.astype(np.float64) @ wanted) for v in self.versions.values() for c in v.chunks
            }
        dense = None if query.vector is None else _ranking({c.id: dense_of[c.id] for c in rows})
        matching = {c.id: lexical_of[c.id] for c in rows if lexical_of.get(c.id, 0.0) > 0.0}
        return Expected(dense, _ranking(matching) if query.terms else None, dense_of, lexical_of)

    def opened(self, at_seq: int | None) -> list[Chunk]:
        """Chunks of the versions that are open, or were when `at_seq` was the newest: what statistics count."""
        known = [v for v in self.versions.values() if at_seq is None or v.recorded_seq <= at_seq]
        return [c for v in known if end_of(v, at_seq) == FOREVER for c in v.chunks]

    def boundaries(self) -> list[int]:
        """The moments at which some version begins or ends."""
        found = [(v.valid_from, v.valid_to) for v in self.versions.values() if v.valid_from < v.valid_to]
        return [moment for pair in found for moment in pair]

    def bm25(self, terms: Sequence[str], at_seq: int | None = None) -> dict[str, float]:
        """Scores of all chunks, with the statistics of the open versions."""
        opened = self.opened(at_seq)
        average = sum(len(c.terms) for c in opened) / len(opened) if opened else 1.0
        average = average or 1.0
        found = {term: sum(term in row.terms for row in opened) for term in set(terms)}
        idf = {term: math.log(1 + (len(opened) - df + 0.5) / (df + 0.5)) for term, df in found.items()}
        scores = {}
        for version in self.versions.values():
            for row in version.chunks:
                score = 0.0
                for term in terms:
                    tf = row.terms.count(term)
                    score += idf[term] * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(row.terms) / average))
                scores[row.id] = score
        return scores


def closings_of(version: Put) -> dict[int, int]:
    """Every closing of a version: entry -> the end it said."""
    last = [] if version.closed_seq == version.valid_to == FOREVER else [Closing(version.closed_seq, version.valid_to)]
    return {closing.seq: closing.valid_to for closing in (*version.earlier, *last)}


def closed(version: Put, closing: Closing) -> Put:
    """The version with one closing more."""
    known = closings_of(version)
    known.pop(FOREVER, None)
    *earlier, newest = sorted(Closing(*pair) for pair in {**known, closing.seq: closing.valid_to}.items())
    return replace(version, valid_to=newest.valid_to, closed_seq=newest.seq, earlier=tuple(earlier))


def end_of(version: Put, at_seq: int | None) -> int:
    """When a version ends, by its newest closing, or by the newest one up to an entry."""
    known = {seq: end for seq, end in closings_of(version).items() if at_seq is None or seq <= at_seq}
    return known[max(known)] if known else FOREVER


def _ranking(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def holds(condition: Filter, metadata: Mapping[str, MetadataValue]) -> bool:
    """Whether one document's metadata satisfies a condition."""
    op = condition.op
    if op == "and":
        return all(holds(part, metadata) for part in condition.parts)
    if op == "or":
        return any(holds(part, metadata) for part in condition.parts)
    if op == "not":
        return not holds(condition.parts[0], metadata)
    if op == "ne":
        return not holds(replace(condition, op="eq"), metadata)
    if op == "nin":
        return not holds(replace(condition, op="in"), metadata)
    if op == "exists":
        return (condition.key in metadata) == (condition.value is not False)
    if condition.key not in metadata:
        return False
    value, wanted = metadata[condition.key], condition.value
    values = value if isinstance(value, tuple) else (value,)
    if op == "in":
        assert isinstance(wanted, tuple)
        return any(_same(one, other) for one in values for other in wanted)
    assert wanted is not None
    assert not isinstance(wanted, tuple)
    if op == "eq":
        return any(_same(one, wanted) for one in values)
    return any(_compares(op, one, wanted) for one in values)


def _kind(value: Scalar) -> type:
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def _same(one: Scalar, other: Scalar) -> bool:
    return _kind(one) is _kind(other) and one == other


def _compares(op: str, one: Scalar, bound: Scalar) -> bool:
    if _kind(one) is not _kind(bound) or _kind(one) is bool:
        return False
    below, equal = one < bound, one == bound  # type: ignore[operator]
    return {"lt": below, "lte": below or equal, "gt": not below and not equal, "gte": not below}[op]


def assert_answers(hits: Sequence[Hit], query: Query, oracle: Oracle) -> None:
    """The hits are what the oracle finds: the same scores in each leg, in the same order, none too few, none too many.

    Chunks whose scores differ by less than TOLERANCE may change places; equal ones stand in the order of their ids.
    """
    expected = oracle.answer(query)
    assert len({hit.chunk_id for hit in hits}) == len(hits)
    _assert_leg([(h.chunk_id, h.dense) for h in hits], expected.dense, expected.dense_of, query.limit)
    _assert_leg([(h.chunk_id, h.lexical) for h in hits], expected.lexical, expected.lexical_of, query.limit)
    for hit in hits:
        version = oracle.versions[hit.version_id]
        assert hit.chunk_id in {c.id for c in version.chunks}
        assert hit.document_id == version.document_id
        assert any(leg is not None and leg.rank is not None for leg in (hit.dense, hit.lexical))


def _assert_leg(
    legs: Sequence[tuple[str, LegScore | None]],
    ranking: list[tuple[str, float]] | None,
    scores: Mapping[str, float],
    limit: int,
) -> None:
    if ranking is None:
        assert all(leg is None for _, leg in legs)
        return
    wrong = [(name, leg) for name, leg in legs if leg is None or abs(leg.score - scores[name]) > TOLERANCE]
    assert not wrong, [(name, leg, scores[name]) for name, leg in wrong]
    ranked = sorted((leg.rank, name) for name, leg in legs if leg is not None and leg.rank is not None)
    assert [rank for rank, _ in ranked] == list(range(1, min(limit, len(ranking)) + 1))
    given = [(-leg.score, leg.rank, name) for name, leg in legs if leg is not None and leg.rank is not None]
    assert [name for _, _, name in sorted(given)] == [name for _, name in sorted((s, n) for s, _, n in given)]
    for (_, name), (_, score) in zip(ranked, ranking, strict=False):
        assert abs(scores[name] - score) <= TOLERANCE
