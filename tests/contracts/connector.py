"""What every Connector promises. A test class inherits ConnectorContract and gives the fixture `place`.

Connectors that cannot list more than they were given (push) say so with `lists_everything = False`.
"""

from __future__ import annotations

import threading
from typing import Protocol

import pytest

from ingest.errors import ItemUnreadable, SourceUnreachable
from ingest.protocols import Connector


class Place(Protocol):
    """A place that a connector reads, and how to change it."""

    connector: Connector

    def put(self, name: str, data: bytes) -> None:
        """Make or change an item."""

    def remove(self, name: str) -> None:
        """Delete an item."""

    def break_off(self) -> None:
        """Make the place unreachable."""


class ConnectorContract:
    """Inherit it."""

    names: tuple[str, ...] = ("a.txt", "b.md", "c.html")
    lists_everything = True
    has_events = True

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    def filled(self, place: Place) -> dict[str, bytes]:
        contents = {name: f"The content of {name}, ä.".encode() for name in self.names}
        for name, data in contents.items():
            place.put(name, data)
        return contents

    def test_the_listing_is_complete_and_each_item_is_in_it_once(self, place: Place) -> None:
        contents = self.filled(place)
        items = list(place.connector.list())
        assert sorted(item.name for item in items) == sorted(contents)
        assert len({item.uri for item in items}) == len(items)
        assert all(item.fingerprint for item in items)

    def test_fetch_gives_exactly_the_bytes_and_the_listed_fingerprint(self, place: Place) -> None:
        contents = self.filled(place)
        for item in place.connector.list():
            fetched = place.connector.fetch(item)
            assert fetched.data == contents[item.name]
            assert fetched.fingerprint == item.fingerprint
            assert "/" in fetched.media_type

    def test_two_listings_of_the_same_place_are_equal(self, place: Place) -> None:
        self.filled(place)
        assert list(place.connector.list()) == list(place.connector.list())

    def test_a_fingerprint_changes_with_the_content_and_with_nothing_else(self, place: Place) -> None:
        self.filled(place)
        before = {item.name: item for item in place.connector.list()}
        first, *others = self.names
        changed = b"Same length but other words"[: len(place.connector.fetch(before[first]).data)]
        place.put(first, changed.ljust(len(place.connector.fetch(before[first]).data), b"!"))
        after = {item.name: item for item in place.connector.list()}
        assert after[first].uri == before[first].uri
        assert after[first].fingerprint != before[first].fingerprint
        for name in others:
            assert after[name] == before[name]

    def test_an_item_that_went_away_is_not_listed_and_cannot_be_read(self, place: Place) -> None:
        if not self.lists_everything:
            pytest.skip("absence from this place means nothing")
        self.filled(place)
        gone = next(item for item in place.connector.list() if item.name == self.names[0])
        place.remove(self.names[0])
        assert gone.uri not in {item.uri for item in place.connector.list()}
        with pytest.raises(ItemUnreadable) as caught:
            place.connector.fetch(gone)
        assert caught.value.retryable

    def test_a_place_that_cannot_be_listed_is_an_error_and_not_empty(self, place: Place) -> None:
        if not self.lists_everything:
            pytest.skip("absence from this place means nothing")
        self.filled(place)
        place.break_off()
        with pytest.raises(SourceUnreachable):
            list(place.connector.list())

    def test_watching_ends_when_told_to(self, place: Place) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=place.connector.watch, args=(lambda: None, stop.is_set), daemon=True)
        thread.start()
        if self.has_events:
            thread.join(0.3)
            assert thread.is_alive()
        stop.set()
        thread.join(5)
        assert not thread.is_alive()

    def test_changes_are_told(self, place: Place) -> None:
        if not self.has_events:
            pytest.skip("this place has no events")
        stop, told = threading.Event(), threading.Event()
        thread = threading.Thread(target=place.connector.watch, args=(told.set, stop.is_set), daemon=True)
        thread.start()
        for number in range(50):  # the watch needs a moment to begin
            place.put(self.names[0], f"version {number}".encode())
            if told.wait(0.2):
                break
        assert told.is_set()
        stop.set()
        thread.join(5)
