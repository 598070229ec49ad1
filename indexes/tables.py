"""How are the tables of versions and documents stored, and a stored state loaded again?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from indexes.documents import DocumentDraft, Documents
from indexes.errors import SegmentDamaged, SnapshotDamaged
from indexes.memory import Memory
from indexes.model import Generation, MetadataValue, Problem, Put
from indexes.pieces import SealedPiece
from indexes.segment import Segment, read_segment
from indexes.snapshot import SEGMENTS, Record, pack, read_snapshot, read_tables, snapshot_files, unpack
from indexes.state import State
from indexes.versions import Longs, VersionDraft, Versions

NO_SEGMENT = -1
"""Where the rows of a version without chunks are."""
NO_ROWS = 0
"""`home` of such a version: no row has it."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What could be loaded, from which snapshot (None: nothing), and what was wrong with newer ones."""

    state: State
    memory: Memory
    record: Record | None
    problems: tuple[Problem, ...]
    rejected: tuple[Path, ...]


def pack_tables(documents: Documents, versions: Versions, home: Longs, homes: Mapping[int, int]) -> bytes:
    """The tables as bytes. `home` is each version's home in the stored state, `homes` maps it to a segment's place."""
    present = versions.present()
    owners, document = np.unique(versions.document[present], return_inverse=True)
    with_versions = set(owners.tolist())
    waiting = [d for d in range(len(documents)) if d not in with_versions and any(documents.describe(d))]
    entries = []
    for ordinal in [*owners.tolist(), *waiting]:
        access, metadata = documents.describe(ordinal)
        entries.append([documents.ids[ordinal], sorted(access), metadata])
    text = {"versions": [versions.ids[ordinal] for ordinal in present.tolist()], "documents": entries}
    return pack(
        text,
        {
            "document": document.astype(np.int32),
            "valid_from": versions.valid_from[present],
            "valid_to": versions.valid_to[present],
            "recorded": versions.recorded[present],
            "closed": versions.closed[present],
            "segment": np.array([homes.get(number, NO_SEGMENT) for number in home[present].tolist()], np.int64),
        },
    )


def load(folder: Path, generation: Generation, numbers: count[int], open_segments: Mapping[str, Segment]) -> Loaded:
    """Load the newest snapshot of which every byte is as it was written, else an empty state.

    `open_segments` are not read again. Raises OSError when the disk cannot be read at all.
    """
    problems: list[Problem] = []
    rejected: list[Path] = []
    for path in snapshot_files(folder):
        try:
            record = read_snapshot(path)
            if record.generation != generation:
                raise SnapshotDamaged(f"Snapshot file {path.name} belongs to another build: {record.generation}.")
            return Loaded(*_load(folder, record, numbers, open_segments), record, tuple(problems), tuple(rejected))
        except (SnapshotDamaged, SegmentDamaged, FileNotFoundError) as error:
            problems.append(Problem(f"{generation.id}/{path.name}", str(error)))
            rejected.append(path)
    memory = Memory(generation.dimensions)
    state = State.empty(generation, memory.piece())
    return Loaded(state, memory, None, tuple(problems), tuple(rejected))


def _load(
    folder: Path, record: Record, numbers: count[int], open_segments: Mapping[str, Segment]
) -> tuple[State, Memory]:
    text, arrays = unpack(read_tables(folder, record))
    segments = [
        known
        if (known := open_segments.get(name)) is not None and known.manifest == stamp
        else read_segment(folder / SEGMENTS / name, stamp, generation_id=record.generation.id)
        for name, stamp in record.segments
    ]
    homes = [next(numbers) for _ in segments]
    documents = _documents(text["documents"])
    versions = _versions(text, arrays, documents, homes)
    memory = Memory(record.generation.dimensions)
    sealed = [SealedPiece.attach(piece, versions, home=home) for piece, home in zip(segments, homes, strict=True)]
    return (
        State(record.generation, record.seq, record.committed_at, documents, versions, tuple(sealed), memory.piece()),
        memory,
    )


def _documents(entries: Sequence[tuple[str, list[str], dict[str, Any]]]) -> Documents:
    draft = DocumentDraft(Documents.empty(), room=len(entries))
    for document_id, access, metadata in entries:
        described: dict[str, MetadataValue] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in metadata.items()
        }
        draft.describe(draft.ordinal(document_id), frozenset(access), described)
    return draft.freeze()


def _versions(text: Any, arrays: Any, documents: Documents, homes: Sequence[int]) -> Versions:
    draft = VersionDraft(Versions.empty(), room=len(text["versions"]))
    columns = [arrays[name].tolist() for name in ("document", "valid_from", "valid_to", "recorded", "closed")]
    for version_id, segment, *row in zip(text["versions"], arrays["segment"].tolist(), *columns, strict=True):
        document, valid_from, valid_to, recorded, closed = row
        put = Put(documents.ids[document], version_id, valid_from, valid_to, recorded, closed, ())
        draft.put(put, document=document, home=NO_ROWS if segment == NO_SEGMENT else homes[segment])
    return draft.freeze()
