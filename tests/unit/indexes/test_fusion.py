"""Fusion by hand-worked examples, and what must hold for any hits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.fusion import convex, dense_only, lexical_only, rrf
from indexes.model import Hit, LegScore


def hit(name: str, dense: tuple[float, int | None] | None, lexical: tuple[float, int | None] | None) -> Hit:
    return Hit(
        name,
        f"v{name}",
        f"d{name}",
        None if dense is None else LegScore(*dense),
        None if lexical is None else LegScore(*lexical),
    )


HITS = (
    hit("a", (0.9, 1), (0.0, None)),
    hit("b", (0.5, 2), (6.0, 2)),
    hit("c", (0.1, None), (8.0, 1)),
)


def names(fused: list[tuple[Hit, float]]) -> str:
    return "".join(found.chunk_id for found, _ in fused)


def test_convex_is_the_weighted_sum_of_normalised_scores() -> None:
    assert convex(HITS) == [(HITS[1], pytest.approx(0.625)), (HITS[0], 0.5), (HITS[2], 0.5)]
    assert names(convex(HITS, weight=1.0)) == "abc"
    assert names(convex(HITS, weight=0.0)) == "cba"
    assert [score for _, score in convex(HITS, weight=0.25)] == pytest.approx([0.75, 0.6875, 0.25])


def test_rrf_counts_ranks_only() -> None:
    assert rrf(HITS) == [
        (HITS[1], pytest.approx(1 / 62 + 1 / 62)),
        (HITS[0], pytest.approx(1 / 61)),
        (HITS[2], pytest.approx(1 / 61)),
    ]
    assert rrf(HITS, k=0)[0][1] == pytest.approx(1.0)


def test_one_leg_keeps_its_own_order_scores_and_hits() -> None:
    assert dense_only(HITS) == [(HITS[0], 0.9), (HITS[1], 0.5)]
    assert lexical_only(HITS) == [(HITS[2], 8.0), (HITS[1], 6.0)]


def test_a_leg_that_was_not_asked_adds_nothing() -> None:
    hits = (hit("a", (0.5, 1), None), hit("b", (0.25, 2), None), hit("c", (0.0, 3), None))
    assert convex(hits, weight=0.5) == [(hits[0], 0.5), (hits[1], 0.25), (hits[2], 0.0)]
    assert lexical_only(hits) == []
    assert names(rrf(hits)) == "abc"


def test_a_leg_without_spread_adds_the_same_to_all() -> None:
    hits = (hit("b", (0.7, 1), (1.0, 2)), hit("a", (0.7, 2), (2.0, 1)), hit("c", (0.7, 3), (0.0, None)))
    assert convex(hits) == [(hits[1], 1.0), (hits[0], 0.75), (hits[2], 0.5)]
    assert convex((HITS[0],)) == [(HITS[0], 0.5)]  # its lexical score is 0


def test_ties_are_broken_by_chunk_id() -> None:
    hits = tuple(hit(name, (0.5, 1), (1.0, 1)) for name in "cab")
    for fuse in (convex, rrf, dense_only, lexical_only):
        assert names(fuse(hits)) == "abc"


def test_no_hits_are_no_hits() -> None:
    for fuse in (convex, rrf, dense_only, lexical_only):
        assert fuse(()) == []


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_is_a_share(weight: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        convex(HITS, weight)


LEGS = st.none() | st.tuples(st.floats(-1, 50), st.none() | st.integers(1, 50))


@given(st.lists(st.tuples(LEGS, LEGS), max_size=12), st.floats(0, 1), st.randoms(use_true_random=False))
def test_fusion_never_depends_on_the_order_of_hits(
    legs: list[tuple[tuple[float, int | None] | None, tuple[float, int | None] | None]], weight: float, random: object
) -> None:
    hits = [hit(f"{number:02}", dense, lexical) for number, (dense, lexical) in enumerate(legs)]
    mixed = list(hits)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    fused = convex(hits, weight)
    assert fused == convex(mixed, weight)
    assert rrf(hits) == rrf(mixed)
    assert sorted(names(fused)) == sorted("".join(found.chunk_id for found in hits))
    assert all(0.0 <= score <= 1.0 + 1e-9 for _, score in fused)
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)
