"""What would FAISS and tantivy alone cost? One index of each over all rows, and none of the engine's guarantees.

No versions, readers, filters or deletions, no snapshots, no checksums, no durable publishing, no statistics over
segments, no second score: each leg gives row numbers with its own scores, one leg after the other, and nothing joins
them. The FAISS index is of the kind that the engine chose for its largest part, with as many rows in a list, as many
of them looked at and as many candidates scored again; the tantivy index has the engine's schema and gets the same
boolean query of the same terms, as numbers.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import faiss
import numpy as np
import tantivy
from numpy.typing import NDArray

from bench.vectors import Rows
from indexes.model import DenseReport, Matrix, Vector

TERMS, ROW = "terms", "row"
HEAP: Final = 256_000_000  # bytes
TRAIN_PER_LIST: Final = 50
BLOCK: Final = 50_000
Found = NDArray[np.int64]


def build(folder: Path, rows: Rows, report: DenseReport) -> dict[str, Any]:
    """Write both indexes. Returns seconds and bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lexical").mkdir(parents=True)
    began = perf_counter()
    index = _dense(rows.vectors, report)
    faiss.write_index(index, str(folder / "dense.faiss"))
    dense_s, began = perf_counter() - began, perf_counter()
    _write_terms(folder / "lexical", rows)
    lexical_s = perf_counter() - began
    (folder / "bare.json").write_text(json.dumps(asdict(report)))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"dense_s": dense_s, "lexical_s": lexical_s, "bytes": size, "lists": _lists(report, len(rows))}


def _lists(report: DenseReport, rows: int) -> int:
    return max(1, round(report.lists * rows / report.rows)) if report.kind == "ivf" else 0


def _dense(vectors: Matrix, report: DenseReport) -> Any:
    dimensions = vectors.shape[1]
    if report.kind == "flat":
        index: Any = faiss.IndexFlatIP(dimensions)
    else:
        lists = _lists(report, len(vectors))
        spec = {"none": "Flat", "sq8": "SQ8", "pq": f"PQ{dimensions // 8}"}[report.quantization]
        index = faiss.index_factory(dimensions, f"IVF{lists},{spec}", faiss.METRIC_INNER_PRODUCT)
        count = min(len(vectors), max(10_000, lists * TRAIN_PER_LIST))
        sample = np.sort(np.random.default_rng(1).choice(len(vectors), count, replace=False))
        index.train(np.ascontiguousarray(vectors[sample]))
    for start in range(0, len(vectors), BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
    return index


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(TERMS, tokenizer_name="whitespace", index_option="freq")
    builder.add_unsigned_field(ROW, fast=True)
    return builder.build()


def _write_terms(folder: Path, rows: Rows) -> None:
    index = tantivy.Index(_schema(), path=str(folder))
    writer = index.writer(heap_size=HEAP, num_threads=1)
    for start in range(0, len(rows), BLOCK):
        offsets = rows.offsets[start : start + BLOCK + 1]
        words = [str(number) for number in rows.ids[offsets[0] : offsets[-1]].tolist()]
        ends = (offsets - offsets[0]).tolist()
        for row in range(len(ends) - 1):
            document = tantivy.Document()
            document.add_text(TERMS, " ".join(words[ends[row] : ends[row + 1]]))
            document.add_unsigned(ROW, start + row)
            writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()


def _read(path: Path) -> Any:
    """Any: what a list has, FAISS's types do not say of an index that was read."""
    return faiss.read_index(str(path))


class Bare:
    """Both indexes in memory. Safe to use from many threads."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        report = DenseReport(**json.loads((folder / "bare.json").read_text()))
        self._vectors = rows.vectors
        self._numbers = {term: str(number) for number, term in enumerate(rows.vocabulary.tolist())}
        self._dense = _read(folder / "dense.faiss")
        self._refine = report.refine if report.kind == "ivf" and report.quantization != "none" else 1.0
        if report.kind == "ivf":
            per_list = max(1.0, len(rows) / self._dense.nlist)
            self._dense.nprobe = max(1, min(self._dense.nlist, math.ceil(report.probe_rows / per_list)))
        index = tantivy.Index.open(str(folder / "lexical"))
        self._schema = index.schema
        self._searcher = index.searcher()

    def describe(self) -> str:
        """What is searched, for the report."""
        kind = type(self._dense).__name__
        probes = f", {self._dense.nprobe} of {self._dense.nlist} lists" if hasattr(self._dense, "nprobe") else ""
        return f"{kind}{probes}, refine {self._refine:g}; tantivy with {self._searcher.num_segments} segments"

    def dense(self, vector: Vector, limit: int) -> Found:
        """The best rows by inner product."""
        if self._refine <= 1.0:
            _, found = self._dense.search(vector[np.newaxis], limit)
            return np.asarray(found[0], np.int64)
        _, found = self._dense.search(vector[np.newaxis], math.ceil(self._refine * limit))
        rows = found[0][found[0] >= 0]
        scores = self._vectors[rows] @ vector
        return np.asarray(rows[np.argsort(-scores)[:limit]], np.int64)

    def lexical(self, terms: Sequence[str], limit: int) -> Found:
        """The best rows by tantivy's own BM25."""
        numbers = (self._numbers[term] for term in dict.fromkeys(terms) if term in self._numbers)
        clauses = [
            (tantivy.Occur.Should, tantivy.Query.term_query(self._schema, TERMS, number, "freq")) for number in numbers
        ]
        if not clauses:
            return np.zeros(0, np.int64)
        hits = self._searcher.search(tantivy.Query.boolean_query(clauses), limit, count=False).hits
        return np.array(self._searcher.fast_field_values(ROW, [address for _, address in hits]), np.int64)

    def both(self, vector: Vector, terms: Sequence[str], limit: int) -> tuple[Found, Found]:
        """One leg after the other."""
        return self.dense(vector, limit), self.lexical(terms, limit)
