"""`ragsvc eval`: a data set in BEIR layout through the real pipeline and the real search.

Layout: corpus.jsonl {_id, title, text}, queries.jsonl {_id, text}, qrels/*.tsv (query-id corpus-id score).
The corpus is ingested once into an installation of its own under RAGSVC_DATA/eval and kept for the next run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import quote, unquote

import ir_measures
from ir_measures import MRR, Qrel, R, ScoredDoc, nDCG
from rich.console import Console

from indexes.fusion import convex, dense_only, lexical_only, rrf
from indexes.model import Hit
from ingest.drafting import Drafting
from ingest.embed import EmbeddingPass
from ingest.model import Collection, Fetched, Item
from ingest.pipeline import Pipeline, now_utc
from ingest.run import Run
from ragsvc.beir import check_layout, judgements, questions
from ragsvc.bootstrap import Service, build, chunker_of
from ragsvc.comparing import Asking
from ragsvc.settings import Settings

_MEASURES = (nDCG @ 10, R @ 100, MRR @ 10)
_DEPTH = 400
_MODES: dict[str, Callable[[list[Hit]], list[tuple[Hit, float]]]] = {
    "hybrid": convex,
    "dense": dense_only,
    "lexical": lexical_only,
    "rrf": rrf,
}


class CorpusConnector:
    """The seam Connector on a corpus.jsonl: each passage is an HTML document with its title as heading."""

    def __init__(self, path: Path) -> None:
        with path.open(encoding="utf-8") as lines:
            self._documents = {quote(one["_id"], safe=""): one for one in map(json.loads, lines)}

    def list(self) -> Iterator[Item]:
        """Every passage."""
        for key, document in self._documents.items():
            body = _html(document)
            yield Item(f"beir:{key}", key, hashlib.sha256(body).hexdigest())

    def fetch(self, item: Item) -> Fetched:
        """A passage as HTML."""
        return Fetched(_html(self._documents[item.name]), item.fingerprint, "text/html")

    def watch(self, changed: Callable[[], None], stop: Callable[[], bool]) -> None:
        """A data set does not change."""


def _html(document: dict[str, str]) -> bytes:
    title = escape(document.get("title", ""))
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in document["text"].split("\n\n"))
    return f"<title>{title}</title><h1>{title}</h1>{paragraphs}".encode()


def evaluate(dataset: Path, settings: Settings, *, say: Console | None) -> dict[str, Any]:
    """Figures by mode: nDCG@10, R@100 and MRR@10 over the queries of the test qrels. Raises Conflict."""
    check_layout(dataset, "corpus.jsonl", "queries.jsonl", "qrels")
    digest = hashlib.sha256(str(dataset.resolve()).encode()).hexdigest()[:8]
    own = settings.model_copy(update={"data": settings.data / "eval" / f"{dataset.name}-{digest}", "database": None})
    with build(own, writable=True) as service:
        service.embedder_of = _shared_model(settings)
        collection = service.ensure_collection(_collection_name(settings))
        ingested = _ingest(service, collection, CorpusConnector(dataset / "corpus.jsonl"), say)
        figures = _measure(service, collection, dataset)
    figures["ingest"] = ingested
    if say is not None:
        _show(figures, say)
    return figures


def _shared_model(settings: Settings) -> Callable[[str], Any]:
    """Models are looked for where this installation keeps them, not in the evaluation's own folder."""
    from functools import lru_cache

    from indexes.embedder import open_embedder

    return lru_cache(lambda name: open_embedder(name, models_dir=settings.models_dir, threads=settings.threads))


def _collection_name(settings: Settings) -> str:
    """One collection per model and chunk size, so that a changed setting never reuses another's index."""
    recipe = hashlib.sha256(f"{settings.embedder} {settings.chunk_target}".encode()).hexdigest()[:8]
    return f"eval-{recipe}"


def _ingest(
    service: Service, collection: Collection, connector: CorpusConnector, say: Console | None
) -> dict[str, Any]:
    began = perf_counter()
    source = service.catalog.sources.find(collection_id=collection.id, kind="beir", uri="beir:") or (
        service.catalog.sources.add(collection_id=collection.id, kind="beir", uri="beir:", now=now_utc())
    )
    generation = service.catalog.collections.generation(collection.generation_id)
    assert service.ingestion is not None
    drafting = Drafting(
        source=source,
        connector=connector,
        jail=service.ingestion.jail,
        chunker=chunker_of(generation.chunker),
        default_access=collection.access,
    )
    run = Run()
    if say is not None:
        say.print("ingesting the corpus (only what is new) ...")
    embedding = EmbeddingPass(service.embedder_of(generation.embedder), service.catalog.documents)
    Pipeline(service.catalog).sync(drafting, embedding, generation, run)
    return {**run.counts, "chunks": run.chunks, "embedded": run.embedded, "seconds": round(perf_counter() - began, 1)}


def _measure(service: Service, collection: Collection, dataset: Path) -> dict[str, Any]:
    judged = judgements(dataset)
    qrels = [Qrel(query_id, name, grade) for query_id, graded in judged.items() for name, grade in graded.items()]
    runs: dict[str, list[ScoredDoc]] = {mode: [] for mode in _MODES}
    for query_id, text in questions(dataset):
        if query_id in judged:
            hits, names = _search(service, collection, text)
            for mode, order in _MODES.items():
                runs[mode] += _by_document(query_id, order(hits), names)
    modes = {
        mode: {str(measure): value for measure, value in ir_measures.calc_aggregate(_MEASURES, qrels, run).items()}
        for mode, run in runs.items()
    }
    return {"dataset": dataset.name, "queries": len(judged), "modes": modes}


def _search(service: Service, collection: Collection, text: str) -> tuple[list[Hit], dict[str, str]]:
    """The hits of both legs, and the passage id of each document."""
    generation = service.catalog.collections.generation(collection.generation_id)
    hits = Asking(service.follower, service.retriever, service.embedder_of).hits(text, generation, depth=_DEPTH)
    documents = service.catalog.changes.documents(list({hit.document_id for hit in hits}))
    return hits, {document.id: unquote(document.uri.removeprefix("beir:")) for document in documents.values()}


def _by_document(query_id: str, fused: list[tuple[Hit, float]], names: dict[str, str]) -> list[ScoredDoc]:
    """A document is as good as its best chunk; itself is never an answer to itself."""
    best: dict[str, float] = {}
    for hit, score in fused:
        name = names[hit.document_id]
        if name != query_id:
            best[name] = max(score, best.get(name, score))
    return [ScoredDoc(query_id, name, score) for name, score in best.items()]


def _show(figures: dict[str, Any], console: Console) -> None:
    console.print(f"{figures['dataset']}: {figures['queries']} queries; ingest {figures['ingest']}")
    for mode, values in figures["modes"].items():
        console.print(f"{mode:8} " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
