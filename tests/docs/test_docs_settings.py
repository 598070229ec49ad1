"""docs/settings.md says what ragsvc/settings.py has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from ragsvc import settings
from ragsvc.settings import Settings
from tests.docs.pages import ROOT, markdown_files, read, rows

TABLE = {row[0].strip("`"): row for row in rows(read("settings.md"))}
FIELDS = Settings.model_fields


def shown(default: object) -> str:
    """A default as the table has it."""
    return "none" if default is None else f"`{default}`"


def test_every_setting_is_in_the_table_and_nothing_else() -> None:
    assert set(TABLE) == {f"RAGSVC_{name.upper()}" for name in FIELDS}
    assert len(rows(read("settings.md"))) == len(FIELDS), "one row each"


@pytest.mark.parametrize("name", FIELDS)
def test_default_of_a_setting_is_the_documented_one(name: str) -> None:
    assert TABLE[f"RAGSVC_{name.upper()}"][1] == shown(FIELDS[name].default)


@pytest.mark.parametrize("name", FIELDS)
def test_meaning_of_a_setting_is_a_sentence_here_and_there(name: str) -> None:
    description = FIELDS[name].description
    assert description is not None
    assert description.endswith(".")
    assert TABLE[f"RAGSVC_{name.upper()}"][2].endswith(".")


@pytest.mark.parametrize("name", FIELDS)
def test_documented_default_can_be_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = TABLE[f"RAGSVC_{name.upper()}"][1].strip("`")
    if stated == "none":
        assert getattr(settings.load(), name) is None
    else:
        monkeypatch.setenv(f"RAGSVC_{name.upper()}", stated)
        assert getattr(settings.load(), name) == FIELDS[name].default


def test_ranges_in_the_text_are_the_ranges_of_the_setting() -> None:
    least, most = re.findall(r"(\d+) to (\d+)", TABLE["RAGSVC_CHUNK_TARGET"][2])[0]
    assert settings.load(chunk_target=int(least)).chunk_target == int(least)
    assert settings.load(chunk_target=int(most)).chunk_target == int(most)
    for beyond in (int(least) - 1, int(most) + 1):
        with pytest.raises(ValidationError):
            settings.load(chunk_target=beyond)


def test_every_chunk_target_that_can_be_set_makes_a_chunker() -> None:
    from ingest.chunk import StructureChunker

    least, most = re.findall(r"(\d+) to (\d+)", TABLE["RAGSVC_CHUNK_TARGET"][2])[0]
    assert StructureChunker(int(least)).id != StructureChunker(int(most)).id


@pytest.mark.parametrize("text", ["90s", "24h", "7d", "1w", "250ms", "90"])
def test_documented_durations_are_understood(text: str) -> None:
    assert settings.load(freshness_sla=text).freshness_sla == text


def test_no_page_names_a_variable_that_does_not_exist() -> None:
    from typer.main import get_command

    from ragsvc import cli
    from ragsvc.options import OPTION_VARIABLES

    get_command(cli.app)  # declares the options
    known = set(TABLE) | OPTION_VARIABLES
    files = [*markdown_files(), *Path(ROOT / "docker").iterdir(), ROOT / "Makefile"]
    for path in files:
        named = set(re.findall(r"RAGSVC_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
        assert named <= known, f"{path.relative_to(ROOT)}: {sorted(named - known)}"


def test_no_hint_names_a_variable_that_does_not_exist() -> None:
    for path in [p for package in ("indexes", "ingest", "ragsvc") for p in (ROOT / package).rglob("*.py")]:
        named = set(re.findall(r"RAGSVC_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))) - {"RAGSVC_NAME"}
        assert named <= set(TABLE), f"{path.relative_to(ROOT)}: {sorted(named - set(TABLE))}"
