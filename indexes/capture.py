"""How does one take a published state away while its writer goes on? By hard links: nothing published ever changes.

A writer that publishes deletes older snapshot files first, then the segments that no file names any more. So a state
whose file is still the same after all its parts were linked was whole all the time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from indexes import durable
from indexes.errors import SnapshotDamaged, StorageFailed
from indexes.snapshot import SEGMENTS, SNAPSHOTS, marks, read_snapshot

_ATTEMPTS = 50


def capture(folder: Path, aside: Path) -> int | None:
    """Link the newest state of a generation that can be read into the new folder `aside`.

    Returns its sequence number, None if nothing was published. Raises StorageFailed.
    """
    for _ in range(_ATTEMPTS):
        found = marks(folder)
        for mark in found:
            try:
                return _capture(folder, mark.name, aside)
            except (FileNotFoundError, SnapshotDamaged):
                durable.delete(aside)
                if marks(folder) != found:
                    break  # published meanwhile, and swept what we were linking
        else:
            return None  # nothing there, or nothing sound
    raise StorageFailed(f"Generation {folder.name} was published anew each time it was looked at.")


def _capture(folder: Path, name: str, aside: Path) -> int:
    """Raises FileNotFoundError when a part is not there, or not there any more."""
    (aside / SNAPSHOTS).mkdir(parents=True)
    (aside / SEGMENTS).mkdir()
    state = aside / SNAPSHOTS / name
    link(folder / SNAPSHOTS / name, state)
    record = read_snapshot(state)
    link(folder / SNAPSHOTS / record.tables, aside / SNAPSHOTS / record.tables)
    for segment, _ in record.segments:
        for path in files_in(folder / SEGMENTS / segment):
            place = aside / SEGMENTS / segment / path.relative_to(folder / SEGMENTS / segment)
            place.parent.mkdir(parents=True, exist_ok=True)
            link(path, place)
    if (folder / SNAPSHOTS / name).read_bytes() != state.read_bytes():
        raise FileNotFoundError(name)
    return record.seq


def files_in(folder: Path) -> list[Path]:
    """Every file below a folder, sorted. Raises FileNotFoundError if there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def link(path: Path, place: Path) -> None:
    """A second name for a file, or a copy where there can be none. Raises FileNotFoundError, OSError."""
    try:
        os.link(path, place)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, place)
