"""Placeholder until the helper's lands (same signature)."""

from __future__ import annotations
from ragsvc.model import Sufficiency


def judge(*, max_cosine: float | None, idf_coverage: float, top_fused: float) -> Sufficiency:
    """x."""
    return Sufficiency(1.0, 1.0, "answerable")
