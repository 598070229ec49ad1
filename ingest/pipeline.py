"""READ FIRST. One run of a source: list -> diff -> fetch -> parse -> chunk -> embed -> record -> retire.

The indexes follow the catalogue's change log (follow.py), so what is recorded here is retrievable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice

from indexes.errors import RagsvcError, StorageFailed
from indexes.model import Generation
from ingest.catalog.catalog import Catalog
from ingest.drafting import Content, Drafting, Moved, Same, title_of
from ingest.embed import EmbeddingPass
from ingest.errors import ItemNotSettled, SourceUnreachable
from ingest.model import DeadLetter, Document, Draft, Item, Source
from ingest.protocols import Connector
from ingest.run import Run
from ingest.sync import Plan, diff

_BATCH_SENTENCES = 512
_BATCH_DRAFTS = 64
_AHEAD = 16
_SETTLE_S = 1.0
_FEW = 16
Outcome = Draft | Same | RagsvcError


def now_utc() -> datetime:
    """The service's clock."""
    return datetime.now(UTC)


class Pipeline:
    """Runs sources against the catalogue. One instance serves many runs, also at once."""

    def __init__(self, catalog: Catalog, *, parse_threads: int = 2, clock: Callable[[], datetime] = now_utc) -> None:
        self._catalog = catalog
        self._threads = parse_threads
        self._now = clock

    def sync(
        self, drafting: Drafting, embedding: EmbeddingPass, generation: Generation, run: Run, *, approved: int = 0
    ) -> None:
        """Make the catalogue say what the source says. Raises SourceUnreachable, Cancelled, StorageFailed."""
        source = drafting.source
        try:
            plan = self._plan(source, drafting.connector, run, approved)
        except SourceUnreachable as error:
            self._catalog.sources.ran(
                source.id, now=self._now(), complete=False, withheld=source.withheld_deletions, error=error.message
            )
            raise
        moved = Moved(plan.missing + plan.withheld)
        self._ingest(plan.fetch, drafting, embedding, generation, run, moved)
        self._retire(source, plan, moved, run)
        self._catalog.sources.ran(
            source.id, now=self._now(), complete=True, withheld=run.counts["withheld"], error=None
        )

    def push(self, drafting: Drafting, embedding: EmbeddingPass, generation: Generation, run: Run) -> None:
        """Ingest what was pushed; nothing is deleted. Raises the error of a document that failed."""
        items = list(drafting.connector.list())
        run.counts["listed"] = len(items)
        self._ingest(items, drafting, embedding, generation, run, Moved(()))

    def _plan(self, source: Source, connector: Connector, run: Run, approved: int) -> Plan:
        """List and compare. Before anything is believed to be gone, list a second time.

        A listing that races a rename can miss a file under both its names; two in a row do not.
        """
        known = self._catalog.documents.of_source(source.id)
        letters = self._catalog.dead_letters.of_source(source.id)
        run.begin("list")
        listing = list(connector.list())
        if known.keys() - {item.uri for item in listing}:
            listing = list(connector.list())
        plan = diff(listing, known, letters, now=self._now(), approved=approved)
        counts = {"listed": listing, "unchanged": plan.unchanged, "skipped": plan.skipped, "withheld": plan.withheld}
        run.counts.update({name: len(entries) for name, entries in counts.items()})
        self._settle_letters(source, plan, letters, run)
        back = [known[item.uri].id for item in plan.unchanged if known[item.uri].suspect is not None]
        self._catalog.recording.suspect(back, None)
        return plan

    def _settle_letters(self, source: Source, plan: Plan, letters: Mapping[str, DeadLetter], run: Run) -> None:
        """Forget those whose item is gone or is served as it is; come back when the next of the others is due."""
        for uri in letters.keys() - {item.uri for item in (*plan.fetch, *plan.skipped)}:
            self._catalog.dead_letters.clear(source.id, uri)
        for item in plan.skipped:
            if (due := letters[item.uri].retry_at) is not None:
                run.again((due - self._now()).total_seconds())

    def _known(self, source: Source, items: Sequence[Item]) -> Mapping[str, Document]:
        """uri -> live document, at least for these items."""
        if len(items) > _FEW:
            return self._catalog.documents.of_source(source.id)
        found = (self._catalog.documents.find(source.id, item.uri) for item in items)
        return {document.uri: document for document in found if document is not None and document.deleted_at is None}

    def _ingest(
        self,
        items: Sequence[Item],
        drafting: Drafting,
        embedding: EmbeddingPass,
        generation: Generation,
        run: Run,
        moved: Moved,
    ) -> None:
        """Fetch, parse and chunk ahead in threads; embed and record in batches. Recorded documents stay recorded."""
        run.begin("embed", len(items))
        known = self._known(drafting.source, items)
        batch: list[Draft] = []
        for item, outcome in self._outcomes(items, drafting, known, moved):
            run.check()
            if isinstance(outcome, Same) and not self._keep(outcome, known.get(item.uri), moved, drafting.source, run):
                outcome = self._attempt(drafting, item, None, frozenset())  # another item claimed the document
            if isinstance(outcome, Draft):
                batch.append(outcome)
                if sum(len(draft.sentences) for draft in batch) >= _BATCH_SENTENCES or len(batch) >= _BATCH_DRAFTS:
                    self._record(batch, drafting.source, embedding, generation, run)
                    batch = []
            elif isinstance(outcome, RagsvcError):
                moved.pending |= isinstance(outcome, ItemNotSettled) and item.uri not in known
                self._reject(item, outcome, drafting.source, run)
        self._record(batch, drafting.source, embedding, generation, run)

    def _outcomes(
        self, items: Iterable[Item], drafting: Drafting, known: Mapping[str, Document], moved: Moved
    ) -> Iterator[tuple[Item, Outcome]]:
        """Drafts in order, a few of them made ahead."""

        def submit(item: Item) -> tuple[Item, Future[Outcome]]:
            return item, pool.submit(self._attempt, drafting, item, known.get(item.uri), moved.contents)

        with ThreadPoolExecutor(self._threads, thread_name_prefix="parse") as pool:
            rest = iter(items)
            waiting = deque(submit(item) for item in islice(rest, _AHEAD))
            try:
                while waiting:
                    item, future = waiting.popleft()
                    yield item, future.result()
                    waiting.extend(submit(more) for more in islice(rest, 1))
            finally:
                pool.shutdown(cancel_futures=True)

    def _attempt(self, drafting: Drafting, item: Item, known: Document | None, moved: frozenset[Content]) -> Outcome:
        try:
            return drafting.draft(item, known, moved)
        except StorageFailed:
            raise
        except RagsvcError as error:
            return error

    def _record(
        self, drafts: Sequence[Draft], source: Source, embedding: EmbeddingPass, generation: Generation, run: Run
    ) -> None:
        """Embed what is new and record the batch in one transaction."""
        if not drafts:
            return
        embedded = embedding.embed(drafts)
        with self._catalog.write():
            self._catalog.sources.get(source.id)  # NotFound ends the run: the source was removed meanwhile
            self._catalog.generations.check_serving(generation)
            for draft, vectors in zip(drafts, embedded, strict=True):
                recorded = self._catalog.recording.record(
                    source, draft, vectors, generation=generation, now=self._now()
                )
                self._catalog.dead_letters.clear(source.id, draft.uri)
                run.counts[recorded.outcome] += 1
        for draft, vectors in zip(drafts, embedded, strict=True):
            run.done += 1
            run.chunks += len(draft.chunks)
            run.tokens += vectors.tokens
            run.embedded += len(vectors.fresh)

    def _keep(self, same: Same, known: Document | None, moved: Moved, source: Source, run: Run) -> bool:
        """The content is known: its place was touched, or a missing document moved here. False if neither."""
        item, fingerprint = same.item, same.fetched.fingerprint
        if known is not None:
            self._catalog.recording.touch(known.id, fingerprint=fingerprint, now=self._now())
            run.counts["unchanged"] += 1
        elif (document := moved.claim(same.content)) is not None:
            named_by_place = document.title == title_of(document.uri)
            title = title_of(item.uri) if named_by_place else document.title
            self._catalog.recording.rename(
                document.id, uri=item.uri, title=title, fingerprint=fingerprint, now=self._now()
            )
            run.counts["changed"] += 1
        else:
            return False
        self._catalog.dead_letters.clear(source.id, item.uri)
        run.done += 1
        return True

    def _reject(self, item: Item, error: RagsvcError, source: Source, run: Run) -> None:
        """A dead letter with its reason, and the others go on; a file still being written just waits."""
        run.done += 1
        if isinstance(error, ItemNotSettled):
            run.again(_SETTLE_S)
            run.counts["skipped"] += 1
            return
        run.counts["failed"] += 1
        with self._catalog.write():
            letter = self._catalog.dead_letters.put(
                source.id, item.uri, fingerprint=item.fingerprint, error=error, now=self._now()
            )
            if letter.retry_at is not None:
                run.again((letter.retry_at - self._now()).total_seconds())
            served = self._catalog.documents.find(source.id, item.uri)
            if served is not None and served.deleted_at is None:
                self._catalog.recording.suspect([served.id], "changed")

    def _retire(self, source: Source, plan: Plan, moved: Moved, run: Run) -> None:
        """What is gone at its source is out of force; what moved, or may turn out to have moved, is not gone yet."""
        left = moved.left()
        missing = [document for document in plan.missing if document.id in left]
        gone = [d.id for d in missing if not moved.pending or d.suspect == "missing"]  # waits for one run only
        withheld = [document.id for document in plan.withheld if document.id in left]
        run.begin("retire", len(gone))
        self._catalog.recording.retire(gone, now=self._now())
        self._catalog.recording.suspect([*withheld, *({d.id for d in missing} - set(gone))], "missing")
        run.counts["deleted"] = run.done = len(gone)
        run.counts["withheld"] = len(withheld)
