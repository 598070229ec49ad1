"""Durations as people write them: `90`, `90s`, `5m`, `24h`, `7d`."""

from __future__ import annotations

import re

_UNITS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_CENTURY = 100 * 366 * 86_400


def seconds_of(text: str | int | float) -> float:
    """Seconds, more than 0 and at most a century. Raises ValueError that says what is allowed."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]{0,2})\s*", str(text), re.ASCII)
    if found is None or found[2] not in _UNITS or not 0 < float(found[1]) * _UNITS[found[2]] <= _CENTURY:
        raise ValueError(f"{text!r} is not a duration; write a number with s, m, h or d, such as 90s or 24h")
    return float(found[1]) * _UNITS[found[2]]
