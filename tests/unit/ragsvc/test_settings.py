"""Settings: from the environment and from options, checked, and nowhere else read."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
from pydantic import ValidationError

from ragsvc.cli import app
from ragsvc.settings import Settings, load, unknown_variables


def test_defaults_are_safe() -> None:
    found = load()
    assert found.host == "127.0.0.1"
    assert found.is_loopback
    assert found.data == Path("ragsvc-data")
    assert found.models_dir == Path("ragsvc-data/models")
    assert found.database_url == f"sqlite:///{(Path.cwd() / 'ragsvc-data/catalog.db')}"


def test_the_environment_sets_and_an_option_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAGSVC_PORT", "9000")
    monkeypatch.setenv("RAGSVC_DATA", str(tmp_path))
    monkeypatch.setenv("RAGSVC_FRESHNESS_SLA", "2h")
    assert load().port == 9000
    assert load(port=9001).port == 9001
    assert load(port=None).port == 9000
    assert load().data == tmp_path
    assert load().freshness_sla == "2h"


def test_another_database_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSVC_DATABASE", "postgresql+psycopg://db/ragsvc")
    assert load().database_url == "postgresql+psycopg://db/ragsvc"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("port", "http"),
        ("freshness_sla", "soon"),
        ("freshness_sla", "0s"),
        ("scan_interval", "-5s"),
        ("log_level", "loud"),
        ("workers", "0"),
        ("searches", "0"),
        ("chunk_target", "5"),
        ("max_body_bytes", "10"),
        ("parse_timeout_s", "0"),
        ("parse_memory_mb", "1"),
        ("threads", "-1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"RAGSVC_{name.upper()}", value)
    with pytest.raises(ValidationError) as error:
        load()
    assert [one["loc"] for one in error.value.errors()] == [(name,)]


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError):
        load(prot=8080)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_the_loopback(host: str) -> None:
    assert load(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.1", "example.org", "localhost.example.org", "127.1"])
def test_anything_else_may_be_reached_from_outside(host: str) -> None:
    assert not load(host=host).is_loopback


def test_misspelt_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unknown_variables() == ()
    monkeypatch.setenv("RAGSVC_PORTS", "1")
    monkeypatch.setenv("RAGSVC_DATA", "x")
    monkeypatch.setenv("RAGSVC_A", "1")
    typer.main.get_command(app)  # its options have variables too
    monkeypatch.setenv("RAGSVC_TOP_K", "3")
    assert unknown_variables() == ("RAGSVC_A", "RAGSVC_PORTS")


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
