"""Which versions are there, and when was each in force? One row per version, copied on every write.

Rows of segments refer to versions by ordinal, so closing or dropping a version never touches a segment.
A table never changes once it is in a state, so a pinned reader keeps seeing what it pinned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexes.model import FOREVER, Put, Timestamp

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
    """

    ids: list[str]
    ordinals: dict[str, int]
    document: NDArray[np.int32]
    valid_from: Longs
    valid_to: Longs
    recorded: Longs
    closed: Longs
    home: Longs

    @classmethod
    def empty(cls) -> Versions:
        """A table with nobody in it."""
        one = np.zeros(1, np.int64)
        return cls([""], {}, np.zeros(1, np.int32), one, one, one, one, np.full(1, GONE, np.int64))

    def __len__(self) -> int:
        return len(self.home)

    def find(self, version_id: str) -> int | None:
        """The ordinal of a version that is here, else None."""
        ordinal = self.ordinals.get(version_id)
        return None if ordinal is None or ordinal >= len(self) or self.home[ordinal] == GONE else ordinal

    def present(self) -> NDArray[np.intp]:
        """Ordinals of all versions that were not dropped."""
        return np.flatnonzero(self.home != GONE)

    def in_force(self, at: Timestamp, at_seq: int | None) -> Window:
        """Versions with `valid_from <= at < valid_to`; with `at_seq`, as they were recorded up to it."""
        until = self.valid_to
        mask = self.home != GONE
        if at_seq is not None:
            until = np.where(self.closed <= at_seq, until, FOREVER)
            mask &= self.recorded <= at_seq
        mask &= (self.valid_from <= at) & (at < until)
        start, end = BEGINNING, FOREVER
        for boundary in (self.valid_from, until):
            past = boundary <= at
            start = max(start, int(np.max(boundary, where=past, initial=BEGINNING)))
            end = min(end, int(np.min(boundary, where=~past, initial=FOREVER)))
        return Window(mask, start, end)

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
        self.touched.add(ordinal)
        return ordinal

    def close(self, version_id: str, valid_to: Timestamp, closed_seq: int) -> None:
        """Set the end of a version; one that is not here stays away."""
        ordinal = self._ordinal(version_id)
        if ordinal is not None and self._columns["home"][ordinal] != GONE:
            self._columns["valid_to"][ordinal] = valid_to
            self._columns["closed"][ordinal] = closed_seq
            self.touched.add(ordinal)

    def drop(self, version_id: str) -> int | None:
        """Remove a version. Returns the ordinal of its document if that has no other version left."""
        ordinal = self._ordinal(version_id)
        if ordinal is None:
            return None
        home, document = self._columns["home"], self._document
        home[ordinal] = GONE
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
        return Versions(base.ids, base.ordinals, self._document[: self._used], **columns)

    def _ordinal(self, version_id: str) -> int | None:
        known = self._base.ordinals.get(version_id)
        return known if known is not None and known < len(self._base) else self._fresh.get(version_id)


_LONGS = ("valid_from", "valid_to", "recorded", "closed", "home")


def _grown(column: Longs, size: int) -> Longs:
    grown = np.zeros(size, np.int64)
    grown[: len(column)] = column
    return grown
