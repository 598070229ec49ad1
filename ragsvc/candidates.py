"""From confirmed hits to what the packer reads: sentences with their vectors, from the catalogue."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from indexes.model import Matrix, Span, Vector
from indexes.protocols import Embedder
from ingest.catalog.documents import Documents
from ingest.catalog.ids import vector_key
from ingest.embed import sentence_input
from ragsvc.answer import Found, Question, Usage
from ragsvc.citations import citation_id, heading_path
from ragsvc.errors import Stale
from ragsvc.model import Candidate, CandidateSentence, Packed
from ragsvc.tokens import TokenCounter

BASELINE = "top-5 chunks of 1000 characters"
_BASELINE_CHUNKS = 5
_BASELINE_CHARACTERS = 1000


def candidates_of(
    found: Sequence[Found], documents: Documents, embedders: Mapping[str, Embedder]
) -> tuple[Candidate, ...]:
    """One candidate per confirmed hit and section in it. `embedders` by name: none for a search without vectors."""
    spans = [_sentences_of(one) for one in found]
    vectors = _vectors(found, spans, documents, embedders)
    return tuple(
        _candidate(one, path, section, vectors)
        for one, inside in zip(found, spans, strict=True)
        for path, section in _by_section(one, inside)
    )


def _sentences_of(one: Found) -> list[tuple[int, Span]]:
    """(ordinal, span) of the version's sentences that begin in the chunk."""
    sentences, span = one.text.sentences, one.chunk.draft.span
    first = bisect_left(sentences, span.start, key=lambda sentence: sentence.start)
    last = bisect_left(sentences, span.end, key=lambda sentence: sentence.start)
    return list(enumerate(sentences[first:last], first))


def _vectors(
    found: Sequence[Found],
    spans: Sequence[Sequence[tuple[int, Span]]],
    documents: Documents,
    embedders: Mapping[str, Embedder],
) -> dict[tuple[str, Span], Vector]:
    """(version id, span) -> vector, in one look-up per model."""
    result: dict[tuple[str, Span], Vector] = {}
    for name, embedder in embedders.items():
        keys = {
            (one.version.id, span): vector_key(embedder.id, sentence_input(one.text.text, span))
            for one, inside in zip(found, spans, strict=True)
            if one.generation.embedder == name
            for _, span in inside
        }
        rows: dict[bytes, int]
        matrix: Matrix
        rows, matrix = documents.vectors(list(set(keys.values())), dimensions=embedder.dimensions)
        result.update((place, matrix[rows[key]]) for place, key in keys.items() if key in rows)
    return result


def _by_section(one: Found, inside: Sequence[tuple[int, Span]]) -> list[tuple[tuple[str, ...], list[tuple[int, Span]]]]:
    """The chunk's sentences by the headings above them: a chunk may hold several small sections."""
    sections: dict[tuple[str, ...], list[tuple[int, Span]]] = {}
    for ordinal, span in inside:
        sections.setdefault(heading_path(one.text, span.start), []).append((ordinal, span))
    return list(sections.items())


def _candidate(
    one: Found,
    path: tuple[str, ...],
    inside: Sequence[tuple[int, Span]],
    vectors: Mapping[tuple[str, Span], Vector],
) -> Candidate:
    headings = {block.span.start for block in one.text.blocks if block.kind == "heading"}
    return Candidate(
        chunk_id=one.hit.chunk_id,
        version_id=one.version.id,
        document_id=one.document.id,
        span=Span(inside[0][1].start, inside[-1][1].end),
        heading_path=path,
        title=one.document.title,
        version=one.version.ordinal,
        date=one.version.valid_from.date().isoformat(),
        score=one.fused,
        sentences=tuple(
            CandidateSentence(
                ordinal=ordinal,
                span=span,
                text=one.text.text[span.start : span.end],
                vector=vectors.get((one.version.id, span)),
                is_heading=span.start in headings,
            )
            for ordinal, span in inside
        ),
        lang=one.version.lang,
    )


def best_cosine(candidates: Sequence[Candidate], question: Vector | None) -> float | None:
    """The best cosine of a candidate's sentence and the question; None without vectors."""
    if question is None:
        return None
    rows = [s.vector for candidate in candidates for s in candidate.sentences if s.vector is not None]
    return float(np.max(np.stack(rows) @ question)) if rows else None


def account(packed: Packed, found: Sequence[Found], counter: TokenCounter) -> Usage:
    """Tokens of the context, of all candidate chunks, and of the baseline: the first five chunks of 1000 characters.

    The baseline is what a plain top-k would have sent for this query: the texts cut every 1000 characters, and of
    these pieces the five that hold the best hits.
    """
    pieces: dict[tuple[str, int], str] = {}
    for one in found:
        start = one.chunk.draft.span.start // _BASELINE_CHARACTERS * _BASELINE_CHARACTERS
        if len(pieces) < _BASELINE_CHUNKS:
            pieces[one.version.id, start] = one.text.text[start : start + _BASELINE_CHARACTERS]
    spans = [(one.text.text, one.chunk.draft.span) for one in found]
    return Usage(
        context_tokens=packed.context_tokens,
        candidate_tokens=counter.count("\n\n".join(text[span.start : span.end] for text, span in spans)),
        baseline_tokens=counter.count("\n\n".join(pieces.values())),
        baseline=BASELINE,
        tokenizer=counter.name,
    )


def within_limits(question: Question, found: Sequence[Found]) -> tuple[list[Found], list[tuple[str, str]]]:
    """Apply `min_score` and `max_staleness`. Raises Stale if the question says so."""
    kept: list[Found] = []
    dropped: list[tuple[str, str]] = []
    for one in found:
        limit = question.max_staleness_s
        late = limit is not None and one.freshness.verified_age_s > limit
        reason = "threshold" if question.min_score is not None and one.fused < question.min_score else None
        if late and reason is None and question.on_stale == "error":
            raise Stale(f"A passage of {one.document.uri} was verified {one.freshness.verified_age_s} s ago.")
        if late and question.on_stale == "drop":
            reason = reason or "stale"
        if reason is not None:
            dropped.append((citation_id(one.version.id, [one.chunk.draft.span]), reason))
        elif late and one.freshness.status == "fresh":
            kept.append(replace(one, freshness=replace(one.freshness, status="stale")))
        else:
            kept.append(one)
    return kept, dropped
