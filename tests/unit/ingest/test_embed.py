"""One embedding pass: what is embedded, what is not embedded again, and what a chunk's vector is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.embedder import open_embedder
from indexes.model import Span
from ingest.embed import chunk_vectors, sentence_input
from ingest.model import ChunkDraft, Draft
from tests.contracts.ingest_parts import Installation, make_draft

HASH = open_embedder("hash:64", models_dir=Path("unused"))
PAGE = "\n\n".join(
    f"# Part {n}\n\nThe first sentence of part {n} is about the garden. The second one of part {n} is about tea."
    for n in range(6)
)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    yield installation
    installation.close()


def sentences(draft: Draft) -> list[str]:
    return [sentence_input(draft.text.text, span) for span in draft.sentences]


def test_a_chunks_vector_is_the_weighted_mean_of_its_sentences(app: Installation) -> None:
    draft = make_draft("a", PAGE)
    (embedded,) = app.embedding.embed([draft])
    assert embedded.chunk_vectors.shape == (len(draft.chunks), 64)
    assert embedded.chunk_vectors.dtype == np.float32
    vectors = HASH.encode(sentences(draft)).astype(np.float64)
    for chunk, found in zip(draft.chunks, embedded.chunk_vectors, strict=True):
        total = np.zeros(64)
        for span, vector in zip(draft.sentences, vectors, strict=True):
            if chunk.span.start <= span.start < chunk.span.end:
                total += (span.end - span.start) * vector
        np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-3)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.data())
def test_means_against_a_plain_oracle(lengths: list[int], data: st.DataObject) -> None:
    spans, at = [], 0
    for length in lengths:
        spans.append(Span(at, at + length))
        at += length + 1
    cuts = sorted(data.draw(st.sets(st.integers(0, len(spans)), max_size=4)) | {0, len(spans)})
    parts = [(a, b) for a, b in itertools.pairwise(cuts)]
    chunks = [ChunkDraft(Span(spans[a].start, spans[b - 1].end), (), None, None) for a, b in parts]
    vectors = np.random.default_rng(len(lengths)).normal(size=(len(spans), 8)).astype(np.float32)
    found = chunk_vectors(chunks, spans, vectors)
    for row, (a, b) in zip(found, parts, strict=True):
        mean = sum(lengths[n] * vectors[n].astype(np.float64) for n in range(a, b))
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_vectors_that_cancel_out_do_not_become_nan() -> None:
    vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    found = chunk_vectors([ChunkDraft(Span(0, 9), (), None, None)], [Span(0, 4), Span(5, 9)], vectors)
    assert np.isfinite(found).all()


def test_each_sentence_is_embedded_once_in_a_batch(app: Installation) -> None:
    shared = "Everybody signs in at the desk."
    drafts = [make_draft("a", f"{shared}\n\nOnly here."), make_draft("b", f"Only there.\n\n{shared}\n\n{shared}")]
    first, second = app.embedding.embed(drafts)
    assert sorted(app.embedder.texts) == sorted([shared, "Only here.", "Only there."])
    assert len(first.fresh) == 2
    assert len(second.fresh) == 1
    assert not first.fresh.keys() & second.fresh.keys()
    assert first.tokens == app.embedder.count_tokens([shared, "Only here."])
    assert second.tokens == app.embedder.count_tokens(["Only there."])


def test_what_was_embedded_once_is_never_embedded_again(app: Installation) -> None:
    source = app.source()
    app.record(source, make_draft("a", PAGE))
    app.embedder.texts.clear()
    app.record(source, make_draft("copy", PAGE))
    assert app.embedder.texts == []
    edited = PAGE.replace("The second one of part 3 is about tea.", "The second one of part 3 is about coffee now.")
    app.record(source, make_draft("a", edited))
    assert app.embedder.texts == ["The second one of part 3 is about coffee now."]
    app.embedder.texts.clear()
    app.record(source, make_draft("a", PAGE))  # and back
    assert app.embedder.texts == []


def test_blanks_and_line_ends_do_not_matter_to_the_model() -> None:
    assert sentence_input("xx  One \n two.\tthree ", Span(2, 20)) == "One two. three"


def test_another_model_does_not_use_these_vectors(app: Installation) -> None:
    app.record(app.source(), make_draft("a", "One sentence."))
    app.embedder.texts.clear()
    other = open_embedder("hash:32", models_dir=Path("unused"))
    app.embedding.embedder = other
    (embedded,) = app.embedding.embed([make_draft("b", "One sentence.")])
    assert embedded.chunk_vectors.shape == (1, 32)
    assert len(embedded.fresh) == 1


def test_known_vectors_give_the_same_bytes_as_new_ones(app: Installation) -> None:
    draft = make_draft("a", PAGE)
    (new,) = app.embedding.embed([draft])
    app.record(app.source(), draft)
    (known,) = app.embedding.embed([draft])
    assert known.fresh == {}
    assert known.tokens == 0
    assert known.chunk_vectors.tobytes() == new.chunk_vectors.tobytes()


def test_an_empty_batch_and_an_empty_document(app: Installation) -> None:
    assert app.embedding.embed([]) == ()
    (embedded,) = app.embedding.embed([make_draft("a", "")])
    assert embedded.chunk_vectors.shape == (0, 64)
    assert embedded.fresh == {}
