"""Chunks follow the structure of the document."""

from __future__ import annotations

import time

import pytest

from ingest.chunk import TINY_SECTION, StructureChunker
from ingest.model import ChunkDraft, Element, Text
from tests.contracts.chunker import ChunkerContract, prose, text_of


class TestStructureChunker(ChunkerContract):
    def make(self) -> StructureChunker:
        return StructureChunker()


class TestSmallChunks(ChunkerContract):
    def make(self) -> StructureChunker:
        return StructureChunker(target=300, maximum=600)


def quotes(text: Text, drafts: tuple[ChunkDraft, ...]) -> list[str]:
    return [text.text[draft.span.start : draft.span.end] for draft in drafts]


def heading(title: str, level: int) -> Element:
    return Element("heading", title, level)


def body(sentences: int, start: int = 0) -> Element:
    return Element("paragraph", prose(sentences, start=start))


def test_ids_differ_with_the_settings() -> None:
    ids = {StructureChunker().id, StructureChunker(500).id, StructureChunker(700, 900).id}
    assert "structure-700-1" in ids
    assert len(ids) == 3


@pytest.mark.parametrize(("target", "maximum"), [(0, 1000), (1200, 1000), (300, 400)])
def test_settings_that_cannot_be_kept_are_refused(target: int, maximum: int) -> None:
    with pytest.raises(ValueError, match="target"):
        StructureChunker(target, maximum)


def test_sizes_are_near_the_target_and_never_above_the_maximum() -> None:
    text = text_of(*(body(3 + n % 5, start=n) for n in range(80)))
    sizes = [len(quote) for quote in quotes(text, StructureChunker().chunk(text))]
    assert max(sizes) <= 1000
    assert min(sizes) >= 350
    assert 600 <= sum(sizes) / len(sizes) <= 800


def test_what_fits_in_one_chunk_is_one_chunk() -> None:
    text = text_of(heading("Rules", 1), body(12))
    assert len(text.text) <= 1000
    assert quotes(text, StructureChunker().chunk(text)) == [text.text]


def test_paragraphs_are_kept_whole_when_their_ends_are_near_the_target() -> None:
    text = text_of(*(body(11, start=100 * n) for n in range(6)))
    ends = {block.span.end for block in text.blocks}
    assert all(draft.span.end in ends for draft in StructureChunker().chunk(text))


def test_a_chunk_does_not_cross_a_top_heading() -> None:
    text = text_of(heading("One", 1), body(5), heading("Two", 1), body(5), heading("Sub", 2), body(5))
    drafts = StructureChunker().chunk(text)
    assert [draft.heading_path for draft in drafts] == [("One",), ("Two",), ("Two", "Sub")]
    assert [quote.splitlines()[0] for quote in quotes(text, drafts)] == ["One", "Two", "Sub"]


def test_small_subsections_of_level_three_share_a_chunk_under_their_parent() -> None:
    text = text_of(heading("Top", 2), body(4), heading("A", 3), body(2), heading("B", 3), body(3))
    (draft,) = StructureChunker().chunk(text)
    assert draft.heading_path == ("Top",)


def test_a_tiny_section_joins_its_next_sibling_and_keeps_the_common_path() -> None:
    text = text_of(
        heading("Manual", 1), heading("Tiny", 2), body(1), heading("Next", 2), body(6), heading("Far", 2), body(8)
    )
    first, second = StructureChunker().chunk(text)
    assert first.heading_path == ("Manual",)
    assert quotes(text, (first,))[0].startswith("Manual\n\nTiny")
    assert second.heading_path == ("Manual", "Far")


def test_a_tiny_section_does_not_join_a_section_of_another_parent() -> None:
    text = text_of(heading("A", 1), heading("A1", 2), body(1), heading("B", 1), heading("B1", 2), body(8))
    assert len(text_of(body(1)).text) < TINY_SECTION
    assert [draft.heading_path for draft in StructureChunker().chunk(text)] == [("A", "A1"), ("B", "B1")]


def test_a_tiny_last_section_joins_the_one_before() -> None:
    text = text_of(heading("A", 1), heading("A1", 2), body(6), heading("A2", 2), body(1))
    (draft,) = StructureChunker().chunk(text)
    assert draft.heading_path == ("A",)


def test_after_a_joined_tiny_section_the_path_is_that_of_the_text() -> None:
    text = text_of(heading("M", 1), heading("Tiny", 2), body(1), heading("Big", 2), body(60))
    drafts = StructureChunker().chunk(text)
    assert drafts[0].heading_path == ("M",)
    assert {draft.heading_path for draft in drafts[1:]} == {("M", "Big")}


def test_headings_without_text_go_with_what_follows() -> None:
    text = text_of(heading("Book", 1), heading("Chapter", 2), heading("Section", 3), body(8))
    (draft,) = StructureChunker().chunk(text)
    assert draft.heading_path == ("Book", "Chapter", "Section")
    assert draft.span.start == 0


def test_a_higher_heading_closes_the_path() -> None:
    text = text_of(heading("A", 1), body(8), heading("Deep", 4), body(8), heading("B", 2), body(8))
    assert [d.heading_path for d in StructureChunker().chunk(text)] == [("A",), ("A", "Deep"), ("A", "B")]


def test_text_before_any_heading_has_no_path() -> None:
    text = text_of(body(6), heading("A", 1), body(6))
    assert [draft.heading_path for draft in StructureChunker().chunk(text)] == [(), ("A",)]


def test_a_table_is_cut_between_rows() -> None:
    rows = "\n".join(f"| item {n} | the value of item {n} |" for n in range(100))
    text = text_of(Element("table", f"| item | value |\n|---|---|\n{rows}"))
    pieces = quotes(text, StructureChunker().chunk(text))
    assert len(pieces) > 3
    assert pieces[0].startswith("| item | value |\n|---|---|\n| item 0")
    assert all(piece.startswith("|") and piece.endswith("|") for piece in pieces)


def test_no_chunk_ends_with_a_heading_that_text_follows() -> None:
    text = text_of(*(element for n in range(30) for element in (heading(f"H{n}", 3), body(2, start=n))))
    titles = {f"H{n}" for n in range(30)}
    for quote in quotes(text, StructureChunker().chunk(text)):
        assert quote.splitlines()[-1] not in titles


def test_an_overlong_heading_is_shortened_in_the_path() -> None:
    text = text_of(heading("very " * 200, 1), body(3))
    (title,) = StructureChunker().chunk(text)[-1].heading_path
    assert len(title) <= 200
    assert title.endswith("…")


@pytest.mark.parametrize("kind", ["prose", "headings", "items", "tiny sections"])
def test_time_grows_with_the_length_not_its_square(kind: str) -> None:
    def make(count: int) -> Text:
        elements = {
            "prose": [body(20, start=n) for n in range(count // 20)],
            "headings": [heading("h", 1) for _ in range(count)],
            "items": [Element("list_item", "a point") for _ in range(count)],
            "tiny sections": [heading("h", 2), body(1)] * (count // 2),
        }[kind]
        return text_of(*elements)

    def seconds(text: Text) -> float:
        took = []
        for _ in range(3):  # the least of three: other processes only ever add
            began = time.thread_time()
            StructureChunker().chunk(text)
            took.append(time.thread_time() - began)
        return min(took)

    small, large = make(2000), make(16000)
    assert seconds(large) < 8 * 4 * max(seconds(small), 0.002)  # the square would be 64
