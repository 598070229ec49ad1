"""Documents that callers push: their bytes wait in the blob store until they are ingested."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ingest.errors import ItemUnreadable, NotFound
from ingest.model import Fetched, Item, Push
from ingest.parse.registry import media_type_of
from ingest.protocols import BlobStore

_SLICE = 1 << 20


class PushConnector:
    """The seam Connector on one pushed document. It cannot list: absence from it means nothing."""

    def __init__(self, push: Push, blobs: BlobStore) -> None:
        self._push = push
        self._blobs = blobs

    def list(self) -> Iterator[Item]:
        """The pushed document."""
        push = self._push
        yield Item(
            uri=push.uri,
            name=push.uri.rsplit("/", 1)[-1],
            fingerprint=f"{push.blob_sha256}-{push.media_type}",
            modified_at=push.pushed_at,
        )

    def fetch(self, item: Item) -> Fetched:
        """Its bytes. Raises ItemUnreadable."""
        try:
            data = self._blobs.get(self._push.blob_sha256)
        except NotFound as error:
            raise ItemUnreadable(error.message, hint=error.hint) from error
        said = self._push.media_type
        guessed = said in ("", "application/octet-stream", "application/x-www-form-urlencoded")
        media_type = media_type_of(item.name, data[:_SLICE]) if guessed else said
        return Fetched(data, item.fingerprint, media_type, self._push.pushed_at)

    def watch(self, changed: Callable[[], None], stop: Callable[[], bool]) -> None:
        """There are no events: a push is its own event."""
