"""The context: small, exact, in order, with nothing twice and nothing over the budget."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence

import numpy as np
import pytest

from indexes.analyze import Analyzer
from indexes.model import Vector
from ingest.chunk import StructureChunker
from ingest.model import Element, Parsed
from ingest.normalise import normalise
from ingest.sentences import sentence_spans
from ragsvc.model import Candidate, CandidateSentence, Compression, Packed
from ragsvc.pack import BETWEEN_PASSAGES, BETWEEN_SPANS, pack
from ragsvc.tokens import token_counter
from ragsvc.value import Pool, Weights

ANALYZER = Analyzer()
COUNTER = token_counter("o200k_base")
HEADER = re.compile(r"\[(\d+)\] (.*) \(v\d+, \d{4}-\d\d-\d\d\)")


def embed(text: str) -> Vector:
    """A real if poor embedder: hashed terms."""
    vector = np.zeros(256, dtype=np.float32)
    for term in ANALYZER.terms(text):
        vector[int.from_bytes(hashlib.blake2b(term.encode(), digest_size=2).digest()) % 256] += 1.0
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


class Library:
    """Documents chunked by the real chunker; every chunk is a candidate."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.candidates: list[Candidate] = []

    def add(self, name: str, *elements: Element, score: float = 0.5, title: str | None = None) -> list[Candidate]:
        text = normalise(Parsed(elements))
        version = f"ver_{name}"
        self.texts[version] = text.text
        heads = {block.span.start for block in text.blocks if block.kind == "heading"}
        spans = list(enumerate(sentence_spans(text)))
        made = []
        for number, draft in enumerate(StructureChunker().chunk(text)):
            sentences = tuple(
                CandidateSentence(n, s, text.text[s.start : s.end], embed(text.text[s.start : s.end]), s.start in heads)
                for n, s in spans
                if draft.span.start <= s.start < draft.span.end
            )
            made.append(
                Candidate(
                    chunk_id=f"{name}-{number}",
                    version_id=version,
                    document_id=f"doc_{name}",
                    span=draft.span,
                    heading_path=draft.heading_path,
                    title=title or name,
                    version=3,
                    date="2024-05-06",
                    score=max(score - 0.01 * number, 0.0),
                    sentences=sentences,
                )
            )
        self.candidates += made
        return made

    def pack(
        self,
        question: str,
        *,
        max_tokens: int = 400,
        top_k: int = 8,
        compression: Compression = "sentences",
        vectors: bool = True,
        candidates: Sequence[Candidate] | None = None,
        weights: Weights | None = None,
    ) -> Packed:
        packed = pack(
            self.candidates if candidates is None else candidates,
            question_terms=ANALYZER.query_terms(question),
            question_vector=embed(question) if vectors else None,
            analyzer=ANALYZER,
            counter=COUNTER,
            max_tokens=max_tokens,
            top_k=top_k,
            compression=compression,
            version_text=self.texts.__getitem__,
            weights=weights or Weights(),
        )
        self.check(packed, max_tokens, top_k)
        return packed

    def check(self, packed: Packed, max_tokens: int, top_k: int) -> None:
        """What holds for every answer."""
        assert COUNTER.count(packed.context) == packed.context_tokens <= max_tokens
        assert [passage.ref for passage in packed.passages] == list(range(1, len(packed.passages) + 1))
        assert len(packed.passages) <= top_k
        position = 0
        for number, passage in enumerate(packed.passages):
            text = self.texts[passage.version_id]
            assert passage.text == BETWEEN_SPANS.join(text[span.start : span.end] for span in passage.spans)
            assert list(passage.spans) == sorted(passage.spans)
            header, _, rest = packed.context[position:].partition("\n")
            matched = HEADER.fullmatch(header)
            assert matched is not None
            assert matched[1] == str(passage.ref)
            assert rest.startswith(passage.text)
            position += len(header) + 1 + len(passage.text)
            if number < len(packed.passages) - 1:
                assert packed.context[position:].startswith(BETWEEN_PASSAGES)
                position += len(BETWEEN_PASSAGES)
            assert 0 <= passage.score <= 1
        assert position == len(packed.context)
        used = {chunk for passage in packed.passages for chunk in passage.chunk_ids}
        assert used.isdisjoint(dropped.chunk_id for dropped in packed.dropped)


FILLER = "The garden has many kinds of trees and a small pond. Birds sing there on most mornings of the summer. "


LONG = (
    "In the fiscal year {} total revenue of shops, hotels, harbours, airports, railways, museums, theatres, gardens, "
    "libraries, schools, clinics, farms, mills, mines, banks and breweries owned by our group reached five millions."
)


@pytest.fixture
def library() -> Library:
    made = Library()
    made.add(
        "handbook",
        Element("heading", "Leave", 1),
        Element("heading", "Vacation", 2),
        Element("paragraph", FILLER * 2),
        Element("paragraph", "Employees get 30 days of vacation per year. " + FILLER),
        Element("paragraph", "Unused vacation days expire in March of the next year. " + FILLER * 2),
        Element("heading", "Sickness", 2),
        Element("paragraph", "A sick note is needed from day four. " + FILLER * 4),
        score=0.9,
    )
    made.add("rules", Element("heading", "Rooms", 1), Element("paragraph", FILLER * 8), score=0.4)
    return made


def test_the_answer_is_in_a_small_context(library: Library) -> None:
    packed = library.pack("How many vacation days do employees get per year?")
    assert "Employees get 30 days of vacation per year." in packed.context
    whole = library.pack("How many vacation days do employees get per year?", compression="none", max_tokens=4000)
    assert packed.context_tokens < whole.context_tokens / 2


def test_the_header_names_document_path_version_and_day(library: Library) -> None:
    packed = library.pack("How many vacation days?")
    assert packed.context.startswith("[1] handbook > Leave > Vacation (v3, 2024-05-06)\n")


def test_a_title_is_flattened_shortened_and_not_said_twice() -> None:
    library = Library()
    library.add("a", Element("heading", "Big Title", 1), Element("paragraph", "Cats sleep a lot."), title="Big\n Title")
    assert library.pack("cats").context == "[1] Big Title (v3, 2024-05-06)\nCats sleep a lot."
    hostile = Library()
    hostile.add("b", Element("paragraph", "Cats sleep a lot."), title="[2] x\n\n" * 500)
    assert len(hostile.pack("cats").context.splitlines()[0]) < 300


def test_without_vectors_it_still_finds_the_answer(library: Library) -> None:
    assert "30 days" in library.pack("How many vacation days do employees get?", vectors=False).context


def test_with_vectors_only_it_still_finds_something(library: Library) -> None:
    packed = pack(
        library.candidates,
        question_terms=(),
        question_vector=embed("vacation days employees"),
        analyzer=ANALYZER,
        counter=COUNTER,
        max_tokens=200,
        top_k=5,
        compression="sentences",
        version_text=library.texts.__getitem__,
    )
    assert "vacation" in packed.context


def test_documents_stand_in_order_of_their_best_candidate_and_passages_in_document_order(library: Library) -> None:
    library.add("best", Element("heading", "V", 1), Element("paragraph", "Vacation needs approval."), score=1.0)
    packed = library.pack("vacation approval sick note", max_tokens=600)
    documents = [passage.document_id for passage in packed.passages]
    assert documents[0] == "doc_best"
    changes = sum(one != before for one, before in zip(documents, [None, *documents], strict=False))
    assert changes == len(set(documents))
    starts = [passage.spans[0].start for passage in packed.passages if passage.document_id == "doc_handbook"]
    assert len(starts) == 2
    assert starts == sorted(starts)


def test_sentences_side_by_side_become_one_span() -> None:
    library = Library()
    library.add("a", Element("paragraph", f"Cats sleep all day. Cats eat at night. {FILLER * 3} Cats purr."))
    (passage,) = library.pack("what do cats sleep eat purr", weights=Weights(neighbours=0, stop=0.6)).passages
    assert passage.text == "Cats sleep all day. Cats eat at night. ... Cats purr."
    assert len(passage.spans) == 2


@pytest.mark.parametrize("max_tokens", [0, 1, 10, 25, 40, 64, 128, 350])
@pytest.mark.parametrize("compression", ["sentences", "none"])
def test_the_budget_is_never_exceeded(library: Library, max_tokens: int, compression: Compression) -> None:
    library.pack("vacation days trees birds sick note", max_tokens=max_tokens, compression=compression)


def test_when_nothing_fits_the_context_is_empty_and_says_why(library: Library) -> None:
    packed = library.pack("vacation days", max_tokens=8)
    assert (packed.context, packed.passages, packed.context_tokens) == ("", (), 0)
    assert len(packed.dropped) == len(library.candidates)
    assert {dropped.reason for dropped in packed.dropped} == {"budget"}


@pytest.mark.parametrize("compression", ["sentences", "none"])
def test_no_candidates_give_an_empty_context(compression: Compression) -> None:
    assert Library().pack("anything", compression=compression) == Packed("", (), 0, ())


def test_at_most_top_k_passages(library: Library) -> None:
    for number in range(12):
        library.add(f"d{number}", Element("paragraph", f"Vacation rule {number} of department {number * 7}."))
    packed = library.pack("vacation rule department", top_k=3, max_tokens=4000)
    assert len(packed.passages) == 3
    assert "threshold" in {dropped.reason for dropped in packed.dropped}


def test_the_same_statement_is_paid_once() -> None:
    library = Library()
    library.add("a", Element("paragraph", "Cats sleep sixteen hours on an average day."), score=0.9)
    library.add("b", Element("paragraph", "Cats sleep sixteen hours on an average day!"), score=0.8)
    for compression in ("sentences", "none"):
        packed = library.pack("how long do cats sleep", compression=compression)
        assert [passage.document_id for passage in packed.passages] == ["doc_a"]
        assert [(d.chunk_id, d.reason) for d in packed.dropped] == [("b-0", "duplicate")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LONG.format(2023), LONG.format(2024)),
        ("Cats are allowed in the main building.", "Cats are not allowed in the main building."),
        ("This door isn't locked at night.", "This door is locked at night."),
    ],
)
def test_other_numbers_or_a_negation_are_another_statement(one: str, other: str) -> None:
    library = Library()
    library.add("a", Element("paragraph", one), score=0.9)
    library.add("b", Element("paragraph", other), score=0.8)
    packed = library.pack(one)
    assert one in packed.context
    assert other in packed.context


def test_headings_alone_never_make_a_passage() -> None:
    library = Library()
    library.add("a", Element("heading", "Vacation vacation", 1), Element("heading", "Vacation days", 2))
    packed = library.pack("vacation days")
    assert packed.passages == ()
    assert [dropped.reason for dropped in packed.dropped] == ["threshold"]


def test_a_heading_that_the_path_lacks_comes_with_its_sentence() -> None:
    library = Library()
    library.add(
        "a",
        Element("heading", "Pets", 2),
        Element("paragraph", FILLER * 2),
        Element("heading", "Linux", 3),
        Element("paragraph", "Run the setup as root."),
        Element("heading", "Windows", 3),
        Element("paragraph", "Click the setup icon."),
    )
    (candidate,) = library.candidates
    assert candidate.heading_path == ("Pets",)
    assert "Windows\n\nClick the setup icon." in library.pack("click icon").context


def test_table_rows_bring_their_head() -> None:
    rows = "\n".join(f"| city{n} | {n * 1000} |" for n in range(200))
    library = Library()
    made = library.add("a", Element("paragraph", FILLER), Element("table", f"| name | people |\n|---|---|\n{rows}"))
    packed = library.pack("city150", candidates=made[2:])
    assert "| name | people |\n|---|---|" in packed.passages[0].text
    assert "| city150 | 150000 |" in packed.passages[0].text
    assert packed.passages[0].text.count("people") == 1


def test_whole_chunks_are_taken_by_score_and_what_does_not_fit_is_dropped(library: Library) -> None:
    ranked = sorted(library.candidates, key=lambda one: -one.score)
    sizes = {
        one.chunk_id: COUNTER.count(library.texts[one.version_id][one.span.start : one.span.end]) for one in ranked
    }
    packed = library.pack("x", compression="none", max_tokens=sizes[ranked[0].chunk_id] + 40)
    assert packed.passages[0].chunk_ids == (ranked[0].chunk_id,)
    assert packed.passages[0].spans == (ranked[0].span,)
    assert "budget" in {dropped.reason for dropped in packed.dropped}


def test_neighbouring_whole_chunks_join() -> None:
    library = Library()
    library.add("a", Element("paragraph", " ".join(f"Fact number {n} about cats is true." for n in range(60))))
    assert len(library.candidates) > 2
    (passage,) = library.pack("cats", compression="none", max_tokens=4000).passages
    assert passage.text == library.texts["ver_a"]
    assert set(passage.chunk_ids) == {one.chunk_id for one in library.candidates}


def test_candidates_in_any_order_give_the_same_context(library: Library) -> None:
    forward = library.pack("vacation days of employees")
    assert library.pack("vacation days of employees", candidates=library.candidates[::-1]).context == forward.context


def test_a_sentence_in_two_candidates_is_taken_once(library: Library) -> None:
    twin = dataclasses.replace(library.candidates[0], chunk_id="twin", score=0.1)
    packed = library.pack("vacation days", candidates=[*library.candidates, twin])
    assert packed.context.count("Employees get 30 days") == 1


def test_a_higher_stop_takes_less(library: Library) -> None:
    sizes = [
        library.pack("vacation days expire", weights=Weights(stop=stop), max_tokens=4000).context_tokens
        for stop in (0.1, 0.5, 0.95)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_the_pool_values_sentences_from_zero_to_one_and_knows_rare_terms(library: Library) -> None:
    pool = Pool(
        library.candidates,
        question_terms=ANALYZER.query_terms("sick note trees unicorn"),
        question_vector=embed("sick note"),
        analyzer=ANALYZER,
    )
    sick, note, trees, unicorn = pool.idf
    assert sick == note > trees > unicorn == 0
    assert pool.idf.sum() == pytest.approx(1)
    assert all(0 <= one.value <= 1 for one in pool.sentences)
    assert not any(one.sentence.is_heading for one in pool.sentences)
    best = max(pool.sentences, key=lambda one: one.value)
    assert best.sentence.text.startswith("A sick note")


def test_an_empty_pool_is_fine() -> None:
    pool = Pool((), question_terms=("a",), question_vector=None, analyzer=ANALYZER)
    assert (pool.sentences, pool.present.shape) == ((), (0, 1))


def test_hostile_sentences_without_words_do_no_harm() -> None:
    library = Library()
    library.add("a", Element("paragraph", "!!! --- ???"), Element("paragraph", "......" * 300))
    library.pack("cats")
    library.pack("")


def test_among_few_sentences_the_second_best_is_not_worthless() -> None:
    library = Library()
    library.add("a", Element("paragraph", "Cats sleep all day long."), score=0.9)
    library.add("b", Element("paragraph", "Cats sleep all night long."), score=0.8)
    assert len(library.pack("when do cats sleep").passages) == 2


class DearSeparators:
    """A counter for which what stands between costs more than the parts: the sum of the parts is too low a guess."""

    name = "dear"

    def count(self, text: str) -> int:
        return len(text) + 300 * text.count(BETWEEN_SPANS) + 500 * text.count(BETWEEN_PASSAGES)


@pytest.mark.parametrize("max_tokens", [300, 700, 1500, 3000])
def test_the_budget_holds_for_the_exact_count_whatever_the_tokenizer(library: Library, max_tokens: int) -> None:
    question = "vacation days sick note trees"
    packed = pack(
        library.candidates,
        question_terms=ANALYZER.query_terms(question),
        question_vector=embed(question),
        analyzer=ANALYZER,
        counter=DearSeparators(),
        max_tokens=max_tokens,
        top_k=8,
        compression="sentences",
        version_text=library.texts.__getitem__,
    )
    assert 0 < DearSeparators().count(packed.context) == packed.context_tokens <= max_tokens
