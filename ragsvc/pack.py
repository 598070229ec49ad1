"""Candidates to the context: the sentences that are worth their tokens, quoted exactly, never over the budget.

Sentences are taken greedily by value (`ragsvc.value`) while they bring something new, put back into document order
and joined to passages. The default favours recall: it stops late, because a missed answer costs more than tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from indexes.analyze import Analyzer
from indexes.model import Span, Vector
from ragsvc.model import Candidate, Compression, Dropped, DropReason, Packed, Passage
from ragsvc.tokens import TokenCounter
from ragsvc.value import DEFAULT_WEIGHTS, Pool, Weights

BETWEEN_SPANS = " ... "
BETWEEN_PASSAGES = "\n\n"
_MAX_TITLE = 100  # characters of a title or heading in a header line: a hostile one must not eat the budget
_MAX_PATH = 240
_ALIKE_TERMS = 0.9  # Jaccard
_ALIKE_COSINE = 0.98
_SMALLEST = 6  # tokens; with fewer left nothing of use fits
# Numbers, and what denies: embeddings and most terms are blind to both.
_MARKS = re.compile(
    r"\d+(?:[.,]\d+)*|\b(?:no|not|never|none|nor|without|cannot|keine?\w?|nicht|sans|pas|sin|non)\b|n['\u2019]t\b"
    "|[\u4e0d\u6ca1\u6c92\u65e0\u7121\u975e]"
)
_SEPARATOR_ROW = re.compile(r"[ |:\-]*-[ |:\-]*")

Group = tuple[str, tuple[str, ...]]
TextOf = Callable[[str], str]


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """What is taken or left as a whole: a sentence, or a chunk."""

    candidate: Candidate
    span: Span
    terms: frozenset[str]
    text: str
    vector: Vector | None
    value: float

    @property
    def group(self) -> Group:
        return self.candidate.version_id, self.candidate.heading_path

    def says_the_same(self, other: _Unit) -> bool:
        """Whether taking both would pay twice for one statement. Other numbers or a "not" make another statement."""
        shared = len(self.terms & other.terms)
        either = len(self.terms) + len(other.terms) - shared
        if 2 * shared < either or not shared:
            return False  # too different for an embedding to call them equal; spares most of the work
        alike = shared >= _ALIKE_TERMS * either
        if not alike and self.vector is not None and other.vector is not None:
            alike = float(self.vector @ other.vector) >= _ALIKE_COSINE
        return alike and set(_MARKS.findall(self.text.lower())) == set(_MARKS.findall(other.text.lower()))


def pack(
    candidates: Sequence[Candidate],
    *,
    question_terms: Sequence[str],
    question_vector: Vector | None,
    analyzer: Analyzer,
    counter: TokenCounter,
    max_tokens: int,
    top_k: int,
    compression: Compression,
    version_text: TextOf,
    weights: Weights = DEFAULT_WEIGHTS,
) -> Packed:
    """The context of at most `max_tokens` tokens and `top_k` passages; empty if not one sentence fits.

    `version_text` gives a version's normalised text by its id; each passage's text is slices of it. All vectors are
    of one model.
    """
    ranked = sorted(candidates, key=lambda one: -one.score)
    desk = _Desk(counter, max_tokens, top_k, version_text)
    if compression == "none":
        for candidate in ranked:
            desk.offer(_whole(candidate, analyzer, version_text))
    else:
        pool = Pool(
            ranked, question_terms=question_terms, question_vector=question_vector, analyzer=analyzer, weights=weights
        )
        _take_sentences(pool, desk, weights)
    return desk.close(ranked)


def _whole(candidate: Candidate, analyzer: Analyzer, version_text: TextOf) -> _Unit:
    text = version_text(candidate.version_id)[candidate.span.start : candidate.span.end]
    return _Unit(
        candidate, candidate.span, frozenset(analyzer.terms(text, lang=candidate.lang)), text, None, candidate.score
    )


def _take_sentences(pool: Pool, desk: _Desk, weights: Weights) -> None:
    """Best first, judged anew after each: a sentence with terms that the context still lacks is worth more."""
    waiting = np.ones(len(pool.sentences), dtype=bool)
    lacking = pool.idf.copy()
    first = 0.0
    while waiting.any():
        worth = np.where(waiting, pool.values + weights.gain * (pool.present @ lacking), -1.0)
        best = int(worth.argmax())
        if worth[best] <= weights.stop * first:
            return
        waiting[best] = False
        one = pool.sentences[best]
        unit = _Unit(one.candidate, one.sentence.span, one.terms, one.sentence.text, one.sentence.vector, one.value)
        if desk.offer(unit):
            first = first or float(worth[best])
            lacking[pool.present[best]] = 0.0
        elif desk.full:
            desk.refuse((pool.sentences[int(row)].candidate for row in np.flatnonzero(waiting)), "budget")
            return


class _Desk:
    """Where the context is laid out: what was taken, what it costs, what was refused and why."""

    def __init__(self, counter: TokenCounter, max_tokens: int, top_k: int, version_text: TextOf) -> None:
        self._counter, self._max_tokens, self._top_k = counter, max_tokens, top_k
        self._version_text = version_text
        self._taken: list[_Unit] = []
        self._heads: dict[Group, set[Span]] = {}
        self._used = 0
        self._refused: dict[int, set[DropReason]] = {}

    @property
    def full(self) -> bool:
        """Whether nothing of use could be added."""
        return self._max_tokens - self._used < _SMALLEST

    def refuse(self, candidates: Iterable[Candidate], reason: DropReason) -> None:
        """Note why something of these candidates was left out."""
        for candidate in candidates:
            self._refused.setdefault(id(candidate), set()).add(reason)

    def offer(self, unit: _Unit) -> bool:
        """Take the unit if it is new and there is room for it."""
        cost = self._cost(unit)
        reason = self._objection(unit, cost)
        if reason is not None:
            self.refuse((unit.candidate,), reason)
            return False
        self._used += cost
        self._heads.setdefault(unit.group, set()).update(self._needs(unit))
        self._taken.append(unit)
        return True

    def _objection(self, unit: _Unit, cost: int) -> DropReason | None:
        if unit.group not in self._heads and len(self._heads) >= self._top_k:
            return "threshold"
        if self._used + cost > self._max_tokens:
            return "budget"
        return "duplicate" if any(unit.says_the_same(other) for other in self._taken) else None

    def _cost(self, unit: _Unit) -> int:
        """About what the unit adds; the exact count is made in `close`."""
        text = self._version_text(unit.candidate.version_id)
        new = self._needs(unit) - self._heads.get(unit.group, set())
        cost = 1 + self._counter.count(unit.text)
        cost += sum(1 + self._counter.count(text[span.start : span.end]) for span in new)
        return cost if unit.group in self._heads else cost + 2 + self._counter.count(_header(0, unit.candidate))

    def _needs(self, unit: _Unit) -> frozenset[Span]:
        """What a sentence is not understood without: the head row of its table, a heading that the path lacks."""
        text = self._version_text(unit.candidate.version_id)
        return frozenset(span for span in (_table_head(text, unit.span), _own_heading(unit)) if span)

    def close(self, candidates: Sequence[Candidate]) -> Packed:
        """Lay out what was taken, least valuable out until the exact count fits."""
        while True:
            passages = self._passages()
            context = BETWEEN_PASSAGES.join(f"{header}\n{passage.text}" for header, passage in passages)
            tokens = self._counter.count(context) if context else 0
            if tokens <= self._max_tokens:
                break
            worst = min(self._taken, key=lambda unit: unit.value)
            self._taken.remove(worst)
            self.refuse((worst.candidate,), "budget")
        used = {chunk_id for _, passage in passages for chunk_id in passage.chunk_ids}
        dropped = tuple(self._dropped(one) for one in candidates if one.chunk_id not in used)
        return Packed(context, tuple(passage for _, passage in passages), tokens, dropped)

    def _dropped(self, candidate: Candidate) -> Dropped:
        reasons = self._refused.get(id(candidate), set())
        reason: DropReason = next((r for r in _REASONS if r in reasons), "threshold")
        return Dropped(candidate.chunk_id, candidate.version_id, (candidate.span,), reason)

    def _passages(self) -> list[tuple[str, Passage]]:
        """(header line, passage): documents in order of their best candidate, inside in document order."""
        groups: dict[Group, list[_Unit]] = {}
        best: dict[str, float] = {}
        for unit in self._taken:
            groups.setdefault(unit.group, []).append(unit)
            one = unit.candidate
            best[one.document_id] = max(best.get(one.document_id, 0.0), one.score)

        def place(units: list[_Unit]) -> tuple[float, str, str, int]:
            one = units[0].candidate
            return -best[one.document_id], one.document_id, one.version_id, min(unit.span.start for unit in units)

        ordered = sorted(groups.values(), key=place)
        return [self._passage(ref, units) for ref, units in enumerate(ordered, 1)]

    def _passage(self, ref: int, units: list[_Unit]) -> tuple[str, Passage]:
        one = units[0].candidate
        text = self._version_text(one.version_id)
        spans = _joined(text, {unit.span for unit in units}.union(*map(self._needs, units)))
        passage = Passage(
            ref=ref,
            version_id=one.version_id,
            document_id=one.document_id,
            spans=spans,
            text=BETWEEN_SPANS.join(text[span.start : span.end] for span in spans),
            heading_path=one.heading_path,
            chunk_ids=tuple(dict.fromkeys(unit.candidate.chunk_id for unit in sorted(units, key=_by_value))),
            score=min(max(max(unit.value for unit in units), 0.0), 1.0),
        )
        return _header(ref, one), passage


_REASONS: tuple[DropReason, ...] = ("budget", "duplicate", "threshold")


def _by_value(unit: _Unit) -> float:
    return -unit.value


def _header(ref: int, one: Candidate) -> str:
    """`[ref] title > heading path (vN, YYYY-MM-DD)` on one line."""
    title = _flat(one.title, _MAX_TITLE)
    path = [_flat(heading, _MAX_TITLE) for heading in one.heading_path]
    if path and path[0] == title:
        path = path[1:]
    label = " > ".join((title, *path)) if title else " > ".join(path)
    return f"[{ref}] {_flat(label, _MAX_PATH)} (v{one.version}, {one.date})"


def _flat(label: str, limit: int) -> str:
    label = " ".join(label.split())
    return label if len(label) <= limit else label[: limit - 1].rstrip() + "\u2026"


def _joined(text: str, spans: set[Span]) -> tuple[Span, ...]:
    """Spans in order; those that overlap or have only white space between them become one."""
    result: list[Span] = []
    for span in sorted(spans):
        if result and (span.start <= result[-1].end or text[result[-1].end : span.start].isspace()):
            result[-1] = Span(result[-1].start, max(result[-1].end, span.end))
        else:
            result.append(span)
    return tuple(result)


def _table_head(text: str, span: Span) -> Span | None:
    """The head row (with the `|---|` line) of the table that this row is in; None for other text and the head."""
    if text[span.start : span.start + 1] != "|":
        return None
    before = text.rfind("\n\n", 0, span.start)
    start = before + 2 if before >= 0 else 0
    row_end = text.find("\n", start, span.start)
    if text[start : start + 1] != "|" or row_end < 0:
        return None
    end = text.find("\n", row_end + 1, span.start)
    return Span(start, end) if end > 0 and _SEPARATOR_ROW.fullmatch(text, row_end + 1, end) else None


def _own_heading(unit: _Unit) -> Span | None:
    """The heading inside the chunk that the sentence stands under, unless the heading path names it already."""
    sentences = unit.candidate.sentences
    here = bisect_left(sentences, unit.span.start, key=lambda sentence: sentence.span.start)
    for sentence in reversed(sentences[:here]):
        if sentence.is_heading:
            title = _flat(sentence.text, _MAX_TITLE)
            named = any(_flat(heading, _MAX_TITLE) == title for heading in unit.candidate.heading_path)
            return None if named else sentence.span
    return None
