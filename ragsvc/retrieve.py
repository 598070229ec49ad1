"""READ FIRST. Question -> grounded context: pin, embed, search, fuse, confirm, pack, cite, judge, account."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic, perf_counter

from indexes.analyze import Analyzer, detect_language
from indexes.errors import QueryInvalid
from indexes.fusion import convex, dense_only, lexical_only
from indexes.model import Generation, Hit, Mode, Query, Vector
from indexes.protocols import Embedder, Searcher
from ingest.catalog.catalog import Catalog
from ingest.catalog.database import from_us, to_us
from ingest.follow import Follower
from ingest.model import Collection
from ingest.pipeline import now_utc
from ragsvc.answer import Answer, Found, Question, Result, State, parse_snapshot
from ragsvc.candidates import account, best_cosine, candidates_of, within_limits
from ragsvc.citations import citation_id, location_of, sha256_of
from ragsvc.freshness import freshness_of
from ragsvc.model import Packed, Passage, Sufficiency
from ragsvc.pack import pack
from ragsvc.sufficiency import judge
from ragsvc.tokens import TokenCounter, token_counter

_DEPTH = 100
_CANDIDATES = 30
_CACHED_QUERIES = 1024
_LANGUAGES_S = 30.0


@dataclass(frozen=True, slots=True)
class _Pinned:
    """One collection's state for this question: document time `at`, and the sequence number to replay, if any."""

    collection: Collection
    generation: Generation
    searcher: Searcher
    at: int
    at_seq: int | None


@dataclass(slots=True)
class _Clock:
    marks: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=perf_counter)
    _at: float = field(default_factory=perf_counter)

    def mark(self, name: str) -> None:
        now = perf_counter()
        self.marks[name] = round((now - self._at) * 1000, 3)
        self._at = now

    def total(self) -> dict[str, float]:
        return {**self.marks, "total": round((perf_counter() - self._began) * 1000, 3)}


class Retriever:
    """Answers questions. Thread-safe; knows nothing of HTTP."""

    def __init__(
        self,
        catalog: Catalog,
        follower: Follower,
        embedder_of: Callable[[str], Embedder],
        analyzer: Analyzer,
        *,
        default_sla_s: int,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self._catalog = catalog
        self._follower = follower
        self._embedder_of = embedder_of
        self._analyzer = analyzer
        self.default_sla_s = default_sla_s
        self._now = clock
        self._queries: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self._languages: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._lock = threading.Lock()

    def retrieve(self, question: Question) -> Answer:
        """Raises QueryInvalid, NotFound (a collection), Stale, EngineError."""
        clock, now = _Clock(), self._now()
        counter = token_counter(question.tokenizer)
        pinned = self._pin(question, now)
        clock.mark("pin")
        embedders = self._embedders(question.mode, pinned)
        vectors = {name: self._query_vector(name, embedder, question.text) for name, embedder in embedders.items()}
        clock.mark("embed")
        fused = _fuse(question.mode, self._search(question, pinned, vectors))
        clock.mark("search")
        confirmed = self._confirm(question, pinned, fused[:_CANDIDATES], now)
        found, dropped = within_limits(question, confirmed)
        packed, sufficiency = self._pack(question, found, embedders, vectors, counter)
        answer = Answer(
            id="ret_" + secrets.token_hex(12),
            question=question,
            state=self._state(question, pinned),
            context=packed.context,
            results=tuple(self._cite(passage, found) for passage in packed.passages),
            sufficiency=sufficiency,
            usage=account(packed, found, counter),
            dropped=tuple(dropped + [(citation_id(d.version_id, d.spans), d.reason) for d in packed.dropped]),
            timings_ms={},
        )
        clock.mark("assemble")
        return replace(answer, timings_ms=clock.total())

    def _pin(self, question: Question, now: datetime) -> list[_Pinned]:
        """One state of each collection: the newest, or the one that an earlier answer came from."""
        replayed = None if question.snapshot is None else parse_snapshot(question.snapshot)
        pinned = []
        for name in question.collections:
            collection = self._catalog.collections.get(name)
            generation = self._follower.generation(collection.generation_id)
            searcher = self._follower.pin(generation.id)
            at_seq = None
            if replayed is not None:
                at_seq = replayed.get(generation.id)
                if at_seq is None or at_seq > searcher.snapshot.seq:
                    raise QueryInvalid(
                        f"{question.snapshot} is not a snapshot of collection {name!r}.",
                        hint="Ask with the collections of the retrieval that gave the snapshot.",
                    )
            pinned.append(_Pinned(collection, generation, searcher, self._at(question, at_seq, now), at_seq))
        return pinned

    def _at(self, question: Question, at_seq: int | None, now: datetime) -> int:
        """Document time: as asked; else now, or the moment when the replayed state was the newest."""
        if question.as_of is not None:
            return to_us(question.as_of)
        return to_us(now) if at_seq is None else self._catalog.changes.committed_at(at_seq)

    def _state(self, question: Question, pinned: Sequence[_Pinned]) -> State:
        newest = [p.searcher.snapshot for p in pinned]
        asked = [p.at_seq for p in pinned]
        snapshots = [s if seq is None else replace(s, seq=seq) for s, seq in zip(newest, asked, strict=True)]
        last = max((snapshot.seq for snapshot in snapshots), default=0)
        return State(
            id="snap_" + ".".join(snapshot.id.removeprefix("snap_") for snapshot in snapshots),
            generation=",".join(snapshot.generation_id for snapshot in snapshots),
            seq=last,
            as_of=question.as_of,
            committed_at=from_us(self._catalog.changes.committed_at(last)),
        )

    def _embedders(self, mode: Mode, pinned: Sequence[_Pinned]) -> dict[str, Embedder]:
        """The models of the collections, by name; none for a lexical search."""
        if mode == "lexical":
            return {}
        return {p.generation.embedder: self._embedder_of(p.generation.embedder) for p in pinned}

    def _query_vector(self, name: str, embedder: Embedder, text: str) -> Vector:
        key = (name, text)
        with self._lock:
            if key in self._queries:
                self._queries.move_to_end(key)
                return self._queries[key]
        vector: Vector = embedder.encode_query(text)[0]
        with self._lock:
            self._queries[key] = vector
            if len(self._queries) > _CACHED_QUERIES:
                self._queries.popitem(last=False)
        return vector

    def _search(
        self, question: Question, pinned: Sequence[_Pinned], vectors: Mapping[str, Vector]
    ) -> dict[str, list[Hit]]:
        """The hits of all collections by model, their lexical scores as if they were one collection."""
        asked = () if question.mode == "dense" else [self.terms(question.text, p.collection.id) for p in pinned]
        every = set().union(*asked)
        counts = [p.searcher.statistics(every, at_seq=p.at_seq) for p in pinned] if every else []
        statistics = sum(counts[1:], counts[0]) if counts else None
        hits: dict[str, list[Hit]] = {p.generation.embedder: [] for p in pinned}
        for number, p in enumerate(pinned):
            terms = asked[number] if asked else ()
            vector = vectors.get(p.generation.embedder)
            if vector is None and not terms:
                continue  # without a letter or digit there is nothing that a lexical search could find
            query = Query(
                allowed=question.allowed,
                at=p.at,
                limit=_DEPTH,
                vector=vector,
                terms=terms,
                filter=question.filter,
                at_seq=p.at_seq,
                statistics=statistics,
            )
            hits[p.generation.embedder].extend(p.searcher.search(query))
        return hits

    def terms(self, text: str, collection_id: str) -> tuple[str, ...]:
        """The terms of a question as the lexical index of a collection has them."""
        langs = dict.fromkeys((*self._languages_of(collection_id), detect_language(text), None))
        return tuple(self._analyzer.query_terms(text, langs=list(langs)))

    def _languages_of(self, collection_id: str) -> tuple[str, ...]:
        known = self._languages.get(collection_id)
        if known is None or monotonic() - known[0] > _LANGUAGES_S:
            known = (monotonic(), self._catalog.documents.languages(collection_id))
            self._languages[collection_id] = known
        return known[1]

    def _confirm(
        self, question: Question, pinned: Sequence[_Pinned], best: Sequence[tuple[Hit, float]], now: datetime
    ) -> list[Found]:
        """Those hits that the catalogue, asked now, says are in force and readable for this caller."""
        documents = self._catalog.documents
        found: dict[str, Found] = {}
        for p in pinned:
            version_ids = list({hit.version_id for hit, _ in best})
            versions = documents.in_force(version_ids, allowed=question.allowed, at=p.at, at_seq=p.at_seq)
            chunks = documents.chunks([hit.chunk_id for hit, _ in best], generation_id=p.generation.id)
            texts = documents.texts(list(versions))
            sources = self._catalog.sources.by_ids({document.source_id for _, document in versions.values()})
            for hit, fused in best:
                if hit.version_id in versions and hit.chunk_id in chunks:
                    version, document = versions[hit.version_id]
                    source = sources.get(document.source_id)
                    found[hit.chunk_id] = Found(
                        hit=hit,
                        fused=fused,
                        version=version,
                        document=document,
                        collection=p.collection.name,
                        generation=p.generation,
                        chunk=chunks[hit.chunk_id],
                        text=texts[version.id],
                        freshness=freshness_of(version, document, source, now=now, default_sla_s=self.default_sla_s),
                    )
        return [found[hit.chunk_id] for hit, _ in best if hit.chunk_id in found]

    def _pack(
        self,
        question: Question,
        found: Sequence[Found],
        embedders: Mapping[str, Embedder],
        vectors: Mapping[str, Vector],
        counter: TokenCounter,
    ) -> tuple[Packed, Sufficiency]:
        """The context under the budget; empty when the answer is surely not here, unless asked otherwise."""
        candidates = candidates_of(found, self._catalog.documents, embedders)
        langs = list(dict.fromkeys(one.version.lang for one in found)) or [None]
        terms = self._analyzer.query_terms(question.text, langs=langs)
        vector = next(iter(vectors.values())) if len(vectors) == 1 else None
        sufficiency = judge(candidates, terms=terms, analyzer=self._analyzer, cosine=best_cosine(candidates, vector))
        hopeless = sufficiency.verdict == "none" and not question.return_insufficient
        packed = pack(
            () if hopeless else candidates,
            question_terms=terms,
            question_vector=vector,
            analyzer=self._analyzer,
            counter=counter,
            max_tokens=question.max_tokens,
            top_k=question.top_k,
            compression=question.compression,
            version_text=lambda version_id: self._catalog.documents.text(version_id).text,
        )
        return packed, sufficiency

    def _cite(self, passage: Passage, found: Sequence[Found]) -> Result:
        """A passage with the hit that found it first."""
        one = next(one for one in found if one.hit.chunk_id in passage.chunk_ids)
        return Result(
            passage=passage,
            id=citation_id(passage.version_id, passage.spans),
            hit=one.hit,
            fused=one.fused,
            version=one.version,
            document=one.document,
            collection=one.collection,
            is_current=one.freshness.status not in ("superseded", "deleted_at_source"),
            location=location_of(one.text, passage.spans),
            quote_sha256=sha256_of(passage.text),
            freshness=one.freshness,
        )


def _fuse(mode: Mode, hits: Mapping[str, Sequence[Hit]]) -> list[tuple[Hit, float]]:
    """Best first. Cosines of two models do not compare, so each model's hits are normalised for themselves.

    A single leg keeps its own scores.
    """
    order = {"hybrid": convex, "dense": dense_only, "lexical": lexical_only}[mode]
    fused = [pair for group in hits.values() for pair in order(group)]
    return sorted(fused, key=lambda pair: (-pair[1], pair[0].chunk_id))
