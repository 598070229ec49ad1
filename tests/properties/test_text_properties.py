"""What holds for any text at all: spans are exact, ordered and complete; the packer keeps its budget."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from indexes.analyze import Analyzer
from indexes.model import Vector
from ingest.chunk import StructureChunker
from ingest.model import Element, Parsed, Text
from ingest.normalise import normalise
from ingest.sentences import MAX_SENTENCE, sentence_spans
from ragsvc.model import Candidate, CandidateSentence
from ragsvc.pack import BETWEEN_SPANS, pack
from ragsvc.tokens import token_counter

ANALYZER = Analyzer()
COUNTER = token_counter("cl100k_base")

invisible = "\u200b \u200c \u200d \ufe0f \U000e0100 \U000e0041 \u202e \u0301 \u0344 \ud800 \udc00 \ufeff \x1c \r\n"
visible = "❤ 👩 💻 🀀 葛 क ् م é A\u030a ﬁ"
nasty = st.sampled_from([*invisible.split(" "), *visible.split(" "), "\u3000", "\u3000\u200d", "\u00a0"])
prose = ["Dr. Who said so. ", "It is 3.5 mg! ", "word ", "e.g. ", "这是一句话。", "und so weiter, ", "(p. 4) "]
layout = ["| a | b |\n", "|---|---|\n", "\n\n", "1. ", "- item\n", "    ", "x" * 700]
wording = st.sampled_from([*prose, *layout])
contents = st.lists(st.one_of(wording, nasty, st.text(max_size=12)), max_size=25).map("".join)
elements = st.builds(
    Element,
    kind=st.sampled_from(["heading", "paragraph", "list_item", "table", "code"]),
    text=contents,
    level=st.integers(0, 7),
    page=st.one_of(st.none(), st.integers(1, 3)),
)
documents = st.lists(elements, max_size=10).map(lambda made: Parsed(tuple(made)))


def quotes(text: Text) -> list[str]:
    return [text.text[block.span.start : block.span.end] for block in text.blocks]


@given(documents)
def test_normalising_is_exact_clean_and_idempotent(parsed: Parsed) -> None:
    text = normalise(parsed)
    position = 0
    for block, quote in zip(text.blocks, quotes(text), strict=True):
        assert set(text.text[position : block.span.start]) <= {"\n"}
        assert quote.strip()
        position = block.span.end
    assert position == len(text.text)
    text.text.encode("utf-8")
    assert not set(text.text) & set("\x00\r\u200b\u202e\ufeff\u2028\U000e0041")
    again = (Element(b.kind, quote, b.level, b.page) for b, quote in zip(text.blocks, quotes(text), strict=True))
    assert normalise(Parsed(tuple(again))) == text


@given(documents)
def test_sentences_are_ordered_inside_blocks_short_and_complete(parsed: Parsed) -> None:
    text = normalise(parsed)
    spans = sentence_spans(text)
    position, left_out = 0, []
    for span in spans:
        assert position <= span.start < span.end
        assert span.end - span.start <= MAX_SENTENCE
        assert any(block.span.start <= span.start and span.end <= block.span.end for block in text.blocks)
        assert not text.text[span.start].isspace()
        assert not text.text[span.end - 1].isspace()
        left_out.append(text.text[position : span.start])
        position = span.end
    assert not "".join([*left_out, text.text[position:]]).strip()


@given(documents, st.sampled_from([StructureChunker(), StructureChunker(200, 600)]))
def test_chunks_hold_whole_sentences_in_order(parsed: Parsed, chunker: StructureChunker) -> None:
    text = normalise(parsed)
    spans = sentence_spans(text)
    drafts = chunker.chunk(text)
    assert [
        span for draft in drafts for span in spans if draft.span.start <= span.start and span.end <= draft.span.end
    ] == list(spans)
    titles = {" ".join(q.split())[:199] for q, b in zip(quotes(text), text.blocks, strict=True) if b.kind == "heading"}
    for draft in drafts:
        assert draft.span.end - draft.span.start <= max(1000, chunker._maximum)
        assert all(title.rstrip("…")[:150] in {known[:150] for known in titles} for title in draft.heading_path)


def vector_of(seed: int) -> Vector:
    made = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return made / np.linalg.norm(made)


@given(
    st.lists(documents, min_size=1, max_size=3),
    st.integers(0, 300),
    st.integers(1, 5),
    st.sampled_from(["sentences", "none"]),
    st.booleans(),
    contents,
)
def test_packing_keeps_the_budget_and_quotes_exactly(
    parsed: list[Parsed], max_tokens: int, top_k: int, compression: str, with_vectors: bool, question: str
) -> None:
    texts = {f"v{n}": normalise(one) for n, one in enumerate(parsed)}
    candidates = [
        Candidate(
            chunk_id=f"{version}-{number}",
            version_id=version,
            document_id=version,
            span=draft.span,
            heading_path=draft.heading_path,
            title=f"Title {version}",
            version=1,
            date="2024-01-01",
            score=1 / (1 + number),
            sentences=tuple(
                CandidateSentence(n, span, text.text[span.start : span.end], vector_of(n) if with_vectors else None)
                for n, span in enumerate(sentence_spans(text))
                if draft.span.start <= span.start < draft.span.end
            ),
        )
        for version, text in texts.items()
        for number, draft in enumerate(StructureChunker().chunk(text))
    ]
    packed = pack(
        candidates,
        question_terms=ANALYZER.query_terms(question),
        question_vector=vector_of(99) if with_vectors else None,
        analyzer=ANALYZER,
        counter=COUNTER,
        max_tokens=max_tokens,
        top_k=top_k,
        compression="none" if compression == "none" else "sentences",
        version_text=lambda version: texts[version].text,
    )
    assert COUNTER.count(packed.context) == packed.context_tokens <= max_tokens
    assert len(packed.passages) <= top_k
    used = {chunk for passage in packed.passages for chunk in passage.chunk_ids}
    assert used | {dropped.chunk_id for dropped in packed.dropped} == {one.chunk_id for one in candidates}
    for passage in packed.passages:
        text = texts[passage.version_id].text
        assert passage.text == BETWEEN_SPANS.join(text[span.start : span.end] for span in passage.spans)
        assert passage.text in packed.context
        ends = [0, *(span.end for span in passage.spans)]
        assert all(before <= span.start < span.end for before, span in zip(ends, passage.spans, strict=False))
