"""How does the index of one generation follow the change log, and what happens when it cannot answer?

An index that is damaged, cannot be opened or is far behind steps aside: exact search over the catalogue's vectors
answers at once (standin.py), and the index is made again from the catalogue in the background.

Over 300 lines because all that takes the locks of one generation is here.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import Final

from indexes.errors import EngineError, GenerationUnknown, RagsvcError, StorageFailed, WriterBusy
from indexes.model import Generation, Problem, Put
from indexes.protocols import Engine, IndexWriter, Searcher
from ingest.catalog.catalog import Catalog
from ingest.entries import Entries
from ingest.standin import REBUILT_HERE, REBUILT_THERE, StandIn, View, follow_to
from ingest.verify import Comparison

log = logging.getLogger("ragsvc.follow")
BATCH = 500
PUBLISH_CHUNKS = 2_000
PUBLISH_IDLE_S = 5.0
AT_ONCE_CHUNKS = 5_000
"""An index that is further behind is not caught up within a question; so many take about a second."""
STEP_CHUNKS = 20_000
"""What is rebuilt is published in steps of about so many, so that memory stays bounded and a restart goes on there."""
RETRY_S = 5.0
LOOK_S = 1.0
SCRUB_SHARE: Final = 0.1
"""Of one core's time, while every stored byte is read back."""


class Followed:
    """One generation in this process. While `why` is set its index does not answer; `turn` changes with that."""

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine,
        entries: Entries,
        generation: Generation,
        *,
        writable: bool,
        stopping: threading.Event,
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._entries = entries
        self._writable = writable
        self._stopping = stopping
        self.generation = generation
        self.turn = 0
        self.why: str | None = None
        self._damaged = False  # what is stored must go before it is made again
        self._opened: IndexWriter | None = None
        self._old: Searcher | None = None  # a sound state from before a rebuild
        self._stand_in = StandIn(catalog, entries, generation)
        self._lock = threading.Lock()
        self._publishing = threading.Lock()  # not `_lock`: pins go on while segments are written
        self._merging = threading.Lock()  # and publishing goes on while segments are merged
        self._mending = threading.Lock()
        self._starting = threading.Lock()
        self._tending: threading.Thread | None = None
        self._joining: threading.Thread | None = None
        self._retry_at = 0.0
        self._look_at = 0.0
        self._unpublished = 0
        self._changed_at = monotonic()

    @property
    def writer(self) -> IndexWriter:
        """Its index, once it could be opened."""
        if self._opened is None:
            raise GenerationUnknown(f"The index of generation {self.generation.id} is not open: {self.why}.")
        return self._opened

    # ------------------------------------------------------------ reading

    def view(self) -> View | None:
        """The state that holds everything committed before this call; None if the index stepped aside meanwhile.

        Raises EngineError if not even the catalogue's vectors can be used.
        """
        self.open()
        turn, why = self.turn, self.why
        try:
            if why is not None:
                view = self._instead(why)
            else:
                self.catch_up()
                view = View(self._engine.pin(self.generation.id))
        except GenerationUnknown:
            if self.turn == turn:
                raise
            return None
        return view if self.turn == turn else None

    def _instead(self, why: str) -> View:
        self.see_to()
        old = self._old  # one look: it goes when the index is back
        if old is not None and old.snapshot.seq >= follow_to(self._catalog, self.generation):
            return View(old)
        return View(self._stand_in.pin(), why, REBUILT_HERE if self._writable else REBUILT_THERE)

    def open(self) -> None:
        """Open the index; if that cannot be, or too much of it is missing, it steps aside. Raises WriterBusy."""
        if not self._settled:
            with self._lock:
                if not self._settled:
                    self._open()

    @property
    def _settled(self) -> bool:
        return self._opened is not None or self.why is not None

    def _open(self) -> None:
        try:
            self._opened = self._engine.open(self.generation, writable=self._writable)
        except WriterBusy:
            raise
        except EngineError as error:
            self._step_aside(f"it cannot be opened ({error.message})")
            return
        problems = self._opened.problems
        for problem in problems:
            log.error("damage in %s: %s It is left out.", problem.part, problem.what)
        if self._far_behind():
            self._step_aside(f"it was damaged ({problems[0].what})" if problems else "it is lost or far behind")

    def _step_aside(self, why: str) -> None:
        self.why = why
        self.turn += 1

    def _far_behind(self) -> bool:
        waiting = self._catalog.changes.waiting(
            self.writer.seq,
            follow_to(self._catalog, self.generation),
            collection_id=self.generation.collection_id,
            generation_id=self.generation.id,
            at_most=AT_ONCE_CHUNKS + 1,
        )
        return waiting > AT_ONCE_CHUNKS

    # ------------------------------------------------------------ following

    def catch_up(self) -> None:
        """Apply the log's entries that the index has not seen, in batches that keep a document's change whole."""
        if not self._writable and monotonic() >= self._look_at:
            self._look()
        end = follow_to(self._catalog, self.generation)
        writer = self._opened
        if writer is None or writer.seq >= end:
            return
        with self._lock:
            if self.why is None:
                self._shed(end)
            while self.why is None and self._apply_next(end):
                pass

    def _apply_next(self, end: int) -> bool:
        collections = [self.generation.collection_id]
        found = self._catalog.changes.since(self.writer.seq, collection_ids=collections, limit=BATCH)
        entries = tuple(entry for entry in found if entry.seq <= end)
        if not entries:
            return False
        ops = self._entries.ops(entries, self.generation)
        self.writer.apply(ops, seq=entries[-1].seq)
        self._unpublished += sum(len(op.chunks) if isinstance(op, Put) else 1 for op in ops)
        self._changed_at = monotonic()
        return entries[-1].seq < end

    def _shed(self, end: int) -> None:
        """A reader that holds much in memory, or would, moves to what the writer has published since."""
        if self._writable:
            return
        if self._unpublished + end - self.writer.seq >= PUBLISH_CHUNKS and self.writer.refresh():
            self._unpublished = 0
        if end - self.writer.seq > BATCH and self._far_behind():
            self._step_aside("it is far behind")

    def _look(self) -> None:
        """A reader lets go of what the writing process deleted, as it was damaged."""
        self._look_at = monotonic() + LOOK_S
        with self._lock:
            if self.why is None and self.writer.refresh(only_if_gone=True):
                self._unpublished = 0

    def keep(self, *, all_of_it: bool = False) -> None:
        """Publish what waits long or is much, and merge; or have the index mended, if it stepped aside."""
        self.open()
        if self.why is not None:
            self.see_to()
            return
        self.catch_up()
        waits = self._unpublished and monotonic() - self._changed_at > PUBLISH_IDLE_S
        if self._unpublished >= PUBLISH_CHUNKS or waits or all_of_it:
            self._publish()
            self._merge(wait=all_of_it)

    def finish(self) -> None:
        """Bring the index to the end of the log and put it on disk, however long that takes."""
        self.open()
        try:
            with self._mending:
                if self.why is not None:
                    self._mend()
        except EngineError as error:
            log.warning("the index of generation %s cannot be rebuilt: %s", self.generation.id, error.message)
            return
        self.keep(all_of_it=True)

    def end(self) -> None:
        """Put on disk what there is, as this process stops."""
        if self.why is None and self._opened is not None:
            self.catch_up()
            self._publish()

    def _merge(self, *, wait: bool) -> None:
        """Join small segments; unless waited for, that goes on aside, as it takes minutes at a large size."""
        if wait:
            self._merge_all()
        elif self._joining is None or not self._joining.is_alive():
            self._joining = threading.Thread(target=self._merge_aside, name=f"merge-{self.generation.id}", daemon=True)
            self._joining.start()

    def _merge_aside(self) -> None:
        try:
            self._merge_all()
        except RagsvcError as error:
            log.warning("segments of generation %s cannot be merged yet: %s", self.generation.id, error.message)

    def _merge_all(self) -> None:
        with self._merging:
            while not self._damaged and not self._stopping.is_set() and self._opened is not None:
                if not self._opened.merge():
                    break

    def _publish(self) -> None:
        with self._publishing:
            if self._damaged or self._opened is None:
                return  # it is made again
            with self._lock:
                waiting, self._unpublished = self._unpublished, 0
            try:
                self.writer.publish()
            except StorageFailed:
                self._unpublished += waiting
                raise

    # ------------------------------------------------------------ damage

    def check(self) -> tuple[Problem, ...]:
        """Whether catalogue and index hold the same, and every stored byte is sound. If not, the index steps aside."""
        problems = self._stored(share=1.0)  # before it is opened: a writer then deletes what is damaged
        turn, view = self.turn, self.view()
        while view is None or self.turn != turn:
            turn, view = self.turn, self.view()
        if view.why_exact is not None:
            return (*problems, Problem(self.generation.id, f"The index does not answer: {view.why_exact}.", view.hint))
        problems += Comparison(self._catalog, self._entries, self.generation, view.searcher).problems()
        self._quarantine(turn, problems)
        return problems

    def scrub(self) -> None:
        """Read back every stored byte, slowly. If one is not sound, the index steps aside."""
        turn = self.turn
        if self.why is None and not self._stopping.is_set():
            self._quarantine(turn, self._stored(share=SCRUB_SHARE))

    def _stored(self, *, share: float) -> tuple[Problem, ...]:
        try:
            return self._engine.check(self.generation.id, share=share)
        except GenerationUnknown:
            return ()  # nothing is stored yet

    def _quarantine(self, turn: int, problems: tuple[Problem, ...]) -> None:
        with self._lock:
            if problems and self.turn == turn and not self._stopping.is_set():
                log.error("damage in %s: %s Exact search answers meanwhile.", problems[0].part, problems[0].what)
                self._damaged = True
                self._step_aside(f"it is damaged ({problems[0].part}: {problems[0].what.rstrip('.')})")

    def rebuild(self) -> None:
        """Throw the index away and make it again. Meanwhile the old state answers if it is sound, else exact search."""
        with self._mending:
            if self.why is None:
                self._old = self._sound()
            if self.why is None:
                self._step_aside("it is made again")
            self._damaged = True
            self._mend()

    def _sound(self) -> Searcher | None:
        try:
            view = self.view()
        except EngineError:
            return None
        return view.searcher if view is not None and view.why_exact is None else None

    def remove(self) -> None:
        """Forget the index and delete its files. Searchers that were pinned go on working."""
        with self._mending, self._merging, self._publishing, self._lock:
            self.turn += 1
            self._opened = None
            self._engine.remove(self.generation.id)

    def see_to(self) -> None:
        """Have the index mended in the background, unless that goes on or failed a moment ago."""
        with self._starting:  # not `_lock`: a question must not wait for a batch that is applied
            busy = self._tending is not None and self._tending.is_alive()
            if not busy and not self._stopping.is_set() and monotonic() >= self._retry_at:
                self._tending = threading.Thread(target=self._tend, name=f"rebuild-{self.generation.id}", daemon=True)
                self._tending.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for what goes on in the background. What lasts longer ends with the process, and begins again."""
        for thread in (self._tending, self._joining):
            if thread is not None:
                thread.join(timeout_s)

    def _tend(self) -> None:
        try:
            with self._mending:
                if self.why is not None:
                    self._mend()
        except RagsvcError as error:
            log.warning("the index of generation %s cannot be rebuilt yet: %s", self.generation.id, error.message)
        finally:
            self._retry_at = monotonic() + (RETRY_S if self._writable else LOOK_S)

    def _mend(self) -> None:
        """Bring the index back: load it again, or make it again from the catalogue. Raises EngineError."""
        with self._merging, self._publishing, self._lock:
            if self._damaged and self._writable:
                self._opened = None
                self._engine.remove(self.generation.id)
            if self._opened is None:
                self._opened = self._engine.open(self.generation, writable=self._writable)
                self._unpublished, self._damaged = 0, False
        if self._fill() if self._writable else self._moved():
            self.why, self._old = None, None
            self.turn += 1
            self._stand_in = StandIn(self._catalog, self._entries, self.generation)
            log.warning("the index of generation %s answers again", self.generation.id)

    def _fill(self) -> bool:
        """Take the log to its end, publishing now and then; False if this process stops before."""
        behind = True
        while behind and not self._stopping.is_set():
            with self._lock:
                behind = self._apply_next(follow_to(self._catalog, self.generation))
            if self._unpublished >= STEP_CHUNKS:
                self._publish()
                self._merge(wait=True)
        self._publish()
        return not behind

    def _moved(self) -> bool:
        """Move to what the writing process has published; whether that is near the end of the log."""
        with self._lock:
            if self.writer.refresh():
                self._unpublished, self._damaged = 0, False
        return not self._damaged and not self._far_behind()
