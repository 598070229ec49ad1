"""Chunks along the structure of a document: headings first, then blocks, then sentences.

A section is a heading with the blocks below it. Tiny sections are joined with their neighbours under the same parent,
then each group of sections is divided evenly, preferring the ends of paragraphs and tables over those of sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from indexes.model import Span
from ingest.model import Block, ChunkDraft, ElementKind, Text
from ingest.sentences import MAX_SENTENCE, sentence_spans

TINY_SECTION = 200  # characters; a section below this says too little to be found alone
_MAX_TITLE = 200  # a "heading" longer than this is a parser's mistake and would be repeated in every answer
# What a cut costs, as a share of the wanted length, by the kind of block it falls into or ends.
_CUT_INSIDE: dict[ElementKind, float] = {"paragraph": 0.25, "list_item": 0.3, "table": 0.4, "code": 0.4, "heading": 9.0}
_CUT_AFTER: dict[ElementKind, float] = {"paragraph": 0.0, "list_item": 0.06, "table": 0.0, "code": 0.0, "heading": 9.0}


@dataclass(frozen=True, slots=True)
class _Section:
    """Headings above and including its own (as block numbers), and its sentences `first` to `last` (exclusive)."""

    path: tuple[int, ...]
    level: int
    first: int
    last: int
    has_body: bool

    @property
    def parent(self) -> tuple[int, ...]:
        return self.path[:-1]


@dataclass(frozen=True, slots=True)
class _Group:
    """Sections that may share a chunk."""

    sections: tuple[_Section, ...]

    @property
    def first(self) -> int:
        return self.sections[0].first

    @property
    def last(self) -> int:
        return self.sections[-1].last

    @property
    def has_body(self) -> bool:
        return any(section.has_body for section in self.sections)


class StructureChunker:
    """Chunks of about `target` and at most `maximum` characters that end where sentences end."""

    def __init__(self, target: int = 700, maximum: int = 1000) -> None:
        if maximum < MAX_SENTENCE or not 0 < target <= maximum:
            raise ValueError(f"need 0 < target <= maximum and maximum >= {MAX_SENTENCE}, not {target} and {maximum}")
        self._target = target
        self._maximum = maximum

    @property
    def id(self) -> str:
        """Name, target and version of the rules."""
        suffix = "" if self._maximum == 1000 else f"-{self._maximum}"
        return f"structure-{self._target}{suffix}-1"

    def chunk(self, text: Text) -> tuple[ChunkDraft, ...]:
        """Disjoint chunks in document order that hold all text but white space. Linear in the length of the text."""
        outline = _Outline(text)
        drafts: list[ChunkDraft] = []
        for group in self._groups(outline):
            drafts += (outline.draft(group, first, last) for first, last in self._divide(outline, group))
        return tuple(drafts)

    def _groups(self, outline: _Outline) -> list[_Group]:
        groups: list[_Group] = []
        for section in outline.sections:
            if groups and self._joins(outline, groups[-1], section):
                groups[-1] = _Group((*groups[-1].sections, section))
            else:
                groups.append(_Group((section,)))
        return groups

    def _joins(self, outline: _Outline, group: _Group, section: _Section) -> bool:
        """Whether a section goes on in the group before it."""
        head, size = group.sections[0], outline.length(group.first, group.last)
        if not group.has_body:
            return size < self._maximum  # a heading belongs to the text that follows it
        is_child = section.path[: len(head.path)] == head.path
        if not is_child and section.parent != head.parent:
            return False
        whole = outline.length(group.first, section.last)
        own = outline.length(section.first, section.last)
        if size < TINY_SECTION or (own < TINY_SECTION and not outline.has_next_sibling(section)):
            return whole <= self._maximum or size < TINY_SECTION
        return section.level >= 3 and whole <= self._target

    def _divide(self, outline: _Outline, group: _Group) -> Iterator[tuple[int, int]]:
        first = group.first
        while first < group.last:
            left = outline.length(first, group.last)
            pieces = max(round(left / self._target), -(-left // self._maximum), 1)
            stop = group.last if pieces == 1 else self._best_stop(outline, first, group.last, left / pieces)
            yield first, stop
            first = stop

    def _best_stop(self, outline: _Outline, first: int, last: int, wanted: float) -> int:
        best, best_cost = first + 1, float("inf")
        for stop in range(first + 1, last + 1):
            length = outline.length(first, stop)
            if length > self._maximum and stop > first + 1:
                break
            cost = abs(length - wanted) / wanted + outline.cut_cost(stop)
            if cost < best_cost:
                best, best_cost = stop, cost
        return best


class _Outline:
    """The sentences of a text with the blocks and sections they belong to."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._spans = sentence_spans(text)
        self._block_of = _blocks_of(self._spans, text.blocks)
        self.sections = tuple(self._sections())
        self._has_next = self._following()

    def length(self, first: int, last: int) -> int:
        """Characters from sentence `first` to sentence `last` (exclusive)."""
        return self._spans[last - 1].end - self._spans[first].start

    def has_next_sibling(self, section: _Section) -> bool:
        """Whether the next section stands under the same parent."""
        return section.first in self._has_next

    def cut_cost(self, stop: int) -> float:
        """How bad it is to begin a new chunk at sentence `stop`."""
        before = self._text.blocks[self._block_of[stop - 1]]
        if stop < len(self._spans) and self._block_of[stop] == self._block_of[stop - 1]:
            return _CUT_INSIDE[before.kind]
        if stop < len(self._spans) and before.kind == "paragraph":  # "as follows:" stays with its list or table
            ends_open = self._text.text[self._spans[stop - 1].end - 1] in ":\uff1a"
            return 0.2 if ends_open else _CUT_AFTER[before.kind]
        return _CUT_AFTER[before.kind]

    def draft(self, group: _Group, first: int, last: int) -> ChunkDraft:
        """The chunk of sentences `first` to `last` (exclusive) of a group."""
        touched = [s for s in group.sections if s.first < last and s.last > first]
        paths = [s.path for s in touched if s.has_body] or [touched[-1].path]
        blocks = self._text.blocks[self._block_of[first] : self._block_of[last - 1] + 1]
        pages = [block.page for block in blocks if block.page is not None]
        span = Span(self._spans[first].start, self._spans[last - 1].end)
        titles = tuple(self._title(number) for number in _common_prefix(paths))
        return ChunkDraft(span, titles, min(pages, default=None), max(pages, default=None))

    def _title(self, block: int) -> str:
        span = self._text.blocks[block].span
        title = " ".join(self._text.text[span.start : span.end].split())
        return title if len(title) <= _MAX_TITLE else title[: _MAX_TITLE - 1].rstrip() + "…"

    def _sections(self) -> Iterator[_Section]:
        path: list[int] = []
        first, level, has_body = 0, 0, False
        for number, block_number in enumerate(self._block_of):
            block = self._text.blocks[block_number]
            if block.kind != "heading":
                has_body = True
                continue
            if number and self._block_of[number - 1] == block_number:
                continue  # a heading so long that it was cut
            if number > first:
                yield _Section(tuple(path), level, first, number, has_body)
            path = [above for above in path if self._text.blocks[above].level < block.level]
            path.append(block_number)
            first, level, has_body = number, block.level, False
        if first < len(self._block_of):
            yield _Section(tuple(path), level, first, len(self._block_of), has_body)

    def _following(self) -> set[int]:
        pairs = zip(self.sections, self.sections[1:], strict=False)
        return {section.first for section, after in pairs if after.parent == section.parent}


def _blocks_of(spans: Sequence[Span], blocks: Sequence[Block]) -> list[int]:
    """For each sentence the number of its block."""
    numbers: list[int] = []
    number = 0
    for span in spans:
        while blocks[number].span.end <= span.start:
            number += 1
        numbers.append(number)
    return numbers


def _common_prefix(paths: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    shortest = min(paths, key=len)
    for depth, number in enumerate(shortest):
        if any(path[depth] != number for path in paths):
            return shortest[:depth]
    return shortest
