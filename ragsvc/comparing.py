"""Which of two generations answers a collection's questions better? Both are asked in the way that answers are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from math import log2

from indexes.fusion import convex, dense_only, lexical_only
from indexes.model import Allowed, Generation, Hit, Query
from indexes.protocols import Embedder
from ingest.catalog.catalog import Catalog
from ingest.catalog.database import to_us
from ingest.comparison import Comparison, Figures
from ingest.errors import Conflict
from ingest.follow import Follower
from ingest.model import Collection, Judged
from ingest.pipeline import now_utc
from ingest.run import Run
from ragsvc.retrieve import Retriever

_DEPTH = 100  # of each leg, as in retrieve.py
_AT = 10
_KNOWN_ITEMS = 100
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Asking:
    """Searches one generation, whichever serves: both legs, fused, everything allowed."""

    follower: Follower
    retriever: Retriever
    embedder_of: Callable[[str], Embedder]

    def hits(self, text: str, generation: Generation, *, depth: int = _DEPTH) -> list[Hit]:
        """The best of both legs, not yet fused."""
        query = Query(
            allowed=Allowed.everything(),
            at=to_us(now_utc()),
            limit=depth,
            vector=self.embedder_of(generation.embedder).encode_query(text)[0],
            terms=self.retriever.terms(text, generation),
        )
        return list(self.follower.pin(generation.id).search(query))


@dataclass(frozen=True, slots=True)
class Comparing:
    """Asks two generations the collection's evaluation set, or else sentences of its own documents."""

    catalog: Catalog
    asking: Asking

    def __call__(self, collection: Collection, old: Generation, new: Generation, run: Run) -> Comparison | None:
        """None where there is nothing to ask. Raises Conflict if no judgement names a document, and Cancelled."""
        judged, unknown = self.catalog.evaluations.resolved(collection.id)
        stored = bool(judged)
        if stored and not any(one.relevant for one in judged):
            raise Conflict(
                f"No document of collection {collection.name!r} is named by its evaluation set ({unknown} names).",
                hint="Name documents by id, URI or file name, or delete the set to be asked for known sentences.",
            )
        asked = [one for one in judged if one.relevant]
        asked = asked or list(self.catalog.evaluations.known_items(collection.id, count=_KNOWN_ITEMS))
        if not asked:
            return None
        run.begin("evaluate", len(asked))
        scores = [self._score(one, (old, new), run) for one in asked]
        return Comparison(
            source="stored" if stored else "sampled",
            queries=len(asked),
            unknown=unknown,
            old=_mean([score[0] for score in scores]),
            new=_mean([score[1] for score in scores]),
            worse=_worse(asked, scores),
        )

    def _score(self, one: Judged, generations: Sequence[Generation], run: Run) -> list[Figures]:
        run.check()
        asked = [self.asking.hits(one.text, generation) for generation in generations]
        run.done += 1
        return [_figures(hits, one.relevant) for hits in asked]


def _figures(hits: Sequence[Hit], relevant: Mapping[str, int]) -> Figures:
    fused, dense, lexical = (_documents(order(hits)) for order in (convex, dense_only, lexical_only))
    return Figures(ndcg(fused, relevant), recall(fused, relevant), ndcg(dense, relevant), ndcg(lexical, relevant))


def _documents(fused: Sequence[tuple[Hit, float]]) -> list[str]:
    """Ids, best first: a document is as good as its best chunk."""
    return list(dict.fromkeys(hit.document_id for hit, _ in fused))


def ndcg(ranked: Sequence[str], relevant: Mapping[str, int], *, at: int = _AT) -> float:
    """nDCG@`at` with linear gains, as trec_eval has it (Jarvelin, Kekalainen 2002)."""
    best = sorted(relevant.values(), reverse=True)[:at]
    ideal = sum(grade / log2(rank) for rank, grade in enumerate(best, 2))
    gained = sum(relevant.get(name, 0) / log2(rank) for rank, name in enumerate(ranked[:at], 2))
    return gained / ideal if ideal else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, int], *, at: int = _AT) -> float:
    """The share of the relevant documents that are among the first `at`."""
    wanted = {name for name, grade in relevant.items() if grade > 0}
    return len(wanted.intersection(ranked[:at])) / len(wanted) if wanted else 0.0


def _mean(figures: Sequence[Figures]) -> Figures:
    columns = zip(*(astuple(one) for one in figures), strict=True)
    return Figures(*(sum(column) / len(figures) for column in columns))


def _worse(asked: Sequence[Judged], scores: Sequence[Sequence[Figures]]) -> tuple[tuple[str, float, float], ...]:
    """(id, old nDCG, new nDCG) of the questions that lost most. By id only: a sampled one is a document's text."""
    pairs = zip(asked, scores, strict=True)
    lost = [(one.id, old.ndcg_at_10, new.ndcg_at_10) for one, (old, new) in pairs if new.ndcg_at_10 < old.ndcg_at_10]
    return tuple(sorted(lost, key=lambda entry: entry[2] - entry[1])[:_SHOWN])
