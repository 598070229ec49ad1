"""Blobs in a folder: never half there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexes.errors import StorageFailed
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
    assert Path(synced[-2]).name.startswith("." + path.name), "the bytes, under their temporary name"
    assert synced[-1] == str(path.parent), "then the name"
    assert {str(tmp_path), str(tmp_path / "blobs")} <= set(synced), "and the folders that are new"


def test_a_disk_that_refuses_is_storage_failed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    blobs = FolderBlobStore(tmp_path)
    blobs.put(b"before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageFailed, match="No space left") as caught:
            blobs.put(b"too much")
    assert caught.value.retryable
    assert len(files(tmp_path)) == 1
    blobs.put(b"too much")


def test_a_place_that_cannot_be_a_folder_is_storage_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed):
        FolderBlobStore(tmp_path / "file" / "blobs").put(b"x")
