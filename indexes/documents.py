"""What is known about documents? Who may read each, and the metadata that filters ask for.

One row per document, one column per metadata key. A column holds small codes; what a code stands for
is stored once, so a condition is judged once per distinct value, not once per document.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexes.model import Allowed, MetadataValue, Scalar

Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]
Key = Hashable
MISSING: Final = -1
NOT_DESCRIBED: Final = 0
"""Access code of a document that nobody described yet: nobody but the service itself may read it."""


def scalar_key(value: Scalar) -> Key:
    """What makes two scalars the same: 1 and 1.0 are, 1 and True and "1" are not."""
    return ("truth", value) if isinstance(value, bool) else value  # a number never equals a text to Python either


def value_key(value: MetadataValue) -> Key:
    """What makes two metadata values the same."""
    if isinstance(value, tuple):
        return "many", tuple(scalar_key(part) for part in value)
    return scalar_key(value)


@dataclass(slots=True)
class Values:
    """The distinct values of one key. Only ever grows, so tables of any age can share it.

    A title or an address differs in each document, so a value costs little more than itself and its code.
    """

    values: list[MetadataValue] = field(default_factory=list)
    codes: dict[Key, int] = field(default_factory=dict)
    containing: dict[Key, list[int]] = field(default_factory=dict)
    """For each scalar, the codes of the lists that contain it."""

    def code(self, value: MetadataValue) -> int:
        """The code of a value, a new one if needed."""
        key = value_key(value)
        code = self.codes.get(key)
        if code is None:
            code = len(self.values)
            self.values.append(value)
            if isinstance(value, tuple):
                for part in {scalar_key(p) for p in value}:
                    self.containing.setdefault(part, []).append(code)
            self.codes[key] = code
        return code

    def holders(self, scalar: Scalar) -> list[int]:
        """The codes of the values that are a scalar or contain it."""
        key = scalar_key(scalar)
        own = self.codes.get(key)
        return [*self.containing.get(key, ()), *(() if own is None else (own,))]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One metadata key: a code per document (shorter than the table: the rest is missing)."""

    values: Values
    codes: Codes

    def holding(self, wanted: Iterable[Scalar]) -> Mask:
        """Documents whose value is, or contains, any of these."""
        known = len(self.values.values)
        lookup = np.zeros(known + 1, bool)
        for scalar in wanted:
            # A writer may add values meanwhile; no code of this table is one of those.
            lookup[[code for code in self.values.holders(scalar) if code < known]] = True
        return self._spread(lookup)

    def where(self, test: Callable[[MetadataValue], bool]) -> Mask:
        """Documents whose value passes a test; a missing one does not."""
        return self._spread(np.array([*map(test, list(self.values.values)), False], bool))

    def present(self) -> Mask:
        """Documents that have a value."""
        return np.asarray(self.codes != MISSING)

    def _spread(self, lookup: Mask) -> Mask:
        # MISSING is -1, so a missing value reads the last entry of the lookup table.
        return np.asarray(lookup[self.codes], bool)


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """The document table. `ids`, `ordinals`, `lists` and `list_codes` only grow and are shared by later tables."""

    ids: list[str]
    ordinals: dict[str, int]
    lists: list[frozenset[str]]
    list_codes: dict[frozenset[str], int]
    access: Codes
    columns: Mapping[str, Column]

    @classmethod
    def empty(cls) -> Documents:
        """A table without documents."""
        nobody: frozenset[str] = frozenset()
        return cls([], {}, [nobody], {nobody: NOT_DESCRIBED}, np.zeros(0, np.int32), {})

    def __len__(self) -> int:
        return len(self.access)

    def readable(self, allowed: Allowed) -> Mask:
        """Documents that the caller may read."""
        if allowed.principals is None:
            return np.ones(len(self), bool)
        verdicts = np.array([allowed.may_read(access) for access in list(self.lists)], bool)
        return np.asarray(verdicts[self.access], bool)

    def whole(self, mask: Mask) -> Mask:
        """A column's answer made as long as the table."""
        if len(mask) == len(self):
            return mask
        result = np.zeros(len(self), bool)
        result[: len(mask)] = mask
        return result

    def describe(self, ordinal: int) -> tuple[frozenset[str], dict[str, MetadataValue]]:
        """Access list and metadata of one document."""
        metadata = {}
        for key, column in self.columns.items():
            if ordinal < len(column.codes) and column.codes[ordinal] != MISSING:
                metadata[key] = column.values.values[column.codes[ordinal]]
        return self.lists[self.access[ordinal]], metadata


class DocumentDraft:
    """The next document table while a batch is applied. The base is not touched, whatever happens."""

    def __init__(self, base: Documents, *, room: int) -> None:
        """`room` is how many new documents may come at most."""
        self._base = base
        self._fresh: dict[str, int] = {}
        self._size = len(base) + room
        self._access = np.full(self._size, NOT_DESCRIBED, np.int32)
        self._access[: len(base)] = base.access
        self._touched: dict[str, Column] = {}

    def ordinal(self, document_id: str) -> int:
        """The ordinal of a document, a new one if needed (then nobody may read it yet)."""
        known = self._base.ordinals.get(document_id)
        if known is not None and known < len(self._base):
            return known
        return self._fresh.setdefault(document_id, len(self._base) + len(self._fresh))

    def describe(self, ordinal: int, access: frozenset[str], metadata: Mapping[str, MetadataValue]) -> None:
        """Replace what is known about a document."""
        code = self._base.list_codes.setdefault(access, len(self._base.lists))
        if code == len(self._base.lists):
            self._base.lists.append(access)
        self._access[ordinal] = code
        for key in {*self._base.columns, *self._touched, *metadata}:
            self._set(ordinal, key, metadata.get(key))

    def forget(self, ordinal: int) -> None:
        """Erase what is known about a document."""
        self.describe(ordinal, frozenset(), {})

    def freeze(self) -> Documents:
        """The finished table."""
        base, used = self._base, len(self._base) + len(self._fresh)
        base.ids[len(base) :] = list(self._fresh)
        base.ordinals.update(self._fresh)
        touched = {key: Column(column.values, column.codes[:used]) for key, column in self._touched.items()}
        columns = {**base.columns, **touched}
        return Documents(base.ids, base.ordinals, base.lists, base.list_codes, self._access[:used], columns)

    def _set(self, ordinal: int, key: str, value: MetadataValue | None) -> None:
        column = self._touched.get(key)
        if column is None:
            known = self._base.columns.get(key)
            if value is None and (known is None or ordinal >= len(known.codes) or known.codes[ordinal] == MISSING):
                return
            codes = np.full(self._size, MISSING, np.int32)
            if known is not None:
                codes[: len(known.codes)] = known.codes
            column = self._touched[key] = Column(known.values if known is not None else Values(), codes)
        column.codes[ordinal] = MISSING if value is None else column.values.code(value)
