"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.duration import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), (90, 90), (1.5, 1.5), ("90s", 90), ("5m", 300), ("24h", 86_400), ("7d", 604_800), ("1w", 604_800),
        ("1.5h", 5400), ("250ms", 0.25), (" 5 m ", 300),
    ],
)  # fmt: skip
def test_what_people_write(text: str | int | float, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0s",
        "-5m",
        "m",
        "5 minutes",
        "5M",
        "1h30m",
        "1e3",
        "nan",
        "inf",
        "\u0663s",
        "5mm",
        "101000d",
        "9" * 400,
    ],
)
def test_anything_else_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds_of(text)


@given(st.text(max_size=20))
def test_any_text_gives_seconds_or_a_value_error(text: str) -> None:
    said = "a duration"
    try:
        assert seconds_of(text) > 0
    except ValueError as error:
        said = str(error)
    assert "duration" in said
