"""Requests: what is refused, and what the accepted ones mean."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from indexes.errors import QueryInvalid
from indexes.filters import check_filter
from indexes.model import Filter
from ragsvc import schemas
from ragsvc.errors import Invalid
from ragsvc.schemas import RetrieveRequest, to_filter

METADATA: TypeAdapter[Any] = TypeAdapter(schemas.Metadata)
FILTER: TypeAdapter[Any] = TypeAdapter(schemas.AnyFilter)
MODELS = [
    schemas.RetrieveRequest,
    schemas.SourceRequest,
    schemas.SourceChange,
    schemas.CollectionRequest,
    schemas.CollectionChange,
    schemas.JobRequest,
    schemas.SyncRequest,
    schemas.IntervalSchedule,
    schemas.CronSchedule,
    schemas.LeafFilter,
    schemas.GroupFilter,
    schemas.NotFilter,
]


def asked(**fields: Any) -> RetrieveRequest:
    return RetrieveRequest.model_validate({"query": "x", **fields})


def filtered(stated: Any) -> Filter:
    return to_filter(FILTER.validate_python(stated))


def leaf(**fields: Any) -> dict[str, Any]:
    return {"op": "eq", "key": "lang", "value": "en", **fields}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_an_unknown_field_is_refused(model: type[schemas.Request]) -> None:
    with pytest.raises(ValidationError) as error:
        model.model_validate({"no_such_field": 1})
    assert ("no_such_field",) in [one["loc"] for one in error.value.errors() if one["type"] == "extra_forbidden"]


def test_only_the_query_is_required() -> None:
    found = asked()
    assert (found.top_k, found.max_tokens, found.tokenizer, found.mode) == (8, 1024, "o200k_base", "hybrid")
    assert (found.on_stale, found.on_insufficient, found.compression) == ("flag", "empty", "sentences")
    with pytest.raises(ValidationError):
        RetrieveRequest.model_validate({})


@pytest.mark.parametrize(
    "fields",
    [
        {"query": ""},
        {"query": "x" * 8193},
        {"query": None},
        {"query": 5},
        {"query": "\ud800"},
        {"top_k": 0},
        {"top_k": 101},
        {"top_k": 10**9},
        {"top_k": 2.5},
        {"max_tokens": 0},
        {"max_tokens": 128_001},
        {"mode": "best"},
        {"on_stale": "panic"},
        {"on_insufficient": "no"},
        {"compression": "all"},
        {"collections": "handbook"},
        {"collections": [""]},
        {"collections": ["x" * 129]},
        {"collections": ["x"] * 65},
        {"include": ["vectors"]},
        {"include": ["explain"] * 9},
        {"min_score": float("nan")},
        {"min_score": float("inf")},
        {"snapshot": "s" * 4097},
        {"as_of": "yesterday"},
        {"as_of": "2026-13-01T00:00:00Z"},
        {"as_of": "0001-01-01T00:00:00+14:00"},
        {"as_of": "9999-12-31T23:59:59-14:00"},
        {"max_staleness": "soon"},
        {"max_staleness": "0s"},
        {"max_staleness": "-1h"},
        {"max_staleness": "9" * 40},
        {"filters": {}},
        {"filters": []},
    ],
    ids=lambda fields: repr(fields)[:60],
)
def test_values_out_of_bounds_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        asked(**fields)


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ("2026-03-01T00:00:00Z", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T01:00:00+01:00", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T00:00:00", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
    ],
)
def test_times_are_utc(stated: str, meant: datetime) -> None:
    found = asked(as_of=stated).as_of
    assert found == meant
    assert found is not None
    assert found.tzinfo is UTC


@pytest.mark.parametrize("text", ["90", "90s", "5m", "24h", "7d", "1.5h", "500ms", "2w"])
def test_durations(text: str) -> None:
    assert asked(max_staleness=text).max_staleness == text


@pytest.mark.parametrize("text", ["", "h", "1y", "1 hour", "1e9s", "PT1H", "1h30m", "9" * 31 + "w"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValidationError):
        asked(max_staleness=text)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), None, {"a": 1}, [[1]], "x" * 4097])
def test_metadata_holds_what_json_and_the_catalogue_can_carry(value: Any) -> None:
    with pytest.raises(ValidationError):
        METADATA.validate_python({"a": value})


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_an_integer_of_more_than_64_bits_is_a_float(value: int) -> None:
    found = METADATA.validate_python({"a": value, "b": [2**63 - 1, 1.5, "x", True]})
    assert found == {"a": float(value), "b": [2**63 - 1, 1.5, "x", True]}
    assert orjson.loads(orjson.dumps(found)) == found


def test_filters_become_the_engines() -> None:
    stated = {
        "op": "and",
        "filters": [
            leaf(),
            {"op": "not", "filter": leaf(op="in", key="team", value=["a", "b"])},
            {"op": "or", "filters": [leaf(op="gte", key="year", value=2020), leaf(op="exists", value=False)]},
        ],
    }
    assert filtered(stated) == Filter(
        "and",
        parts=(
            Filter("eq", "lang", "en"),
            Filter("not", parts=(Filter("in", "team", ("a", "b")),)),
            Filter("or", parts=(Filter("gte", "year", 2020), Filter("exists", "lang", False))),
        ),
    )


@pytest.mark.parametrize(
    "stated",
    [
        leaf(op="like"),
        leaf(key=""),
        leaf(key="k" * 129),
        leaf(value=None),
        leaf(value={"a": 1}),
        leaf(extra=1),
        {"op": "eq", "key": "a"},
        {"op": "and", "filters": []},
        {"op": "and", "filters": [leaf()] * 65},
        {"op": "not", "filters": [leaf()]},
        {"op": "not", "filter": None},
        {"key": "a", "value": 1},
        "lang = 'en'",
        {"op": "eq", "key": "') OR 1=1", "value": {"$ne": 1}},
    ],
    ids=lambda stated: repr(stated)[:50],
)
def test_filters_that_are_none(stated: Any) -> None:
    with pytest.raises(ValidationError):
        filtered(stated)


@pytest.mark.parametrize(
    ("op", "value"), [("eq", ["a"]), ("in", "a"), ("nin", 1), ("exists", "yes"), ("exists", 1), ("gt", [1])]
)
def test_an_operator_needs_its_kind_of_value(op: str, value: Any) -> None:
    with pytest.raises(Invalid, match=op):
        filtered(leaf(op=op, value=value))


def nested(depth: int) -> dict[str, Any]:
    stated = leaf()
    for _ in range(depth - 1):
        stated = {"op": "not", "filter": stated}
    return stated


def test_depth_of_a_filter_is_limited() -> None:
    check_filter(filtered(nested(16)))
    with pytest.raises(Invalid, match="16 deep"):
        filtered(nested(17))
    with pytest.raises((Invalid, ValidationError)):
        filtered(nested(900))


def test_size_of_a_filter_is_limited() -> None:
    group = {"op": "or", "filters": [leaf()] * 62}
    assert len(filtered({"op": "and", "filters": [group] * 4}).parts) == 4  # 1 + 4 * 63 = 253 parts
    with pytest.raises(Invalid, match="256 parts"):
        filtered({"op": "and", "filters": [group] * 5})


VALUES = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
LEAVES = st.one_of(
    st.builds(lambda op, value: leaf(op=op, value=value), st.sampled_from(["eq", "ne"]), VALUES | st.text(max_size=9)),
    st.builds(lambda op, value: leaf(op=op, value=value), st.sampled_from(["in", "nin"]), st.lists(VALUES, max_size=4)),
    st.builds(lambda op, value: leaf(op=op, value=value), st.sampled_from(["gt", "lte"]), VALUES | st.text(max_size=9)),
    st.builds(lambda value: leaf(op="exists", value=value), st.booleans()),
)
TREES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(lambda part: {"op": "not", "filter": part}, parts),
        st.builds(
            lambda op, inner: {"op": op, "filters": inner},
            st.sampled_from(["and", "or"]),
            st.lists(parts, min_size=1, max_size=4),
        ),
    ),
    max_leaves=12,
)


@given(TREES)
def test_what_the_wire_accepts_the_engine_understands_or_refuses_as_a_query(stated: dict[str, Any]) -> None:
    """The two checks may differ in what they refuse, but nothing else may happen."""
    with suppress(QueryInvalid):
        check_filter(filtered(stated))


def test_a_source_has_one_kind_of_schedule() -> None:
    source = {"collection": "a", "uri": "file:///a"}
    interval = schemas.SourceRequest.model_validate({**source, "schedule": {"interval": "60s"}})
    cron = schemas.SourceRequest.model_validate({**source, "schedule": {"cron": "0 6 * * *"}})
    assert isinstance(interval.schedule, schemas.IntervalSchedule)
    assert isinstance(cron.schedule, schemas.CronSchedule)
    assert cron.schedule.timezone == "UTC"
    for wrong in ({}, {"interval": "x"}, {"cron": "* *"}, {"interval": "60s", "cron": "0 6 * * *"}):
        with pytest.raises(ValidationError):
            schemas.SourceRequest.model_validate({**source, "schedule": wrong})


def test_a_collection_may_not_be_for_nobody_by_mistake() -> None:
    with pytest.raises(ValidationError):
        schemas.CollectionRequest.model_validate({"name": "a", "access": []})
    assert schemas.CollectionRequest.model_validate({"name": "a"}).access == ["public"]
