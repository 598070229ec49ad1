"""Do catalogue and index hold the same? Every chunk, its terms, vector and times, who may read it, and its metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from indexes.documents import Key, value_key
from indexes.errors import StorageFailed
from indexes.model import Describe, Generation, MetadataValue, Problem
from indexes.protocols import Searcher
from indexes.rowhash import row_hash
from ingest.catalog.catalog import Catalog
from ingest.entries import Entries

_BATCH = 500
_SHOWN = 10
RESTORE = "Restore a backup of the data folder: the catalogue is the truth, and nothing can rebuild it."


def catalogue_problems(catalog: Catalog) -> tuple[Problem, ...]:
    """What is wrong in the catalogue itself, which only a backup can mend."""
    try:
        found = list(catalog.integrity())
        known = {generation.id for generation in catalog.collections.generations()}
        found += [
            f"Collection {collection.name!r} names generation {collection.generation_id}, which is not there."
            for collection in catalog.collections.all()
            if collection.generation_id not in known
        ]
    except StorageFailed as error:
        found = [error.message]
    return tuple(Problem("catalogue", what, RESTORE) for what in found)


class Comparison:
    """One index, pinned, against the catalogue, which may go on changing.

    What a later entry of the log touches is left out: catalogue and index may differ there, and nothing is wrong.
    """

    def __init__(self, catalog: Catalog, entries: Entries, generation: Generation, searcher: Searcher) -> None:
        self._catalog = catalog
        self._entries = entries
        self._generation = generation
        self._searcher = searcher
        self._seq = searcher.snapshot.seq

    def problems(self) -> tuple[Problem, ...]:
        """One Problem per kind of difference; `details` names the first few chunks or documents."""
        owners: dict[str, str] = {}
        missing, stray, stale = self._chunks(owners)
        foreign = self._documents()
        versions, documents = self._touched()  # last: whatever was read above may have been changed by these
        problems = []
        for what, of, found in (
            ("chunks are missing from the index", versions, missing),
            ("chunks are in the index but not in the catalogue", versions, stray),
            ("chunks are different in index and catalogue", versions, stale),
            ("documents have another access list or other metadata in the index", documents, foreign),
        ):
            names = sorted(name for name in found if owners.get(name, name) not in of)
            if names:
                problems.append(Problem(self._generation.id, f"{len(names)} {what}.", details=tuple(names[:_SHOWN])))
        return tuple(problems)

    def _chunks(self, owners: dict[str, str]) -> tuple[set[str], set[str], set[str]]:
        """The chunks that are missing, that nobody knows, and that differ. `owners` gets the version of each."""
        held: dict[str, bytes] = {}
        for chunk_id, version_id, digest in self._searcher.scan():
            held[chunk_id] = bytes.fromhex(digest)
            owners[chunk_id] = version_id
        missing, stale = set(), set()
        for chunk_id, version_id, digest in self._wanted():
            found = held.pop(chunk_id, None)
            owners[chunk_id] = version_id
            if found is None:
                missing.add(chunk_id)
            elif found != bytes.fromhex(digest):
                stale.add(chunk_id)
        return missing, set(held), stale

    def _wanted(self) -> Iterator[tuple[str, str, str]]:
        """(chunk id, version id, row hash) of everything that the index must hold."""
        version_ids = self._catalog.changes.version_ids(self._generation.id)
        for start in range(0, len(version_ids), _BATCH):
            states = self._catalog.changes.version_states(version_ids[start : start + _BATCH])
            then = {name: state.up_to(self._seq) for name, state in states.items() if state.recorded_seq <= self._seq}
            for put in self._entries.puts(then, self._generation):
                for chunk in put.chunks:
                    yield chunk.id, put.version_id, row_hash(chunk, put)

    def _documents(self) -> set[str]:
        """The documents that the index describes in another way than the catalogue does."""
        held = list(self._searcher.documents())
        wrong = set()
        for start in range(0, len(held), _BATCH):
            part = held[start : start + _BATCH]
            wanted = {one.document_id: one for one in self._entries.described([one.document_id for one in part])}
            wrong |= {one.document_id for one in part if not _alike(one, wanted.get(one.document_id))}
        return wrong

    def _touched(self) -> tuple[set[str], set[str]]:
        """The versions and documents of all entries after the pinned state."""
        versions, documents = set[str](), set[str]()
        seq, collections = self._seq, [self._generation.collection_id]
        while entries := self._catalog.changes.since(seq, collection_ids=collections, limit=_BATCH):
            versions |= {entry.version_id for entry in entries if entry.version_id is not None}
            documents |= {entry.document_id for entry in entries}
            seq = entries[-1].seq
        return versions, documents


def _alike(held: Describe, wanted: Describe | None) -> bool:
    return wanted is not None and held.access == wanted.access and _keys(held.metadata) == _keys(wanted.metadata)


def _keys(metadata: Mapping[str, MetadataValue]) -> dict[str, Key]:
    return {name: value_key(value) for name, value in metadata.items()}
