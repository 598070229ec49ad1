"""Which rows a query may see, and that a remembered answer is given only where it holds."""

from __future__ import annotations

import numpy as np
import pytest

from indexes import allowed as module
from indexes.allowed import AllowedRows, RowSet
from indexes.model import FOREVER, Allowed, Filter
from indexes.state import State
from indexes.versions import Versions
from indexes.writer import EmbeddedWriter
from tests.contracts.engine_oracle import GENERATION, ask, public, put


@pytest.fixture
def state(tmp_path: object) -> State:
    writer = EmbeddedWriter(tmp_path, GENERATION, writable=False)  # type: ignore[arg-type]
    versions = [put(f"d{n}@1", "one", "two", start=10 * n, end=10 * n + 15) for n in range(5)]
    writer.apply([*versions, *[public(f"d{n}", n=n) for n in range(5)]], seq=1)
    return writer.state


def rows(state: State, **options: object) -> list[int]:
    (found,) = state.allowed.of(ask("one", **options))  # type: ignore[arg-type]
    return found.rows.tolist()


def test_validity_access_and_filter_meet(state: State) -> None:
    assert rows(state, at=12) == [0, 1, 2, 3]
    assert rows(state, at=12, where=Filter("eq", "n", 1)) == [2, 3]
    assert rows(state, at=12, allowed=Allowed(frozenset({"nobody"}))) == []
    assert rows(state, at=FOREVER - 1) == []


def test_an_answer_is_remembered_until_a_version_begins_or_ends(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = Versions.in_force
    monkeypatch.setattr(Versions, "in_force", lambda self, at, seq: asked.append(at) or original(self, at, seq))
    for at in (10, 11, 14, 10, 15, 19, 20, 24, 14):
        rows(state, at=at)
    assert asked == [10, 15, 20, 14]


def test_since_when_nothing_has_changed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [state.allowed.window(at).start for at in (0, 9, 10, 14, 15, 19, 70)] == [0, 0, 10, 10, 15, 15, 55]
    monkeypatch.setattr(Versions, "in_force", None)
    assert state.allowed.window(1_000_000).start == 55  # remembered: "now" goes on without a version to end


def test_questions_that_only_look_alike_are_kept_apart(state: State) -> None:
    for value, wanted in ((1, [2, 3]), (True, []), (1.0, [2, 3]), ("1", [])):
        assert rows(state, at=12, where=Filter("eq", "n", value)) == wanted
    assert rows(state, at=12, at_seq=0) == []
    assert rows(state, at=12, at_seq=1) == list(range(4))
    assert rows(state, at=12) == [0, 1, 2, 3]


def test_only_so_many_answers_are_remembered(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    for n in range(10):
        rows(state, at=12, where=Filter("eq", "n", n))
    assert len(state.allowed._answers) == 3


def test_nothing_is_allowed_of_nothing() -> None:
    empty = AllowedRows(*_tables(), [])
    assert empty.of(ask("one")) == ()


def _tables() -> tuple[object, object]:
    from indexes.documents import Documents

    return Documents.empty(), Versions.empty()


def test_a_set_of_rows_in_three_forms() -> None:
    mask = np.zeros(19, bool)
    mask[[0, 9, 18]] = True
    found = RowSet(mask)
    assert (found.count, found.everything, found.rows.tolist()) == (3, False, [0, 9, 18])
    assert found.bitmap.tolist() == [1, 2, 4]
    assert RowSet(np.ones(3, bool)).everything
