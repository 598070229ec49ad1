"""How do changes get in? The one writer of a generation: apply in memory, publish to disk, merge.

`apply` shows a batch by one assignment. `publish` and `merge` write from a state that does not change any more, while
batches go on being applied; only the exchange of pieces at their end holds the lock. Publishing does not wait for a
merge either: that joins sealed segments only, and what was put or closed meanwhile is seen by the exchange.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from indexes import durable
from indexes.allowed import alive
from indexes.errors import StorageFailed, WriterBusy
from indexes.memory import Memory, let_go
from indexes.model import DENSE_DEFAULTS, DenseOptions, Generation, Op, Problem, Snapshot
from indexes.pieces import Piece, SealedPiece, erased, gather
from indexes.segment import Segment, read_segment, write_segment
from indexes.snapshot import SEGMENTS, SNAPSHOTS, Mark, Record, marks, snapshot_seq, sweep, write_snapshot
from indexes.state import State, advance
from indexes.tables import NO_ROWS, Loaded, load, pack_tables
from indexes.tiers import worth_merging
from indexes.versions import Longs, Versions

ATTEMPTS = 10
"""Tries to load while another process publishes and sweeps."""


@dataclass(frozen=True, slots=True, eq=False)
class _Fresh:
    """A segment that was written from the live rows of a state, and the ordinals of the versions it holds."""

    piece: SealedPiece
    moved: Longs
    versions: Versions
    """The table that `piece` is tied to: that of the state, with the moved versions living here."""
    before: Longs
    """Where they lived."""

    def rehome(self, versions: Versions) -> Versions:
        """This table with the versions living here, except those that were put or dropped since."""
        home = versions.home.copy()
        home[self.moved[home[self.moved] == self.before]] = self.piece.homes
        return versions.rehomed(home)

    def tied(self, versions: Versions) -> SealedPiece:
        """The piece in a state with this table, which is newer."""
        then, moved = self.versions, self.moved
        changed = (then.home[moved] != versions.home[moved]) | (then.valid_to[moved] != versions.valid_to[moved])
        return self.piece.recounted(then, versions, moved[changed])


class EmbeddedWriter:
    """A generation that is open. Where `writable` is false it follows the change log in memory only."""

    def __init__(
        self, folder: Path, generation: Generation, *, writable: bool, options: DenseOptions = DENSE_DEFAULTS
    ) -> None:
        self.generation = generation
        self.writable = writable
        self._folder = folder
        self._options = options
        self._numbers = count(NO_ROWS + 1)
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self._merging = threading.Lock()
        self._fresh: set[str] = set()
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
    def stored(self) -> str | None:
        """The snapshot file that must be on the disk; None if there need not be one."""
        record = self._stored
        return None if record is None or not self.writable else f"{record.seq:020d}.json"

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
            state, stored = self._tip, self._stored
            snapshot, held = state.snapshot, state.memory.held()
            if stored is None or stored.seq != state.seq:
                stored = self._store(state, (), ())
        del state
        let_go(held)
        return replace(snapshot, segments=len(stored.segments))

    def merge(self) -> bool:
        """Join small segments, or rewrite one with many dead rows or any erased ones; False if there are none.

        Publishes what was applied, too. After a rewrite for erasure no older snapshot is kept. Call it until it
        says False: each call does the least work that is worth doing.
        Raises StorageFailed; then all stays as it was.
        """
        with self._merging:
            self._must_be_writer()
            state = self._tip
            chosen = worth_merging(state.sealed, state.versions)
            if not chosen:
                return False
            fresh = self._write(chosen, state.versions)
            with self._publishing:
                state = self._tip
                held = state.memory.held()
                self._store(state, chosen, fresh)
            del state
            let_go(held)
            return True

    def refresh(self, *, only_if_gone: bool = False) -> bool:
        """Move to a newer snapshot that the writing process has published; True if there was one.

        Where every segment of this state is gone from the disk, they were damaged (or all merged): then whatever is
        there is taken, nothing too. Afterwards `seq` may be smaller than before: apply the change log again from there.
        Readers keep the state they know until that has caught up, so nobody ever sees an older one.
        """
        if self.writable:
            return False
        sealed = self._tip.sealed
        gone = bool(sealed) and not any((self._folder / SEGMENTS / piece.segment.id).exists() for piece in sealed)
        newest = next(iter(marks(self._folder)), None)
        known = -1 if self._stored is None else self._stored.seq
        newer = newest is not None and newest != self._refused and snapshot_seq(newest.name) > known
        if not gone and (only_if_gone or not newer):
            return False
        loaded = self._load({piece.segment.id: piece.segment for piece in self._tip.sealed})
        if not gone and (loaded.record is None or loaded.record.seq <= known):
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

    def _store(self, state: State, merged: Sequence[SealedPiece], fresh: tuple[_Fresh, ...]) -> Record:
        """Move the live rows in memory to a new segment, exchange `merged` for `fresh`, and store the state."""
        try:
            fresh += self._write([state.memory], state.versions)
            empty = [piece for piece in state.sealed if not alive(piece, state.versions).any()]
            leaving = {piece.homes for piece in (*merged, *empty)}
            record = self._write_snapshot(state, leaving, fresh)
        except StorageFailed:
            for one in fresh:  # a full disk must not fill further with each try
                durable.delete(self._folder / SEGMENTS / one.piece.segment.id)
            raise
        finally:
            self._fresh.difference_update(one.piece.segment.id for one in fresh)
        self._stored = record
        self._exchange(state.memory.count, leaving, fresh)
        with durable.storage(f"Generation {self.generation.id}"):
            sweep(self._folder, sparing=self._fresh)
        return record

    def _write(self, pieces: Sequence[Piece], versions: Versions) -> tuple[_Fresh, ...]:
        """The live rows of these pieces as a new segment that no snapshot names yet; empty when there are none."""
        gathered = gather(pieces, versions)
        if gathered is None:
            return ()
        joining, owners = gathered
        name = f"seg_{secrets.token_hex(8)}"
        self._fresh.add(name)
        try:
            folder, generation_id = self._folder / SEGMENTS / name, self.generation.id
            among = sum(piece.count for piece in self._tip.pieces)
            manifest = write_segment(folder, joining, generation_id=generation_id, among=among, options=self._options)
            segment = read_segment(folder, manifest, generation_id=generation_id)
        except BaseException:
            self._fresh.discard(name)
            raise
        number = next(self._numbers)
        moved = owners.astype(np.int64)
        home = versions.home.copy()
        home[moved] = number
        there = versions.rehomed(home)
        piece = SealedPiece.attach(segment, owners, there, home=number)
        return (_Fresh(piece, moved, there, versions.home[moved]),)

    def _write_snapshot(self, state: State, leaving: set[int], fresh: Sequence[_Fresh]) -> Record:
        versions = state.versions
        for one in fresh:
            versions = one.rehome(versions)
        pieces = [piece for piece in state.sealed if piece.homes not in leaving]
        pieces += [one.piece for one in fresh]
        homes = {piece.homes: place for place, piece in enumerate(pieces)}
        return write_snapshot(
            self._folder,
            self.generation,
            seq=state.seq,
            committed_at=state.committed_at,
            tables=lambda writer: pack_tables(writer, state.documents, state.versions, versions.home, homes),
            segments=[(piece.segment.id, piece.segment.manifest) for piece in pieces],
            purged=any(erased(piece, state.versions) for piece in state.sealed if piece.homes in leaving),
        )

    def _exchange(self, taken: int, leaving: set[int], fresh: Sequence[_Fresh]) -> None:
        """Let the newest state use the new segments in place of what went into them."""
        with self._lock:
            tip = self._tip
            versions = tip.versions
            for one in fresh:
                versions = one.rehome(versions)
            pieces = [piece for piece in tip.sealed if piece.homes not in leaving]
            pieces += [one.tied(versions) for one in fresh]
            self._memory = _rest(tip, taken, versions)
            self._show(replace(tip, versions=versions, sealed=tuple(pieces), memory=self._memory.piece()))


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
