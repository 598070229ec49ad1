"""Which versions are there, and when was each in force? One row per version, copied on every write.

Rows of segments refer to versions by ordinal, so closing or dropping a version never touches a segment.
A table never changes once it is in a state, so a pinned reader keeps seeing what it pinned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexes.model import FOREVER, Closing, Put, Timestamp

GONE: Final = -1
"""`home` of a version that was dropped (or never known): none of its rows is alive."""
NOBODY: Final = 0
"""The ordinal that rows refer to whose version was dropped before this process started."""
BEGINNING: Final[Timestamp] = -(2**63)

Longs = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Window:
    """Which versions are in force, and for which half-open range of `at` that answer stays the same."""

    mask: Mask
    start: Timestamp
    end: Timestamp


@dataclass(frozen=True, slots=True, eq=False)
class Versions:
    """The version table. Columns have one entry per ordinal.

    `ids` and `ordinals` only ever grow and are shared by later tables: entries beyond the length of
    the columns belong to those. `home` is the number of the put that brought the version's live rows
    (or of the sealed segment that they were moved to since); rows with another number are dead.
    `valid_to` and `closed` are the newest closing; the few versions that were closed more than once have the ones
    before in `earlier`: rows of (ordinal, seq, valid_to), ascending, which only a replay reads.
    """

    ids: list[str]
    ordinals: dict[str, int]
    document: NDArray[np.int32]
    valid_from: Longs
    valid_to: Longs
    recorded: Longs
    closed: Longs
    home: Longs
    earlier: Longs

    @classmethod
    def empty(cls) -> Versions:
        """A table with nobody in it."""
        one = np.zeros(1, np.int64)
        return cls([""], {}, np.zeros(1, np.int32), one, one, one, one, np.full(1, GONE, np.int64), _NONE)

    def __len__(self) -> int:
        return len(self.home)

    def find(self, version_id: str) -> int | None:
        """The ordinal of a version that is here, else None."""
        ordinal = self.ordinals.get(version_id)
        return None if ordinal is None or ordinal >= len(self) or self.home[ordinal] == GONE else ordinal

    def present(self) -> NDArray[np.intp]:
        """Ordinals of all versions that were not dropped."""
        return np.flatnonzero(self.home != GONE)

    def ends(self, at_seq: int | None) -> Longs:
        """When each version ends; with `at_seq`, as its newest closing up to that said (FOREVER: none)."""
        if at_seq is None:
            return self.valid_to
        until = np.where(self.closed <= at_seq, self.valid_to, FOREVER)
        ordinals, seqs, ends = self.earlier.T
        then = (seqs <= at_seq) & (self.closed[ordinals] > at_seq)
        until[ordinals[then]] = ends[then]  # of several for one version numpy keeps the last, and they ascend
        return until

    def in_force(self, at: Timestamp, at_seq: int | None) -> Window:
        """Versions with `valid_from <= at < valid_to`; with `at_seq`, as they were recorded up to it."""
        until = self.ends(at_seq)
        known = (self.home != GONE) & (self.valid_from < until)
        if at_seq is not None:
            known &= self.recorded <= at_seq
        start, end = BEGINNING, FOREVER
        for boundary in (self.valid_from, until):
            past = boundary <= at
            start = max(start, int(np.max(boundary, where=known & past, initial=BEGINNING)))
            end = min(end, int(np.min(boundary, where=known & ~past, initial=FOREVER)))
        return Window(known & (self.valid_from <= at) & (at < until), start, end)

    def closings(self, ordinal: int) -> tuple[Closing, ...]:
        """The earlier closings of a version, ascending."""
        mine = self.earlier[self.earlier[:, 0] == ordinal, 1:]
        return tuple(Closing(seq, valid_to) for seq, valid_to in mine.tolist())

    def times(self, ordinal: int) -> tuple[int, ...]:
        """What `rowhash.times_of` says of the put that made this version and the closings since."""
        first, *rest = (int(column[ordinal]) for column in (self.valid_from, self.recorded, self.closed, self.valid_to))
        earlier = self.earlier[self.earlier[:, 0] == ordinal, 1:].ravel().tolist()
        return first, rest[0], *earlier, *rest[1:]

    def rehomed(self, home: Longs) -> Versions:
        """The same table with other homes (rows moved to another segment)."""
        return replace(self, home=home)


class VersionDraft:
    """The next version table while a batch is applied. The base is not touched, whatever happens."""

    def __init__(self, base: Versions, *, room: int) -> None:
        """`room` is how many new versions may come at most."""
        self._base = base
        self._fresh: dict[str, int] = {}
        self._used = len(base)
        size = self._used + room
        self._document = np.zeros(size, np.int32)
        self._document[: self._used] = base.document
        self._columns = {name: _grown(getattr(base, name), size) for name in _LONGS}
        self._earlier: dict[int, dict[int, Timestamp]] = {}
        self.touched: set[int] = set()

    def put(self, op: Put, *, document: int, home: int) -> int:
        """Add or replace a version; its rows are those with this `home` from now on. Returns its ordinal."""
        ordinal = self._ordinal(op.version_id)
        if ordinal is None:
            ordinal = self._used
            self._used += 1
            self._fresh[op.version_id] = ordinal
        self._document[ordinal] = document
        values = (op.valid_from, op.valid_to, op.recorded_seq, op.closed_seq, home)
        for name, value in zip(_LONGS, values, strict=True):
            self._columns[name][ordinal] = value
        if op.earlier or self._closings(ordinal):
            self._earlier[ordinal] = {closing.seq: closing.valid_to for closing in op.earlier}
        self.touched.add(ordinal)
        return ordinal

    def close(self, version_id: str, valid_to: Timestamp, closed_seq: int) -> None:
        """Take one more closing of a version, in any order and any number of times; one not here stays away."""
        ordinal = self._ordinal(version_id)
        if ordinal is None or self._columns["home"][ordinal] == GONE:
            return
        ends, closed = self._columns["valid_to"], self._columns["closed"]
        newest = int(closed[ordinal])
        if newest not in (closed_seq, FOREVER):
            earlier = self._earlier[ordinal] = self._closings(ordinal)
            if closed_seq < newest:
                earlier[closed_seq] = valid_to
                return
            earlier[newest] = int(ends[ordinal])
        ends[ordinal], closed[ordinal] = valid_to, closed_seq
        self.touched.add(ordinal)

    def drop(self, version_id: str) -> int | None:
        """Remove a version. Returns the ordinal of its document if that has no other version left."""
        ordinal = self._ordinal(version_id)
        if ordinal is None:
            return None
        home, document = self._columns["home"], self._document
        home[ordinal] = GONE
        if self._closings(ordinal):
            self._earlier[ordinal] = {}
        self.touched.add(ordinal)
        owner = int(document[ordinal])
        siblings = (document[: self._used] == owner) & (home[: self._used] != GONE)
        return None if siblings.any() else owner

    def freeze(self) -> Versions:
        """The finished table."""
        base = self._base
        base.ids[len(base) :] = list(self._fresh)
        base.ordinals.update(self._fresh)
        columns = {name: column[: self._used] for name, column in self._columns.items()}
        return Versions(base.ids, base.ordinals, self._document[: self._used], **columns, earlier=self._all_earlier())

    def _closings(self, ordinal: int) -> dict[int, Timestamp]:
        """The earlier closings of a version: seq -> valid_to."""
        known = self._earlier.get(ordinal)
        if known is not None or not len(self._base.earlier):
            return known or {}
        return {closing.seq: closing.valid_to for closing in self._base.closings(ordinal)}

    def _all_earlier(self) -> Longs:
        base = self._base.earlier
        if not self._earlier:
            return base
        kept = base[~np.isin(base[:, 0], list(self._earlier))].tolist()
        more = [(ordinal, *closing) for ordinal, closings in self._earlier.items() for closing in closings.items()]
        return np.array(sorted([*map(tuple, kept), *more]), np.int64).reshape(-1, 3)

    def _ordinal(self, version_id: str) -> int | None:
        known = self._base.ordinals.get(version_id)
        return known if known is not None and known < len(self._base) else self._fresh.get(version_id)


_NONE: Final[Longs] = np.zeros((0, 3), np.int64)
_LONGS = ("valid_from", "valid_to", "recorded", "closed", "home")


def _grown(column: Longs, size: int) -> Longs:
    grown = np.zeros(size, np.int64)
    grown[: len(column)] = column
    return grown
