"""CHANGELOG.md has the shape that releases need, and the version is one."""

from __future__ import annotations

import re

import yaml

from ragsvc import __version__
from tests.docs.pages import ROOT, sections

TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
RELEASES = [section.title for section in sections(TEXT, 2)]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers."""
    return tuple(int(part) for part in version.split("."))


def test_version_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_first_section_is_unreleased() -> None:
    assert RELEASES[0] == "Unreleased"
    assert RELEASES.count("Unreleased") == 1


def test_releases_are_dated_and_newest_first() -> None:
    found = [re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)", title) for title in RELEASES[1:]]
    assert None not in found, "a release is written `## 0.1.0 (2026-11-23)`"
    versions = [numbers(release[1]) for release in found if release]
    assert versions == sorted(versions, reverse=True)
    assert all(version <= numbers(__version__) for version in versions)


def test_every_section_says_something_under_known_headings() -> None:
    for release in sections(TEXT, 2):
        kinds = sections(release.body, 3)
        assert kinds, release.title
        for kind in kinds:
            assert kind.title in KINDS, f"{release.title}: {kind.title}"
            assert re.search(r"^- \w", kind.body, flags=re.M), f"{release.title}: {kind.title} is empty"


def test_version_stands_in_one_place_and_others_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project
    assert 'path = "ragsvc/__init__.py"' in project
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
    assert compose["services"]["ragsvc"]["image"] == f"ragsvc:{__version__}"


def test_commands_of_the_changelog_exist() -> None:
    import typer.main

    from ragsvc.cli import app

    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"`ragsvc (\w+)", TEXT)) <= commands
