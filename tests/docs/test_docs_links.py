"""Every link of every page leads somewhere, and ARCHITECTURE.md names what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import DOCS, ROOT, anchors, links, markdown_files, sections

PAGES = markdown_files()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
SOURCES = [
    path for package in ("indexes", "ingest", "ragsvc", "tests", "bench") for path in (ROOT / package).rglob("*")
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve_with_their_anchors(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in links(text):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = path.parent / unquote(parts.path) if parts.path else path
        assert target.exists(), f"{link}: there is no {target.relative_to(ROOT)}"
        assert ROOT in target.resolve().parents, f"{link} leaves the project"
        if parts.fragment:
            assert parts.fragment in anchors(target.read_text(encoding="utf-8")), link


def test_anchors_are_those_that_readers_get() -> None:
    text = "# The data folder\n## `POST /v1/jobs`\n## Twice\n## Twice\n## Keys, scopes & more\n"
    assert anchors(text) == {"the-data-folder", "post-v1jobs", "twice", "twice-1", "keys-scopes--more"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_tells_where_it_was_made(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|tmp)/\w+", text)


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.is_file() or page.suffix != ".md":
            continue
        reached.add(page)
        for link in links(page.read_text(encoding="utf-8")):
            if not urlsplit(link).scheme and urlsplit(link).path:
                waiting.append((page.parent / unquote(urlsplit(link).path)).resolve())
    assert set(DOCS.glob("*.md")) <= reached


def test_paths_in_the_architecture_exist() -> None:
    named = re.findall(r"`([\w./-]+(?:\.py|\.md|/))`", ARCHITECTURE)
    assert len(named) > 30
    for name in named:
        if name.endswith("/") or name.count("/"):
            found = (ROOT / name).exists() or any(str(path).endswith("/" + name) for path in SOURCES)
        else:
            found = any(path.name == name for path in SOURCES)
        assert found, f"ARCHITECTURE.md names {name}"


def test_functions_in_the_architecture_exist() -> None:
    for module, name in re.findall(r"`(\w+)\.(\w+)`", ARCHITECTURE):
        if name in ("py", "md"):
            continue
        files = [path for path in SOURCES if path.name == f"{module}.py"]
        assert files, f"{module}.{name}"
        defined = {
            node.name for path in files for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "name")
        }
        assert name in defined, f"{module}.{name}"


def packages() -> set[str]:
    """Folders of the project that hold modules, tests or what else must be explained."""
    top = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    top -= {"ragsvc-data", "build", "dist", "htmlcov"}
    inner = {
        str(path.parent.relative_to(ROOT))
        for package in ("indexes", "ingest", "ragsvc")
        for path in (ROOT / package).rglob("__init__.py")
    }
    suites = {f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/*.py")}
    return top | {folder for folder in inner if "migrations" not in folder} | suites


def test_every_folder_is_in_the_architecture() -> None:
    missing = {
        folder for folder in packages() if f"`{folder}/`" not in ARCHITECTURE and f"`{folder}/" not in ARCHITECTURE
    }
    assert not missing


def test_decisions_are_numbered_and_complete() -> None:
    found = sorted((DOCS / "decisions").glob("*.md"))
    assert [path.name[:4] for path in found] == [f"{number:04}" for number in range(len(found))]
    wanted = [section.title for section in sections(found[0].read_text(encoding="utf-8"), 2)]
    for path in found[1:]:
        text = path.read_text(encoding="utf-8")
        assert [section.title for section in sections(text, 2)] == wanted, path.name
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        assert re.search(r"^- Date: \d{4}-\d{2}-\d{2}$", text, flags=re.M), path.name
        assert re.search(r"^- Status: (accepted|replaced by \d{4})$", text, flags=re.M), path.name
        assert re.search(r"^- (Replaces|Adds to): .*(design, section \d|\d{4})", text, flags=re.M), path.name


def test_make_verbs_that_pages_name_exist() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for path in PAGES:
        named = set(re.findall(r"`make ([a-z]+)`", path.read_text(encoding="utf-8")))
        assert named <= verbs, f"{path.relative_to(ROOT)}: {sorted(named - verbs)}"
