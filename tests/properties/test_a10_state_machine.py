"""ACCEPTANCE 10: whatever is done to an engine or an installation, in any order, it answers like a brute-force oracle.

The oracle keeps a copy of what was in force after each step, so a replay is compared with what was true then, and not
with what anybody worked out since. Each machine counts its steps, and the tests ask for so many of them.

Over 300 lines because two machines share their words, times and questions.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from indexes.embedded import EmbeddedEngine
from indexes.errors import QueryInvalid
from indexes.model import (
    FOREVER,
    Allowed,
    Chunk,
    Close,
    Describe,
    Drop,
    Filter,
    Generation,
    Hit,
    MetadataValue,
    Op,
    Put,
    Query,
)
from indexes.rowhash import row_hash
from ingest.backup import back_up, restore
from ingest.catalog.database import to_us
from ingest.run import Run
from ragsvc.answer import Answer
from ragsvc.bootstrap import build
from tests.contracts.engine_oracle import GENERATION, Oracle, ask, assert_answers, unit
from tests.contracts.installation import EVERYTHING, Clock, Workshop, settings_in

STEPS_EACH = 50
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing here is about the disk
WORDS = ("ant", "bee", "cat", "dog", "elk", "fox")
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
DOCUMENTS = st.sampled_from(["d0", "d1"])
MOMENTS = st.integers(0, 6)
ACCESS = st.sampled_from([frozenset({"public"}), frozenset({"public", "staff"}), frozenset({"boss"}), frozenset[str]()])
CALLERS = st.sampled_from(
    [*[Allowed.everything()] * 4, Allowed.of(), Allowed.of("staff"), Allowed(frozenset({"boss"}))]
)
METADATA = st.dictionaries(st.sampled_from(["k", "m"]), st.sampled_from([1, 2, "a", "b", True, (1, "a")]), max_size=2)
FILTERS = st.one_of(
    *[st.none()] * 4,
    st.builds(Filter, st.sampled_from(["eq", "ne"]), st.sampled_from(["k", "m"]), st.sampled_from([1, 2, "a", True])),
    st.builds(Filter, st.just("exists"), st.sampled_from(["k", "m"]), st.booleans()),
)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    terms = draw(st.lists(st.sampled_from([*WORDS, "none"]), max_size=3))
    vector = draw(st.one_of(st.none() if terms else st.nothing(), st.integers(0, 4).map(unit)))
    return ask(
        " ".join(terms),
        vector,
        at=draw(MOMENTS),
        limit=draw(st.sampled_from([1, 3, 50])),
        allowed=draw(CALLERS),
        where=draw(FILTERS),
    )


@dataclass(frozen=True)
class Answered:
    """A question that was answered when `seq` was the newest entry."""

    query: Query
    seq: int
    hits: tuple[Hit, ...]


class EngineOverTime(RuleBasedStateMachine):
    """The engine seam: versions follow each other as a catalogue records them, each entry of the log a batch."""

    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="a10-", dir=SCRATCH))
        self.built = 0
        self.generation: Generation = GENERATION
        self.engine = EmbeddedEngine(self.folder)
        self.writer = self.engine.open(self.generation, writable=True)
        self.seq = 0
        self.log: list[tuple[int, list[Op]]] = []
        self.oracle = Oracle()
        self.then: dict[int, Oracle] = {0: Oracle()}
        self.answered: list[Answered] = []

    def apply(self, *ops: Op) -> None:
        self.seq += 1
        self.log.append((self.seq, list(ops)))
        self.writer.apply(ops, seq=self.seq)
        self.oracle.apply(ops)
        self.then[self.seq] = self.oracle.copy()

    def of(self, document: str) -> list[Put]:
        return [version for version in self.oracle.versions.values() if version.document_id == document]

    # ------------------------------------------------------------ changes

    @rule(document=DOCUMENTS, edits=st.lists(st.tuples(st.lists(TEXTS, max_size=2), MOMENTS), min_size=1, max_size=4))
    def upsert(self, document: str, edits: list[tuple[list[str], int]]) -> None:
        for looks, (texts, start) in enumerate(edits):
            self.edit(document, texts, looks, start)

    def edit(self, document: str, texts: list[str], looks: int, start: int) -> None:
        """A version in force from `start` to the next one: at the end, in the middle or before all others."""
        seq = self.seq + 1
        version_id = f"{document}@{seq}"
        rows = tuple(
            Chunk(f"{version_id}.{n}", version_id, n, tuple(text.split()), unit((looks + n) % 5))
            for n, text in enumerate(texts)
        )
        closing = [Close(v.version_id, start, seq) for v in self.of(document) if v.valid_from <= start < v.valid_to]
        end = min((v.valid_from for v in self.of(document) if start < v.valid_from < v.valid_to), default=FOREVER)
        closed = FOREVER if end == FOREVER else seq
        self.apply(*closing, Put(document, version_id, start, end, seq, closed, rows))

    @rule(document=DOCUMENTS, at=MOMENTS)
    def delete(self, document: str, at: int) -> None:
        seq = self.seq + 1
        ending = [v for v in self.of(document) if v.valid_to > at]
        self.apply(*(Close(v.version_id, max(at, v.valid_from), seq) for v in ending))

    @rule(document=DOCUMENTS, access=ACCESS, metadata=METADATA)
    def describe(self, document: str, access: frozenset[str], metadata: dict[str, MetadataValue]) -> None:
        """Access and metadata are always those of now."""
        self.apply(Describe(document, access, metadata))
        self.answered = [a for a in self.answered if a.query.allowed.principals is None and a.query.filter is None]

    @rule(document=DOCUMENTS)
    def erase(self, document: str) -> None:
        """What is erased is gone from every replay, too."""
        gone = [version.version_id for version in self.of(document)]
        self.apply(*(Drop(name) for name in gone))
        for past in self.then.values():
            past.apply([Drop(name) for name in gone])
        if gone:
            self.answered.clear()

    # ------------------------------------------------------------ upkeep

    @rule()
    def publish(self) -> None:
        assert self.writer.publish().seq == self.seq

    @rule()
    def merge(self) -> None:
        self.writer.merge()

    def restart(self) -> None:
        self.engine.close()
        self.engine = EmbeddedEngine(self.folder)
        self.writer = self.engine.open(self.generation, writable=True)
        assert self.writer.problems == ()
        for seq, ops in self.log:
            self.writer.apply(ops, seq=seq)

    @rule()
    def close_and_open(self) -> None:
        self.restart()

    @rule()
    def lose_the_files(self) -> None:
        self.engine.close()
        shutil.rmtree(self.folder)
        self.restart()

    @rule(batch=st.integers(1, 8), published=st.booleans())
    def reindex(self, batch: int, published: bool) -> None:
        """A second generation from the same log, in batches of any size; it takes the place of the first."""
        self.built += 1
        old, self.generation = self.generation, replace(GENERATION, id=f"gen_{self.built}")
        self.writer = self.engine.open(self.generation, writable=True)
        for start in range(0, len(self.log), batch):
            part = self.log[start : start + batch]
            self.writer.apply([op for _, ops in part for op in ops], seq=part[-1][0])
            if published:
                self.writer.publish()
        self.engine.remove(old.id)

    # ------------------------------------------------------------ questions

    @rule(query=queries(), elsewhere=st.booleans())
    def search(self, query: Query, elsewhere: bool) -> None:
        hits = self.engine.pin(self.generation.id).search(query)
        assert_answers(hits, query, self.oracle)
        self.answered.append(Answered(query, self.seq, hits))
        if elsewhere:
            reader = EmbeddedEngine(self.folder)
            writer = reader.open(self.generation, writable=False)
            for seq, ops in self.log:
                writer.apply(ops, seq=seq)
            assert reader.pin(self.generation.id).search(query) == hits
            reader.close()

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """The same hits in the same order with the same scores, to the last bit."""
        was = data.draw(st.sampled_from(self.answered))
        assert self.engine.pin(self.generation.id).search(replace(was.query, at_seq=was.seq)) == was.hits

    @rule(query=queries(), data=st.data())
    def replay_anything(self, query: Query, data: st.DataObject) -> None:
        """What an earlier state would have answered, had it been asked this."""
        seq = data.draw(st.integers(0, self.seq))
        past = self.then[seq].copy()
        past.documents = self.oracle.documents
        hits = self.engine.pin(self.generation.id).search(replace(query, at_seq=seq))
        assert_answers(hits, query, past)

    @rule(terms=st.lists(st.sampled_from([*WORDS, "none"]), max_size=3), data=st.data())
    def statistics(self, terms: list[str], data: st.DataObject) -> None:
        seq = data.draw(st.one_of(st.none(), st.integers(0, self.seq)))
        opened = (self.oracle if seq is None else self.then[seq]).opened(None)
        found = self.engine.pin(self.generation.id).statistics(terms, at_seq=seq)
        assert (found.chunks, found.length) == (len(opened), sum(len(c.terms) for c in opened))
        assert found.df == {term: sum(term in c.terms for c in opened) for term in terms}

    @invariant()
    def holds_what_the_oracle_holds(self) -> None:
        type(self).steps += 1
        wanted = sorted((c.id, c.version_id, row_hash(c, v)) for v in self.oracle.versions.values() for c in v.chunks)
        searcher = self.engine.pin(self.generation.id)
        assert sorted(searcher.scan()) == wanted
        assert (searcher.snapshot.seq, searcher.snapshot.chunks) == (self.seq, len(wanted))

    @invariant()
    def nothing_is_in_force_twice(self) -> None:
        for document in ("d0", "d1"):
            lives = sorted((v.valid_from, v.valid_to) for v in self.of(document) if v.valid_from < v.valid_to)
            assert all(one[1] <= other[0] for one, other in pairwise(lives))

    def teardown(self) -> None:
        if (self.folder / self.generation.id).exists():
            assert self.engine.check(self.generation.id) == ()
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def walk(machine: type[RuleBasedStateMachine], *, steps: int, search: bool = False) -> None:
    """Run a machine until it has made so many steps: the same ones each time, or new ones with `search`."""
    machine.steps = 0  # type: ignore[attr-defined]
    examples = steps // STEPS_EACH + 1
    while machine.steps < steps:  # type: ignore[attr-defined]
        chosen = settings(max_examples=examples, stateful_step_count=STEPS_EACH, database=None, derandomize=not search)
        run_state_machine_as_test(machine, settings=chosen)
        examples *= 2  # some examples end early: once more, and further


@pytest.mark.slow
def test_a10_the_engine_over_some_time() -> None:
    walk(EngineOverTime, steps=500)


@pytest.mark.acceptance
def test_a10_the_engine_over_time() -> None:
    walk(EngineOverTime, steps=1_500)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(40))
def test_a10_the_engine_over_a_long_time(part: int) -> None:
    walk(EngineOverTime, steps=2_000, search=True)


# ---------------------------------------------------------------- a whole installation, without HTTP

URIS = st.sampled_from(["a.md", "b.md"])
SENTENCES = st.lists(st.lists(st.sampled_from(WORDS), min_size=2, max_size=5).map(" ".join), min_size=1, max_size=5)
HOURS = st.sampled_from([None, None, None, None, -5, -3, -1, 1, 2, 4])
EDITS = st.lists(st.tuples(SENTENCES, HOURS), min_size=1, max_size=3)
MODES = st.sampled_from(["hybrid", "hybrid", "dense", "lexical"])
RECIPES = st.sampled_from(
    [("hash:32", "structure-100-1"), ("hash:16", "structure-100-1"), ("hash:32", "structure-700-1")]
)
COLLECTION = "handbook"


@dataclass(frozen=True)
class Asked:
    """A question that was asked, and what of its answer a replay must give again."""

    how: dict[str, Any]
    snapshot: str
    seq: int
    gist: Any


class InstallationOverTime(RuleBasedStateMachine):
    """Catalogue, change log, indexes and retrieval of one service, whose clock goes on and sometimes back.

    The oracle is told what a push or a deletion means in document time; ids, chunks and terms come from the catalogue.
    """

    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="a10-", dir=SCRATCH))
        self.moves = 0
        self.clock = Clock()
        self.oracle = Oracle()
        self.then: dict[int, Oracle] = {0: Oracle()}
        self.contents: dict[str, dict[str, Put]] = {}
        self.told: dict[str, str | None] = {}
        self.asked: list[Asked] = []
        self.open()
        self.collection = self.service.ensure_collection(COLLECTION).id
        self.source = self.service.catalog.sources.push_source(self.collection, now=self.clock()).id

    @property
    def data(self) -> Path:
        return self.place / f"data{self.moves}"

    def open(self) -> None:
        self.service = build(settings_in(self.data, embedder="hash:32", chunk_target=100), writable=True)
        self.shop = Workshop(self.service, self.clock)

    def close(self, *, published: bool) -> None:
        if not published:
            self.service._close.remove(self.service.follower.close)
        self.service.close()

    # ------------------------------------------------------------ what the oracle needs to know

    @property
    def generation(self) -> Generation:
        catalog = self.service.catalog
        return catalog.collections.generation(catalog.collections.by_id(self.collection).generation_id)

    @property
    def present(self) -> int:
        """What a question without a time is asked of: now, but never before what was recorded last."""
        return max(to_us(self.clock.now), self.service.catalog.changes.committed_at(max(self.then)))

    def known(self, oracle: Oracle) -> Oracle:
        """The oracle with the chunks that the serving generation has, and access and metadata of now."""
        found = self.contents.setdefault(self.generation.id, {})
        missing = [name for name in oracle.versions if name not in found]
        if missing:
            states = self.service.catalog.changes.version_states(missing)
            puts = self.service.follower.entries.puts(states, self.generation)
            found.update((put.version_id, put) for put in puts)
        other = oracle.copy()
        other.documents = self.oracle.documents
        other.versions = {name: replace(v, chunks=found[name].chunks) for name, v in oracle.versions.items()}
        return other

    def of(self, document: str) -> list[Put]:
        return [version for version in self.oracle.versions.values() if version.document_id == document]

    def remember(self) -> None:
        self.then[self.service.catalog.changes.last_seq(self.collection)] = self.oracle.copy()

    # ------------------------------------------------------------ changes

    @initialize(edits=EDITS)
    def have_something(self, edits: Any) -> None:
        self.push("a.md", edits, frozenset({"public"}), {"k": 1})

    @rule(uri=URIS, edits=EDITS, access=ACCESS, metadata=METADATA)
    def push(self, uri: str, edits: Any, access: frozenset[str], metadata: dict[str, MetadataValue]) -> None:
        """Now, or since a time in the past or the future."""
        for sentences, hours in edits:
            self.push_one(uri, sentences, hours, access, metadata)

    @rule(uri=URIS, edits=EDITS, data=st.data())
    def push_and_ask(self, uri: str, edits: Any, data: st.DataObject) -> None:
        for sentences, hours in edits:
            self.push_one(uri, sentences, hours, frozenset({"public"}), {})
            self.ask_one({**self.question(data), "as_of": None}, elsewhere=False)

    def push_one(
        self,
        uri: str,
        sentences: list[str],
        hours: int | None,
        access: frozenset[str],
        metadata: dict[str, MetadataValue],
    ) -> None:
        catalog = self.service.catalog
        before, last = catalog.documents.find(self.source, uri), catalog.changes.last_seq(self.collection)
        stated = None if hours is None else self.clock.now + timedelta(hours=hours)
        text = "\n\n".join(f"The {sentence}." for sentence in sentences)
        document = self.shop.push(uri, text, access=sorted(access), metadata=metadata, valid_from=stated)
        seq = catalog.changes.last_seq(self.collection)
        newest = self.shop.versions(document)[-1]
        described = (document.access, dict(document.metadata))
        if self.oracle.documents.get(document.id) != described:
            self.asked = [
                asked for asked in self.asked if asked.how["allowed"] == EVERYTHING and not asked.how["filter"]
            ]
        self.oracle.apply([Describe(document.id, *described)])
        if newest.id in self.oracle.versions:  # said to be unchanged
            moment = to_us(stated) if stated is not None else self.present
            current = [v.version_id for v in self.of(document.id) if v.valid_from <= moment < v.valid_to]
            assert [self.shop.text(name) for name in current] == [text]
            assert before is not None
            assert before.deleted_at is None
        else:
            start = to_us(newest.valid_from)
            gone = 0 if before is None or before.deleted_at is None else to_us(before.deleted_at)
            if stated is not None:
                assert start == max(to_us(stated), gone)
            ending = [v for v in self.of(document.id) if v.valid_from <= start < v.valid_to]
            self.oracle.apply([Close(v.version_id, start, seq) for v in ending])
            later = [v.valid_from for v in self.of(document.id) if start < v.valid_from < v.valid_to]
            end = min(later, default=FOREVER)
            self.oracle.apply([Put(document.id, newest.id, start, end, seq, FOREVER if end == FOREVER else seq, ())])
        current = [v.version_id for v in self.of(document.id) if v.valid_from <= self.present < v.valid_to]
        self.told[document.id] = current[0] if stated is None else None
        assert seq > last or newest.id in self.then[last].versions
        self.remember()

    @rule(uri=URIS)
    def delete(self, uri: str) -> None:
        document = self.service.catalog.documents.find(self.source, uri)
        if document is None or document.deleted_at is not None:
            return
        self.shop.delete(document)
        at, seq = to_us(self.clock.now), self.service.catalog.changes.last_seq(self.collection)
        ending = [v for v in self.of(document.id) if v.valid_to > at]
        self.oracle.apply([Close(v.version_id, max(at, v.valid_from), seq) for v in ending])
        self.told[document.id] = None
        self.remember()

    @rule(hours=st.sampled_from([-2, 1, 2, 3, 5]), data=st.data())
    def time_passes(self, hours: int, data: st.DataObject) -> None:
        """Backwards, too, as clocks do."""
        self.clock.on(hours=hours)
        self.ask_one({**self.question(data), "as_of": None}, elsewhere=False)

    # ------------------------------------------------------------ upkeep

    @rule()
    def publish(self) -> None:
        self.service.follower.publish()

    @rule()
    def verify(self) -> None:
        assert self.service.follower.check(self.generation) == ()

    @rule()
    def rebuild(self) -> None:
        self.service.follower.rebuild(self.generation)

    @rule(published=st.booleans(), lost=st.booleans())
    def restart(self, published: bool, lost: bool) -> None:
        self.close(published=published)
        if lost:
            shutil.rmtree(self.data / "indexes", ignore_errors=True)
        self.open()

    @rule()
    def restore_elsewhere(self) -> None:
        """A backup of the running installation, restored in another folder; the work goes on there."""
        made = self.place / f"backup{self.moves}"
        back_up(self.service.catalog, self.data, made, release="0", now=self.clock())
        self.close(published=False)
        self.moves += 1
        restore(made, self.data)
        self.open()

    @rule(recipe=RECIPES, back=st.booleans())
    def reindex(self, recipe: tuple[str, str], back: bool) -> None:
        """Another model or chunker; or back to the generation before, if it is kept."""
        reindexing, catalog = self.service.reindexing, self.service.catalog
        kept = [build.generation.id for build in catalog.generations.all() if build.generation != self.generation]
        now = (self.generation.embedder, self.generation.chunker)
        if back and kept:
            reindexing.activate(kept[0], Run())
        elif now != recipe:
            wanted = {"collection": COLLECTION, "embedder": recipe[0], "chunker": recipe[1], "force": True}
            job = catalog.jobs.enqueue("reindex", now=self.clock(), payload=wanted)
            reindexing.reindex(job, Run())
            assert (self.generation.embedder, self.generation.chunker) == recipe

    # ------------------------------------------------------------ questions

    def question(self, data: st.DataObject) -> dict[str, Any]:
        hours = data.draw(HOURS)
        return {
            "text": " ".join(data.draw(st.lists(st.sampled_from([*WORDS, "none"]), min_size=1, max_size=3))),
            "mode": data.draw(MODES),
            "allowed": data.draw(CALLERS),
            "filter": data.draw(FILTERS),
            "as_of": None if hours is None else self.clock.now + timedelta(hours=hours),
            "compression": "none",
        }

    def answer(self, how: dict[str, Any], **more: Any) -> Answer:
        return self.shop.ask(**{**how, **more})

    @rule(data=st.data(), number=st.integers(1, 4), elsewhere=st.booleans())
    def ask(self, data: st.DataObject, number: int, elsewhere: bool) -> None:
        for _ in range(number):
            self.ask_one(self.question(data), elsewhere)

    def ask_one(self, how: dict[str, Any], elsewhere: bool) -> None:
        """The legs are those of the oracle, every passage was in force, and a reading process says the same."""
        at = self.present if how["as_of"] is None else to_us(how["as_of"])
        self.legs(how, at, None, self.oracle)
        answer = self.answer(how)
        query = ask(vector=unit(1), at=at, allowed=how["allowed"], where=how["filter"])
        visible = {chunk.version_id for chunk in self.known(self.oracle).visible(query)}
        assert {result.version.id for result in answer.results} <= visible
        if how["mode"] != "lexical":
            assert bool(answer.results) == bool(visible)
        self.asked.append(Asked(how, answer.state.id, answer.state.seq, gist(answer)))
        self.replay_one(self.asked[-1])
        if elsewhere:
            with build(settings_in(self.data, embedder="hash:32"), writable=False) as reading:
                assert gist(Workshop(reading, self.clock).ask(**how)) == gist(answer)

    def legs(self, how: dict[str, Any], at: int, at_seq: int | None, oracle: Oracle) -> None:
        retriever, generation = self.service.retriever, self.generation
        embedder = self.service.embedder_of(generation.embedder)
        query = Query(
            allowed=how["allowed"],
            at=at,
            limit=100,
            vector=embedder.encode_query(how["text"])[0],
            terms=retriever.terms(how["text"], generation, seq=at_seq),
            filter=how["filter"],
            at_seq=at_seq,
        )
        hits = self.service.follower.pin(generation.id).search(query)
        assert_answers(hits, replace(query, at_seq=None), self.known(oracle))

    @rule()
    def replay(self) -> None:
        """Earlier answers, word by word, as long as their generation is kept."""
        for asked in self.asked[-10:]:
            self.replay_one(asked)

    def replay_one(self, asked: Asked) -> None:
        catalog = self.service.catalog
        kept = {build.generation.id.removeprefix("gen_") for build in catalog.generations.all()}
        if asked.snapshot.split("_")[1] not in kept:
            with pytest.raises(QueryInvalid, match="not kept any longer"):
                self.answer(asked.how, snapshot=asked.snapshot)
            return
        answer = self.answer(asked.how, snapshot=asked.snapshot)
        assert (answer.state.id, answer.state.seq) == (asked.snapshot, asked.seq)
        assert gist(answer) == asked.gist

    @rule(data=st.data())
    def replay_anything(self, data: st.DataObject) -> None:
        """What an earlier state would have answered, had it been asked this."""
        how, seq = self.question(data), data.draw(st.sampled_from(sorted(self.then)))
        at = to_us(how["as_of"]) if how["as_of"] else self.service.catalog.changes.committed_at(seq)
        self.legs(how, at, seq, self.then[seq])

    @invariant()
    def the_present_is_what_was_told_last(self) -> None:
        """No version that was superseded, none twice, and none missing, whatever the clock did."""
        type(self).steps += 1
        for document, version_id in self.told.items():
            names = [version.version_id for version in self.of(document)]
            found = self.service.catalog.documents.in_force(names, allowed=EVERYTHING, at=self.present)
            assert len(found) <= 1
            if version_id is not None:
                told = self.oracle.versions[version_id]
                since = [
                    v for v in self.of(document) if told.valid_from < v.valid_from <= min(self.present, v.valid_to - 1)
                ]
                assert since or list(found) == [version_id]

    def teardown(self) -> None:
        self.service.close()
        shutil.rmtree(self.place)


def gist(answer: Answer) -> Any:
    """What of two answers must be equal for them to be the same answer."""
    return answer.context, [(r.id, r.passage.text, r.fused, r.hit) for r in answer.results]


@pytest.mark.slow
def test_a10_an_installation_over_some_time() -> None:
    walk(InstallationOverTime, steps=60)


@pytest.mark.acceptance
def test_a10_an_installation_over_time() -> None:
    walk(InstallationOverTime, steps=500)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(40))
def test_a10_an_installation_over_a_long_time(part: int) -> None:
    walk(InstallationOverTime, steps=500, search=True)
