"""A question and its answer, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from indexes.errors import QueryInvalid
from indexes.model import Allowed, Filter, Generation, Hit, Mode
from ingest.model import Document, StoredChunk, StoredText, Version
from ragsvc.citations import Location
from ragsvc.freshness import Freshness
from ragsvc.model import Compression, Passage, Sufficiency

OnStale = Literal["flag", "drop", "error"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, by whom, and how the answer shall be. `allowed` has no default on purpose."""

    text: str
    allowed: Allowed
    collections: tuple[str, ...]
    top_k: int = 8
    max_tokens: int = 1024
    tokenizer: str = "o200k_base"
    mode: Mode = "hybrid"
    filter: Filter | None = None
    as_of: datetime | None = None
    snapshot: str | None = None
    max_staleness_s: float | None = None
    on_stale: OnStale = "flag"
    compression: Compression = "sentences"
    min_score: float | None = None
    return_insufficient: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What an answer was made from: one state of each collection's index."""

    id: str
    generation: str
    seq: int
    as_of: datetime | None
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """One passage with everything that can be said of it."""

    passage: Passage
    id: str
    hit: Hit
    fused: float
    version: Version
    document: Document
    collection: str
    is_current: bool
    location: Location
    quote_sha256: str
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the context, of all candidates, and of what a plain top-k would have sent."""

    context_tokens: int
    candidate_tokens: int
    baseline_tokens: int
    baseline: str
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of /v1/retrieve as values."""

    id: str
    question: Question
    state: State
    context: str
    results: tuple[Result, ...]
    sufficiency: Sufficiency
    usage: Usage
    dropped: tuple[tuple[str, str], ...]
    timings_ms: dict[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A hit that the catalogue has confirmed, with what is needed to pack and cite it."""

    hit: Hit
    fused: float
    version: Version
    document: Document
    collection: str
    generation: Generation
    chunk: StoredChunk
    text: StoredText
    freshness: Freshness


def exact_warning(collection: str, why: str | None, hint: str) -> str | None:
    """What an answer says when exact search stands in for the index of a collection; None when it does not."""
    if why is None:
        return None
    return (
        f"The index of collection {collection!r} does not answer: {why}. Answers come from exact search over the "
        f"catalogue's vectors, the lexical leg is off until it is rebuilt. {hint}"
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot id says of one generation: the newest entry of the change log that counted, and sometimes a time.

    `at` is document time in microseconds. None is the rule: the time at which the entry was recorded. It differs only
    where a version began or ended between that and the question (a `valid_from` in the future), for then the entry
    alone does not say what was in force.
    """

    seq: int
    at: int | None = None


def snapshot_id(moments: Mapping[str, Moment]) -> str:
    """The name of one state of each of these generations: `snap_<generation>_<seq>[_<at>]`, joined by dots."""
    parts = ((name.removeprefix("gen_"), moment.seq, moment.at) for name, moment in moments.items())
    return "snap_" + ".".join("_".join(str(field) for field in part if field is not None) for part in parts)


def parse_snapshot(text: str) -> dict[str, Moment]:
    """Generation id -> moment: the inverse of `snapshot_id`. Raises QueryInvalid."""
    named: dict[str, Moment] = {}
    for part in text.removeprefix("snap_").split("."):
        generation, *numbers = part.split("_")
        sound = all(number.isascii() and number.isdigit() and len(number) < 19 for number in numbers)
        if not text.startswith("snap_") or not sound or len(numbers) not in (1, 2):
            raise QueryInvalid(f"{text!r} is not a snapshot id.", hint="Copy `snapshot.id` of an earlier response.")
        named[f"gen_{generation}"] = Moment(*map(int, numbers))
    return named
