"""No data file can run code: a pickle that would leave a mark is planted in each of them, and never does."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from indexes.embedder import DEFAULT_MODEL, open_embedder
from indexes.errors import RagsvcError
from ragsvc.bootstrap import build
from tests.contracts.embedder import installed_minilm
from tests.contracts.installation import settings_in, workshop


def weapon(mark: Path) -> bytes:
    """A pickle (protocol 0) that runs `touch mark` when it is loaded."""
    return f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()


def numpy_weapon(mark: Path) -> bytes:
    """The same inside a .npy file of objects, which numpy unpickles if it is allowed to."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + weapon(mark)


@pytest.fixture
def mark(short_path: Path) -> Path:
    return short_path / "mark"


def test_a12_the_weapon_is_sharp(mark: Path, tmp_path: Path) -> None:
    for name, body, load in (
        ("a.pkl", weapon(mark), "pickle.load(open(sys.argv[1], 'rb'))"),
        ("a.npy", numpy_weapon(mark), "numpy.load(sys.argv[1], allow_pickle=True)"),
    ):
        (tmp_path / name).write_bytes(body)
        code = f"import pickle, sys, numpy, contextlib\nwith contextlib.suppress(Exception): {load}"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
        assert mark.exists(), name
        mark.unlink()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a catalogue, sealed segments and a blob that waits."""
    folder = tmp_path_factory.mktemp("a12") / "data"
    with workshop(folder) as shop:
        for number in range(20):
            shop.push(f"{number}.md", f"# Number {number}\n\nApples are red, and this is number {number}.")
        shop.service.follower.publish()
        shop.service.blobs.put(b"a blob that waits")
    return folder


def files_of(folder: Path) -> Iterator[Path]:
    return (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())


def test_a12_planted_in_each_data_file(installation: Path, tmp_path: Path, mark: Path) -> None:
    names = list(files_of(installation))
    assert len(names) >= 6
    for name in names:
        folder = tmp_path / "planted"
        shutil.copytree(installation, folder)
        if name.name == "catalog.db":
            for beside in ("catalog.db-wal", "catalog.db-shm"):
                (folder / beside).unlink(missing_ok=True)
        (folder / name).write_bytes(numpy_weapon(mark) if name.suffix == ".npy" else weapon(mark))
        use(folder)
        assert not mark.exists(), name
        shutil.rmtree(folder)


def use(folder: Path) -> None:
    """Open, read and verify an installation, as far as it lets us; its end writes the indexes anew."""
    with suppress(RagsvcError), build(settings_in(folder), writable=True) as service:
        for generation in service.catalog.collections.generations():
            list(service.follower.pin(generation.id).scan())
            service.follower.check(generation)


def test_a12_planted_in_each_file_of_the_model(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, mark: Path
) -> None:
    published = installed_minilm(tmp_path_factory) / DEFAULT_MODEL
    names = list(files_of(published))
    assert names
    for name in names:
        folder = tmp_path / "models" / DEFAULT_MODEL
        folder.mkdir(parents=True)
        for other in names:
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            if other == name:
                (folder / other).write_bytes(weapon(mark))
            else:
                (folder / other).symlink_to(published / other)
        with suppress(RagsvcError):
            open_embedder(DEFAULT_MODEL, models_dir=tmp_path / "models", threads=1).encode_query("x")
        assert not mark.exists(), name
        shutil.rmtree(tmp_path / "models")
