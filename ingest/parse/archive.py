"""Zip containers (docx, pptx, xlsx, odt, epub), read with caps: a bomb is refused before it unpacks."""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentTooLarge

MIB = 1 << 20
UNPACKED_BYTES = 512 * MIB
"""At most this much in all parts together; real office files stay far below."""
PART_BYTES = 64 * MIB
"""At most this much of one part that is read in Python."""
SUSPECT_BYTES, SUSPECT_RATIO = 50 * MIB, 200
"""Beyond both, it is a bomb: XML packs 10 to 50 times, deflate at most 1032 times."""
BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError)


class Archive:
    """The parts of a container by name. Raises DocumentDamaged, DocumentEncrypted, DocumentTooLarge."""

    def __init__(self, data: bytes, *, name: str) -> None:
        self._name = name
        try:
            self._zip = zipfile.ZipFile(BytesIO(data))
        except BROKEN as broken:
            raise DocumentDamaged(f"{name} is not a readable container: {broken}.") from broken
        parts = self._zip.infolist()
        unpacked, packed = sum(part.file_size for part in parts), max(1, len(data))
        if unpacked > UNPACKED_BYTES or (unpacked > SUSPECT_BYTES and unpacked > SUSPECT_RATIO * packed):
            raise DocumentTooLarge(f"{name} has {packed:,} bytes but unpacks to {unpacked:,}: it is not unpacked.")
        self._parts = {part.filename.lstrip("/"): part for part in parts}
        self._read = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every part's name, in the order of the container."""
        return tuple(self._parts)

    def has(self, part: str) -> bool:
        """Whether there is such a part."""
        return part in self._parts

    def read(self, part: str) -> bytes:
        """A part's bytes, whatever size it claims to have."""
        entry = self._parts.get(part)
        if entry is None:
            raise DocumentDamaged(f"{self._name} lacks its part {part}.")
        if entry.flag_bits & 1:
            raise DocumentEncrypted(f"{self._name} is protected by a password.")
        try:
            with self._zip.open(entry) as source:
                data = source.read(PART_BYTES + 1)
        except BROKEN as broken:
            raise DocumentDamaged(f"{self._name}: its part {part} cannot be unpacked: {broken}.") from broken
        self._read += len(data)
        if len(data) > PART_BYTES or self._read > UNPACKED_BYTES:
            raise DocumentTooLarge(f"{self._name}: its part {part} unpacks to more than {PART_BYTES:,} bytes.")
        return data
