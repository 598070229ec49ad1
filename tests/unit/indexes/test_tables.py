"""The tables of versions and documents: the state that was stored is the one that is loaded, and nothing more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexes import durable, tables
from indexes.columns import Columns, ColumnWriter, map_columns
from indexes.documents import DocumentDraft, Documents
from indexes.embedded import EmbeddedEngine
from indexes.model import FOREVER, Close, Describe, Drop, MetadataValue, Op
from indexes.state import State
from indexes.versions import Versions
from tests.contracts.engine_oracle import GENERATION, public, put

SCALARS = st.one_of(st.integers(-(2**70), 2**70), st.booleans(), st.floats(allow_nan=False), st.text(max_size=3))
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3).map(tuple))
DOCUMENTS = st.dictionaries(
    st.text(max_size=3),
    st.tuples(st.frozensets(st.sampled_from(["public", "staff"])), st.dictionaries(st.text(max_size=2), VALUES)),
    max_size=6,
)


def stored(path: Path, documents: Documents, versions: Versions) -> Columns:
    with durable.stream(path) as file:
        writer = ColumnWriter(file)
        tables.pack_tables(writer, documents, versions, versions.home, {})
        writer.finish()
    return map_columns(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS, st.sampled_from([1, 16_384]))
def test_documents_come_back(
    tmp_path: Path, wanted: dict[str, tuple[frozenset[str], dict[str, MetadataValue]]], block: int
) -> None:
    draft = DocumentDraft(Documents.empty(), room=len(wanted))
    for name, (access, metadata) in wanted.items():
        draft.describe(draft.ordinal(name), access, metadata)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BLOCK", block)
        found = tables._documents(stored(tmp_path / "tables", draft.freeze(), Versions.empty()))
    described = {name: found.describe(number) for number, name in enumerate(found.ids)}
    assert described == {name: known for name, known in wanted.items() if any(known)}
    for name, (_, metadata) in described.items():  # 1 and True are equal to Python, but not here
        assert {key: truths(value) for key, value in metadata.items()} == {
            key: truths(value) for key, value in wanted[name][1].items()
        }


def truths(value: MetadataValue) -> list[bool]:
    return [isinstance(one, bool) for one in (value if isinstance(value, tuple) else (value,))]


def values_of(state: State) -> dict[str, tuple[object, ...]]:
    """What a state says of each version, whatever the ordinals are."""
    versions = state.versions
    return {
        versions.ids[ordinal]: (
            state.documents.ids[versions.document[ordinal]],
            versions.times(ordinal),
            state.documents.describe(int(versions.document[ordinal])),
        )
        for ordinal in versions.present().tolist()
    }


@pytest.mark.parametrize("reopened", [False, True])
def test_a_state_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reopened: bool) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    engine = EmbeddedEngine(tmp_path)
    writer = engine.open(GENERATION, writable=True)
    batches: list[list[Op]] = [
        [put("a@1", "one", "two"), public("a", lang="en", tags=("x", "y")), put("b@1"), put("c@1", "three")],
        [Close("a@1", 30, 2), put("a@2", "four", start=30, seq=2), public("waiting", lang="de")],
        [Close("a@1", 20, 3), Drop("c@1"), Describe("b", frozenset({"staff"}), {"year": 2020})],
        [Close("a@1", 25, 4), Drop("c@1"), put("d@1", "five", seq=4)],
    ]
    for seq, batch in enumerate(batches, 1):
        writer.apply(batch, seq=seq)
        if reopened:
            writer.publish()
            engine.close()
            writer = engine.open(GENERATION, writable=True)
    writer.publish()
    loaded = EmbeddedEngine(tmp_path).open(GENERATION, writable=False).state
    assert values_of(loaded) == values_of(writer.state)
    assert set(values_of(loaded)) == {"a@1", "a@2", "b@1", "d@1"}
    assert loaded.versions.times(loaded.versions.ordinals["a@1"]) == (0, 1, 2, 30, 3, 20, 4, 25)
    ordinal = loaded.documents.ordinals["waiting"]
    assert loaded.documents.describe(ordinal) == (frozenset({"public"}), {"lang": "de"})
    assert loaded.versions.find("c@1") is None
    assert loaded.versions.valid_to[loaded.versions.ordinals["d@1"]] == FOREVER


def test_what_no_document_has_leaves_no_trace(tmp_path: Path) -> None:
    draft = DocumentDraft(Documents.empty(), room=2)
    for name, owner in (("a", "somebody"), ("b", "xyzzyowner")):
        draft.describe(draft.ordinal(name), frozenset({owner}), {"owner": owner, owner: 1})
    documents = draft.freeze()
    later = DocumentDraft(documents, room=0)
    later.forget(later.ordinal("b"))
    stored(tmp_path / "before", documents, Versions.empty())
    stored(tmp_path / "after", later.freeze(), Versions.empty())
    assert b"xyzzyowner" in (tmp_path / "before").read_bytes()
    assert b"xyzzyowner" not in (tmp_path / "after").read_bytes()
    assert b"somebody" in (tmp_path / "after").read_bytes()


def test_tables_that_lack_a_column_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexes.writer.pack_tables", lambda writer, *_: writer.add("x", [], np.dtype(np.uint8)))
    writer = EmbeddedEngine(tmp_path).open(GENERATION, writable=True)
    writer.apply([put("a@1", "word")], seq=1)
    writer.publish()
    (problem,) = EmbeddedEngine(tmp_path).open(GENERATION, writable=False).problems
    assert "cannot be read" in problem.what
