"""Number 2: the power goes. What the disk had not stored yet is gone, but nothing that was acknowledged.

An ext4 on a loop device is shut down without flushing (what `xfs_io -c "shutdown"` does): from that moment it writes
nothing, and mounting it again replays its journal as after a power cut.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.catalog.catalog import Catalog
from tests.contracts.ingest_parts import database_url
from tests.contracts.killable import Killable
from tests.faults.ingest_churn import NAMES, State, account, on_disk

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN = _IOR('X', 125, __u32), linux/fs.h
NO_LOG_FLUSH = struct.pack("I", 2)
IMAGE_BYTES = 128 << 20


class Disk:
    """A disk with its own power."""

    def __init__(self, folder: Path) -> None:
        self._image, self.place = folder / "disk.img", folder / "disk"
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)
        self.mount()

    def mount(self) -> None:
        command("mount", "-o", "loop", self._image, self.place)

    def cut(self) -> None:
        """What is not on the disk now never will be."""
        descriptor = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
        os.close(descriptor)

    def unmount(self) -> None:
        command("umount", self.place)


def command(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a disk whose power can be cut")
    if not Path("/dev/loop-control").exists():
        pytest.skip("there are no loop devices here")
    found = Disk(tmp_path)
    try:
        yield found
    finally:  # at once, whoever still has a file open there
        command("umount", "-l", found.place)


def cut_often(disk: Disk, folder: Path, root: Path, cuts: int, *, synced: bool) -> int | None:
    """Change documents until the power goes, so many times. Returns the first cut after which something was wrong."""
    docs, data = folder / "docs", disk.place / "data"  # the documents are elsewhere: their loss is not ours
    docs.mkdir()
    data.mkdir()
    Catalog(database_url(data)).close()  # as the service makes it: what tests copy instead is not synced
    chooser = random.Random(3)
    acked: State = dict.fromkeys(NAMES)
    step, acks = 1, 0
    with Killable("tests.faults.ingest_churn", root) as worker:
        for cut in range(cuts):
            in_flight = on_disk(docs)
            worker.begin(what="churn", folder=str(data), docs=str(docs), seed=cut, first=step, synced=synced)
            lines = [worker.line() for _ in range(chooser.randint(3, 30))]
            disk.cut()
            lines += worker.kill(after_s=chooser.uniform(0, 0.1))  # what it promises now would be a lie
            disk.unmount()
            disk.mount()
            acked, in_flight, more, steps = account(lines, acked, in_flight)
            acks, step = acks + more, step + steps
            # In a process of its own: what it has mapped would hold the disk.
            worker.begin(what="look", folder=str(data), docs=str(docs), acked=acked, in_flight=in_flight)
            if worker.rest()[1] != 0:
                return cut
    assert acks >= cuts
    return None


@pytest.mark.root
@pytest.mark.acceptance
def test_a02_power_cut_loses_nothing_acknowledged(disk: Disk, tmp_path: Path, root: Path) -> None:
    assert cut_often(disk, tmp_path, root, 3, synced=True) is None, "see the traceback below"


@pytest.mark.root
@pytest.mark.acceptance
def test_a02_power_cut_is_felt_without_syncs(disk: Disk, tmp_path: Path, root: Path) -> None:
    """The same without a single sync loses something, so the test above can fail."""
    assert cut_often(disk, tmp_path, root, 3, synced=False) is not None


@pytest.mark.root
@pytest.mark.soak
def test_a02_power_cut_fifty_times(disk: Disk, tmp_path: Path, root: Path) -> None:
    assert cut_often(disk, tmp_path, root, 50, synced=True) is None, "see the traceback below"
