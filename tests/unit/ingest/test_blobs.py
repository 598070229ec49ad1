"""Blobs in a folder: never half there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexes import durable
from indexes.errors import DiskFull, StorageFailed
from ingest.blobs import FolderBlobStore
from ingest.protocols import BlobStore
from tests.contracts.blobstore import BlobStoreContract


class TestFolderBlobStore(BlobStoreContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        return FolderBlobStore(tmp_path / "not" / "there yet")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_nothing_but_whole_blobs_stays_behind(tmp_path: Path) -> None:
    blobs = FolderBlobStore(tmp_path)
    names = [blobs.put(str(number).encode()) for number in range(5)]
    assert sorted(files(tmp_path)) == sorted(blobs.path(name) for name in names)


def test_bytes_and_names_are_synced_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = FolderBlobStore(tmp_path / "blobs").path(FolderBlobStore(tmp_path / "blobs").put(b"x"))
    aside = Path(synced[-2]).name
    assert aside.startswith(durable.ASIDE), "the bytes, under their temporary name"
    assert aside.endswith(path.name)
    assert synced[-1] == str(path.parent), "then the name"
    assert {str(tmp_path), str(tmp_path / "blobs")} <= set(synced), "and the folders that are new"


def test_a_disk_that_refuses_is_storage_failed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(step: str, path: Path) -> None:
        if step == "write done":
            raise OSError(28, "No space left on device")

    blobs = FolderBlobStore(tmp_path)
    blobs.put(b"before")
    with monkeypatch.context() as patch:
        patch.setattr(durable, "reached", full)
        with pytest.raises(DiskFull, match="No space left") as caught:
            blobs.put(b"too much")
    assert caught.value.retryable
    assert len(files(tmp_path)) == 1
    blobs.put(b"too much")


def test_what_a_crash_left_goes_with_the_next_push_beside_it(tmp_path: Path) -> None:
    blobs = FolderBlobStore(tmp_path)
    folder = blobs.path(blobs.put(b"x")).parent
    old, young = folder / f"{durable.ASIDE}00-x", folder / f"{durable.ASIDE}01-x"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    blobs.put(b"x")
    assert sorted(files(folder)) == [young, blobs.path(blobs.put(b"x"))], "the young one may be another process at work"


def test_a_place_that_cannot_be_a_folder_is_storage_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed):
        FolderBlobStore(tmp_path / "file" / "blobs").put(b"x")
