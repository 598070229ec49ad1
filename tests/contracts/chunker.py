"""What every chunker must do, whatever its rules. Inherit `ChunkerContract` and say how one is made."""
# ruff: noqa: RUF001 - other scripts are what is tested

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import pytest

from ingest.model import Element, Parsed, Text
from ingest.normalise import normalise
from ingest.protocols import Chunker
from ingest.sentences import sentence_spans

SENTENCE = "The committee met on a Tuesday and agreed on rule number {}. "


def prose(sentences: int, *, start: int = 0) -> str:
    return "".join(SENTENCE.format(start + number) for number in range(sentences))


def text_of(*elements: Element) -> Text:
    return normalise(Parsed(elements))


def samples() -> dict[str, Text]:
    table = "| name | value |\n|---|---|\n" + "\n".join(f"| row {n} | {n * n} |" for n in range(120))
    return {
        "empty": text_of(),
        "one word": text_of(Element("paragraph", "Hello.")),
        "heading only": text_of(Element("heading", "Alone", 1)),
        "long paragraph": text_of(Element("paragraph", prose(90))),
        "no blanks at all": text_of(Element("paragraph", "x" * 5000)),
        "chinese": text_of(Element("paragraph", "这是一个句子，它说明了一件事情。" * 200)),
        "sections": text_of(
            *(
                element
                for number in range(12)
                for element in (
                    Element("heading", f"Part {number}", 1 + number % 3, number // 3 + 1),
                    Element("paragraph", prose(1 + 5 * (number % 4)), page=number // 3 + 1),
                )
            )
        ),
        "table": text_of(Element("heading", "Data", 2), Element("table", table)),
        "list": text_of(*(Element("list_item", f"Point {n}: {prose(1)}") for n in range(60))),
        "code": text_of(Element("code", "\n\n".join(f"def f{n}():\n    return {n}" for n in range(90)))),
    }


class ChunkerContract(ABC):
    """Inherit and define `make`."""

    @abstractmethod
    def make(self) -> Chunker: ...

    @pytest.mark.parametrize("name", list(samples()))
    def test_chunks_are_ordered_disjoint_and_hold_all_but_white_space(self, name: str) -> None:
        text = samples()[name]
        position, left_out = 0, []
        for draft in self.make().chunk(text):
            assert position <= draft.span.start < draft.span.end <= len(text.text)
            left_out.append(text.text[position : draft.span.start])
            position = draft.span.end
        left_out.append(text.text[position:])
        assert not "".join(left_out).strip()

    @pytest.mark.parametrize("name", list(samples()))
    def test_chunks_begin_and_end_where_sentences_do(self, name: str) -> None:
        text = samples()[name]
        spans = sentence_spans(text)
        starts, ends = {span.start for span in spans}, {span.end for span in spans}
        for draft in self.make().chunk(text):
            assert draft.span.start in starts
            assert draft.span.end in ends

    @pytest.mark.parametrize("name", list(samples()))
    def test_the_same_text_gives_the_same_chunks(self, name: str) -> None:
        assert self.make().chunk(samples()[name]) == self.make().chunk(samples()[name])

    def test_pages_are_those_of_the_blocks(self) -> None:
        text = samples()["sections"]
        for draft in self.make().chunk(text):
            pages = [
                block.page
                for block in text.blocks
                if block.page and block.span.start < draft.span.end and block.span.end > draft.span.start
            ]
            assert (draft.page_start, draft.page_end) == (min(pages), max(pages))

    def test_without_pages_there_are_none(self) -> None:
        text = samples()["sections"]
        bare = Text(text.text, tuple(dataclasses.replace(block, page=None) for block in text.blocks))
        assert {(d.page_start, d.page_end) for d in self.make().chunk(bare)} == {(None, None)}

    def test_the_id_names_it(self) -> None:
        assert self.make().id
        assert self.make().id == self.make().id
        assert not set(self.make().id) & set(" \n/")
