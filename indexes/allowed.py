"""Which rows may this query see? Access, metadata, validity and replay in one boolean per row, before any ranking."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.documents import Documents
from indexes.filters import matching
from indexes.model import Query, Timestamp
from indexes.versions import Versions, Window

Mask = NDArray[np.bool_]
REMEMBERED: Final = 32
"""Answers kept per state. One takes a byte per row."""


class VersionRows(Protocol):
    """Rows that know their version."""

    @property
    def row_version(self) -> NDArray[np.int32]:
        """Ordinal of each row's version."""
        ...

    @property
    def homes(self) -> int | NDArray[np.int64]:
        """What the version's `home` must be for a row to be alive: one number, or one per row."""
        ...


@dataclass(frozen=True, eq=False)
class RowSet:
    """A set of rows of one piece."""

    mask: Mask

    @cached_property
    def count(self) -> int:
        """How many rows are in the set."""
        return int(np.count_nonzero(self.mask))

    @property
    def everything(self) -> bool:
        """Whether no row of the piece is left out."""
        return self.count == len(self.mask)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows in the set, ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def bitmap(self) -> NDArray[np.uint8]:
        """One bit per row, the first row in the lowest bit."""
        return np.packbits(self.mask, bitorder="little")


def alive(rows: VersionRows, versions: Versions) -> Mask:
    """Rows whose version was neither dropped nor replaced by a later put."""
    return np.asarray(versions.home[rows.row_version] == rows.homes, bool)


@dataclass(frozen=True, slots=True)
class _Answer:
    start: Timestamp
    end: Timestamp
    sets: tuple[RowSet, ...]


class AllowedRows:
    """Answers the question for one state, and remembers: the same caller asks again a moment later.

    "Now" moves with every query, but the answer only changes when some version begins or ends, so an
    answer is kept together with the range of `at` in which it holds.
    """

    def __init__(self, documents: Documents, versions: Versions, pieces: Sequence[VersionRows]) -> None:
        self._documents = documents
        self._versions = versions
        self._pieces = tuple(pieces)
        self._answers: OrderedDict[tuple[object, ...], _Answer] = OrderedDict()
        self._window: Window | None = None
        self._lock = threading.Lock()

    def of(self, query: Query) -> tuple[RowSet, ...]:
        """One set per piece. The query's filter must have passed `check_filter`."""
        # The filter's text is the key: 1, 1.0 and True are equal to Python, but not to a filter.
        key = (query.allowed.principals, repr(query.filter), query.at_seq)
        with self._lock:
            known = self._answers.get(key)
            if known is not None and known.start <= query.at < known.end:
                self._answers.move_to_end(key)
                return known.sets
        answer = self._work_out(query)
        with self._lock:
            self._answers[key] = answer
            self._answers.move_to_end(key)
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        return answer.sets

    def window(self, at: Timestamp) -> Window:
        """What is in force at `at`, of all that is recorded. Remembered, as "now" stays in one range for long."""
        known = self._window  # one look: another reader may replace it
        if known is None or not known.start <= at < known.end:
            known = self._window = self._versions.in_force(at, None)
        return known

    def _work_out(self, query: Query) -> _Answer:
        documents, versions = self._documents, self._versions
        mask = documents.readable(query.allowed)
        if query.filter is not None:
            mask &= matching(query.filter, documents)
        window = self.window(query.at) if query.at_seq is None else versions.in_force(query.at, query.at_seq)
        visible = window.mask & mask[versions.document] if len(mask) else np.zeros(len(versions), bool)
        sets = tuple(RowSet(visible[piece.row_version] & alive(piece, versions)) for piece in self._pieces)
        return _Answer(window.start, window.end, sets)
