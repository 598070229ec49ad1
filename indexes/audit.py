"""Is every stored byte as it was written? Reads all snapshots and segments of a generation back from disk."""

from __future__ import annotations

from pathlib import Path

from indexes.durable import Stamp
from indexes.errors import SegmentDamaged, SnapshotDamaged
from indexes.model import Problem
from indexes.segment import check_segment, read_segment
from indexes.snapshot import SEGMENTS, Record, marks, read_snapshot, read_tables, snapshot_files, unpack

ATTEMPTS = 10


def check_generation(folder: Path) -> tuple[Problem, ...]:
    """One Problem per damaged part; `details` lists what is wrong with each file of a segment.

    Files and folders that no snapshot names are no problem: the next publish sweeps them.
    """
    problems: tuple[Problem, ...] = ()
    for _ in range(ATTEMPTS):
        before = marks(folder)
        problems = _check_all(folder)
        if not problems or marks(folder) == before:
            break  # else something was published meanwhile, and what we were reading swept
    return problems


def _check_all(folder: Path) -> tuple[Problem, ...]:
    problems: list[Problem] = []
    wanted: dict[tuple[str, Stamp], str] = {}
    for path in snapshot_files(folder):
        try:
            record = read_snapshot(path)
            unpack(read_tables(folder, record))
            wanted.update(dict.fromkeys(record.segments, record.generation.id))
        except FileNotFoundError as error:
            problems.append(_problem(folder, path.name, f"{Path(error.filename).name} is missing"))
        except SnapshotDamaged as error:
            problems.append(_problem(folder, path.name, str(error)))
            wanted.update(dict.fromkeys(_segments(path), folder.name))
    for (name, stamp), generation_id in wanted.items():
        lines = _check(folder / SEGMENTS / name, stamp, generation_id)
        if lines:
            problems.append(_problem(folder, f"{SEGMENTS}/{name}", lines[0], tuple(lines)))
    return tuple(problems)


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
    except (SnapshotDamaged, FileNotFoundError):
        return ()
    return record.segments


def _problem(folder: Path, part: str, what: str, details: tuple[str, ...] = ()) -> Problem:
    return Problem(f"{folder.name}/{part}", what, details=details)
