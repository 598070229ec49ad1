"""Files and folders on the way to the disk."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from indexes import durable
from indexes.durable import Stamp
from indexes.errors import DiskFull, StorageFailed, StorageHalted, WriterBusy


def test_a_written_file_is_what_its_stamp_says(tmp_path: Path) -> None:
    stamp = durable.write(tmp_path / "a", b"abc")
    assert stamp == Stamp(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert durable.stamp(tmp_path / "a") == stamp


def test_content_is_synced_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(durable, "reached", lambda step, path: steps.append(f"{step} {path.name}"))
    durable.write_aside(tmp_path / "a", b"abc")
    expected = ["write .aside-a", "sync .aside-a", "rename a", f"sync_folder {tmp_path.name}"]
    assert steps == [f"{step}{mark} {name}" for step, name in map(str.split, expected) for mark in ("", " done")]


@pytest.mark.parametrize("stop", ["write", "sync", "rename"])
def test_the_old_content_stays_until_the_new_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    path = tmp_path / "a"
    durable.write_aside(path, b"old")

    def refuse(step: str, _: Path) -> None:
        if step == stop:
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(durable, "reached", refuse)
    with pytest.raises(OSError, match="broken"):
        durable.write_aside(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"], "a full disk must not fill further with each try"
    monkeypatch.undo()
    durable.write_aside(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def fail_in_storage() -> None:
    with durable.storage("The thing"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_errors_of_the_system_become_ours() -> None:
    with pytest.raises(DiskFull, match=r"The thing could not be written: No space left on device\.") as caught:
        fail_in_storage()
    assert caught.value.retryable
    with pytest.raises(StorageFailed, match="Read-only") as other, durable.storage("The thing"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    assert type(other.value) is StorageFailed
    with pytest.raises(KeyError), durable.storage("The thing"):
        raise KeyError


WRITES: dict[str, Callable[[Path], object]] = {
    "write": lambda folder: durable.write(folder / "b", b"x"),
    "write_aside": lambda folder: durable.write_aside(folder / "b", b"x"),
    "publish": lambda folder: durable.publish(folder / "a", folder / "b"),
    "make_folder": lambda folder: durable.make_folder(folder / "b"),
    "sync_file": lambda folder: durable.sync_file(folder / "a"),
    "sync_folder": durable.sync_folder,
}


@pytest.fixture
def no_lasting_halt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_halted", None)


@pytest.mark.usefixtures("no_lasting_halt")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("first", [name for name in WRITES if name != "make_folder"])
def test_after_a_failed_sync_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, number: int
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    tried: list[int] = []

    def fsync(descriptor: int) -> None:
        tried.append(descriptor)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageHalted, match=re.escape(os.strerror(number))) as caught, durable.storage("The thing"):
            WRITES[first](tmp_path)
    assert not caught.value.retryable
    assert len(tried) == 1, "a sync that failed is never tried again"
    before = sorted(os.listdir(tmp_path))
    for again in WRITES.values():  # the disk is well again: it does not matter
        with pytest.raises(StorageHalted, match="Nothing is written any more"):
            again(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    assert "restart" in caught.value.hint


@pytest.mark.usefixtures("no_lasting_halt")
def test_what_other_libraries_say_of_the_disk_is_understood() -> None:
    told = "An IO error occurred: 'No space left on device (os error 28) at path \"x\"'"
    assert type(durable.failure("It failed", told=told)) is DiskFull
    assert type(durable.failure("It failed", told="Schema error")) is StorageFailed
    assert durable.halted() is None
    assert type(durable.failure("It failed", told="Input/output error (os error 5)")) is StorageHalted
    assert durable.halted() == "It failed: Input/output error (os error 5)."


def test_two_who_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    """Each writes aside under its own name; with one name the second would cut what the first publishes."""
    data, wrong = b"x" * 100_000, []

    def put() -> None:
        for _ in range(30):
            durable.write_aside(tmp_path / "a", data, shared=True)
            if (tmp_path / "a").read_bytes() != data:
                wrong.append(1)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert os.listdir(tmp_path) == ["a"]


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "a" / "b" / "c")
    durable.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_deleting_what_is_gone_is_fine(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("folder", "folder", "nothing", "link"):
        durable.delete(tmp_path / name)
    assert os.listdir(tmp_path) == ["target"]
    assert (tmp_path / "target" / "kept").exists()


def test_a_lock_is_held_until_it_is_closed(tmp_path: Path) -> None:
    held = durable.lock(tmp_path / "lock")
    with pytest.raises(WriterBusy, match=tmp_path.name):
        durable.lock(tmp_path / "lock")
    os.close(held)
    os.close(durable.lock(tmp_path / "lock"))
