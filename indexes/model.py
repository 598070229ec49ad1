"""The values of the engine. Frozen; they refer to each other by id, never by object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
Timestamp = int
"""Microseconds since 1970-01-01T00:00:00Z."""
FOREVER: Timestamp = 2**63 - 1
Mode = Literal["hybrid", "dense", "lexical"]
Scalar = str | int | float | bool
MetadataValue = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open range `[start, end)` of Unicode code points in a version's normalised text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the engine indexes: terms for the lexical leg, one vector for the dense leg.

    `vector` is float32 of shape (dimensions,) and of unit length.
    """

    id: str
    version_id: str
    ordinal: int
    terms: tuple[str, ...]
    vector: Vector


@dataclass(frozen=True, slots=True, order=True)
class Closing:
    """What entry `seq` of the log said: the version is in force until `valid_to` (document time)."""

    seq: int
    valid_to: Timestamp


@dataclass(frozen=True, slots=True)
class Put:
    """Index a version with its chunks. Putting the same version again replaces it.

    `valid_to` and `closed_seq` are its newest closing (both FOREVER: none), `earlier` those before, ascending: a
    version is closed again when one is put before its end, and a replay must know what was believed in between.
    """

    document_id: str
    version_id: str
    valid_from: Timestamp
    valid_to: Timestamp
    recorded_seq: int
    closed_seq: int
    chunks: tuple[Chunk, ...]
    earlier: tuple[Closing, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Say when a version stopped being in force (document time) and which entry of the log said so.

    Of several closings the one with the largest `closed_seq` holds; a replay takes the largest up to `at_seq`.
    A `valid_to` of FOREVER opens it again.
    """

    version_id: str
    valid_to: Timestamp
    closed_seq: int


@dataclass(frozen=True, slots=True)
class Describe:
    """Set who may read a document and its filterable metadata."""

    document_id: str
    access: frozenset[str]
    metadata: Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove a version from the indexes for good (erasure)."""

    version_id: str


Op = Put | Close | Describe | Drop


@dataclass(frozen=True, slots=True)
class Allowed:
    """Who is asking, as a value: no search can be made without one.

    `principals` None means everything (the owner on the loopback, or the service itself).
    """

    principals: frozenset[str] | None

    @classmethod
    def everything(cls) -> Allowed:
        """The service itself, or the owner of an installation without keys."""
        return cls(None)

    @classmethod
    def of(cls, *principals: str) -> Allowed:
        """A caller with these principals; `public` is always among them."""
        return cls(frozenset(principals) | {"public"})

    def may_read(self, access: frozenset[str]) -> bool:
        """Whether a document with this access list is visible to the caller."""
        return self.principals is None or not self.principals.isdisjoint(access)


FilterOp = Literal["eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "exists", "and", "or", "not"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on a document's metadata. Leaves have `key` and `value`, branches `parts`."""

    op: FilterOp
    key: str = ""
    value: MetadataValue | None = None
    parts: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class TermStatistics:
    """How common terms are: the chunks counted, the terms in all of them, and by term the chunks that hold it."""

    chunks: int
    length: int
    df: Mapping[str, int]

    def __add__(self, other: TermStatistics) -> TermStatistics:
        df = {term: self.df.get(term, 0) + other.df.get(term, 0) for term in {*self.df, *other.df}}
        return TermStatistics(self.chunks + other.chunks, self.length + other.length, df)


@dataclass(frozen=True, slots=True)
class Query:
    """One search. `vector` (unit length) feeds the dense leg, `terms` the lexical leg.

    `at` is document time in microseconds: only versions in force at `at` are searched.
    `at_seq` replays what had been recorded up to that sequence number (None: all of it).
    `limit` is the number of hits per leg before fusion. `statistics` makes the lexical scores of several
    generations comparable: the sum of what each of them says; None: those of the generation that is searched.
    """

    allowed: Allowed
    at: Timestamp
    limit: int
    vector: Vector | None = None
    terms: tuple[str, ...] = ()
    filter: Filter | None = None
    at_seq: int | None = None
    statistics: TermStatistics | None = None


@dataclass(frozen=True, slots=True)
class LegScore:
    """A raw score of one leg, and the rank in that leg (1 is best; None: not among its best)."""

    score: float
    rank: int | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found, with the raw scores of both legs (None: the leg was not asked)."""

    chunk_id: str
    version_id: str
    document_id: str
    dense: LegScore | None
    lexical: LegScore | None


@dataclass(frozen=True, slots=True)
class Generation:
    """One build of one collection with one (embedder, chunker, analyzer)."""

    id: str
    collection_id: str
    embedder: str
    dimensions: int
    chunker: str
    analyzer: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state an answer comes from: a generation at a sequence number of the change log."""

    generation_id: str
    seq: int
    committed_at: Timestamp
    chunks: int
    segments: int


Quantization = Literal["none", "sq8", "pq"]


@dataclass(frozen=True, slots=True)
class DenseOptions:
    """How large segments keep their vectors in memory, and the recall@10 that searching them is tuned for.

    `none` keeps float32, `sq8` a byte for each dimension, `pq` a byte for eight. What is found is scored exactly.
    """

    quantization: Quantization = "sq8"
    target: float = 0.98


DENSE_DEFAULTS = DenseOptions()


@dataclass(frozen=True, slots=True)
class DenseReport:
    """How the vectors of one part are searched, and how well that does, by measurement.

    `recall_at_10` and `recall_at_100` are means over `queries` sampled queries against exact search (flat is exact:
    1.0, of no queries); `target` is what recall_at_10 was tuned for. Of `lists`, the nearest are looked at until
    `probe_rows` allowed rows were met (more when more than 100 are asked), and `refine` times as many as asked are
    scored exactly.
    """

    kind: Literal["flat", "ivf"]
    rows: int
    quantization: Quantization = "none"
    recall_at_10: float = 1.0
    recall_at_100: float = 1.0
    queries: int = 0
    target: float = 1.0
    lists: int = 0
    probe_rows: int = 0
    refine: float = 1.0


@dataclass(frozen=True, slots=True)
class PartReport:
    """One part of a state: a segment, or what is in memory. `size` is in bytes, on the disk or in memory."""

    segment: str
    rows: int
    live: int
    dense: DenseReport
    size: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that `verify` found: which part, what is wrong, and whether a rebuild mends it."""

    part: str
    what: str
    hint: str = "Run `ragsvc verify --repair`."
    details: tuple[str, ...] = field(default=())
