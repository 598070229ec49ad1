"""The document table: descriptions come back as they were given, and access is decided per list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexes.documents import DocumentDraft, Documents, Values, value_key
from indexes.model import Allowed

SCALARS = st.one_of(st.integers(), st.booleans(), st.text(max_size=3), st.floats(allow_nan=False))
METADATA = st.dictionaries(
    st.sampled_from("abc"), st.one_of(SCALARS, st.lists(SCALARS, max_size=3).map(tuple)), max_size=3
)
ACCESS = st.frozensets(st.sampled_from(["public", "staff", "boss"]))
BATCHES = st.lists(st.dictionaries(st.sampled_from(["d1", "d2", "d3"]), st.tuples(ACCESS, METADATA)), max_size=4)


@given(BATCHES)
def test_the_last_description_counts(batches: list[dict[str, tuple[frozenset[str], dict[str, object]]]]) -> None:
    documents, wanted = Documents.empty(), {}
    tables = []
    for batch in batches:
        draft = DocumentDraft(documents, room=len(batch))
        for name, (access, metadata) in batch.items():
            draft.describe(draft.ordinal(name), access, metadata)  # type: ignore[arg-type]
        documents = draft.freeze()
        wanted = {**wanted, **batch}
        tables.append((documents, wanted))
    for table, expected in tables:
        assert len(table) == len(expected)
        for name, description in expected.items():
            assert table.describe(table.ordinals[name]) == description
        for principals in (None, frozenset(), frozenset({"staff"}), frozenset({"public", "boss"})):
            allowed = Allowed(principals)
            readable = table.readable(allowed).tolist()
            assert readable == [allowed.may_read(expected[name][0]) for name in table.ids[: len(table)]]


def test_forgetting_leaves_neither_access_nor_metadata() -> None:
    draft = DocumentDraft(Documents.empty(), room=1)
    draft.describe(draft.ordinal("d"), frozenset({"staff"}), {"a": 1})
    draft = DocumentDraft(draft.freeze(), room=0)
    draft.forget(draft.ordinal("d"))
    assert draft.freeze().describe(0) == (frozenset(), {})


def test_a_draft_that_is_not_frozen_leaves_no_document() -> None:
    base = Documents.empty()
    DocumentDraft(base, room=1).ordinal("lost")
    draft = DocumentDraft(base, room=1)
    assert draft.ordinal("kept") == 0
    assert draft.freeze().ids == ["kept"]


def test_values_are_the_same_when_a_filter_cannot_tell_them_apart() -> None:
    values = Values()
    assert values.code(1) == values.code(1.0)
    assert len({values.code(value) for value in (1, True, "1", (1,), (True,), ("1",), (1, 1))}) == 7
    assert value_key((1, "a")) == value_key((1.0, "a"))
    assert value_key(True) != value_key(1)
