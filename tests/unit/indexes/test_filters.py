"""Conditions on metadata, judged per distinct value, against the same judged one document at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.documents import DocumentDraft, Documents
from indexes.errors import QueryInvalid
from indexes.filters import MAX_DEPTH, MAX_PARTS, check_filter, matching
from indexes.model import Filter, MetadataValue
from tests.contracts.engine_oracle import holds

SCALARS = st.one_of(
    st.integers(-2, 2), st.booleans(), st.sampled_from(["", "a", "B", "é", "1", 1.0, 0.5, -2.0, float("inf"), 2**70])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3).map(tuple))
KEYS = st.sampled_from(["k", "m", "key with blank"])
ORDERED = SCALARS.filter(lambda value: not isinstance(value, bool))
LEAVES = st.one_of(
    st.builds(Filter, st.sampled_from(["eq", "ne"]), KEYS, SCALARS),
    st.builds(Filter, st.sampled_from(["in", "nin"]), KEYS, st.lists(SCALARS, max_size=3).map(tuple)),
    st.builds(Filter, st.sampled_from(["gt", "gte", "lt", "lte"]), KEYS, ORDERED),
    st.builds(Filter, st.just("exists"), KEYS, st.sampled_from([None, True, False])),
)
FILTERS = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(Filter, st.sampled_from(["and", "or"]), parts=st.lists(parts, min_size=1, max_size=3).map(tuple)),
        st.builds(Filter, st.just("not"), parts=st.tuples(parts)),
    ),
    max_leaves=6,
)
METADATA = st.dictionaries(KEYS, VALUES)


def table(*described: dict[str, MetadataValue]) -> Documents:
    draft = DocumentDraft(Documents.empty(), room=len(described))
    for number, metadata in enumerate(described):
        draft.describe(draft.ordinal(f"d{number}"), frozenset({"public"}), metadata)
    return draft.freeze()


@given(st.lists(METADATA, min_size=1, max_size=6), FILTERS)
def test_a_filter_holds_where_the_oracle_says(described: list[dict[str, MetadataValue]], condition: Filter) -> None:
    check_filter(condition)
    assert matching(condition, table(*described)).tolist() == [holds(condition, metadata) for metadata in described]


@given(st.lists(METADATA, min_size=1, max_size=5), st.lists(METADATA, max_size=5), LEAVES)
def test_a_later_table_does_not_change_an_earlier_one(
    first: list[dict[str, MetadataValue]], later: list[dict[str, MetadataValue]], condition: Filter
) -> None:
    base = table(*first)
    before = matching(condition, base).tolist()
    draft = DocumentDraft(base, room=len(later))
    for number, metadata in enumerate(later):
        draft.describe(draft.ordinal(f"d{number}"), frozenset(), metadata)
    after = draft.freeze()
    assert matching(condition, base).tolist() == before
    expected = [*later, *first[len(later) :]]
    assert matching(condition, after).tolist() == [holds(condition, metadata) for metadata in expected]


def test_kinds_never_mix() -> None:
    documents = table({"k": 1}, {"k": "1"}, {"k": True}, {"k": 1.0}, {"k": (1, "x")}, {})

    def found(op: str, value: MetadataValue) -> list[int]:
        return matching(Filter(op, "k", value), documents).nonzero()[0].tolist()  # type: ignore[arg-type]

    assert found("eq", 1) == [0, 3, 4]
    assert found("eq", "1") == [1]
    assert found("eq", True) == [2]
    assert found("ne", 1) == [1, 2, 5]
    assert found("gte", 1) == [0, 3, 4]
    assert found("gte", "1") == [1, 4]
    assert found("in", ()) == []
    assert found("nin", ()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "condition",
    [
        Filter("and"),
        Filter("or"),
        Filter("not"),
        Filter("not", parts=(Filter("exists", "a"), Filter("exists", "b"))),
        Filter("eq", "", 1),
        Filter("eq", "k"),
        Filter("eq", "k", (1, 2)),
        Filter("in", "k", 1),
        Filter("nin", "k"),
        Filter("gt", "k", True),
        Filter("lt", "k", (1,)),
        Filter("lte", "k"),
        Filter("exists", "k", 1),
        Filter("eq", "k", float("nan")),
        Filter("in", "k", (1, float("nan"))),
        Filter("in", "k", tuple(range(MAX_PARTS + 1))),
        Filter("eq", "k", 1, parts=(Filter("exists", "k"),)),
        Filter("regex", "k", "x"),  # type: ignore[arg-type]
        Filter("and", parts=(Filter("exists", "k"), Filter("or"))),
        Filter("or", parts=(Filter("exists", "k"),) * MAX_PARTS),
    ],
)
def test_what_cannot_mean_anything_is_refused(condition: Filter) -> None:
    with pytest.raises(QueryInvalid) as caught:
        check_filter(condition)
    assert len(caught.value.message) < 300


def test_nesting_has_an_end() -> None:
    condition = Filter("exists", "k")
    for _ in range(MAX_DEPTH - 1):
        condition = Filter("not", parts=(condition,))
    check_filter(condition)
    with pytest.raises(QueryInvalid, match="too large"):
        check_filter(Filter("not", parts=(condition,)))
    for _ in range(100_000):
        condition = Filter("not", parts=(condition,))
    with pytest.raises(QueryInvalid, match="too large"):
        check_filter(condition)
    while condition.parts:  # taken apart from outside in: Python frees a deep chain by recursion
        condition = condition.parts[0]
