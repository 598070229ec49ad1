"""How are many columns of numbers and texts kept in one file? Mapped into memory, so that only what is read is there.

Each column is its raw little-endian values, at a multiple of ALIGNMENT bytes; after them the directory (JSON: name ->
type, place, count), and at the end the directory's place as eight bytes. A column of texts is two: all texts one after
the other in UTF-8, and where each begins. Nothing in it can run, and nothing is made per row when a file is opened.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.durable import Stream

Ints = NDArray[np.integer]
"""Whole numbers in whatever type they fit."""
ALIGNMENT: Final = 64
BLOCK: Final = 16_384
"""Texts are read and written so many at a time."""
FOOTER: Final = 8
TYPES: Final = frozenset({"|u1", "<u2", "<u4", "<i4", "<i8"})
_UTF8: Final = ("utf-8", "surrogatepass")  # a term may hold lone surrogates; byte order is code point order


def fitting(largest: int) -> np.dtype[Any]:
    """The smallest type for 0..largest. Never uint64, which numpy mixes with signed integers to floats."""
    return np.dtype(np.int64) if largest >= 2**32 else np.min_scalar_type(largest)


def ends_of(sizes: Ints) -> NDArray[np.int64]:
    """Where each of these pieces begins, and where the last ends: shape (len(sizes) + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def spread(starts: Ints, sizes: Ints) -> NDArray[np.int64]:
    """All places of these ranges, one range after the other."""
    before = np.cumsum(sizes, dtype=np.int64) - sizes
    return np.asarray(np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(starts - before, sizes))


class Packed(NamedTuple):
    """Texts one after the other in UTF-8, and the bytes of each."""

    data: NDArray[np.uint8]
    sizes: Ints

    @classmethod
    def of(cls, texts: Iterable[str]) -> Packed:
        """Pack texts that are in memory."""
        encoded = [text.encode(*_UTF8) for text in texts]
        return cls.of_bytes(encoded)

    @classmethod
    def of_bytes(cls, encoded: Sequence[bytes]) -> Packed:
        """Pack texts that are encoded already."""
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), sizes)


class TextTable:
    """Texts by number. `find` works where they are sorted by code points."""

    __slots__ = ("_bytes", "_data", "_starts")

    def __init__(self, data: NDArray[np.uint8], starts: Ints) -> None:
        self._data = data
        self._starts = starts
        self._bytes = data.data

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextTable:
        """A table in memory."""
        packed = Packed.of(texts)
        return cls(packed.data, ends_of(packed.sizes))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        return str(self.encoded(number), *_UTF8)

    def __iter__(self) -> Iterator[str]:
        return (str(one, *_UTF8) for one in self.iterate())

    def encoded(self, number: int) -> bytes:
        """One text in UTF-8. Raises IndexError."""
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} texts, none has the number {number}")
        return self._bytes[int(self._starts[number]) : int(self._starts[number + 1])].tobytes()

    def iterate(self) -> Iterator[bytes]:
        """All texts in UTF-8, read block by block."""
        for at in range(0, len(self), BLOCK):
            bounds = self._starts[at : at + BLOCK + 1].astype(np.int64)
            data = self._bytes[int(bounds[0]) : int(bounds[-1])].tobytes()
            places = (bounds - bounds[0]).tolist()
            yield from (data[start:end] for start, end in pairwise(places))

    def take(self, numbers: Ints) -> Packed:
        """The texts with these numbers."""
        starts = self._starts[numbers].astype(np.int64)
        sizes = self._starts[np.asarray(numbers, np.int64) + 1].astype(np.int64) - starts
        return Packed(self._data[spread(starts, sizes)], sizes)

    def find(self, text: str) -> int | None:
        """The number of a text in a sorted table, None when it is not there."""
        wanted = text.encode(*_UTF8)
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.encoded(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.encoded(low) == wanted else None


class ColumnWriter:
    """Writes columns one after the other. `finish` makes the file readable."""

    def __init__(self, file: Stream) -> None:
        self._file = file
        self._place = 0
        self._directory: dict[str, tuple[str, int, int]] = {}

    def add(self, name: str, blocks: Iterable[Ints], dtype: np.dtype[Any]) -> int:
        """A column of numbers from blocks of them, which must fit the type. Returns how many there were."""
        self._write(bytes(-self._place % ALIGNMENT))
        place, count = self._place, 0
        stored = dtype.newbyteorder("<")
        for block in blocks:
            self._write(np.ascontiguousarray(block, stored).data.cast("B") if len(block) else b"")
            count += len(block)
        self._directory[name] = (stored.str, place, count)
        return count

    def add_texts(self, name: str, blocks: Iterable[Packed]) -> int:
        """A column of texts from blocks of them. Returns how many there were."""
        sizes: list[Ints] = []

        def data() -> Iterator[NDArray[np.uint8]]:
            for block in blocks:
                sizes.append(block.sizes.astype(np.int32))
                yield block.data

        total = self.add(f"{name}.text", data(), np.dtype(np.uint8))
        starts = ends_of(np.concatenate([np.zeros(0, np.int32), *sizes]))
        return self.add(f"{name}.start", [starts], fitting(total)) - 1

    def finish(self) -> None:
        """Write the directory; nothing may be added after it."""
        place = self._place
        self._write(json.dumps(self._directory).encode("ascii"))
        self._write(place.to_bytes(FOOTER, "little"))

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._place += len(data)


class Columns:
    """The columns of one file. Arrays are read-only views; they keep what they show open, or in memory."""

    def __init__(self, content: bytes | mmap.mmap) -> None:
        """Raises ValueError when this is no file of columns."""
        size = len(content)
        place = int.from_bytes(content[size - FOOTER :], "little") if size >= FOOTER else size
        self._content = content
        try:
            self._directory = {
                name: (np.dtype(_known(kind)), int(start), int(count))
                for name, (kind, start, count) in json.loads(content[place : size - FOOTER]).items()
            }
        except (TypeError, AttributeError) as error:
            raise ValueError(f"the directory of columns cannot be read ({error})") from error
        for name, (kind, start, count) in self._directory.items():
            if start < 0 or count < 0 or start % ALIGNMENT or start + count * kind.itemsize > place:
                raise ValueError(f"column {name} does not lie in the file")

    def array(self, name: str) -> Ints:
        """A column of numbers. Raises KeyError."""
        kind, start, count = self._directory[name]
        if not count:
            return np.zeros(0, kind)
        return np.frombuffer(self._content, kind, count, start)

    def texts(self, name: str) -> TextTable:
        """A column of texts. Raises KeyError."""
        return TextTable(self.array(f"{name}.text").view(np.uint8), self.array(f"{name}.start"))


def map_columns(path: Path) -> Columns:
    """The columns of a file, mapped. Raises OSError, ValueError."""
    with path.open("rb") as file:
        return Columns(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _known(kind: object) -> str:
    if kind not in TYPES:
        raise ValueError(f"a column cannot have the type {kind!r}")
    return str(kind)
