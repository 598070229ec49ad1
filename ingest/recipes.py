"""What would a reindex do, and how long would it take? Nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from indexes.model import Generation
from indexes.protocols import Embedder
from ingest.catalog.catalog import Catalog
from ingest.catalog.ids import vector_key
from ingest.embed import sentence_input
from ingest.errors import Conflict
from ingest.model import Build, Collection, Text
from ingest.pipeline import now_utc
from ingest.protocols import Chunker

_SAMPLE = 200
_TIMED = 64
_CHUNK_BYTES = 6  # by dimension: two in the catalogue, four in the index
_SENTENCE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a generation is built with, by the names that settings and commands use."""

    embedder: str
    chunker: str
    analyzer: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is still to be done. Where `exact` is false, all but versions and sentences is projected from a sample.

    `to_embed` of the `sentences` are not known to the model yet; `bytes` will be added to the data folder.
    """

    versions: int
    chunks: int
    sentences: int
    to_embed: int
    bytes: int
    seconds: float
    exact: bool


def build_of(catalog: Catalog, collection: Collection, recipe: Recipe, embedder: Embedder) -> Build:
    """The build of a recipe as far as it is, or one that has not begun. Raises Conflict if it serves already."""
    for build in catalog.generations.all(collection.id):
        made = build.generation
        if Recipe(made.embedder, made.chunker, made.analyzer) == recipe and build.model in (embedder.id, None):
            if build.state == "serving":
                raise Conflict(
                    f"Generation {made.id}, which serves, is of this recipe already.",
                    hint="Name another embedder, chunker or analyzer.",
                )
            return build
    made = Generation(
        "gen_planned", collection.id, recipe.embedder, embedder.dimensions, recipe.chunker, recipe.analyzer
    )
    return Build(made, "building", embedder.id, 0, None, now_utc(), None)


def plan_of(catalog: Catalog, build: Build, embedder: Embedder, chunker: Chunker) -> Plan:
    """A sample of what is missing is chunked and looked up, and the model is timed on a part of it."""
    pending = catalog.generations.pending(build)
    began = perf_counter()
    sample = catalog.generations.missing(build, sample=_SAMPLE)
    texts = catalog.documents.texts(sample).values()
    chunks = sum(len(chunker.chunk(Text(one.text, one.blocks))) for one in texts)
    inputs = {sentence_input(one.text, span) for one in texts for span in one.sentences}
    keys = {vector_key(embedder.id, text): text for text in sorted(inputs)}
    known, _ = catalog.documents.vectors(list(keys), dimensions=embedder.dimensions)
    unknown = [text for key, text in keys.items() if key not in known]
    share = pending.versions / max(len(sample), 1)
    chunking_s = (perf_counter() - began) * share
    to_embed = round(len(unknown) * share)
    chunks = round(chunks * share)
    return Plan(
        versions=pending.versions,
        chunks=chunks,
        sentences=pending.sentences,
        to_embed=to_embed,
        bytes=embedder.dimensions * (chunks * _CHUNK_BYTES + to_embed * _SENTENCE_BYTES),
        seconds=round(chunking_s + to_embed * _seconds_each(embedder, unknown), 1),
        exact=len(sample) == pending.versions,
    )


def _seconds_each(embedder: Embedder, texts: Sequence[str]) -> float:
    """Measured on a few of them; 0 if there is nothing to embed."""
    some = texts[:: max(len(texts) // _TIMED, 1)][:_TIMED]
    if not some:
        return 0.0
    embedder.encode(some[:1])  # loads the model
    began = perf_counter()
    embedder.encode(some)
    return (perf_counter() - began) / len(some)
