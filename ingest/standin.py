"""What answers while the index of a generation is rebuilt? Exact search over the catalogue's vectors.

It follows the change log as the index does, so what was acknowledged is found by the next call here too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from indexes.exact import ExactIndex
from indexes.model import Generation, Op
from indexes.protocols import Searcher
from ingest.catalog.catalog import Catalog
from ingest.entries import Entries

_VERSIONS = 2_000
_ENTRIES = 500
REBUILT_HERE = "It is rebuilt in the background. Should that not end: stop the service, run `ragsvc verify --repair`."
REBUILT_THERE = "`ragsvc up` or `ragsvc work` rebuilds it; where neither runs: `ragsvc verify --repair`."


@dataclass(frozen=True, slots=True)
class View:
    """A pinned state. `why_exact` says why exact search stands in for the index (None: it does not)."""

    searcher: Searcher
    why_exact: str | None = None
    hint: str = ""


class StandIn:
    """One generation, loaded when it is first asked for. It loads about 50,000 chunks a second."""

    def __init__(self, catalog: Catalog, entries: Entries, generation: Generation) -> None:
        self._catalog = catalog
        self._entries = entries
        self._generation = generation
        self._index: ExactIndex | None = None
        self._lock = threading.Lock()

    def pin(self) -> Searcher:
        """The state that holds everything committed before this call. Raises DimensionMismatch, QueryInvalid."""
        collection_id = self._generation.collection_id
        with self._lock:
            end = follow_to(self._catalog, self._generation)
            if self._index is None:
                self._index = ExactIndex(self._generation, self._everything(end), seq=end)
            while self._index.seq < end:
                found = self._catalog.changes.since(self._index.seq, collection_ids=[collection_id], limit=_ENTRIES)
                entries = tuple(entry for entry in found if entry.seq <= end)
                if not entries:
                    break
                self._index.apply(self._entries.ops(entries, self._generation, words=False), seq=entries[-1].seq)
            return self._index.pin()

    def _everything(self, end: int) -> Iterator[list[Op]]:
        """All versions as they were at `end`. What is recorded while they are read comes with the log."""
        version_ids = self._catalog.changes.version_ids(self._generation.id)
        for start in range(0, len(version_ids), _VERSIONS):
            states = self._catalog.changes.version_states(version_ids[start : start + _VERSIONS])
            then = {name: state.up_to(end) for name, state in states.items() if state.recorded_seq <= end}
            documents = list(dict.fromkeys(state.document_id for state in then.values()))
            puts = self._entries.puts(then, self._generation, words=False)
            yield [*self._entries.described(documents), *puts]


def follow_to(catalog: Catalog, generation: Generation) -> int:
    """The entry that an index of this generation must have taken: of later ones it has no chunks, or there are none."""
    last = catalog.changes.last_seq(generation.collection_id)
    return min(last, catalog.collections.complete_seq(generation.id))
