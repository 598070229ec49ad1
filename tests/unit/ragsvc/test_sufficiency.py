"""On topic, sufficient, and the verdict."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from indexes.analyze import Analyzer
from indexes.model import Span
from ragsvc.model import Candidate, CandidateSentence, Sufficiency
from ragsvc.sufficiency import PRIOR, Calibration, assess, idf_coverage, judge

ANALYZER = Analyzer()


def candidate(text: str, *, score: float = 1.0, title: str = "", path: tuple[str, ...] = ()) -> Candidate:
    span = Span(0, len(text))
    sentence = CandidateSentence(0, span, text)
    return Candidate(f"c{hash(text)}", "v", "d", span, path, title, 1, "2024-01-01", score, (sentence,))


@pytest.mark.parametrize(
    ("cosine", "coverage", "verdict"),
    [
        (0.69, 0.49, "answerable"),  # the median question to its own corpus
        (0.66, 0.61, "answerable"),
        (0.45, 0.20, "weak"),  # the worst two in a hundred
        (0.41, 0.32, "weak"),
        (0.36, 0.19, "none"),  # the median question to another corpus
        (0.15, 0.10, "none"),
        (0.05, 0.00, "none"),
    ],
)
def test_the_prior_judges_as_measured(cosine: float, coverage: float, verdict: str) -> None:
    assert assess(max_cosine=cosine, idf_coverage=coverage, top_fused=0.9).verdict == verdict


@pytest.mark.parametrize(("coverage", "verdict"), [(0.6, "answerable"), (0.25, "weak"), (0.1, "none"), (0.0, "none")])
def test_without_a_cosine_coverage_decides(coverage: float, verdict: str) -> None:
    assert assess(max_cosine=None, idf_coverage=coverage, top_fused=0.9).verdict == verdict


def test_more_of_any_signal_never_lowers_a_probability() -> None:
    steps = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for cosine, coverage, fused in itertools.product([None, *steps[:-1]], steps[:-1], steps[:-1]):
        low = assess(max_cosine=cosine, idf_coverage=coverage, top_fused=fused)
        higher = [
            assess(max_cosine=cosine, idf_coverage=coverage + 0.2, top_fused=fused),
            assess(max_cosine=cosine, idf_coverage=coverage, top_fused=fused + 0.2),
        ]
        if cosine is not None:
            higher.append(assess(max_cosine=cosine + 0.2, idf_coverage=coverage, top_fused=fused))
        for high in higher:
            assert high.on_topic >= low.on_topic
            assert high.sufficient >= low.sufficient


@pytest.mark.parametrize("value", [-5.0, 0.0, 0.5, 1.0, 99.0])
def test_probabilities_are_probabilities(value: float) -> None:
    got = assess(max_cosine=value, idf_coverage=value, top_fused=value)
    assert 0 <= got.sufficient <= got.on_topic <= 1


def test_a_calibration_changes_the_verdict() -> None:
    strict = dataclasses.replace(PRIOR, topic_middle=0.9)
    assert assess(max_cosine=0.7, idf_coverage=0.7, top_fused=1, calibration=strict).verdict == "none"
    lax = Calibration(none_below=0)
    assert assess(max_cosine=0.0, idf_coverage=0.0, top_fused=0, calibration=lax).verdict == "weak"


def test_without_candidates_there_is_nothing() -> None:
    assert judge((), terms=["a"], analyzer=ANALYZER, cosine=None) == Sufficiency(0.0, 0.0, "none")


def test_coverage_is_that_of_the_best_candidate_with_its_headings() -> None:
    terms = ANALYZER.query_terms("vacation days in Berlin")
    chunk = candidate("Employees get 30 days.", title="Berlin office", path=("Vacation",))
    assert idf_coverage([chunk], terms=terms, analyzer=ANALYZER) == pytest.approx(1.0)
    parts = [candidate("vacation"), candidate("days"), candidate("Berlin")]
    assert idf_coverage(parts, terms=terms, analyzer=ANALYZER) == pytest.approx(1 / 3)


def test_rare_terms_weigh_more() -> None:
    crowd = [candidate(f"the office number {n}") for n in range(30)]
    rare = idf_coverage([*crowd, candidate("zebra")], terms=["offic", "zebra"], analyzer=ANALYZER)
    common = idf_coverage([*crowd, candidate("sofa")], terms=["offic", "zebra"], analyzer=ANALYZER)
    assert rare > 0.9
    assert common < 0.1


@pytest.mark.parametrize("terms", [[], ["unicorn"]])
def test_no_coverage_without_a_shared_term(terms: list[str]) -> None:
    assert idf_coverage([candidate("vacation days")], terms=terms, analyzer=ANALYZER) == 0.0


def test_judge_uses_cosine_and_words() -> None:
    chunk = candidate("Employees get 30 days of vacation per year.")
    terms = ANALYZER.query_terms("How many vacation days do employees get?")
    assert judge([chunk], terms=terms, analyzer=ANALYZER, cosine=0.7).verdict == "answerable"
    far = judge([chunk], terms=ANALYZER.query_terms("capital of Mongolia"), analyzer=ANALYZER, cosine=0.05)
    assert far.verdict == "none"


def test_one_short_document_can_still_be_asked() -> None:
    """With a single chunk, words of the question that it lacks must not outweigh those that it has."""
    chunk = candidate("Employees get 30 days of vacation.")
    terms = ANALYZER.query_terms("What is the number of vacation days that all employees receive")
    assert judge([chunk], terms=terms, analyzer=ANALYZER, cosine=0.45).verdict != "none"
