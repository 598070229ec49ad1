"""A sealed segment: what goes in comes out, and nothing is left of one that could not be finished."""

from __future__ import annotations

import dataclasses
import json
import mmap
from pathlib import Path

import numpy as np
import pytest

from indexes import durable
from indexes.columns import TextTable
from indexes.durable import Stamp
from indexes.errors import SegmentDamaged, StorageFailed
from indexes.joining import Joining, Part
from indexes.postings import Terms
from indexes.segment import check_segment, read_segment, write_segment


def rows_of(rows: int = 5) -> Joining:
    random = np.random.default_rng(rows)
    part = Part(
        rows=np.arange(rows),
        ordinal=np.arange(rows, dtype=np.int32),
        chunk_ids=TextTable.of(f"c{row}" for row in range(rows)),
        terms=Terms.of([["a", "b", f"w{row}"] for row in range(rows)]),
        vectors=random.standard_normal((rows, 4)).astype(np.float32),
    )
    return Joining((part,), ("v1", "vé"), (np.arange(rows) >= rows // 2).astype(np.int32), 4)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Stamp]:
    folder = tmp_path / "seg_1"
    return folder, write_segment(folder, rows_of(), generation_id="gen_1")


def test_what_goes_in_comes_out(stored: tuple[Path, Stamp]) -> None:
    folder, stamp = stored
    segment = read_segment(folder, stamp, generation_id="gen_1")
    wanted, found = rows_of(), segment.contents
    (part,) = wanted.parts
    assert (segment.id, list(found.version_ids)) == ("seg_1", list(wanted.version_ids))
    assert list(found.chunk_ids) == list(part.chunk_ids)
    assert segment.dense.vectors.tobytes() == part.vectors.tobytes()
    assert found.version.tolist() == wanted.version.tolist()
    assert found.ordinal.tolist() == part.ordinal.tolist()
    assert [found.terms.row(row) for row in range(5)] == [part.terms.row(row) for row in range(5)]
    assert len(segment.dense) == len(segment.lexical) == 5


def test_the_manifest_names_every_file(stored: tuple[Path, Stamp]) -> None:
    folder, stamp = stored
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["rows"], manifest["dimensions"], manifest["versions"]) == (5, 4, 2)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    locks = {name for name in files if name.endswith(".lock")}
    assert all((folder / name).stat().st_size == 0 for name in locks)
    assert set(manifest["files"]) == files - locks - {"manifest.json"}
    assert durable.stamp(folder / "manifest.json") == stamp
    assert check_segment(folder, stamp) == []


def test_nothing_is_made_per_row_when_it_is_read(stored: tuple[Path, Stamp]) -> None:
    """Every array is a view of the mapped file, and nobody can write to it."""
    contents = read_segment(*stored, generation_id="gen_1").contents
    terms = contents.terms
    arrays = (terms.lengths, terms.offsets, terms.ids, terms.counts, terms.starts, terms.rows, terms.row_counts)
    for array in (contents.version, contents.ordinal, *arrays):
        view: object = array.base
        assert isinstance(view, memoryview)
        assert isinstance(view.obj, mmap.mmap)
        assert not array.flags.writeable


def test_a_segment_of_another_generation_is_refused(stored: tuple[Path, Stamp]) -> None:
    with pytest.raises(SegmentDamaged, match="belongs to generation gen_1"):
        read_segment(*stored, generation_id="gen_2")


def rewrite_manifest(folder: Path, **changes: object) -> Stamp:
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_bytes()), **changes}
    path.write_text(json.dumps(manifest))
    return durable.stamp(path)


@pytest.mark.parametrize("number", [1, 99])
def test_a_format_of_the_past_or_the_future_is_refused(stored: tuple[Path, Stamp], number: int) -> None:
    folder, _ = stored
    stamp = rewrite_manifest(folder, format=number)
    with pytest.raises(SegmentDamaged, match=r"format .* so it is built again"):
        read_segment(folder, stamp, generation_id="gen_1")


def test_parts_that_do_not_belong_together_are_refused(stored: tuple[Path, Stamp], tmp_path: Path) -> None:
    """Every file is as its manifest says, but the vectors are those of another segment."""
    folder, _ = stored
    other = tmp_path / "seg_2"
    write_segment(other, rows_of(6), generation_id="gen_1")
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    for name in ("dense/vectors.f32", "dense/report.json"):
        (folder / name).write_bytes((other / name).read_bytes())
        files[name] = dataclasses.asdict(durable.stamp(folder / name))
    stamp = rewrite_manifest(folder, files=files)
    assert check_segment(folder, stamp) == []
    with pytest.raises(SegmentDamaged, match="different numbers of rows"):
        read_segment(folder, stamp, generation_id="gen_1")


@pytest.mark.parametrize("name", ["rows.columns", "dense/vectors.f32", "dense/report.json"])
def test_a_file_that_cannot_be_read_is_named(stored: tuple[Path, Stamp], name: str) -> None:
    folder, _ = stored
    (folder / name).write_bytes(b"{}")
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    files[name] = dataclasses.asdict(durable.stamp(folder / name))
    stamp = rewrite_manifest(folder, files=files)
    with pytest.raises(SegmentDamaged, match="seg_1"):
        read_segment(folder, stamp, generation_id="gen_1")


def test_of_a_failed_write_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(step: str, path: Path) -> None:
        if step == "write" and path.name == "rows.columns":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "reached", refuse)
    with pytest.raises(StorageFailed, match="Segment seg_1 could not be written: No space left"):
        write_segment(tmp_path / "seg_1", rows_of(), generation_id="gen_1")
    assert list(tmp_path.iterdir()) == []
