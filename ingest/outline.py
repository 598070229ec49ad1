"""Which headings stand above a place of a text?"""

from __future__ import annotations

from collections.abc import Sequence

from ingest.model import Block


def heading_paths(text: str, blocks: Sequence[Block]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """(start, headings above, outermost first) wherever the headings change; a heading stands below itself."""
    above: list[tuple[int, str]] = []
    changes: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    for block in blocks:
        if block.kind == "heading":
            above = [(level, title) for level, title in above if level < block.level]
            above.append((block.level, " ".join(text[block.span.start : block.span.end].split())))
            changes.append((block.span.start, tuple(title for _, title in above)))
    return tuple(changes)
