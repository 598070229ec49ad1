"""The version table: what is in force, and tables that stay as they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexes.model import FOREVER
from indexes.versions import GONE, NOBODY, VersionDraft, Versions
from tests.contracts.engine_oracle import put

TIMES = st.integers(0, 8)
ENDS = st.one_of(st.just(FOREVER), TIMES)


def table(*rows: tuple[int, int, int, int]) -> Versions:
    draft = VersionDraft(Versions.empty(), room=len(rows))
    for number, (start, end, seq, closed) in enumerate(rows, 1):
        draft.put(put(f"v{number}", start=start, end=end, seq=seq, closed=closed), document=0, home=number)
    return draft.freeze()


@given(
    st.lists(st.tuples(TIMES, ENDS, TIMES, ENDS), max_size=6),
    st.integers(-1, 9),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_in_force_and_for_how_long(rows: list[tuple[int, int, int, int]], at: int, at_seq: int | None) -> None:
    versions = table(*rows)

    def wanted(when: int) -> list[bool]:
        found = [False]  # NOBODY
        for start, end, seq, closed in rows:
            known = at_seq is None or seq <= at_seq
            until = end if at_seq is None or closed <= at_seq else FOREVER
            found.append(known and start <= when < until)
        return found

    window = versions.in_force(at, at_seq)
    assert window.mask.tolist() == wanted(at)
    assert window.start <= at < window.end
    for when in range(-2, 12):
        if window.start <= when < window.end:
            assert wanted(when) == wanted(at)


def test_a_draft_does_not_touch_its_base() -> None:
    base = table((0, FOREVER, 1, FOREVER), (0, FOREVER, 1, FOREVER))
    draft = VersionDraft(base, room=2)
    assert draft.put(put("v1", start=5), document=3, home=9) == 1
    assert draft.put(put("v3"), document=1, home=10) == 3
    draft.close("v2", 7, 4)
    assert base.valid_from.tolist() == [0, 0, 0]
    assert base.find("v3") is None
    after = draft.freeze()
    assert draft.touched == {1, 2, 3}
    assert (len(base), len(after)) == (3, 4)
    assert (base.find("v3"), after.find("v3")) == (None, 3)
    assert base.home.tolist() == [GONE, 1, 2]
    assert after.home.tolist() == [GONE, 9, 2, 10]
    assert after.valid_to.tolist()[1:] == [FOREVER, 7, FOREVER]
    assert base.valid_to.tolist()[1:] == [FOREVER, FOREVER]
    assert after.document.tolist() == [0, 3, 0, 1]


def test_two_drafts_that_are_not_frozen_leave_no_trace() -> None:
    base = table((0, FOREVER, 1, FOREVER))
    VersionDraft(base, room=1).put(put("lost"), document=0, home=5)
    draft = VersionDraft(base, room=1)
    assert draft.put(put("kept"), document=0, home=6) == 2
    after = draft.freeze()
    assert after.ids == ["", "v1", "kept"]
    assert after.find("lost") is None


def test_dropping_tells_when_a_document_has_no_version_left() -> None:
    draft = VersionDraft(Versions.empty(), room=4)
    for number, document in ((1, 7), (2, 7), (3, 8)):
        draft.put(put(f"v{number}"), document=document, home=number)
    assert draft.drop("v1") is None
    assert draft.drop("v3") == 8
    assert draft.drop("v2") == 7
    assert draft.drop("unknown") is None
    draft.close("v2", 5, 5)
    versions = draft.freeze()
    assert versions.present().tolist() == []
    assert versions.valid_to[versions.ordinals["v2"]] == FOREVER


def test_a_dropped_version_can_come_back() -> None:
    draft = VersionDraft(table((0, FOREVER, 1, FOREVER)), room=1)
    draft.drop("v1")
    versions = draft.freeze()
    assert versions.find("v1") is None
    draft = VersionDraft(versions, room=1)
    assert draft.put(put("v1"), document=0, home=4) == 1
    assert draft.freeze().find("v1") == 1
    assert versions.find("v1") is None


def test_nobody_is_never_in_force() -> None:
    versions = Versions.empty()
    assert not versions.in_force(0, None).mask[NOBODY]
    assert versions.present().tolist() == []
    assert versions.find("") is None
