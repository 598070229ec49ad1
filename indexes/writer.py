"""How do changes get in? The one writer of a generation: apply in memory, publish to disk, merge.

`apply` shows a batch by one assignment. `publish` and `merge` write from a state that does not change any more, while
batches go on being applied; only the exchange of pieces at their end holds the lock.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from indexes import durable
from indexes.allowed import alive
from indexes.errors import StorageFailed, WriterBusy
from indexes.memory import Memory
from indexes.model import Generation, Op, Problem, Snapshot
from indexes.pieces import SealedPiece, erased, gather
from indexes.segment import Contents, Segment, read_segment, write_segment
from indexes.snapshot import SEGMENTS, SNAPSHOTS, Mark, Record, marks, snapshot_seq, sweep, write_snapshot
from indexes.state import State, advance
from indexes.tables import NO_ROWS, Loaded, load, pack_tables
from indexes.tiers import worth_merging
from indexes.versions import Longs, Versions

ATTEMPTS = 10
"""Tries to load while another process publishes and sweeps."""


class EmbeddedWriter:
    """A generation that is open. Where `writable` is false it follows the change log in memory only."""

    def __init__(self, folder: Path, generation: Generation, *, writable: bool) -> None:
        self.generation = generation
        self.writable = writable
        self._folder = folder
        self._numbers = count(NO_ROWS + 1)
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        loaded = self._load({})
        self.problems: tuple[Problem, ...] = loaded.problems
        self._memory = loaded.memory
        self._tip = loaded.state
        self._shown = loaded.state
        self._stored = loaded.record
        self._refused: Mark | None = None
        if writable:
            self._begin(loaded)

    @property
    def seq(self) -> int:
        """The last sequence number that was applied."""
        return self._tip.seq

    @property
    def state(self) -> State:
        """What readers pin."""
        return self._shown

    def apply(self, ops: Sequence[Op], *, seq: int) -> None:
        """Take these changes; every later pin sees all of them. A batch that was applied before is passed over.

        Raises DimensionMismatch, QueryInvalid (a vector with NaN); then nothing of the batch was taken.
        """
        with self._lock:
            if seq > self._tip.seq:
                now = time.time_ns() // 1_000
                self._show(advance(self._tip, self._memory, self._numbers, ops, seq=seq, committed_at=now))

    def publish(self) -> Snapshot:
        """Make what was applied durable. Raises StorageFailed; then all stays as it was."""
        with self._publishing:
            self._must_be_writer()
            state = self._tip
            stored = self._stored
            if stored is None or stored.seq != state.seq:
                stored = self._seal(state, ())
            return replace(state.snapshot, segments=len(stored.segments))

    def merge(self) -> bool:
        """Join small segments, and rewrite those with many dead rows or any erased ones; False if there are none.

        Publishes what was applied, too. After a rewrite for erasure no older snapshot is kept.
        Raises StorageFailed; then all stays as it was.
        """
        with self._publishing:
            self._must_be_writer()
            state = self._tip
            chosen = worth_merging(state.sealed, state.versions)
            if not chosen:
                return False
            self._seal(state, chosen)
            return True

    def refresh(self) -> bool:
        """Move to a newer snapshot that the writing process has published; True if there was one.

        Afterwards `seq` may be smaller than before: apply the change log again from there. Readers keep
        the state they know until that has caught up, so nobody ever sees an older one.
        """
        newest = next(iter(marks(self._folder)), None)
        known = -1 if self._stored is None else self._stored.seq
        if self.writable or newest is None or newest == self._refused or snapshot_seq(newest.name) <= known:
            return False
        loaded = self._load({piece.segment.id: piece.segment for piece in self._tip.sealed})
        if loaded.record is None or loaded.record.seq <= known:
            self._refused = newest  # it is damaged: do not read it again each time
            return False
        with self._lock:
            self._memory, self._stored, self.problems = loaded.memory, loaded.record, loaded.problems
            self._show(loaded.state)
        return True

    def _load(self, open_segments: dict[str, Segment]) -> Loaded:
        for _ in range(ATTEMPTS):
            before = marks(self._folder)
            with durable.storage(f"Generation {self.generation.id}", doing="read"):
                loaded = load(self._folder, self.generation, self._numbers, open_segments)
            if not loaded.problems or marks(self._folder) == before:
                break  # else the writing process published, and swept what we were reading
        return loaded

    def _begin(self, loaded: Loaded) -> None:
        """Make the folders, and clear away what a crash left or could not be loaded (it is rebuilt by the log)."""
        with durable.storage(f"Generation {self.generation.id}"):
            for name in (SEGMENTS, SNAPSHOTS):
                durable.make_folder(self._folder / name)
            for path in loaded.rejected:
                durable.delete(path)
            sweep(self._folder)

    def _must_be_writer(self) -> None:
        if not self.writable:
            raise WriterBusy(f"Generation {self.generation.id} was opened for reading only.")

    def _show(self, state: State) -> None:
        self._tip = state
        if state.seq >= self._shown.seq:
            self._shown = state

    def _seal(self, state: State, merging: Sequence[SealedPiece]) -> Record:
        """Move the live rows in memory, and those of `merging`, to one new segment, and store the state."""
        empty = [piece for piece in state.sealed if not alive(piece, state.versions).any()]
        leaving = {piece.homes for piece in (*merging, *empty)}
        contents = gather([*merging, state.memory], state.versions)
        segment = None if contents is None else self._write_segment(contents)
        number = next(self._numbers)
        names = () if contents is None else contents.version_ids
        moved = np.array([state.versions.ordinals[name] for name in names], np.int64)
        try:
            record = self._write_snapshot(state, leaving, segment, moved, number)
        except StorageFailed:
            if segment is not None:  # a full disk must not fill further with each try
                durable.delete(self._folder / SEGMENTS / segment.id)
            raise
        self._stored = record
        self._exchange(state, leaving, segment, moved, number)
        with durable.storage(f"Generation {self.generation.id}"):
            sweep(self._folder)
        return record

    def _write_segment(self, contents: Contents) -> Segment:
        folder = self._folder / SEGMENTS / f"seg_{secrets.token_hex(8)}"
        manifest = write_segment(folder, contents, generation_id=self.generation.id)
        return read_segment(folder, manifest, generation_id=self.generation.id)

    def _write_snapshot(
        self, state: State, leaving: set[int], segment: Segment | None, moved: Longs, number: int
    ) -> Record:
        staying = [piece for piece in state.sealed if piece.homes not in leaving]
        segments = [(piece.segment.id, piece.segment.manifest) for piece in staying]
        homes = {piece.homes: place for place, piece in enumerate(staying)}
        if segment is not None:
            homes[number] = len(segments)
            segments.append((segment.id, segment.manifest))
        home = _rehome(state.versions, state.versions, moved, number).home
        return write_snapshot(
            self._folder,
            self.generation,
            seq=state.seq,
            committed_at=state.committed_at,
            tables=pack_tables(state.documents, state.versions, home, homes),
            segments=segments,
            purged=any(erased(piece, state.versions) for piece in state.sealed if piece.homes in leaving),
        )

    def _exchange(self, sealed: State, leaving: set[int], segment: Segment | None, moved: Longs, number: int) -> None:
        """Let the newest state use the new segment in place of what went into it."""
        with self._lock:
            tip = self._tip
            versions = _rehome(tip.versions, sealed.versions, moved, number)
            pieces = [piece for piece in tip.sealed if piece.homes not in leaving]
            if segment is not None:
                pieces.append(SealedPiece.attach(segment, versions, home=number))
            self._memory = _rest(tip, sealed.memory.count, versions)
            self._show(replace(tip, versions=versions, sealed=tuple(pieces), memory=self._memory.piece()))


def _rehome(versions: Versions, when_sealed: Versions, moved: Longs, number: int) -> Versions:
    """The table where these versions live in segment `number`, except those that were put or dropped since."""
    home = versions.home.copy()
    same = moved[home[moved] == when_sealed.home[moved]]
    home[same] = number
    return versions.rehomed(home)


def _rest(tip: State, taken: int, versions: Versions) -> Memory:
    """The live rows in memory that came after the first `taken`, in a new memory."""
    memory = Memory(tip.generation.dimensions)
    piece = tip.memory
    live = alive(piece, versions)
    for row in range(taken, piece.count):
        if live[row]:
            home, version = int(piece.homes[row]), int(piece.row_version[row])
            memory.append((piece.chunks[row],), version=version, home=home)
    return memory
