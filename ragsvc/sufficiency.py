"""Does the collection know the topic of a question, and does what was found hold the answer?

Two probabilities from three signals: the best cosine of a sentence with the question, the share of the question's
idf weight in the best chunk, and the best fused score. Logistic, with a prior that fits all-MiniLM-L6-v2; a collection
can bring its own `Calibration`. The prior, on two corpora, each asked its own questions and those of the other: AUROC
of `on_topic` .97 and .999; "none" for .4 % and 0 % of the own questions, and for 50 % and 84 % of the others. It is
set to be rare, because "none" withholds the context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from indexes.analyze import Analyzer
from ragsvc.model import Candidate, Sufficiency, Verdict

_JUDGED = 12  # best candidates; more add time and hardly anything else
_FEWEST = 30  # chunks that idf pretends to have seen: with a handful, a missing word would outweigh all others


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two logistic curves over a mix of the signals, and where verdicts change.

    `on_topic` is logistic of `topic_slope * (x - topic_middle)` with x = `cosine_share` of the cosine and the rest of
    the coverage. `sufficient` is the same with `answer_*` and x moved towards the fused score by `fused_share`.
    The `lexical_*` numbers serve where there is no cosine. "none" below `none_below` of on_topic; "answerable" from
    `answerable_from` of sufficient.
    """

    cosine_share: float = 0.5
    topic_slope: float = 30.0
    topic_middle: float = 0.37
    answer_slope: float = 12.0
    answer_middle: float = 0.45
    fused_share: float = 0.1
    lexical_slope: float = 15.0
    lexical_middle: float = 0.28
    none_below: float = 0.2
    answerable_from: float = 0.5


PRIOR = Calibration()


def judge(
    candidates: Sequence[Candidate],
    *,
    terms: Sequence[str],
    analyzer: Analyzer,
    cosine: float | None,
    calibration: Calibration = PRIOR,
) -> Sufficiency:
    """The verdict on these candidates for a question of these terms; `cosine` is the best of any sentence, if known."""
    if not candidates:
        return Sufficiency(on_topic=0.0, sufficient=0.0, verdict="none")
    best = sorted(candidates, key=lambda one: -one.score)
    return assess(
        max_cosine=cosine,
        idf_coverage=idf_coverage(best[:_JUDGED], terms=terms, analyzer=analyzer),
        top_fused=best[0].score,
        calibration=calibration,
    )


def assess(
    *, max_cosine: float | None, idf_coverage: float, top_fused: float, calibration: Calibration = PRIOR
) -> Sufficiency:
    """The verdict from the signals alone, each clipped to 0..1; `max_cosine` None: the dense leg was not asked."""
    c, covered, fused = calibration, _clip(idf_coverage), _clip(top_fused)
    if max_cosine is None:
        topic, on_topic = covered, _logistic(c.lexical_slope * (covered - c.lexical_middle))
        answer_middle = c.lexical_middle + c.answer_middle - c.topic_middle
    else:
        topic = c.cosine_share * _clip(max_cosine) + (1 - c.cosine_share) * covered
        on_topic = _logistic(c.topic_slope * (topic - c.topic_middle))
        answer_middle = c.answer_middle
    answer = (1 - c.fused_share) * topic + c.fused_share * fused
    sufficient = min(on_topic, _logistic(c.answer_slope * (answer - answer_middle)))
    return Sufficiency(on_topic, sufficient, _verdict(on_topic, sufficient, c))


def idf_coverage(candidates: Sequence[Candidate], *, terms: Sequence[str], analyzer: Analyzer) -> float:
    """The largest share of the question's idf weight in one candidate, its title and headings included; 0 to 1."""
    wanted = frozenset(terms)
    held = [wanted.intersection(_terms_of(one, analyzer)) for one in candidates]
    seen = max(len(held), _FEWEST)
    idf: dict[str, float] = {}
    for term in wanted:
        found = sum(term in one for one in held)
        idf[term] = math.log1p((seen - found + 0.5) / (found + 0.5))
    total = math.fsum(idf.values())
    return max((math.fsum(idf[term] for term in one) / total for one in held), default=0.0) if total else 0.0


def _terms_of(candidate: Candidate, analyzer: Analyzer) -> list[str]:
    parts = (candidate.title, *candidate.heading_path, *(sentence.text for sentence in candidate.sentences))
    return analyzer.terms("\n".join(parts), lang=candidate.lang)


def _verdict(on_topic: float, sufficient: float, calibration: Calibration) -> Verdict:
    if on_topic < calibration.none_below:
        return "none"
    return "answerable" if sufficient >= calibration.answerable_from else "weak"


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(min(x, 60.0), -60.0)))
