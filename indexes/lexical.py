"""Which rows match these terms best? Exact BM25; the only importer of tantivy.

tantivy finds candidates quickly but rounds row lengths and knows one segment only. So its best rows are scored again
from the postings with the statistics of the whole generation, and taken only when it is certain that no row it left
out could be among the best; else, and where few postings are concerned, all of them are scored. The result is the
same either way. Queries are built from terms, never through tantivy's query language (nested parentheses kill the
process), and a term is indexed as its number, so it may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import tantivy

from indexes import durable
from indexes.allowed import RowSet
from indexes.columns import ends_of
from indexes.errors import SegmentDamaged
from indexes.postings import BLOCK_ROWS, Terms
from indexes.stats import Rows, Scores, TermRows, Weights, best, idf, score_all, score_rows

EXACT_POSTINGS: Final = 5_000
"""Up to so many postings of the query's terms, scoring all of them is as fast as asking tantivy."""
MAX_FETCH: Final = 2_000
"""With a filter so strict that more candidates than this are needed, scoring all postings is faster."""
POSTINGS_PER_ROW: Final = 16
"""Looking a row up in a posting costs about as much as scoring so many postings."""
WRITER_HEAP: Final = 64_000_000  # bytes; tantivy wants at least 15 MB for a thread
TERMS: Final = "terms"
ROW: Final = "row"


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(TERMS, tokenizer_name="whitespace", index_option="freq")
    builder.add_unsigned_field(ROW, fast=True)
    return builder.build()


class LexicalIndex:
    """The tantivy index of one sealed segment, over the same rows as `terms`."""

    def __init__(self, index: tantivy.Index, terms: Terms) -> None:
        self._schema = index.schema
        self._searcher = index.searcher()
        self._terms = terms
        self._average = terms.total / len(terms) if len(terms) else 1.0

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def candidates(self, weights: Weights, count: int) -> tuple[Rows, float]:
        """tantivy's best `count` rows, and a bound: no other row of this segment has an exact score above it."""
        clauses = []
        for term, weight in weights.terms:
            number = self._terms.find(term)
            if number is not None:
                local = idf(len(self._terms), len(self._terms.posting(term)[0]))
                query = tantivy.Query.term_query(self._schema, TERMS, str(number), "freq")
                clauses.append((tantivy.Occur.Should, tantivy.Query.boost_query(query, weight / local)))
        if not clauses:
            return np.zeros(0, np.int64), 0.0
        hits = self._searcher.search(tantivy.Query.boolean_query(clauses), count, count=False).hits
        rows = np.array(self._searcher.fast_field_values(ROW, [address for _, address in hits]), np.int64)
        if len(hits) < count:
            return rows, 0.0
        # tantivy rounds lengths down, which only raises scores; its average length is the segment's, and a
        # shorter one lowers scores by at most the ratio. A little more for its float32 sums.
        return rows, float(hits[-1][0]) * max(1.0, weights.average_length / self._average) * 1.0001


class LexicalRows(TermRows, Protocol):
    """Rows that can be searched by terms."""

    @property
    def lexical(self) -> LexicalIndex | None:
        """The tantivy index over the same rows, None where they are not sealed yet."""
        ...


def lexical_top(source: LexicalRows, weights: Weights, limit: int, allowed: RowSet) -> tuple[Rows, Scores]:
    """The best `limit` allowed rows that hold a term, and all that tie with the last, in no order, and their scores."""
    postings = sum(len(source.posting(term)[0]) for term, _ in weights.terms)
    if postings == 0 or allowed.count == 0:
        return np.zeros(0, np.int64), np.zeros(0)
    if allowed.count * POSTINGS_PER_ROW * len(weights.terms) <= postings:
        return _best_of(source, weights, limit, allowed.rows)
    if postings > EXACT_POSTINGS and source.lexical is not None:
        found = _proven(source, source.lexical, weights, limit, allowed)
        if found is not None:
            return found
    scores = score_all(source, weights)
    if not allowed.everything:
        scores[~allowed.mask] = 0.0
    rows = np.flatnonzero(scores)
    return _cut(rows, scores[rows], limit)


def _cut(rows: Rows, scores: Scores, limit: int) -> tuple[Rows, Scores]:
    chosen = best(scores, limit)
    return rows[chosen], scores[chosen]


def _best_of(source: TermRows, weights: Weights, limit: int, rows: Rows) -> tuple[Rows, Scores]:
    scores = score_rows(source, weights, rows)
    found = np.flatnonzero(scores)
    return _cut(rows[found], scores[found], limit)


def _proven(
    source: TermRows, index: LexicalIndex, weights: Weights, limit: int, allowed: RowSet
) -> tuple[Rows, Scores] | None:
    fetch = int((2 * limit + 32) * len(allowed.mask) / allowed.count)
    if fetch > MAX_FETCH:
        return None
    rows, bound = index.candidates(weights, fetch)
    rows = rows[allowed.mask[rows]]
    scores = score_rows(source, weights, rows)
    if bound > 0.0 and (len(rows) < limit or np.partition(scores, len(rows) - limit)[len(rows) - limit] <= bound):
        return None
    return _cut(rows, scores, limit)


def write_lexical(folder: Path, terms: Terms) -> None:
    """Build the index in an existing, empty folder. Raises StorageFailed."""
    try:
        index = tantivy.Index(_schema(), path=str(folder), reuse=False)
        # One thread and one commit make as few tantivy segments as possible.
        writer = index.writer(heap_size=WRITER_HEAP, num_threads=1)
        for row, text in enumerate(_texts(terms)):
            document = tantivy.Document()
            document.add_text(TERMS, text)
            document.add_unsigned(ROW, row)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
    except ValueError as error:  # what tantivy's binding makes of every failure, a full disk among them
        raise durable.failure("The lexical index could not be written", told=str(error)) from error
    for path in folder.iterdir():
        durable.sync_file(path)
    durable.sync_folder(folder)


def _texts(terms: Terms) -> Iterator[str]:
    """What tantivy indexes for each row: the numbers of its terms, each as often as the row holds it."""
    for first in range(0, len(terms), BLOCK_ROWS):
        offsets = terms.offsets[first : first + BLOCK_ROWS + 1].astype(np.int64)
        part = slice(int(offsets[0]), int(offsets[-1]))
        numbers = np.repeat(terms.ids[part], terms.counts[part])
        ends = ends_of(terms.lengths[first : first + BLOCK_ROWS]).tolist()
        for start, end in pairwise(ends):
            # The fastest way to write a list of numbers with blanks between them.
            yield str(numbers[start:end].tolist())[1:-1].replace(",", "")


def read_lexical(folder: Path, terms: Terms) -> LexicalIndex:
    """Load what `write_lexical` stored. Raises SegmentDamaged."""
    try:
        index = tantivy.Index.open(str(folder))
        index.config_reader("manual")  # nothing changes here: no thread needs to look
        return LexicalIndex(index, terms)
    except ValueError as error:
        raise SegmentDamaged(f"tantivy cannot read segment {folder.parent.name}: {error}.") from error
