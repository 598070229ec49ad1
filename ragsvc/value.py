"""What a candidate sentence is worth for a question: a linear mix of signals, each from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi  # type: ignore[import-untyped,unused-ignore]

from indexes.analyze import Analyzer
from indexes.model import Span, Vector
from ragsvc.model import Candidate, CandidateSentence

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """How a sentence is valued; set by hand, near what kept the most evidence on two sets.

    `coverage` to `chunk` are the parts of a sentence's own value, in proportion.
    `neighbours` is what the better sentence beside it counts. `context` is what a question term in the title or the
    headings counts, against one in the sentence. `gain` rewards terms that the context still lacks. `stop` is the
    share of the first sentence's worth below which nothing is taken any more.
    """

    coverage: float = 0.25
    bm25: float = 0.15
    cosine: float = 0.40
    chunk: float = 0.40
    neighbours: float = 0.30
    context: float = 0.4
    gain: float = 0.3
    stop: float = 0.35


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True, slots=True)
class Valued:
    """A sentence of a candidate with its terms and its value, 0 to 1."""

    candidate: Candidate
    sentence: CandidateSentence
    terms: frozenset[str]
    value: float


class Pool:
    """Every sentence of the candidates once, headings left out, with its value.

    `sentences` has n members; `present` is bool of shape (n, distinct question terms); `idf` holds each of those
    terms' part of the question's weight (0 if no sentence has it) and adds up to 1 or 0.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        question_terms: Sequence[str],
        question_vector: Vector | None,
        analyzer: Analyzer,
        weights: Weights = DEFAULT_WEIGHTS,
    ) -> None:
        self._drafts = _distinct(candidates)
        self._wanted = list(dict.fromkeys(question_terms))
        terms = [analyzer.terms(sentence.text, lang=candidate.lang) for candidate, sentence in self._drafts]
        sets = [frozenset(one) for one in terms]
        self.present = self._presence(sets)
        self.idf = self._idf_shares()
        parts = [
            (weights.coverage, self._coverage(analyzer, weights.context)),
            (weights.bm25, self._bm25(terms)),
            (weights.cosine, self._cosine(question_vector)),
            (weights.chunk, _spread(np.array([candidate.score for candidate, _ in self._drafts]), floor=0.0)),
        ]
        values = self._mix(parts, weights.neighbours)
        self.values = values
        self.sentences = tuple(
            Valued(candidate, sentence, one, float(value))
            for (candidate, sentence), one, value in zip(self._drafts, sets, values, strict=True)
        )

    def _presence(self, sets: Sequence[frozenset[str]]) -> NDArray[np.bool_]:
        rows = [[term in one for term in self._wanted] for one in sets]
        return np.array(rows, dtype=bool).reshape(len(sets), len(self._wanted))

    def _idf_shares(self) -> Floats:
        found = self.present.sum(axis=0)
        idf = np.log1p((len(self._drafts) - found + 0.5) / (found + 0.5)) * (found > 0)
        total = float(idf.sum())
        return np.asarray(idf / total if total > 0 else idf, dtype=np.float64)

    def _coverage(self, analyzer: Analyzer, context: float) -> Floats:
        """Share of the question's idf weight in the sentence, and `context` times that in the headings above it."""
        heads: dict[int, list[bool]] = {}
        for candidate, _ in self._drafts:
            if id(candidate) not in heads:
                above = analyzer.terms(" ".join((candidate.title, *candidate.heading_path)), lang=candidate.lang)
                heads[id(candidate)] = [term in above for term in self._wanted]
        around = np.array([heads[id(candidate)] for candidate, _ in self._drafts], dtype=bool)
        result = np.maximum(self.present, context * around.reshape(self.present.shape)) @ self.idf
        return np.asarray(result, dtype=np.float64)

    def _bm25(self, terms: Sequence[list[str]]) -> Floats | None:
        if not self._wanted or not any(terms):
            return None  # rank_bm25 divides by the mean length and by the number of words
        wanted = set(self._wanted)  # the other words count by their number only, and building their table costs 3 ms
        scored = BM25Okapi([[term if term in wanted else "" for term in one] for one in terms], k1=1.2, b=0.75)
        scores = scored.get_scores(self._wanted)
        return _spread(np.asarray(scores, dtype=np.float64), floor=0.0)

    def _cosine(self, question: Vector | None) -> Floats | None:
        """Cosines stretched between a low one and the best; a sentence without a vector counts as the lowest.

        The low one is at most half the best: among few sentences the second best may be nearly as good.
        """
        vectors = {row: sentence.vector for row, (_, sentence) in enumerate(self._drafts)}
        known = {row: vector for row, vector in vectors.items() if vector is not None}
        if question is None or not known:
            return None
        cosines = np.stack(list(known.values())) @ question
        result = np.full(len(self._drafts), float(cosines.min()))
        result[list(known)] = cosines
        return _spread(result, floor=max(0.0, min(float(np.quantile(cosines, 0.2)), float(cosines.max()) / 2)))

    def _mix(self, parts: Sequence[tuple[float, Floats | None]], neighbours: float) -> Floats:
        """The weighted mean of the signals that are known, and of the better sentence beside in the same chunk."""
        known = [(weight, part) for weight, part in parts if part is not None]
        own: Floats = np.zeros(len(self._drafts))
        for weight, part in known:
            own += weight * part
        own /= sum(weight for weight, _ in known) or 1.0
        beside = np.zeros_like(own)
        for row in range(1, len(own)):
            if self._drafts[row - 1][0] is self._drafts[row][0]:
                beside[row - 1] = max(beside[row - 1], own[row])
                beside[row] = own[row - 1]
        return (1 - neighbours) * own + neighbours * beside


def _distinct(candidates: Sequence[Candidate]) -> list[tuple[Candidate, CandidateSentence]]:
    seen: set[tuple[str, Span]] = set()
    result = []
    for candidate in candidates:
        for sentence in candidate.sentences:
            place = (candidate.version_id, sentence.span)
            if not sentence.is_heading and place not in seen:
                seen.add(place)
                result.append((candidate, sentence))
    return result


def _spread(scores: Floats, *, floor: float) -> Floats:
    """Scores between `floor` and the best one as 0 to 1."""
    top = float(scores.max(initial=floor))
    if top <= floor:
        return np.zeros(len(scores))
    return np.asarray(np.clip((scores - floor) / (top - floor), 0.0, 1.0), dtype=np.float64)
