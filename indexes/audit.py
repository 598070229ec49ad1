"""Is every stored byte as it was written? Reads all snapshots and segments of a generation back from disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from indexes.durable import Stamp
from indexes.errors import SegmentDamaged, SnapshotDamaged
from indexes.model import Problem
from indexes.segment import check_segment, read_segment
from indexes.snapshot import (
    SEGMENTS,
    SNAPSHOTS,
    Record,
    marks,
    read_snapshot,
    read_tables,
    snapshot_files,
)

ATTEMPTS = 10
Named = dict[tuple[str, Stamp], str]
"""Segments that snapshots name, each with its generation."""


def check_generation(
    folder: Path, *, share: float = 1.0, stored: Callable[[], str | None] = lambda: None
) -> tuple[Problem, ...]:
    """One Problem per damaged part; `details` lists what is wrong with each file of a segment.

    Files and folders that no snapshot names are no problem: the next publish sweeps them. Publishing may go on
    meanwhile. `share` of one core's time is used; `stored` names the snapshot file that must be there.
    """
    unreadable = _unreadable(folder)
    if unreadable:
        return (Problem(folder.name, unreadable),)
    problems, named = _snapshots(folder)
    missing = stored()
    if missing is not None and not (folder / SNAPSHOTS / missing).exists() and stored() == missing:
        problems.append(_problem(folder, missing, f"Snapshot file {missing} is missing."))
    for (name, stamp), generation_id in named.items():
        began = time.monotonic()
        lines = _check(folder / SEGMENTS / name, stamp, generation_id)
        if lines and (name, stamp) in _snapshots(folder)[1]:  # else it was merged and swept meanwhile
            problems.append(_problem(folder, f"{SEGMENTS}/{name}", lines[0], tuple(lines)))
        time.sleep((time.monotonic() - began) * (1.0 / share - 1.0))
    return tuple(problems)


def _unreadable(folder: Path) -> str | None:
    """What keeps a folder from being listed; one that is not there is empty."""
    for path in (folder, folder / SNAPSHOTS, folder / SEGMENTS):
        try:
            os.listdir(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})."
    return None


def _snapshots(folder: Path) -> tuple[list[Problem], Named]:
    """What is wrong with the snapshots and their tables, and all segments that they name."""
    problems: list[Problem] = []
    named: Named = {}
    for _ in range(ATTEMPTS):
        before = marks(folder)
        problems, named = _read_snapshots(folder)
        if not problems or marks(folder) == before:
            break  # else something was published meanwhile, and what we were reading swept
    return problems, named


def _read_snapshots(folder: Path) -> tuple[list[Problem], Named]:
    problems: list[Problem] = []
    named: Named = {}
    for path in snapshot_files(folder):
        try:
            record = read_snapshot(path)
            read_tables(folder, record)
            named.update(dict.fromkeys(record.segments, record.generation.id))
        except FileNotFoundError as error:
            problems.append(_problem(folder, path.name, f"{Path(error.filename).name} is missing"))
        except SnapshotDamaged as error:
            problems.append(_problem(folder, path.name, str(error)))
            named.update(dict.fromkeys(_segments(path), folder.name))
        except OSError as error:
            problems.append(_problem(folder, path.name, f"{path.name} cannot be read ({error.strerror})"))
    return problems, named


def _check(path: Path, stamp: Stamp, generation_id: str) -> list[str]:
    try:
        lines = check_segment(path, stamp)
        if not lines:
            read_segment(path, stamp, generation_id=generation_id)  # compares the counts of all parts
        return lines
    except SegmentDamaged as error:
        return [str(error)]
    except OSError as error:
        return [f"{error.filename or path.name} cannot be read ({error.strerror})"]


def _segments(path: Path) -> tuple[tuple[str, Stamp], ...]:
    """The segments of a snapshot whose tables are damaged; none if its own file is."""
    try:
        record: Record = read_snapshot(path)
    except (SnapshotDamaged, OSError):
        return ()
    return record.segments


def _problem(folder: Path, part: str, what: str, details: tuple[str, ...] = ()) -> Problem:
    return Problem(f"{folder.name}/{part}", what, details=details)
