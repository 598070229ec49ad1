"""Which segments are worth rewriting? Many of a similar size, those that are mostly dead, those that must forget."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from indexes.allowed import alive
from indexes.pieces import SealedPiece, erased
from indexes.versions import Versions

TIER_WIDTH: Final = 4
"""So many segments of one tier are joined, and a tier is so many times as large as the one below."""
SMALLEST_TIER: Final = 1_000
"""Rows; all smaller segments are of one tier."""
DEAD_SHARE: Final = 0.3
"""A segment with a larger share of dead rows is rewritten alone."""


def worth_merging(pieces: Sequence[SealedPiece], versions: Versions) -> tuple[SealedPiece, ...]:
    """The pieces to rewrite as one segment; empty when nothing needs it.

    A row is rewritten once per tier, so a log4(rows / 1000) number of times in its life.
    """
    tiers: dict[int, list[SealedPiece]] = defaultdict(list)
    chosen: dict[int, SealedPiece] = {}
    for piece in pieces:
        live = int(np.count_nonzero(alive(piece, versions)))
        tiers[_tier(live)].append(piece)
        if piece.count - live > DEAD_SHARE * piece.count or erased(piece, versions):
            chosen[piece.homes] = piece
    full = next((tiers[tier] for tier in sorted(tiers) if len(tiers[tier]) >= TIER_WIDTH), [])
    chosen.update({piece.homes: piece for piece in full})
    return tuple(chosen.values())


def _tier(rows: int) -> int:
    return 0 if rows < SMALLEST_TIER else 1 + int(math.log(rows / SMALLEST_TIER, TIER_WIDTH))
