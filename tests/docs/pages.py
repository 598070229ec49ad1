"""Reading the pages: headings, sections, tables, code blocks and links of a Markdown file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_NOT_OURS = {
    ".venv",
    ".git",
    ".pytest_cache",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    "node_modules",
    "build",
    "dist",
}


def markdown_files() -> list[Path]:
    """Every page of the project."""
    found = sorted(ROOT.rglob("*.md"))
    return [
        path for path in found if not _NOT_OURS & set(path.relative_to(ROOT).parts) and "ragsvc-data" not in str(path)
    ]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what stands below it, up to the next heading of its level or above."""

    level: int
    title: str
    body: str

    @property
    def own(self) -> str:
        """The body without the sections inside."""
        return re.split(r"^#{1,6} ", _without_code_headings(self.body), maxsplit=1, flags=re.M)[0].replace("\x00", "#")


def read(name: str) -> str:
    """A page of docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def sections(text: str, level: int) -> list[Section]:
    """The sections of one level, in order."""
    masked = _without_code_headings(text)
    heads = list(re.finditer(r"^(#{1,6}) (.+)$", masked, flags=re.M))
    result = []
    for number, head in enumerate(heads):
        if len(head[1]) == level:
            after = (other.start() for other in heads[number + 1 :] if len(other[1]) <= level)
            body = masked[head.end() : next(after, len(masked))]
            result.append(Section(level, head[2].strip().replace("\x00", "#"), body.replace("\x00", "#")))
    return result


def _without_code_headings(text: str) -> str:
    """The same text with the # at the start of lines of code replaced, so that it does not look like a heading."""

    def mask(block: re.Match[str]) -> str:
        return re.sub(r"^#", "\x00", block[0], flags=re.M)

    return re.sub(r"^```.*?^```", mask, text, flags=re.M | re.S)


def rows(text: str) -> list[list[str]]:
    """The cells of the tables' rows, without headers and rules."""
    result = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            is_header = number + 1 < len(lines) and re.fullmatch(r"[|\s:-]+", lines[number + 1]) is not None
            if not is_header:
                result.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return result


def fences(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return [token.content for token in tokens(text) if token.type == "fence" and token.info.strip() == language]


@cache
def tokens(text: str) -> tuple[Token, ...]:
    """The page as CommonMark with tables."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(text))


def links(text: str) -> list[str]:
    """Every link target."""
    return [
        str(child.attrs["href"])
        for token in tokens(text)
        for child in token.children or ()
        if child.type == "link_open"
    ]


def anchors(text: str) -> set[str]:
    """The anchors that headings get where the pages are read (GitHub's rules)."""
    seen: dict[str, int] = {}
    result = set()
    found = tokens(text)
    for number, token in enumerate(found):
        if token.type == "heading_open":
            inline = found[number + 1]
            words = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            result.add(f"{slug}-{count}" if count else slug)
    return result
