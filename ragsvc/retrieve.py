"""READ FIRST. Question -> grounded context: pin, embed, search, fuse, confirm, pack, cite, judge, account."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import perf_counter

from indexes.analyze import Analyzer, detect_language
from indexes.errors import EmbedderError
from indexes.fusion import convex, dense_only, lexical_only
from indexes.model import Generation, Hit, Mode, Query, Vector
from indexes.protocols import Embedder
from ingest.catalog.catalog import Catalog
from ingest.follow import Follower
from ingest.pipeline import now_utc
from ragsvc.answer import Answer, Found, Question, Result
from ragsvc.candidates import account, best_cosine, candidates_of, within_limits
from ragsvc.citations import citation_id, location_of, sha256_of
from ragsvc.freshness import freshness_of
from ragsvc.model import Packed, Passage, Sufficiency
from ragsvc.pack import pack
from ragsvc.pinning import Pinned, Pinning, state_of
from ragsvc.sufficiency import judge
from ragsvc.tokens import TokenCounter, token_counter

_DEPTH = 100
_CANDIDATES = 30
_CACHED_QUERIES = 1024


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
        analyzer_of: Callable[[str], Analyzer],
        *,
        default_sla_s: int,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self._catalog = catalog
        self._embedder_of = embedder_of
        self._analyzer_of = analyzer_of
        self._analyzer = analyzer_of(Analyzer.id)  # judges and packs: their weights were learned with its terms
        self._checked: set[tuple[str, str]] = set()
        self.default_sla_s = default_sla_s
        self._now = clock
        self._pinning = Pinning(catalog, follower)
        self._queries: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self._languages: dict[str, tuple[int, dict[str, int]]] = {}
        self._lock = threading.Lock()

    def retrieve(self, question: Question) -> Answer:
        """Raises QueryInvalid, NotFound (a collection), Stale, EngineError."""
        clock, now = _Clock(), self._now()
        counter = token_counter(question.tokenizer)
        pinned = self._pinning.pin(question, now)
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
            state=state_of(question, pinned),
            context=packed.context,
            results=tuple(self._cite(passage, found) for passage in packed.passages),
            sufficiency=sufficiency,
            usage=account(packed, found, counter),
            dropped=tuple(dropped + [(citation_id(d.version_id, d.spans), d.reason) for d in packed.dropped]),
            timings_ms={},
            warnings=tuple(p.warning for p in pinned if p.warning is not None),
        )
        clock.mark("assemble")
        return replace(answer, timings_ms=clock.total())

    def _embedders(self, mode: Mode, pinned: Sequence[Pinned]) -> dict[str, Embedder]:
        """The models of the collections, by name; none for a lexical search of sound indexes."""
        wanted = [p for p in pinned if mode != "lexical" or p.warning]  # exact search knows no words
        found: dict[str, Embedder] = {}
        for p in wanted:
            try:
                embedder = found[p.generation.embedder] = self._embedder_of(p.generation.embedder)
            except EmbedderError as error:
                named = f"Collection {p.collection.name!r} cannot be searched: {error.message}"
                raise type(error)(named, hint=error.hint) from error
            if (p.generation.id, embedder.id) not in self._checked:
                self._catalog.generations.check_model(p.generation, embedder.id, embedder.dimensions)
                self._checked.add((p.generation.id, embedder.id))
        return found

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
        self, question: Question, pinned: Sequence[Pinned], vectors: Mapping[str, Vector]
    ) -> dict[tuple[str, bool], list[Hit]]:
        """The hits by model and whether they come from exact search, the lexical scores as of one collection."""
        asked = () if question.mode == "dense" else [self._terms(question.text, p) for p in pinned]
        every = set().union(*asked)
        counts = [p.searcher.statistics(every, at_seq=p.at_seq) for p in pinned] if every else []
        statistics = sum(counts[1:], counts[0]) if counts else None
        hits: dict[tuple[str, bool], list[Hit]] = {}
        for number, p in enumerate(pinned):
            exact = p.warning is not None
            terms = asked[number] if asked else ()
            vector = vectors.get(p.generation.embedder) if question.mode != "lexical" or exact else None
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
            hits.setdefault((p.generation.embedder, exact), []).extend(p.searcher.search(query))
        return hits

    def terms(self, text: str, generation: Generation, *, seq: int | None = None) -> tuple[str, ...]:
        """The terms of a question as the lexical index of a generation has them, or had them at entry `seq`."""
        at = self._catalog.changes.last_seq(generation.collection_id) if seq is None else seq
        langs = dict.fromkeys((*self._languages_of(generation.collection_id, at), detect_language(text), None))
        return tuple(self._analyzer_of(generation.analyzer).query_terms(text, langs=list(langs)))

    def _terms(self, text: str, pinned: Pinned) -> tuple[str, ...]:
        return self.terms(text, pinned.generation, seq=pinned.moment.seq)

    def _languages_of(self, collection_id: str, seq: int) -> list[str]:
        """The languages of all that had been recorded at an entry: a replay must ask with the same terms."""
        with self._lock:
            known, first = self._languages.get(collection_id, (0, {}))
        if seq > known:
            first = self._catalog.changes.languages(collection_id, after=known) | first
            with self._lock:
                self._languages[collection_id] = (seq, first)
        return sorted(lang for lang, recorded in first.items() if recorded <= seq)

    def _confirm(
        self, question: Question, pinned: Sequence[Pinned], best: Sequence[tuple[Hit, float]], now: datetime
    ) -> list[Found]:
        """Those hits that the catalogue, asked now, says are in force and readable for this caller."""
        documents = self._catalog.documents
        found: dict[str, Found] = {}
        for p in pinned:
            version_ids = list({hit.version_id for hit, _ in best})
            # as of the pinned state: what replaced a version since is not in that state, and one of the two must show
            versions = documents.in_force(version_ids, allowed=question.allowed, at=p.at, at_seq=p.moment.seq)
            chunks = documents.chunks([hit.chunk_id for hit, _ in best], generation_id=p.generation.id)
            texts = documents.texts(list(versions))
            sources = self._catalog.sources.by_ids({document.source_id for _, document in versions.values()})
            for hit, fused in best:
                if hit.version_id in texts and hit.chunk_id in chunks:
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


def _fuse(mode: Mode, hits: Mapping[tuple[str, bool], Sequence[Hit]]) -> list[tuple[Hit, float]]:
    """Best first. Cosines of two models do not compare, so each model's hits are normalised for themselves.

    A single leg keeps its own scores, unless exact search has to stand in for some words: then all are normalised.
    """
    order = {"hybrid": convex, "dense": dense_only, "lexical": lexical_only}[mode]
    if mode == "dense" or not any(exact for _, exact in hits):
        fused = [pair for group in hits.values() for pair in order(group)]
    else:
        weight = 0.5 if mode == "hybrid" else 0.0
        fused = [pair for (_, exact), group in hits.items() for pair in convex(group, 1.0 if exact else weight)]
    return sorted(fused, key=lambda pair: (-pair[1], pair[0].chunk_id))
