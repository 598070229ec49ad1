"""Markdown by its blocks."""

from __future__ import annotations

import pytest

from ingest.errors import DocumentWithoutText
from ingest.model import Parsed
from ingest.parse.markdown import MarkdownParser, markdown_elements
from tests.contracts.parser import ParserContract

SAMPLE = """---
title: "The handbook"
author: Ada
tags: [a, b]
---

# Leave

Everyone has *thirty* days
of [leave](https://example.org/leave).

Sick leave
----------

- Tell `HR`
- See a doctor
  1. today
  2. or tomorrow

| Year | Days |
|------|:----:|
| 2024 | **30** |

```python
def f(): ...
# not a heading
```

<div>Inline <b>HTML</b></div>
"""


class TestMarkdownParser(ParserContract):
    media_type, name = "text/markdown", "handbook.md"
    words = ("Leave", "thirty days", "Sick leave", "Tell HR", "today", "2024", "def f()", "Inline HTML")

    def parser(self) -> MarkdownParser:
        return MarkdownParser()

    def sample(self) -> bytes:
        return SAMPLE.encode()


def parse(text: str) -> Parsed:
    return MarkdownParser().parse(text.encode(), media_type="text/markdown", name="x.md")


def test_every_block_in_order() -> None:
    assert [(e.kind, e.level, e.text) for e in parse(SAMPLE).elements] == [
        ("heading", 1, "Leave"),
        ("paragraph", 0, "Everyone has thirty days of leave."),
        ("heading", 2, "Sick leave"),
        ("list_item", 0, "Tell HR"),
        ("list_item", 0, "See a doctor"),
        ("list_item", 0, "today"),
        ("list_item", 0, "or tomorrow"),
        ("table", 0, "| Year | Days |\n|------|:----:|\n| 2024 | **30** |"),
        ("code", 0, "def f(): ...\n# not a heading"),
        ("paragraph", 0, "Inline HTML"),
    ]


def test_front_matter() -> None:
    parsed = parse(SAMPLE)
    assert parsed.title == "The handbook"
    assert parsed.metadata == {"author": "Ada"}


def test_the_first_h1_is_the_title_when_nothing_else_is() -> None:
    assert parse("intro\n\n## no\n\n# Yes *indeed*\n\n# later").title == "Yes indeed"


def test_no_title_is_made_up() -> None:
    assert parse("## Only a section\n\ntext").title is None


def test_a_rule_is_not_front_matter() -> None:
    assert [e.text for e in parse("text\n\n---\n\nmore: text\n\n---\n").elements] == ["text", "more: text"]


def test_images_leave_their_description_and_breaks_their_line() -> None:
    assert [e.text for e in parse("![A ship](s.png) sails  \nsoon<br>now").elements] == ["A ship sails\nsoon\nnow"]


def test_comments_and_scripts_are_not_text() -> None:
    assert [e.text for e in parse("<!-- secret -->\n\n<script>alert(1)</script>\n\nshown").elements] == ["shown"]


def test_rendered_tables_lose_their_marks() -> None:
    tables = list(markdown_elements("| a | b |\n|---|---|\n| **x** | 1\\|2 |\n"))
    assert [table.text for table in tables] == ["| a | b |\n| --- | --- |\n| x | 1\\|2 |"]


def test_quotes_are_paragraphs_and_tasks_are_items() -> None:
    assert [(e.kind, e.text) for e in parse("> quoted\n\n- [ ] do it").elements] == [
        ("paragraph", "quoted"),
        ("list_item", "[ ] do it"),
    ]


def test_fifty_levels_of_nesting_are_read_and_ten_thousand_refused() -> None:
    assert [e.text for e in parse("> " * 50 + "deep").elements] == ["deep"]
    with pytest.raises(DocumentWithoutText, match=r"x\.md"):
        parse("> " * 10_000 + "deep")


def test_only_a_comment_is_no_text() -> None:
    with pytest.raises(DocumentWithoutText, match=r"x\.md"):
        parse("<!-- nothing -->")
