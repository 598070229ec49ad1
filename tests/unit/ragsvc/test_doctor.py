"""Each check of the doctor, well and ill: what it found, and what to type."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from indexes.errors import ModelMissing
from ragsvc import doctor
from ragsvc.doctor import Finding, examine
from tests.contracts.installation import settings_in, workshop


def found(folder: Path, check: str, **more: object) -> Finding:
    """The finding of one check."""
    (one,) = [finding for finding in examine(settings_in(folder, port=0, **more)) if finding.check == check]
    return one


def test_a_new_installation_is_well(tmp_path: Path) -> None:
    findings = examine(settings_in(tmp_path / "new", port=0))
    assert [f.check for f in findings] == [
        "packages", "settings", "data folder", "disk", "model", "parsers", "address", "catalogue"
    ]  # fmt: skip
    assert all(finding.ok for finding in findings), findings
    assert "256 dimensions" in findings[4].found


def test_a_missing_model(tmp_path: Path) -> None:
    one = found(tmp_path, "model", embedder="all-MiniLM-L6-v2")
    assert not one.ok
    assert one.cure == ModelMissing.hint


def test_a_misspelt_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGSVC_DATTA", "x")
    one = found(tmp_path, "settings")
    assert not one.ok
    assert "RAGSVC_DATTA" in one.found
    assert one.cure == "unset RAGSVC_DATTA"


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PARTS", ("faiss", "no_such_package"))
    one = found(tmp_path, "packages")
    assert not one.ok
    assert "no_such_package" in one.found
    assert one.cure == "make setup"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 2**63)
    assert not found(tmp_path, "disk").ok


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    one = found(tmp_path, "data folder")
    tmp_path.chmod(0o700)
    assert not one.ok
    assert "chmod" in one.cure


def test_an_address_in_use_may_be_the_service_itself(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        findings = examine(settings_in(tmp_path, port=holder.getsockname()[1]))
    (one,) = [finding for finding in findings if finding.check == "address"]
    assert one.ok
    assert "running service" in one.found


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    one = found(tmp_path, "address", host="192.0.2.1")
    assert not one.ok
    assert "ragsvc up --host 127.0.0.1" in one.cure


def test_an_index_that_disagrees(tmp_path: Path) -> None:
    with workshop(tmp_path) as shop:
        shop.push("a.md", "Apples are red.")
    assert found(tmp_path, "catalogue").ok
    victim = max((p for p in (tmp_path / "indexes").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    one = found(tmp_path, "catalogue")
    assert not one.ok
    assert "`ragsvc verify --repair`" in one.cure


def test_a_catalogue_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"this is no database at all, but some text" * 100)
    one = found(tmp_path, "catalogue")
    assert not one.ok
    assert one.cure
