"""How are the tables of versions and documents stored, and a stored state loaded again? Column by column.

What a document's metadata says is stored once per distinct value, and only values that a document has: what was erased
leaves no trace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.columns import BLOCK, Columns, ColumnWriter, Ints, Packed, fitting
from indexes.documents import MISSING, NOT_DESCRIBED, Column, Documents, Values
from indexes.errors import SegmentDamaged, SnapshotDamaged
from indexes.memory import Memory
from indexes.model import Generation, Problem
from indexes.pieces import SealedPiece
from indexes.segment import Segment, read_segment
from indexes.snapshot import SEGMENTS, Record, read_snapshot, read_tables, snapshot_files
from indexes.state import State
from indexes.versions import GONE, NOBODY, Longs, Versions

NO_SEGMENT = -1
"""Where the rows of a version without chunks are."""
NO_ROWS = 0
"""`home` of such a version: no row has it."""
INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
TIMES = ("valid_from", "valid_to", "recorded", "closed")


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What could be loaded, from which snapshot (None: nothing), and what was wrong with newer ones."""

    state: State
    memory: Memory
    record: Record | None
    problems: tuple[Problem, ...]
    rejected: tuple[Path, ...]


# ---------------------------------------------------------------- storing


def pack_tables(
    writer: ColumnWriter, documents: Documents, versions: Versions, home: Longs, homes: Mapping[int, int]
) -> None:
    """Write the tables. `home` is each version's home in the stored state, `homes` maps it to a segment's place."""
    present = versions.present()
    owners, document = np.unique(versions.document[present], return_inverse=True)
    writer.add_texts("versions", [Packed.of([versions.ids[ordinal] for ordinal in present.tolist()])])
    writer.add("document", [document], INT32)
    for name in TIMES:
        writer.add(name, [getattr(versions, name)[present]], INT64)
    writer.add("earlier", [_placed(versions.earlier, present).ravel()], INT64)
    numbers, number = np.unique(home[present], return_inverse=True)
    places = np.array([homes.get(number, NO_SEGMENT) for number in numbers.tolist()], np.int32)
    writer.add("segment", [places[number]], INT32)
    _pack_documents(writer, documents, owners)


def _placed(earlier: Longs, present: NDArray[np.intp]) -> Longs:
    """Earlier closings with the place of their version in the stored table for its ordinal."""
    kept = earlier[np.isin(earlier[:, 0], present)]
    return np.column_stack([np.searchsorted(present, kept[:, 0]), kept[:, 1:]])


def _pack_documents(writer: ColumnWriter, documents: Documents, owners: NDArray[np.integer]) -> None:
    """Those that have versions, and after them those that are described but wait for a version."""
    waiting = documents.access != NOT_DESCRIBED
    for column in documents.columns.values():
        waiting |= documents.whole(column.present())
    waiting[owners] = False
    stored = np.concatenate([owners, np.flatnonzero(waiting)])
    writer.add_texts("documents", [Packed.of([documents.ids[ordinal] for ordinal in stored.tolist()])])
    lists, access = np.unique(np.append(documents.access[stored], NOT_DESCRIBED), return_inverse=True)
    writer.add("access", [access[:-1]], fitting(len(lists)))
    _pack_json(writer, "lists", [sorted(documents.lists[code]) for code in lists.tolist()])
    keys: list[str] = []
    for key, column in documents.columns.items():
        codes = np.full(len(documents), MISSING, np.int32)
        codes[: len(column.codes)] = column.codes
        used, code = np.unique(np.append(codes[stored], MISSING), return_inverse=True)
        if len(used) > 1:  # MISSING is the first, so 0 stands for it
            writer.add(f"codes {len(keys)}", [code[:-1]], fitting(len(used)))
            _pack_json(writer, f"values {len(keys)}", [column.values.values[one] for one in used[1:].tolist()])
            keys.append(key)
    _pack_json(writer, "keys", keys)


def _pack_json(writer: ColumnWriter, name: str, values: Sequence[Any]) -> None:
    """A list as JSON, in blocks: one long call would keep all other threads waiting."""
    blocks = (json.dumps(values[at : at + BLOCK]) for at in range(0, len(values), BLOCK))
    writer.add_texts(name, [Packed.of(blocks)])


# ---------------------------------------------------------------- loading


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
    tables = read_tables(folder, record)
    segments = [
        known
        if (known := open_segments.get(name)) is not None and known.manifest == stamp
        else read_segment(folder / SEGMENTS / name, stamp, generation_id=record.generation.id)
        for name, stamp in record.segments
    ]
    homes = [next(numbers) for _ in segments]
    try:
        documents = _documents(tables)
        versions = _versions(tables, np.array([*homes, NO_ROWS], np.int64))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise SnapshotDamaged(f"Table file {record.tables} cannot be read ({error!r}).") from error
    memory = Memory(record.generation.dimensions)
    sealed = [_attach(segment, versions, home) for segment, home in zip(segments, homes, strict=True)]
    return (
        State(record.generation, record.seq, record.committed_at, documents, versions, tuple(sealed), memory.piece()),
        memory,
    )


def _attach(segment: Segment, versions: Versions, home: int) -> SealedPiece:
    names = segment.contents.version_ids
    owners = np.fromiter((versions.ordinals.get(name, NOBODY) for name in names), np.int32, len(names))
    return SealedPiece.attach(segment, owners, versions, home=home)


def _versions(tables: Columns, homes: Longs) -> Versions:
    """NOBODY, and after it the stored versions. `homes` are those of the segments, and last that of NO_SEGMENT."""
    nobody = Versions.empty()
    ids = [*nobody.ids, *tables.texts("versions")]
    times = {name: np.concatenate([getattr(nobody, name), tables.array(name)]) for name in TIMES}
    return Versions(
        ids=ids,
        ordinals=dict(zip(ids[NOBODY + 1 :], range(NOBODY + 1, len(ids)), strict=True)),
        document=np.concatenate([nobody.document, tables.array("document")]),
        home=np.concatenate([[GONE], homes[tables.array("segment")]]),
        earlier=tables.array("earlier").reshape(-1, 3) + np.array([NOBODY + 1, 0, 0]),
        **times,
    )


def _documents(tables: Columns) -> Documents:
    ids = list(tables.texts("documents"))
    lists = [frozenset(one) for one in _unpack_json(tables, "lists")]
    columns = {}
    for number, key in enumerate(_unpack_json(tables, "keys")):
        values = Values()
        for value in _unpack_json(tables, f"values {number}"):
            values.code(tuple(value) if isinstance(value, list) else value)
        columns[key] = Column(values, _signed(tables.array(f"codes {number}")) + np.int32(MISSING))
    ordinals = dict(zip(ids, range(len(ids)), strict=True))
    codes = {access: code for code, access in enumerate(lists)}
    return Documents(ids, ordinals, lists, codes, _signed(tables.array("access")), columns)


def _signed(column: Ints) -> NDArray[np.int32]:
    return column.astype(np.int32)


def _unpack_json(tables: Columns, name: str) -> list[Any]:
    return [value for block in tables.texts(name) for value in json.loads(block)]
