"""Which state of each collection answers a question, and of which time? The newest, or one that answered before.

A snapshot id names what an answer came from: entries of the change log, and a time where they alone do not say what
was in force. Ids and what they replay are made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from indexes.errors import EngineError, GenerationUnknown, QueryInvalid, StorageFailed
from indexes.model import Generation
from indexes.protocols import Searcher
from ingest.catalog.catalog import Catalog
from ingest.catalog.database import from_us, to_us
from ingest.errors import NotFound
from ingest.follow import Follower
from ingest.model import Collection
from ingest.standin import View
from ragsvc.answer import Moment, Question, State, exact_warning, parse_snapshot, snapshot_id


@dataclass(frozen=True, slots=True)
class Pinned:
    """One collection's state for this question: document time `at`, and the sequence number to replay, if any.

    `moment` is what the snapshot id will say of it, `committed` when the newest entry of that state was recorded.
    """

    collection: Collection
    generation: Generation
    searcher: Searcher
    at: int
    at_seq: int | None
    moment: Moment
    committed: int
    warning: str | None = None
    """That exact search stands in for its index, and why."""


class Pinning:
    """Pins states. Thread-safe."""

    def __init__(self, catalog: Catalog, follower: Follower) -> None:
        self._catalog = catalog
        self._follower = follower

    def pin(self, question: Question, now: datetime) -> list[Pinned]:
        """One state of each collection: the newest, or the one that an earlier answer came from."""
        replayed = None if question.snapshot is None else parse_snapshot(question.snapshot)
        pinned = []
        for name in question.collections:
            collection = self._catalog.collections.get(name)
            named = None if replayed is None else self._named(collection, replayed)
            generation_id, moment = named or (collection.generation_id, None)
            generation, view = self._view(collection, generation_id)
            while named is None and (serving := self._catalog.collections.get(name)).generation_id != generation.id:
                collection = serving  # switched meanwhile: what was recorded since is in the new one only
                generation, view = self._view(serving, serving.generation_id)
            searcher = view.searcher
            if replayed is not None and (moment is None or moment.seq > searcher.snapshot.seq):
                raise QueryInvalid(
                    f"{question.snapshot} is not a snapshot of collection {name!r}, or is not kept any longer.",
                    hint="Ask with the collections of the retrieval that gave the snapshot. It can be replayed until "
                    "its generation is removed after a reindex.",
                )
            one = self._at(question, collection, generation, searcher, moment, now)
            pinned.append(replace(one, warning=exact_warning(name, view.why_exact, view.hint)))
        return pinned

    def _view(self, collection: Collection, generation_id: str) -> tuple[Generation, View]:
        """Raises GenerationUnknown, naming the collection, if not even the catalogue's vectors can be searched."""
        try:
            return self._follower.generation(generation_id), self._follower.view(generation_id)
        except StorageFailed:
            raise
        except (EngineError, NotFound, QueryInvalid) as error:
            raise GenerationUnknown(
                f"Collection {collection.name!r} cannot be searched: {error.message}",
                hint="Run `ragsvc verify`. What is wrong in the catalogue only a backup of the data folder can mend; "
                "other collections go on.",
            ) from error

    def _named(self, collection: Collection, replayed: Mapping[str, Moment]) -> tuple[str, Moment] | None:
        """The generation of a collection that a snapshot names: the serving one, or one from before a reindex."""
        for generation_id, moment in replayed.items():
            with suppress(NotFound):
                if self._catalog.generations.get(generation_id).generation.collection_id == collection.id:
                    return generation_id, moment
        return None

    def _at(
        self,
        question: Question,
        collection: Collection,
        generation: Generation,
        searcher: Searcher,
        replayed: Moment | None,
        now: datetime,
    ) -> Pinned:
        """A state at a document time: as asked; else now, or the moment of the retrieval that is replayed.

        "Now" is never before the newest entry was recorded: a clock that was set back must not show what it replaced.
        """
        moment = replayed or Moment(searcher.snapshot.seq)
        committed = self._catalog.changes.committed_at(moment.seq)
        at_seq = None if replayed is None else moment.seq
        if question.as_of is not None:
            at = to_us(question.as_of)
        elif replayed is not None:
            at = committed if moment.at is None else moment.at
        else:
            at = max(to_us(now), committed)
            if searcher.steady_since(at) > committed:
                moment = replace(moment, at=at)
        return Pinned(collection, generation, searcher, at, at_seq, moment, committed)


def state_of(question: Question, pinned: Sequence[Pinned]) -> State:
    """What the response says of the states that were pinned."""
    return State(
        id=snapshot_id({p.generation.id: p.moment for p in pinned}),
        generation=",".join(p.generation.id for p in pinned),
        seq=max((p.moment.seq for p in pinned), default=0),
        as_of=question.as_of,
        committed_at=from_us(max((p.committed for p in pinned), default=0)),
    )
