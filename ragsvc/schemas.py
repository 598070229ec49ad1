"""The wire, inwards: requests as API.md has them. An unknown field is an error, never ignored."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from indexes.model import Filter
from ingest.duration import seconds_of
from ragsvc.errors import Invalid

_MAX_FILTER_NODES = 256
_MAX_FILTER_DEPTH = 16


def _utc(moment: datetime) -> datetime:
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the moment lies before year 1 or after year 9999 in UTC") from error


def _duration(text: str) -> str:
    seconds_of(text)
    return text


Moment = Annotated[datetime, AfterValidator(_utc)]
Duration = Annotated[str, AfterValidator(_duration), Field(examples=["24h"], max_length=32)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Principal = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what JSON and the catalogue can carry
Number = Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | Integer | Number | Annotated[str, StringConstraints(max_length=4096)]
MetadataValue = Scalar | list[Scalar]
Metadata = Annotated[dict[Annotated[str, StringConstraints(max_length=128)], MetadataValue], Field(max_length=64)]


class Request(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid")


class LeafFilter(Request):
    """A condition on one metadata key."""

    op: Literal["eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "exists"]
    key: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    value: MetadataValue


class GroupFilter(Request):
    """Conditions joined by `and` or `or`."""

    op: Literal["and", "or"]
    filters: Annotated[list[AnyFilter], Field(min_length=1, max_length=64)]


class NotFilter(Request):
    """The opposite of a condition."""

    op: Literal["not"]
    filter: AnyFilter


AnyFilter = Annotated[LeafFilter | GroupFilter | NotFilter, Field(discriminator="op")]
GroupFilter.model_rebuild()
NotFilter.model_rebuild()


def to_filter(stated: LeafFilter | GroupFilter | NotFilter) -> Filter:
    """The engine's filter. Raises Invalid when it is larger or deeper than any real one."""
    left = [_MAX_FILTER_NODES]

    def convert(node: LeafFilter | GroupFilter | NotFilter, depth: int) -> Filter:
        left[0] -= 1
        if left[0] < 0 or depth > _MAX_FILTER_DEPTH:
            raise Invalid(f"A filter may have {_MAX_FILTER_NODES} parts and be {_MAX_FILTER_DEPTH} deep.")
        if isinstance(node, LeafFilter):
            value = tuple(node.value) if isinstance(node.value, list) else node.value
            if isinstance(value, tuple) != (node.op in ("in", "nin")):
                wanted = "a list" if node.op in ("in", "nin") else "a single value"
                raise Invalid(f"Filter operator {node.op!r} on {node.key!r} needs {wanted}.")
            if node.op == "exists" and not isinstance(value, bool):
                raise Invalid(f"Filter operator 'exists' on {node.key!r} needs true or false.")
            return Filter(node.op, node.key, value)
        parts = [node.filter] if isinstance(node, NotFilter) else node.filters
        return Filter(node.op, parts=tuple(convert(part, depth + 1) for part in parts))

    return convert(stated, 1)


class RetrieveRequest(Request):
    """A question. Only `query` is required."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=8192)]
    collections: Annotated[list[Name] | None, Field(max_length=64)] = None
    top_k: Annotated[int, Field(ge=1, le=100)] = 8
    max_tokens: Annotated[int, Field(ge=1, le=128_000)] = 1024
    tokenizer: str = "o200k_base"
    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"
    filters: AnyFilter | None = None
    as_of: Moment | None = None
    snapshot: Annotated[str, StringConstraints(max_length=4096)] | None = None
    max_staleness: Duration | None = None
    on_stale: Literal["flag", "drop", "error"] = "flag"
    rerank: None = Field(default=None, description="Only null: this release has no rerankers.")
    diversity: Annotated[float, Field(ge=0, le=0, description="Only 0: this release does not diversify.")] = 0.0
    on_insufficient: Literal["empty", "return"] = "empty"
    compression: Literal["none", "sentences"] = "sentences"
    min_score: Number | None = None
    include: Annotated[list[Literal["explain", "dropped"]], Field(max_length=8)] = []


class IntervalSchedule(Request):
    """Run again after this time."""

    interval: Duration


class CronSchedule(Request):
    """Run at these times of a time zone."""

    cron: Annotated[str, StringConstraints(min_length=9, max_length=128)]
    timezone: str = "UTC"


class SourceRequest(Request):
    """A place to watch. Its first sync is queued at once."""

    collection: Name
    kind: Literal["files"] = "files"
    uri: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    options: dict[str, Any] = {}
    watch: bool = False
    schedule: IntervalSchedule | CronSchedule | None = None
    freshness_sla: Duration | None = None
    access: list[Principal] | None = None
    metadata: Metadata = {}


class SourceChange(Request):
    """What of a source shall be changed."""

    options: dict[str, Any] | None = None
    watch: bool | None = None
    schedule: IntervalSchedule | CronSchedule | None = None
    freshness_sla: Duration | None = None
    paused: bool | None = None


class CollectionRequest(Request):
    """A named set of documents; `access` is the default access list of its documents."""

    name: Name
    access: Annotated[list[Principal], Field(min_length=1)] = ["public"]


class CollectionChange(Request):
    """What of a collection shall be changed; `access` counts for documents that come from now on."""

    access: Annotated[list[Principal], Field(min_length=1)]


class JobRequest(Request):
    """Work to be done: sync a source, reindex a collection, verify or compact the indexes."""

    kind: Literal["sync", "verify", "compact", "reindex"]
    source: str | None = None
    approve_deletions: Annotated[int, Field(ge=0)] = 0
    collection: Name | None = None
    embedder: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    chunker: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    analyzer: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    force: bool = False
    tolerance: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class JudgedQuery(Request):
    """A question, and the documents that answer it, by id, URI or file name, each with a grade (1: relevant)."""

    id: Annotated[str, StringConstraints(max_length=128)] = ""
    query: Annotated[str, StringConstraints(min_length=1, max_length=8192)]
    relevant: Annotated[
        dict[Annotated[str, StringConstraints(min_length=1, max_length=4096)], Annotated[int, Field(ge=0, le=1000)]],
        Field(min_length=1, max_length=1000),
    ]


class EvaluationRequest(Request):
    """The questions that a new generation must answer as well as the one that serves."""

    queries: Annotated[list[JudgedQuery], Field(min_length=1, max_length=10_000)]


class SyncRequest(Request):
    """Options of a sync. `approve_deletions` lets that many withheld deletions pass: a ceiling."""

    approve_deletions: Annotated[int, Field(ge=0)] = 0
