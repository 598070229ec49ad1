"""Which segments are worth rewriting? Several of a similar size, one that is mostly dead, one that must forget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

import numpy as np

from indexes.allowed import alive
from indexes.pieces import SealedPiece, erased
from indexes.versions import Versions

TIER_WIDTH: Final = 4
"""So many segments of one tier are joined, and a tier is so many times as large as the one below."""
SMALLEST_TIER: Final = 1_000
"""Rows; all smaller segments are of one tier."""
LARGEST: Final = 4_000_000
"""Rows. No segments are joined to a larger one: its rewriting would take an hour, and save little."""
DEAD_SHARE: Final = 0.3
"""A segment with a larger share of dead rows is rewritten alone."""

Sized = tuple[int, SealedPiece]


def worth_merging(pieces: Sequence[SealedPiece], versions: Versions) -> tuple[SealedPiece, ...]:
    """The pieces to rewrite as one segment; empty when nothing needs it.

    Of several things to do it is the smallest, so that small segments never wait behind large ones. A row is rewritten
    once per tier, so a log4(rows / 1000) number of times in its life.
    """
    sized = [(int(np.count_nonzero(alive(piece, versions))), piece) for piece in pieces]
    jobs = [*_joins(sized), *_rewrites(sized, versions)]
    smallest = min(jobs, key=lambda job: sum(live for live, _ in job), default=[])
    return tuple(piece for _, piece in smallest)


def _joins(sized: Sequence[Sized]) -> Iterator[list[Sized]]:
    tiers: dict[int, list[Sized]] = defaultdict(list)
    for one in sized:
        tiers[_tier(one[0])].append(one)
    for tier in tiers.values():
        if len(tier) >= TIER_WIDTH:
            tier.sort(key=lambda one: one[0])
            rows = accumulate(live for live, _ in tier)
            fitting = [one for one, total in zip(tier, rows, strict=True) if total <= LARGEST]
            if len(fitting) > 1:
                yield fitting


def _rewrites(sized: Sequence[Sized], versions: Versions) -> Iterator[list[Sized]]:
    for live, piece in sized:
        if piece.count - live > DEAD_SHARE * piece.count or erased(piece, versions):
            yield [(live, piece)]


def _tier(rows: int) -> int:
    tier = 0
    while rows >= SMALLEST_TIER * TIER_WIDTH**tier:
        tier += 1
    return tier
