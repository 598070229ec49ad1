"""A sealed segment: what goes in comes out, and nothing is left of one that could not be finished."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from indexes import durable
from indexes.durable import Stamp
from indexes.errors import SegmentDamaged, StorageFailed
from indexes.postings import Terms
from indexes.segment import Contents, check_segment, read_segment, write_segment


def contents(rows: int = 5) -> Contents:
    random = np.random.default_rng(rows)
    return Contents(
        chunk_ids=tuple(f"c{row}" for row in range(rows)),
        version_ids=("v1", "vé"),
        version=(np.arange(rows) >= rows // 2).astype(np.int32),
        ordinal=np.arange(rows, dtype=np.int32),
        terms=Terms.of([["a", "b", f"w{row}"] for row in range(rows)]),
        vectors=random.standard_normal((rows, 4)).astype(np.float32),
    )


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Stamp]:
    folder = tmp_path / "seg_1"
    return folder, write_segment(folder, contents(), generation_id="gen_1")


def test_what_goes_in_comes_out(stored: tuple[Path, Stamp]) -> None:
    folder, stamp = stored
    segment = read_segment(folder, stamp, generation_id="gen_1")
    wanted, found = contents(), segment.contents
    assert (segment.id, found.chunk_ids, found.version_ids) == ("seg_1", wanted.chunk_ids, wanted.version_ids)
    assert found.vectors.tobytes() == wanted.vectors.tobytes()
    assert found.version.tolist() == wanted.version.tolist()
    assert found.ordinal.tolist() == wanted.ordinal.tolist()
    assert [found.terms.row(row) for row in range(5)] == [wanted.terms.row(row) for row in range(5)]
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


def test_no_pickle_is_stored(stored: tuple[Path, Stamp]) -> None:
    with np.load(stored[0] / "rows.npz", allow_pickle=False) as rows:
        assert {rows[name].dtype.kind for name in rows.files} <= {"i", "u"}


def test_a_segment_of_another_generation_is_refused(stored: tuple[Path, Stamp]) -> None:
    with pytest.raises(SegmentDamaged, match="belongs to generation gen_1"):
        read_segment(*stored, generation_id="gen_2")


def rewrite_manifest(folder: Path, **changes: object) -> Stamp:
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_bytes()), **changes}
    path.write_text(json.dumps(manifest))
    return durable.stamp(path)


def test_a_format_of_the_future_is_refused(stored: tuple[Path, Stamp]) -> None:
    folder, _ = stored
    stamp = rewrite_manifest(folder, format=99)
    with pytest.raises(SegmentDamaged, match="format"):
        read_segment(folder, stamp, generation_id="gen_1")


def test_parts_that_do_not_belong_together_are_refused(stored: tuple[Path, Stamp], tmp_path: Path) -> None:
    """Every file is as its manifest says, but the vectors are those of another segment."""
    folder, _ = stored
    other = tmp_path / "seg_2"
    write_segment(other, contents(6), generation_id="gen_1")
    (folder / "dense.faiss").write_bytes((other / "dense.faiss").read_bytes())
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    files["dense.faiss"] = dataclasses.asdict(durable.stamp(folder / "dense.faiss"))
    stamp = rewrite_manifest(folder, files=files)
    assert check_segment(folder, stamp) == []
    with pytest.raises(SegmentDamaged, match="different numbers of rows"):
        read_segment(folder, stamp, generation_id="gen_1")


@pytest.mark.parametrize("name", ["rows.npz", "rows.json", "dense.faiss"])
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
        if path.name == "rows.json":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "reached", refuse)
    with pytest.raises(StorageFailed, match="Segment seg_1 could not be written: No space left"):
        write_segment(tmp_path / "seg_1", contents(), generation_id="gen_1")
    assert list(tmp_path.iterdir()) == []
