"""Snapshot files: read back what was written, refuse what was changed, keep what is still named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from indexes import durable
from indexes.columns import ColumnWriter
from indexes.durable import ASIDE, Stamp
from indexes.errors import SnapshotDamaged, StorageFailed
from indexes.snapshot import Record, read_snapshot, read_tables, snapshot_files, sweep, write_snapshot
from tests.contracts.engine_oracle import GENERATION


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("segments", "snapshots"):
        (tmp_path / name).mkdir()
    return tmp_path


def write(folder: Path, seq: int, *segments: str, purged: bool = False) -> Record:
    for name in segments:
        (folder / "segments" / name).mkdir(exist_ok=True)
    stamps = [(name, Stamp(1, "0" * 64)) for name in segments]

    def tables(writer: ColumnWriter) -> None:
        writer.add("numbers", [np.arange(seq)], np.dtype(np.int64))

    return write_snapshot(
        folder, GENERATION, seq=seq, committed_at=seq * 10, tables=tables, segments=stamps, purged=purged
    )


def names(folder: Path, part: str) -> list[str]:
    return sorted(path.name for path in (folder / part).iterdir())


def test_what_was_written_is_read(folder: Path) -> None:
    record = write(folder, 5, "seg_a", "seg_b")
    (path,) = snapshot_files(folder)
    assert path.name == "00000000000000000005.json"
    assert read_snapshot(path) == record
    assert read_tables(folder, record).array("numbers").tolist() == [0, 1, 2, 3, 4]


def test_the_newest_comes_first_also_past_nine(folder: Path) -> None:
    for seq in (2, 10, 9, 10**19):
        write(folder, seq if seq < 100 else 100)
    assert [int(path.stem) for path in snapshot_files(folder)] == [100, 10, 9, 2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seq": 5', '"seq": 6'),
        ("seg_a", "seg_c"),
        ('"purged": false', '"purged": true'),
        ("{", "["),
        ("gen_test", "gen_tesu"),
    ],
)
def test_any_change_is_refused(folder: Path, old: str, new: str) -> None:
    write(folder, 5, "seg_a")
    (path,) = snapshot_files(folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SnapshotDamaged, match=path.name):
        read_snapshot(path)


def test_cut_anywhere_is_refused(folder: Path) -> None:
    write(folder, 5, "seg_a")
    (path,) = snapshot_files(folder)
    content = path.read_bytes()
    for length in range(0, len(content), 9):
        path.write_bytes(content[:length])
        with pytest.raises(SnapshotDamaged):
            read_snapshot(path)


def test_a_format_of_the_future_is_refused(folder: Path) -> None:
    import hashlib

    write(folder, 5)
    (path,) = snapshot_files(folder)
    body = {**json.loads(path.read_bytes())["body"], "format": 99}
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"body": body, "sha256": checksum}))
    with pytest.raises(SnapshotDamaged, match="format"):
        read_snapshot(path)


def test_changed_tables_are_refused(folder: Path) -> None:
    record = write(folder, 5)
    path = folder / "snapshots" / record.tables
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(SnapshotDamaged, match="SHA-256"):
        read_tables(folder, record)


def test_tables_that_are_none_are_refused(folder: Path) -> None:
    """The hash is right, but what was written is no file of columns."""
    record = write(folder, 5)
    path = folder / "snapshots" / record.tables
    path.write_bytes(b"no columns")
    with pytest.raises(SnapshotDamaged, match="cannot be read"):
        read_tables(folder, dataclasses.replace(record, tables_stamp=durable.stamp(path)))


def test_a_failed_write_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(step: str, path: Path) -> None:
        if step == "sync":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "reached", refuse)
    with pytest.raises(StorageFailed):
        write(folder, 5)
    assert names(folder, "snapshots") == []


def test_what_is_being_written_is_spared(folder: Path) -> None:
    write(folder, 1, "seg_a")
    for name in ("seg_b", f"{ASIDE}seg_c", "seg_d"):
        (folder / "segments" / name).mkdir()
    sweep(folder, sparing={"seg_b", "seg_c"})
    assert names(folder, "segments") == sorted(["seg_a", "seg_b", f"{ASIDE}seg_c"])
    sweep(folder)
    assert names(folder, "segments") == ["seg_a"]


def test_sweeping_keeps_two_and_what_they_name(folder: Path) -> None:
    write(folder, 1, "seg_a", "seg_b")
    second = write(folder, 2, "seg_b", "seg_c")
    third = write(folder, 3, "seg_c", "seg_d")
    (folder / "segments" / f"{ASIDE}seg_e").mkdir()
    (folder / "snapshots" / f"{ASIDE}x.json").write_bytes(b"half")
    sweep(folder)
    assert names(folder, "segments") == ["seg_b", "seg_c", "seg_d"]
    files = [f"{2:020d}.json", f"{3:020d}.json", second.tables, third.tables]
    assert names(folder, "snapshots") == sorted(files)
    sweep(folder)
    assert names(folder, "snapshots") == sorted(files)


def test_after_a_purge_no_older_one_is_kept(folder: Path) -> None:
    write(folder, 1, "seg_a")
    record = write(folder, 2, "seg_b", purged=True)
    sweep(folder)
    assert names(folder, "segments") == ["seg_b"]
    assert names(folder, "snapshots") == sorted([f"{2:020d}.json", record.tables])
    write(folder, 3, "seg_b")
    sweep(folder)
    assert len(snapshot_files(folder)) == 2


def test_a_damaged_snapshot_keeps_nothing(folder: Path) -> None:
    write(folder, 1, "seg_a")
    write(folder, 2, "seg_b")
    write(folder, 3, "seg_c")
    snapshot_files(folder)[0].write_bytes(b"")
    sweep(folder)
    assert [int(path.stem) for path in snapshot_files(folder)] == [2, 1]
    assert names(folder, "segments") == ["seg_a", "seg_b"]


def test_the_same_seq_again_takes_the_place(folder: Path) -> None:
    write(folder, 4, "seg_a")
    write(folder, 4, "seg_b")
    (path,) = snapshot_files(folder)
    assert [name for name, _ in read_snapshot(path).segments] == ["seg_b"]
    sweep(folder)
    assert names(folder, "segments") == ["seg_b"]
