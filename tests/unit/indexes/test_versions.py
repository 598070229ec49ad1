"""The version table: what is in force, and tables that stay as they were."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from indexes.model import FOREVER, Closing
from indexes.rowhash import times_of
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


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20), ENDS), max_size=12),
    st.integers(0, 3),
    st.integers(-1, 21),
)
def test_of_several_closings_the_newest_up_to_an_entry_counts(
    closings: list[tuple[int, int, int]], split: int, at_seq: int
) -> None:
    """In any order, over any number of drafts."""
    versions = table(*[(0, FOREVER, 0, FOREVER)] * 3)
    said: dict[int, dict[int, int]] = {1: {}, 2: {}, 3: {}}
    for place, (number, seq, end) in enumerate(closings):
        if place % 3 == split or place == 0:
            draft = VersionDraft(versions, room=0)
        draft.close(f"v{number}", end, seq)
        versions = draft.freeze()
        said[number][seq] = end
    for number, ends in said.items():
        then = [seq for seq in ends if seq <= at_seq]
        assert versions.ends(at_seq)[number] == (ends[max(then)] if then else FOREVER)
        assert versions.ends(None)[number] == (ends[max(ends)] if ends else FOREVER)
        assert [closing.seq for closing in versions.closings(number)] == sorted(ends)[:-1]
        newest = max(ends, default=FOREVER)
        closed = replace(
            put(f"v{number}", seq=0, end=ends.get(newest, FOREVER), closed=newest),
            earlier=tuple(Closing(seq, ends[seq]) for seq in sorted(ends)[:-1]),
        )
        assert versions.times(number) == times_of(closed)
        again = VersionDraft(Versions.empty(), room=1)
        again.put(closed, document=0, home=1)
        assert again.freeze().ends(at_seq)[1] == versions.ends(at_seq)[number]


def test_a_version_put_again_or_dropped_leaves_no_closings() -> None:
    versions = table((0, FOREVER, 1, FOREVER), (0, FOREVER, 1, FOREVER), (0, FOREVER, 1, FOREVER))
    draft = VersionDraft(versions, room=0)
    for number in (1, 2, 3):
        draft.close(f"v{number}", 9, 5)
        draft.close(f"v{number}", 4, 7)
    closed = draft.freeze()
    assert closed.earlier.tolist() == [[1, 5, 9], [2, 5, 9], [3, 5, 9]]
    draft = VersionDraft(closed, room=1)
    draft.put(put("v1"), document=0, home=7)
    draft.drop("v2")
    after = draft.freeze()
    assert after.earlier.tolist() == [[3, 5, 9]]
    assert after.ends(6)[1] == FOREVER
    assert closed.earlier.tolist() == [[1, 5, 9], [2, 5, 9], [3, 5, 9]]


def test_what_never_was_in_force_is_no_boundary() -> None:
    versions = table((3, 3, 1, 1), (1, 8, 1, 1))
    window = versions.in_force(5, None)
    assert (window.start, window.end) == (1, 8)


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
