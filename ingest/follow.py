"""The indexes follow the change log. Every process does this for itself: what is committed is found.

A pin first applies whatever the log holds beyond the index, so a write that was acknowledged is seen by the
next call in any process. Only the process with the writer's lock also puts segments on disk.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from indexes.analyze import Analyzer
from indexes.errors import RagsvcError
from indexes.model import Generation, Problem
from indexes.protocols import Engine, Searcher
from ingest.catalog.catalog import Catalog
from ingest.entries import Entries
from ingest.followed import Followed
from ingest.standin import View

log = logging.getLogger("ragsvc.follow")
_SCRUB_EVERY_S = 3_600.0
_STOP_S = 1.0


class Follower:
    """Keeps the engine at the end of the change log. What is wrong with one generation does not stop the others."""

    def __init__(
        self, catalog: Catalog, engine: Engine, analyzer_of: Callable[[str], Analyzer], *, writable: bool
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self.entries = Entries(catalog, analyzer_of)
        self._writable = writable
        self._followed: dict[str, Followed] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._scrubbing: threading.Thread | None = None
        self._scrub_at = monotonic() + _SCRUB_EVERY_S

    def pin(self, generation_id: str) -> Searcher:
        """The state of a generation that holds everything committed before this call. Raises NotFound, EngineError."""
        return self.view(generation_id).searcher

    def view(self, generation_id: str) -> View:
        """The same, and whether it is its index that answers. Raises NotFound, EngineError."""
        while True:
            view = self._of(generation_id).view()
            if view is not None:
                return view

    def generation(self, generation_id: str) -> Generation:
        """What a generation was built with. Raises NotFound."""
        return self._of(generation_id).generation

    def _of(self, generation_id: str) -> Followed:
        with self._lock:
            followed = self._followed.get(generation_id)
            if followed is None:
                followed = self._followed[generation_id] = Followed(
                    self._catalog,
                    self._engine,
                    self.entries,
                    self._catalog.collections.generation(generation_id),
                    writable=self._writable,
                    stopping=self._stopping,
                )
            return followed

    def maintain(self) -> None:
        """Publish what waits long or is much, merge small segments, rebuild what was damaged, look for damage.

        Only where this process may write. Raises the first of what failed, after all were tried.
        """
        if not self._writable:
            return
        if monotonic() >= self._scrub_at and (self._scrubbing is None or not self._scrubbing.is_alive()):
            self._scrub_at = monotonic() + _SCRUB_EVERY_S
            self._scrubbing = threading.Thread(target=self._scrub, name="scrub", daemon=True)
            self._scrubbing.start()
        self._each(Followed.keep)

    def publish(self) -> None:
        """Put everything on disk now (`compact`). What is being rebuilt publishes itself."""
        if self._writable:
            self._each(lambda followed: followed.keep(all_of_it=True))

    def stop(self) -> None:
        """Begin nothing more in the background: a service ends within seconds, and goes on with its next start."""
        self._stopping.set()

    def close(self) -> None:
        """Put everything on disk; after `stop`, only what there is by now."""
        stopped = self._stopping.is_set()
        if self._writable:
            self._each(Followed.end if stopped else Followed.finish)
        self._stopping.set()
        for followed in list(self._followed.values()):
            followed.join(_STOP_S if stopped else None)  # what writes on must not outlive the writer's lock

    def check(self, generation: Generation) -> tuple[Problem, ...]:
        """Whether catalogue, dense and lexical index hold the same, and every stored byte is sound.

        An index with a problem steps aside at once: exact search answers until it is rebuilt.
        """
        return self._of(generation.id).check()

    def verify(self, generation: Generation, *, repair: bool = False) -> tuple[tuple[Problem, ...], bool]:
        """The same, and with `repair` the index is rebuilt if need be: what is wrong then, and whether it was mended.

        What cannot even be looked at is a problem too, so that the other generations have their turn.
        """
        problems = self._problems(generation)
        if not problems or not repair:
            return problems, False
        try:
            self.rebuild(generation)
        except RagsvcError as error:
            failed = Problem(generation.id, f"The index cannot be rebuilt: {error.message}", error.hint)
            return (*problems, failed), False
        left = self._problems(generation)
        return left, not left

    def _problems(self, generation: Generation) -> tuple[Problem, ...]:
        try:
            return self.check(generation)
        except RagsvcError as error:
            return (Problem(generation.id, error.message, error.hint),)

    def rebuild(self, generation: Generation) -> None:
        """Throw the indexes of a generation away and make them again from the catalogue; nothing is embedded.

        Meanwhile the old state answers if it is sound, else exact search. Only where this process may write.
        """
        self._of(generation.id).rebuild()

    def remove(self, generation_id: str) -> None:
        """Forget a generation that the catalogue gave up, and delete its files. Only where this process may write."""
        with self._lock:
            followed = self._followed.pop(generation_id, None)
        if followed is None:
            self._engine.remove(generation_id)
        else:
            followed.remove()

    def _scrub(self) -> None:
        try:
            self._each(Followed.scrub)
        except RagsvcError as error:
            log.warning("the search for damage: %s", error.message)

    def _each(self, work: Callable[[Followed], None]) -> None:
        failed: list[RagsvcError] = []
        for generation in self._catalog.collections.generations():
            try:
                work(self._of(generation.id))
            except RagsvcError as error:
                failed.append(error)
        for other in failed[1:]:
            log.warning("upkeep of an index: %s", other.message)
        if failed:
            raise failed[0]
