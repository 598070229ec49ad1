"""Does the lexical leg agree with rank-bm25 on real passages and questions, and how much faster is it?

Passages: all of Cranfield and CACM and 1,000 abstracts of SciFact, so 5,604; 200 questions of the same sets. Both sides
get the same terms, k1 and b. One difference is left, the idf: rank-bm25's ln((N - df + .5) / (df + .5)) says almost
nothing of a term in nearly half of the passages, and less than nothing of one in more (then it takes a floor); the leg
has 1 added inside the logarithm, as Lucene, so such a term still weighs .7. Given the leg's idf, rank-bm25 says the
same of every passage, to rounding; as it comes, 97 of 100 of the best ten are the same.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from indexes.analyze import Analyzer
from indexes.embedded import EmbeddedEngine
from indexes.model import FOREVER, Allowed, Chunk, Describe, Generation, Op, Put, Query
from indexes.protocols import Searcher
from indexes.stats import K1, B

PASSAGES = {"cranfield": 1_400, "cacm": 3_204, "scifact": 1_000}
QUESTIONS = {"cranfield": 100, "cacm": 52, "scifact": 48}
TOP = 10

pytestmark = pytest.mark.slow


class SameIdf(BM25Okapi):  # type: ignore[misc]
    """rank-bm25 with the leg's idf."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        self.idf = {word: math.log(1 + (self.corpus_size - df + 0.5) / (df + 0.5)) for word, df in nd.items()}


@dataclass(frozen=True)
class Real:
    """Terms of the passages and of the questions."""

    passages: list[list[str]]
    questions: list[list[str]]


def first(path: Path, count: int) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for one in map(json.loads, islice(lines, count)):
            yield f"{one.get('title', '')}\n{one['text']}"


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Real:
    terms = Analyzer().terms
    passages = [terms(t, lang="en") for s, n in PASSAGES.items() for t in first(shared_data / s / "corpus.jsonl", n)]
    questions = [terms(t, lang="en") for s, n in QUESTIONS.items() for t in first(shared_data / s / "queries.jsonl", n)]
    assert (len(passages), len(questions)) == (5_604, 200)
    return Real(passages, questions)


@pytest.fixture(scope="module")
def leg(real: Real, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    """The engine with every passage in a sealed segment; a chunk's id is its passage's number."""
    engine = EmbeddedEngine(tmp_path_factory.mktemp("lexical"))
    writer = engine.open(Generation("gen_oracle", "c", "e", 2, "k", "a"), writable=True)
    vector = np.array([1, 0], np.float32)
    ops: list[Op] = []
    for number, terms in enumerate(real.passages):
        name = f"{number}"
        chunk = Chunk(name, name, 0, tuple(terms), vector)
        ops.append(Describe(name, frozenset({"public"}), {}))
        ops.append(Put(name, name, 0, FOREVER, 1, FOREVER, (chunk,)))
    writer.apply(ops, seq=1)
    writer.publish()
    yield engine.pin("gen_oracle")
    engine.close()


def found(leg: Searcher, terms: Sequence[str]) -> dict[int, float]:
    """Passage -> score of the best TOP, best first."""
    hits = leg.search(Query(Allowed.everything(), at=1, limit=TOP, terms=tuple(terms)))
    scores = [(hit.lexical, int(hit.chunk_id)) for hit in hits]
    ranked = sorted((leg.rank, number, leg.score) for leg, number in scores if leg is not None and leg.rank is not None)
    return {number: score for _, number, score in ranked}


def overlap(oracle: BM25Okapi, leg: Searcher, questions: Sequence[list[str]]) -> float:
    """The share of the leg's best TOP that are of the oracle's best TOP, or tie with its last."""
    shares = []
    for terms in questions:
        mine, theirs = found(leg, terms), oracle.get_scores(terms)
        cut = np.sort(theirs)[-TOP] - 1e-9
        shares.append(sum(theirs[number] >= cut for number in mine) / TOP)
    return statistics.fmean(shares)


def test_with_the_same_idf_scores_and_ranks_are_those_of_rank_bm25(real: Real, leg: Searcher) -> None:
    oracle = SameIdf(real.passages, k1=K1, b=B)
    for terms in real.questions:
        mine, theirs = found(leg, terms), oracle.get_scores(terms)
        assert list(mine.values()) == pytest.approx(sorted(theirs, reverse=True)[:TOP], abs=1e-9)
        assert list(mine.values()) == pytest.approx([theirs[number] for number in mine], abs=1e-9)


def test_ranks_agree_with_rank_bm25_as_it_comes(real: Real, leg: Searcher) -> None:
    assert overlap(BM25Okapi(real.passages, k1=K1, b=B), leg, real.questions) >= 0.95


def least(run: Callable[[], object], rounds: int) -> float:
    """Seconds of the quickest of several rounds: noise only ever adds."""
    took = []
    for _ in range(rounds):
        began = perf_counter()
        run()
        took.append(perf_counter() - began)
    return min(took)


def test_twenty_times_the_queries_per_second_of_rank_bm25(real: Real, leg: Searcher) -> None:
    passages, questions = real.passages[:5_000], real.questions[::10]
    oracle = BM25Okapi(passages, k1=K1, b=B)
    theirs = least(lambda: [np.argsort(oracle.get_scores(terms))[-TOP:] for terms in questions], rounds=3)
    mine = least(lambda: [found(leg, terms) for terms in questions], rounds=10)
    assert theirs / mine >= 20, f"{theirs / mine:.1f}"
