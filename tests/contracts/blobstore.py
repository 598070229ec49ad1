"""What every BlobStore promises. A test class inherits BlobStoreContract and gives the fixture `blobs`."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingest.errors import NotFound
from ingest.protocols import BlobStore

DATA = (b"", b"x", b"\0\xff" * 1000, b"a" * (1 << 20))


class BlobStoreContract:
    """Inherit it."""

    @pytest.fixture
    def blobs(self) -> BlobStore:
        raise NotImplementedError

    @pytest.mark.parametrize("data", DATA, ids=len)
    def test_bytes_come_back_by_their_hash(self, blobs: BlobStore, data: bytes) -> None:
        sha256 = blobs.put(data)
        assert sha256 == hashlib.sha256(data).hexdigest()
        assert blobs.get(sha256) == data
        assert blobs.path(sha256).read_bytes() == data

    def test_the_same_bytes_twice_are_one_blob(self, blobs: BlobStore) -> None:
        assert blobs.put(b"same") == blobs.put(b"same")
        blobs.delete(hashlib.sha256(b"same").hexdigest())
        with pytest.raises(NotFound):
            blobs.get(hashlib.sha256(b"same").hexdigest())

    def test_what_is_not_there_is_not_found(self, blobs: BlobStore) -> None:
        with pytest.raises(NotFound, match="0000"):
            blobs.get("0" * 64)

    def test_deleting_what_is_not_there_is_fine(self, blobs: BlobStore) -> None:
        blobs.delete("0" * 64)
        sha256 = blobs.put(b"x")
        blobs.delete(sha256)
        blobs.delete(sha256)

    def test_deleting_one_leaves_the_others(self, blobs: BlobStore) -> None:
        names = [blobs.put(str(number).encode()) for number in range(50)]
        for name in names[::2]:
            blobs.delete(name)
        assert [blobs.get(name) for name in names[1::2]] == [str(number).encode() for number in range(1, 50, 2)]

    def test_many_threads_may_put_the_same(self, blobs: BlobStore) -> None:
        with ThreadPoolExecutor(8) as pool:
            names = set(pool.map(lambda number: blobs.put(b"shared" * (number % 3)), range(40)))
        assert {blobs.get(name) for name in names} == {b"", b"shared", b"sharedshared"}
