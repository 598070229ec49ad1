"""Where sentences end, and where they do not."""
# ruff: noqa: RUF001 - other scripts are what is tested

from __future__ import annotations

import time

import pytest

from ingest.model import Element, ElementKind, Parsed
from ingest.normalise import normalise
from ingest.sentences import MAX_SENTENCE, sentence_spans


def split(content: str, kind: ElementKind = "paragraph") -> list[str]:
    text = normalise(Parsed((Element(kind, content),)))
    return [text.text[span.start : span.end] for span in sentence_spans(text)]


@pytest.mark.parametrize(
    ("sentences"),
    [
        ["It rains.", "We stay at home!", "Do you come?", "Yes, we do."],
        ["Dr. Smith et al. (2001) found 3.5 mg.", "The U.S. Army left.", "See Fig. 3 and p. 4."],
        ["J. K. Rowling wrote it.", "Mr. and Mrs. Jones came at 5 p.m. sharp.", "They left."],
        ["He said “Stop.”", "Then he left.", '"Why?" she asked.', "(It grew.)", "Nobody knew."],
        ["Use fruit, e.g. apples, i.e. red ones.", "No. 5 is best.", "He said no.", "Then he went."],
        ["Version 2.0.1 is out.", "See http://a.example/b.c?d=e.f for it.", "It costs $5.", "10 people came."],
        ["Acme Inc. was bought by Foo Ltd. in May.", "The price is secret."],
        ["No... maybe not.", "Wait… what?", "Really?!", "Fine."],
        ["Am 3. Oktober war es z. B. kalt.", "Das ist Nr. 5.", "Dr. Meier kam ca. 3 Min. später."],
        ["Il est né à St. Malo.", "Mme. Dupont le sait."],
        ["这是第一个句子。", "这是第二句！", "对不对？", "「很好。」", "他这样说。"],
        ["これは文です。", "これも文です。"],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ["هل هذا صحيح؟", "نعم هو كذلك."],
        ["1. Open the lid.", "2. Press the button."],
    ],
)
def test_sentences_are_found(sentences: list[str]) -> None:
    glue = "" if sentences[0][-1] in "。！？" else " "
    assert split(glue.join(sentences)) == sentences


def test_a_list_mark_at_the_start_of_a_line_begins_a_sentence() -> None:
    assert split("You need:\n- a hammer for the nails\n- a ladder for the roof") == [
        "You need:",
        "- a hammer for the nails",
        "- a ladder for the roof",
    ]


def test_wrapped_lines_stay_one_sentence() -> None:
    wrapped = "This sentence was wrapped by an editor at about seventy columns\nBerlin time, and goes on."
    assert split(wrapped) == [wrapped]


def test_short_lines_are_sentences_of_their_own() -> None:
    assert split("Acme Limited\nMain Street 5\nBerlin") == ["Acme Limited", "Main Street 5", "Berlin"]


@pytest.mark.parametrize("content", ["It is. * * *", "- - It is.", "A real sentence. 5)"])
def test_fragments_without_words_join_a_neighbour(content: str) -> None:
    assert split(content) == [content]


def test_headings_and_items_are_one_sentence() -> None:
    assert split("What. Is this? A title", "heading") == ["What. Is this? A title"]
    assert split("First do this. Then do that.", "list_item") == ["First do this. Then do that."]


def test_long_items_are_split() -> None:
    item = "This is a sentence of an item that goes on. " * 10
    assert len(split(item, "list_item")) == 10


def test_the_separator_line_of_a_table_belongs_to_its_head() -> None:
    assert split("| a | b |\n|:--|--:|\n| 1 | 2 |\n| 3 | x |", "table") == [
        "| a | b |\n|:--|--:|",
        "| 1 | 2 |",
        "| 3 | x |",
    ]


def test_code_is_split_at_blank_lines() -> None:
    assert split("import os. Sys\nx = 1\n\n\ndef f():\n    return 2", "code") == [
        "import os. Sys\nx = 1",
        "def f():\n    return 2",
    ]


@pytest.mark.parametrize("kind", ["paragraph", "table", "code", "list_item", "heading"])
@pytest.mark.parametrize("unit", ["word ", "word, ", "x", "好", "a|b|", "line\n", "e.g. "])
def test_nothing_is_longer_than_the_limit_and_nothing_is_lost(kind: ElementKind, unit: str) -> None:
    content = unit * (4000 // len(unit))
    pieces = split(content, kind)
    assert max(map(len, pieces)) <= MAX_SENTENCE
    assert "".join("".join(pieces).split()) == "".join(content.split())


def test_long_sentences_are_cut_at_clauses_into_even_pieces() -> None:
    clause = "and the members of the board agreed that this was so"
    pieces = split(", ".join([clause] * 20) + ".")
    assert all(piece.endswith((",", ".")) for piece in pieces)
    assert min(map(len, pieces)) > 200


def test_sentences_never_cross_blocks() -> None:
    text = normalise(Parsed((Element("paragraph", "no full stop here"), Element("paragraph", "and none here"))))
    assert [(s.start, s.end) for s in sentence_spans(text)] == [(b.span.start, b.span.end) for b in text.blocks]


def test_no_text_has_no_sentences() -> None:
    assert sentence_spans(normalise(Parsed(()))) == ()


@pytest.mark.parametrize("unit", [".", "“ a. ", "a. ", "Mr. ", "。", "\n- a", "A.B. ", ", ", "( ", "1. "])
def test_time_grows_with_the_length_not_its_square(unit: str) -> None:
    def seconds(length: int) -> float:
        text = normalise(Parsed((Element("paragraph", (unit * length)[:length] + "x"),)))
        began = time.thread_time()
        sentence_spans(text)
        return time.thread_time() - began

    seconds(1000)
    assert seconds(160_000) < 8 * 4 * max(seconds(20_000), 0.004)
