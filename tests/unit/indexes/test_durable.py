"""Files and folders on the way to the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from indexes import durable
from indexes.durable import Stamp
from indexes.errors import StorageFailed, WriterBusy


def test_a_written_file_is_what_its_stamp_says(tmp_path: Path) -> None:
    stamp = durable.write(tmp_path / "a", b"abc")
    assert stamp == Stamp(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert durable.stamp(tmp_path / "a") == stamp


def test_content_is_synced_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(durable, "reached", lambda step, path: steps.append(f"{step} {path.name}"))
    durable.write_aside(tmp_path / "a", b"abc")
    assert steps == ["write .aside-a", "sync .aside-a", "rename a", f"sync_folder {tmp_path.name}"]


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
    monkeypatch.undo()
    durable.write_aside(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def fail_in_storage() -> None:
    with durable.storage("The thing"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_errors_of_the_system_become_ours() -> None:
    with pytest.raises(StorageFailed, match=r"The thing could not be written: No space left on device\.") as caught:
        fail_in_storage()
    assert caught.value.retryable
    with pytest.raises(KeyError), durable.storage("The thing"):
        raise KeyError


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
